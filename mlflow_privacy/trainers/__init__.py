"""Trainers: from a recipe and membership rows to reference models, one at a time."""

from mlflow_privacy.trainers.base import Trainer
from mlflow_privacy.trainers.code import import_allowed
from mlflow_privacy.trainers.registry import TRAINERS, make_recipe, trainer_for
from mlflow_privacy.trainers.settings import recipe_settings_from_params

__all__ = [
    "TRAINERS",
    "Trainer",
    "import_allowed",
    "make_recipe",
    "recipe_settings_from_params",
    "trainer_for",
]
