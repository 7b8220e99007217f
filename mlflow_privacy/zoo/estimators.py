"""scikit-learn estimators by class name, looked up in scikit-learn's own modules alone."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.types import Task

# `sklearn.utils.all_estimators` imports all of scikit-learn with its tests, which takes 5 s.
_MODULES = (
    "ensemble",
    "linear_model",
    "neural_network",
    "svm",
    "tree",
    "neighbors",
    "naive_bayes",
    "discriminant_analysis",
    "gaussian_process",
    "calibration",
    "dummy",
    "kernel_ridge",
    "isotonic",
    "cross_decomposition",
    "semi_supervised",
    "multiclass",
    "multioutput",
)


def _is_predictor(value: Any) -> bool:
    from sklearn.base import ClassifierMixin, RegressorMixin

    return (
        inspect.isclass(value)
        and issubclass(value, (ClassifierMixin, RegressorMixin))
        and not inspect.isabstract(value)
        and not value.__name__.startswith("_")
    )


@functools.cache
def find_estimator(name: str) -> type | None:
    """The public scikit-learn classifier or regressor of this name, None if there is none.

    >>> find_estimator("RandomForestClassifier").__module__.split(".")[0]
    'sklearn'
    >>> find_estimator("os.system") is None
    True
    """
    if not name.isidentifier() or name.startswith("_"):
        return None
    for module in _MODULES:
        value = getattr(importlib.import_module(f"sklearn.{module}"), name, None)
        if value is not None and _is_predictor(value):
            return value
    return None


@functools.cache
def estimator_names() -> tuple[str, ...]:
    """Sorted names of the classifiers and regressors that `find_estimator` knows."""
    names = set()
    for module in _MODULES:
        loaded = importlib.import_module(f"sklearn.{module}")
        names |= {n for n in getattr(loaded, "__all__", ()) if _is_predictor(getattr(loaded, n, None))}
    return tuple(sorted(names))


def check_estimator(name: str, options: Mapping[str, Any], *, task: Task | None, path: str = "train") -> list[str]:
    """Faults of an estimator's parameters and of its kind, one sentence each.

    Args:
      name: of the class.
      options: its parameters.
      task: "classification" needs a classifier, "regression" a regressor; None checks neither.
      path: of the config section, for the messages.
    """
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.utils._param_validation import InvalidParameterError

    cls = find_estimator(name)
    if cls is None:
        return [f"{path}.model_name: unknown model {name!r}{nearest(name, estimator_names(), listed=True)}"]
    parameters = inspect.signature(cls).parameters
    valid = [p for p in parameters if parameters[p].kind is not inspect.Parameter.VAR_POSITIONAL]
    faults = [
        f"unknown key {path}.model_options.{key} of {name}{nearest(key, valid, listed=True)}"
        for key in options
        if key not in valid
    ]
    required = [p for p in valid if parameters[p].default is inspect.Parameter.empty]
    if required:
        return [
            *faults,
            f"{path}.model_name: {name} needs another estimator as {', '.join(required)}, which a config file cannot "
            "give. Use a plain estimator.",
        ]
    estimator: Any = cls(**{key: value for key, value in options.items() if key in valid})
    if hasattr(estimator, "_validate_params"):
        try:
            estimator._validate_params()
        except InvalidParameterError as error:
            faults.append(f"{path}.model_options: {error}")
    mixin = {"classification": ClassifierMixin, "regression": RegressorMixin}
    if task is not None and not issubclass(cls, mixin[task]):
        faults.append(f"{path}.model_name: {name} cannot learn a {task}, which the data set is.")
    return faults


def build_estimator(name: str, options: Mapping[str, Any]) -> Any:
    """A fresh estimator.

    Raises:
      ConfigError: the name or a parameter is unknown or not allowed; all faults at once.
    """
    faults = check_estimator(name, options, task=None)
    if faults:
        raise ConfigError("\n".join(faults))
    cls = find_estimator(name)
    assert cls is not None
    return cls(**options)
