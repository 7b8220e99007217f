"""Trains reference models of native boosters, each with its library's own function and from its own parameters."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError, StoreError, nearest
from mlflow_privacy.trainers.base import OneByOne
from mlflow_privacy.trainers.booster import catboost, lightgbm, xgboost
from mlflow_privacy.trainers.booster.model import Boosted
from mlflow_privacy.trainers.labels import label_index
from mlflow_privacy.types import Recipe, Records, Task

_logger = logging.getLogger(__name__)
KIND = Boosted.trainer_kind
LIBRARIES: Mapping[str, ModuleType] = {"xgboost": xgboost, "lightgbm": lightgbm, "catboost": catboost}


def boosted_of(model: Any) -> Boosted | None:
    """A native booster with the meaning of its scores; None for any other model, and for what cannot be read so."""
    if isinstance(model, Boosted):
        return model
    library, name = type(model).__module__.partition(".")[0], type(model).__name__
    if library in sys.modules and (name == "Booster" or (library == "catboost" and name.startswith("CatBoost"))):
        return LIBRARIES[library].describe(model) if library in LIBRARIES else None
    return None


def scores_of(boosted: Boosted, x: Any) -> np.ndarray:
    """(n,) or (n, k) logits of a classifier, predictions of a regressor."""
    return LIBRARIES[boosted.library].scores_of(boosted, x)


class BoosterTrainer(OneByOne):
    """Trains with `xgboost.train`, `lightgbm.train` or `CatBoost.fit`, for the rounds that the target has."""

    def recipe_for(
        self, model: Any, settings: Mapping[str, Any], *, task: Task, source: str = "", data: Records | None = None
    ) -> Recipe | None:
        boosted = boosted_of(model)
        if boosted is None:
            return None
        library = LIBRARIES[boosted.library]
        given = {library.ALIASES.get(key, key): value for key, value in settings.items()}
        params, told = library.parameters(boosted, given)
        _check(boosted, given, params)
        version = sys.modules[boosted.library].__version__
        spec = {
            "booster": boosted.library,
            "objective": boosted.objective,
            "params": params,
            "scores": boosted.scores if task == "classification" else "regression",
            "outputs": boosted.outputs,
            "task": task,
            "versions": {boosted.library: ".".join(version.split(".")[:2])},
        }
        if task == "classification":
            if boosted.scores == "regression":
                raise RecipeError(
                    f"{boosted.objective} is the loss of a regression, but the audit's task is classification."
                )
            spec["classes"] = _classes(boosted, data)
        if "defaults" in told:
            _logger.warning(
                "The parameters of the training were read from %s. If any was set, name it: "
                'log_lineage(recipe={"subsample": 0.8}), or log the parameters in the training run.',
                told,
            )
        return Recipe(KIND, spec, source=told if source in ("", "the model itself") else f"{source}, then {told}")

    def train_one(self, recipe: Recipe, data: Records, seed: int, *, device: str) -> Any:
        spec = recipe.spec
        y = np.asarray(data.y)
        if spec["task"] == "classification":
            y = label_index(y, spec["classes"], spec["outputs"])
            if (y < 0).any():
                raise RecipeError(f"The pool has labels that are not among the recipe's {spec['classes'][:20]!r}.")
        return _with_meaning(recipe, LIBRARIES[spec["booster"]].train(spec, data.x, y, seed & 0x7FFFFFFF))

    def save(self, recipe: Recipe, model: Any, folder: Path) -> bool:
        """Writes the library's own format, which holds numbers and no code."""
        LIBRARIES[recipe.spec["booster"]].save(model.model, Path(folder))
        return True

    def load(self, recipe: Recipe, folder: Path) -> Any:
        library = LIBRARIES[recipe.spec["booster"]]
        path = Path(folder) / library.FILE
        if not path.is_file():
            raise StoreError(f"{folder} holds no {path.name}; this reference model must be trained again.")
        return _with_meaning(recipe, library.load(path))


def _with_meaning(recipe: Recipe, model: Any) -> Boosted:
    """A reference: it is of its recipe's objective, and knows the labels as 0 to k - 1."""
    spec = recipe.spec
    return Boosted(model, spec["booster"], spec["objective"], spec["scores"], spec["outputs"])


def _classes(boosted: Boosted, data: Records | None) -> list[Any]:
    """Labels in the order of the outputs: those that the model knows, as the pool spells them, else the pool's."""
    if data is None:
        return list(boosted.labels or range(boosted.outputs))
    pool = np.unique(np.asarray(data.y)).tolist()
    index = label_index(np.array(pool), pool, boosted.outputs, boosted.labels)
    if len(pool) == boosted.outputs and sorted(index.tolist()) == list(range(boosted.outputs)):
        return [pool[i] for i in np.argsort(index)]
    return pool


def _check(boosted: Boosted, given: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    faults = []
    if boosted.library == "xgboost":  # which says nothing of parameters that it does not know
        known = [*xgboost.KEYS, *xgboost.ALIASES]
        faults = [f"{key!r} is no parameter of it{nearest(key, known) or '.'}" for key in given if key not in known]
    if not isinstance(params.get("rounds"), int) or params["rounds"] < 1:
        faults.append(f"rounds must be a whole number above 0, got {params.get('rounds')!r}.")
    if faults:
        raise RecipeError(f"The recipe of this {boosted.library} booster is wrong: {' '.join(faults)}")
