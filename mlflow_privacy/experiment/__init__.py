"""Whole experiments: from a YAML file to audited model versions."""

from typing import TYPE_CHECKING

from mlflow_privacy._moved import moved_names

if not TYPE_CHECKING:
    __getattr__ = moved_names(__name__)
