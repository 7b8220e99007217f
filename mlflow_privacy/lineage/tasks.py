"""What is asked of a model, a class or an amount: by what it is or says, else by its loss, else by the labels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.trainers.registry import inner_model
from mlflow_privacy.trainers.settings import plain_loss
from mlflow_privacy.types import Task

_REGRESSION_LOSSES = (
    *("mse", "l1", "mae", "huber", "smoothl1", "squarederror", "gaussiannll", "poisson", "meansquared", "meanabsolute"),
    *("logcosh", "rmse", "quantile", "tweedie", "gamma"),
)
_CLASSIFICATION_LOSSES = (
    *("crossentropy", "ce", "bce", "nll", "hinge", "logloss", "binarycrossentropy", "categoricalcrossentropy"),
    *("sparsecategoricalcrossentropy", "multiclass", "multilabel"),
)
_REGRESSION_OBJECTIVES = (
    "reg:",
    "count:",
    "survival:",
    "regression",
    "poisson",
    "quantile",
    "gamma",
    "tweedie",
    "mape",
)
_CLASSIFICATION_OBJECTIVES = ("binary:", "binary", "multi:", "multiclass", "softmax", "cross_entropy", "xentropy")
_CLASSES_OF_STATSMODELS = ("Logit", "Probit", "MNLogit", "OrderedModel", "ConditionalLogit")
_FORECASTERS = ("prophet.", "pmdarima.", "statsmodels.tsa.", "sktime.", "neuralprophet.", "orbit.")
_MANY_LABELS = 20


def infer_task(native: Any, y: np.ndarray, loss: str | None = None) -> Task:
    """Classification or regression: what the model is, else what the loss is for, else what the labels are.

    Whole numbers and strings are classes, unless the numbers are many and spread like amounts; fractions are
    regression targets, except the two values 0 and 1.

    Args:
      y: (n,) labels, or (n, ...) several values a record.
      loss: of the recipe.

    Raises:
      SignalError: the model neither classifies nor predicts amounts, but groups records or looks for outliers.

    >>> infer_task(None, np.array([0, 1, 1])), infer_task(None, np.array([0.5, 1.25]))
    ('classification', 'regression')
    >>> infer_task(None, np.array([0.0, 1.0]), "mse")
    'regression'
    """
    if isinstance(native, LanguageModel):
        return "language" if native.objective == "causal_lm" else "classification"
    kind = model_kind(native)
    if kind is not None:
        return kind
    of_loss = loss_kind(loss) or loss_kind(stated_loss(native))
    if of_loss is not None:
        return of_loss
    y = np.asarray(y)
    if y.dtype.kind in "USOb":
        return "classification"
    if y.ndim > 1:
        return "regression"
    values = np.unique(y)
    if y.dtype.kind == "f":
        return "classification" if np.isin(values, (0.0, 1.0)).all() else "regression"
    if hasattr(inner_model(native), "predict_proba"):  # a plain net of skorch has one too, whatever it learns
        return "classification"
    spread = values[0] < 0 or values[-1] >= 2 * len(y)
    return "regression" if spread and len(values) > max(_MANY_LABELS, len(y) / 2) else "classification"


def model_kind(native: Any) -> Task | None:
    """What a model is or says of itself; None if it says nothing.

    Raises:
      SignalError: it groups records or looks for outliers: its outputs are no labels, whatever numbers they are; or it
        forecasts a series.

    >>> from sklearn.linear_model import LogisticRegression, PoissonRegressor
    >>> model_kind(LogisticRegression()), model_kind(PoissonRegressor()), model_kind(None)
    ('classification', 'regression', None)
    """
    inner = inner_model(native)
    kind = _estimator_type(inner)
    if kind in ("classifier", "regressor"):
        return "classification" if kind == "classifier" else "regression"
    if kind in ("clusterer", "outlier_detector", "density_estimator", "transformer"):
        raise SignalError(
            f"{type(inner).__qualname__} is no model of labels: it {_DOES[kind]}, and the numbers that it gives are "
            "no predictions of the labels, even where some are equal to one. An audit needs a model that predicts the "
            "labels of its records (a classifier or a regressor): log the pipeline that ends with one."
        )
    if type(inner).__module__.startswith(_FORECASTERS):
        raise SignalError(
            f"A {type(inner).__module__.partition('.')[0]} {type(inner).__name__} forecasts a series: what it says "
            "of a day depends on all days before, and no record was trained on by itself, so that there are no members "
            "to tell from others. Audits are of models that predict one record from its columns."
        )
    objective = _objective(inner)
    if objective.startswith(_CLASSIFICATION_OBJECTIVES):
        return "classification"
    if objective.startswith(_REGRESSION_OBJECTIVES):
        return "regression"
    package = type(inner).__module__.partition(".")[0]
    if package == "statsmodels":
        inside = getattr(inner, "model", None)
        named = type(inside).__name__ in _CLASSES_OF_STATSMODELS
        binomial = type(getattr(inside, "family", None)).__name__ == "Binomial"
        return "classification" if named or binomial else "regression"
    return "classification" if getattr(inner, "classes_", None) is not None else None


_DOES = {
    "clusterer": "groups records into clusters",
    "outlier_detector": "looks for outliers",
    "density_estimator": "estimates how likely records are",
    "transformer": "transforms records",
}


def loss_kind(loss: str | None) -> Task | None:
    """What a loss is for, by its name; None if that is not known.

    >>> loss_kind("torch.nn.MSELoss"), loss_kind("cross_entropy"), loss_kind("mine")
    ('regression', 'classification', None)
    """
    name = plain_loss(loss)
    if name.startswith(_REGRESSION_LOSSES):
        return "regression"
    return "classification" if name.startswith(_CLASSIFICATION_LOSSES) else None


def stated_loss(native: Any) -> str | None:
    """The loss that a compiled Keras model holds, None for any other model."""
    inner = inner_model(native)
    if getattr(inner, "trainer_kind", "") == "keras" and isinstance(getattr(inner, "loss", None), str):
        return str(inner.loss)
    if type(inner).__module__.partition(".")[0] not in ("keras", "tensorflow", "tf_keras"):
        inner = getattr(inner, "_model", None) or getattr(inner, "keras_model", None)
        if type(inner).__module__.partition(".")[0] not in ("keras", "tensorflow", "tf_keras"):
            return None
    loss = getattr(inner, "loss", None)
    if loss is None or isinstance(loss, (str, list, tuple, dict)):
        return loss if isinstance(loss, str) else None
    return str(getattr(loss, "__name__", "") or type(loss).__name__)


def _estimator_type(model: Any) -> str | None:
    """What scikit-learn's API says that an estimator is."""
    kind = getattr(model, "_estimator_type", None)
    if isinstance(kind, str):
        return "density_estimator" if kind == "DensityEstimator" else kind
    if not callable(getattr(model, "get_params", None)) or not hasattr(model, "__sklearn_tags__"):
        return None
    from sklearn.utils import get_tags

    try:
        found = get_tags(model).estimator_type
    except (AttributeError, TypeError):  # a class that keeps no tags
        return None
    if found is None and not hasattr(model, "predict") and hasattr(model, "transform"):
        return "transformer"
    return found


def _objective(model: Any) -> str:
    """The objective that a booster of XGBoost or LightGBM, or a plain CatBoost model, was trained for; "" if none."""
    name = f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}"
    if name == "xgboost.Booster":
        return str(json.loads(model.save_config())["learner"]["objective"]["name"])
    if name == "lightgbm.Booster":
        text = model.model_to_string(num_iteration=1)
        lines = [line for line in text.splitlines() if line.startswith("objective=")]
        return lines[0].removeprefix("objective=").partition(" ")[0] if lines else ""
    if name == "catboost.CatBoost":
        loss = str(model.get_all_params().get("loss_function", "")).lower()
        return "multiclass" if loss.startswith(("multiclass", "logloss", "crossentropy")) else f"reg:{loss}"
    return ""
