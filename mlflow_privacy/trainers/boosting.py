"""XGBoost and LightGBM through their scikit-learn API: class names, missing classes, their own safe file formats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import StoreError

XGBOOST_FILE, LIGHTGBM_FILE, CLASSES_FILE = "model.ubj", "model.txt", "classes.npy"


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
