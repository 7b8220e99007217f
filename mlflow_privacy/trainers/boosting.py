"""XGBoost, LightGBM and CatBoost through their scikit-learn API: missing classes, early stops, safe file formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError, StoreError

XGBOOST_FILE, LIGHTGBM_FILE, CLASSES_FILE = "model.ubj", "model.txt", "classes.npy"
# Parameters that stop a training by data which references do not have, and those of how many rounds there are at most.
_STOPS: Mapping[str, tuple[str, ...]] = {
    "xgboost": ("early_stopping_rounds",),
    "lightgbm": ("early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change"),
    "catboost": ("early_stopping_rounds", "od_wait", "od_pval", "od_type", "use_best_model"),
}
_ROUNDS: Mapping[str, tuple[str, ...]] = {
    "xgboost": ("n_estimators",),
    "lightgbm": ("n_estimators",),
    "catboost": ("iterations", "n_estimators", "num_boost_round", "num_trees"),
}


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """A classifier of the indices 0..k-1 that stand for `classes` (k,)."""

    model: Any
    classes_: np.ndarray

    def predict_proba(self, x: Any, **options: Any) -> np.ndarray:
        return self.model.predict_proba(x, **options)

    def predict(self, x: Any, **options: Any) -> np.ndarray:
        """Labels; with `output_margin` the raw scores."""
        values = self.model.predict(x, **options)
        return values if options.get("output_margin") else self.classes_[np.asarray(values).astype(int)]


@dataclasses.dataclass(frozen=True)
class LightGBM:
    """A LightGBM booster that was read from its text file; `classes_` is None for a regressor."""

    booster: Any
    classes_: np.ndarray | None = None

    def predict_proba(self, x: Any, *, raw_score: bool = False) -> np.ndarray:
        values = self.booster.predict(x, raw_score=raw_score)
        return values if raw_score or values.ndim == 2 else np.stack([1 - values, values], axis=1)

    def predict(self, x: Any) -> np.ndarray:
        if self.classes_ is None:
            return self.booster.predict(x)
        return self.classes_[self.predict_proba(x).argmax(axis=1)]


def library(model: Any) -> str:
    """The package that a model comes from: "xgboost", "lightgbm", or any other."""
    inner = model.model if isinstance(model, Relabelled) else model
    return "lightgbm" if isinstance(inner, LightGBM) else type(inner).__module__.partition(".")[0]


def is_boosted(model: Any) -> bool:
    """Whether a model is an XGBoost or LightGBM estimator itself (not one inside a pipeline)."""
    return library(model) in ("xgboost", "lightgbm")


def needs_indices(estimator: Any) -> bool:
    """Whether an estimator takes no labels but 0..k-1 without gaps, as XGBoost's classifiers do."""
    return library(estimator) == "xgboost" and hasattr(estimator, "predict_proba")


def fit(estimator: Any, x: Any, y: np.ndarray) -> Any:
    """Fits a classifier that needs indices on any labels, also where a class is missing from this half of the pool."""
    classes, index = np.unique(np.asarray(y), return_inverse=True)
    if np.array_equal(classes, np.arange(len(classes))):
        return estimator.fit(x, y)
    return Relabelled(estimator.fit(x, index), classes)


def save(model: Any, folder: Path) -> bool:
    """Writes a model in its library's own format, which holds numbers and no code."""
    folder = Path(folder)
    classes = getattr(model, "classes_", None)
    if classes is not None and np.asarray(classes).dtype.hasobject:
        classes = np.asarray(classes).astype(str) if all(isinstance(c, str) for c in classes) else None
        if classes is None:
            return False
    inner = model.model if isinstance(model, Relabelled) else model
    if library(model) == "xgboost":
        inner.save_model(folder / XGBOOST_FILE)
        classes = classes if isinstance(model, Relabelled) else None
    else:
        (inner.booster if isinstance(inner, LightGBM) else inner.booster_).save_model(str(folder / LIGHTGBM_FILE))
    if classes is not None:
        np.save(folder / CLASSES_FILE, classes, allow_pickle=False)
    return True


def load(template: Any, folder: Path) -> Any:
    """Reads a model back.

    Raises:
      StoreError: a file is missing or damaged.
    """
    folder = Path(folder)
    path = folder / (XGBOOST_FILE if library(template) == "xgboost" else LIGHTGBM_FILE)
    if not path.is_file():
        raise StoreError(f"{folder} holds no {path.name}; this reference model must be trained again.")
    try:
        classes = np.load(folder / CLASSES_FILE, allow_pickle=False) if (folder / CLASSES_FILE).exists() else None
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{CLASSES_FILE} is not a readable array: {error}") from error
    if library(template) == "xgboost":
        from sklearn.base import clone
        from xgboost.core import XGBoostError

        model = clone(template)
        try:
            model.load_model(path)
        except (XGBoostError, ValueError, TypeError) as error:
            raise StoreError(f"{path.name} is not a readable XGBoost model: {error}") from error
        return model if classes is None else Relabelled(model, classes)
    import lightgbm

    try:
        return LightGBM(lightgbm.Booster(model_str=path.read_text()), classes)
    except (lightgbm.basic.LightGBMError, ValueError, OSError) as error:
        raise StoreError(f"{path.name} is not a readable LightGBM model: {error}") from error


def without_early_stopping(fitted: Any, template: Any, settings: Mapping[str, Any]) -> str:
    """Lets a template train as many rounds as the fitted estimator has kept, where a validation set decided that.

    References have no such set: what they would hold out, the target has learned from.

    Args:
      fitted: the target, or a pipeline with boosted steps.
      template: its clone with `settings` applied; it is changed.

    Returns: what was done, as the rest of a sentence; "" for nothing.
    Raises: RecipeError: rounds are not known.
    """
    notes, parts = [], {"": fitted, **fitted.get_params(deep=True)}
    for name, part in {"": template, **template.get_params(deep=True)}.items():
        root = library(part)
        if root not in _STOPS or not callable(getattr(part, "get_params", None)):
            continue
        own = part.get_params(deep=False)
        if root == "catboost" and own.get("eval_fraction"):
            continue  # it takes the validation set from its own members, and so do references
        stops: dict[str, Any] = {key: None for key in _STOPS[root] if own.get(key) is not None}
        if any(type(each).__name__ == "EarlyStopping" for each in own.get("callbacks") or ()):
            stops["callbacks"] = [each for each in own["callbacks"] if type(each).__name__ != "EarlyStopping"] or None
        if "use_best_model" in stops:
            stops = {"use_best_model": False}  # without a validation set CatBoost's other parameters stop nothing
        elif root == "catboost":
            stops = {}
        key = next((key for key in _ROUNDS[root] if own.get(key) is not None), _ROUNDS[root][0])
        kept, said = _kept_rounds(parts.get(name)), f"{name}__{key}".removeprefix("__") in settings
        if not stops and (kept is None or kept == own.get(key) or said):
            continue
        if kept is None and not said:
            raise RecipeError(
                f"{name or 'The model'} is a {type(part).__name__} that stops early ({', '.join(stops)}), by a "
                "validation set that reference models do not have, and how many rounds it kept is not known. Say it: "
                f'recipe={{"{f"{name}__{key}".removeprefix("__")}": ...}}, or train it without an early stop.'
            )
        rate = {}
        if root == "catboost" and own.get("learning_rate") is None and kept is not None:
            rate = {"learning_rate": parts[name].get_all_params()["learning_rate"]}  # chosen for the rounds at most
        part.set_params(**stops, **rate, **({} if said else {key: kept}))
        notes.append(f"without an early stop, for {own.get(key) if said else kept} rounds")
    return "; ".join(dict.fromkeys(notes))


def _kept_rounds(model: Any) -> int | None:
    """How many rounds the predictions of a fitted booster use; None where nothing stopped it, or it is not fitted."""
    if library(model) == "catboost":
        return getattr(model, "tree_count_", None) or None
    try:
        best = model.best_iteration + 1 if library(model) == "xgboost" else model.best_iteration_
    except (AttributeError, LookupError, ValueError):  # never fitted, or never stopped
        return None
    return int(best) if best and best > 0 else None
