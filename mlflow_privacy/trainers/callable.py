"""Reference models by the caller's own function, for any framework."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError, StoreError
from mlflow_privacy.trainers.base import OneByOne
from mlflow_privacy.trainers.canonical import Walk, canonical
from mlflow_privacy.types import Recipe, Records


def callable_recipe(
    train_fn: Callable[[Any, np.ndarray, int], Any], settings: Mapping[str, Any], *, source: str = ""
) -> Recipe:
    """The recipe of a function `train_fn(x, y, seed) -> model`.

    Its fingerprint covers the function's code, defaults, closure, what it uses of its module and of others, the source
    files of the caller's packages that it imports, and `settings`: put there what the code does not tell, such as the
    version of a base checkpoint or of a file that it reads.

    Raises:
      RecipeError: `train_fn` cannot be called with (x, y, seed), or `settings` are not plain values.

    Example:
      >>> callable_recipe(lambda x, y, seed: None, {"version": 2}).spec["settings"]
      {'version': 2}
    """
    faults = []
    try:
        inspect.signature(train_fn).bind("x", "y", 0)
    except TypeError as error:
        faults.append(
            f"train_fn must be a function train_fn(x, y, seed) -> model, got {train_fn!r}: {error}. "
            "Wrap it: lambda x, y, seed: ..."
        )
    except ValueError:  # a built-in without a signature: the call itself will tell
        pass
    try:
        json.dumps(dict(settings))
    except TypeError as error:
        faults.append(f"The settings of a train_fn must be plain JSON values: {error}.")
    if faults:
        raise RecipeError(" ".join(faults))
    walk = Walk()
    spec = {"train_fn": walk(train_fn), "settings": _keyed(settings)}
    return Recipe("callable", spec, train_fn, source, walk.code())


def _keyed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are, unless a key is no text: JSON would make one of 0 and "0"."""

    def by_text(value: Any) -> bool:
        if isinstance(value, Mapping):
            return all(isinstance(key, str) and by_text(item) for key, item in value.items())
        return all(map(by_text, value)) if isinstance(value, (list, tuple)) else True

    return dict(settings) if by_text(settings) else canonical(dict(settings))


class CallableTrainer(OneByOne):
    """Calls the recipe's function, `train_fn(x, y, seed)`; `device` is the function's own business."""

    def train_one(self, recipe: Recipe, data: Records, seed: int, *, device: str) -> Any:
        if recipe.template is None:
            raise RecipeError("The recipe's train_fn is not at hand: pass it again, functions are never stored.")
        model = recipe.template(data.x, data.y, seed)
        if model is None:
            raise RecipeError("train_fn returned None; it must return the trained model.")
        return model

    def save(self, recipe: Recipe, model: Any, folder: Path) -> bool:
        """Writes scikit-learn estimators; nothing else can be loaded again without running the caller's code."""
        if not type(model).__module__.startswith("sklearn."):
            return False
        from mlflow_privacy.trainers.persistence import save_estimator

        return save_estimator(model, folder)

    def load(self, recipe: Recipe, folder: Path) -> Any:
        from mlflow_privacy.trainers.persistence import FILE, load_estimator

        if not (Path(folder) / FILE).is_file():
            raise StoreError(f"{folder} holds no {FILE}; this reference model must be trained again.")
        return load_estimator(folder)
