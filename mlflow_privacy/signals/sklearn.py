"""Signals of scikit-learn estimators and of anything with their API."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.classification import (
    columns_of,
    each_phi,
    outputs_from_labels,
    outputs_from_phi,
    outputs_of_many,
    phi_from_logits,
    phi_from_probabilities,
    require_labels,
)
from mlflow_privacy.signals.refusals import form_taken, names_unknown_categories
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.trainers import boosting
from mlflow_privacy.types import ModelOutputs, Records, Task

_CHUNK = 8192  # records per call at least: a forest spends more on starting its workers than on records
_CHECKED = 256  # records on which raw scores are compared with probabilities
_VOTERS = {  # estimators whose probabilities are averages of so many votes of 0 or 1, or nearly so
    "DecisionTreeClassifier": None,
    "ExtraTreeClassifier": None,
    "RandomForestClassifier": "n_estimators",
    "ExtraTreesClassifier": "n_estimators",
    "KNeighborsClassifier": "n_neighbors",
}
_OF_EACH_LABEL = ("MultiOutputClassifier", "ClassifierChain", "OneVsRestClassifier")  # an estimator for each label


@names_unknown_categories
def estimator_outputs(
    estimator: Any,
    records: Records,
    *,
    task: Task,
    classes: np.ndarray | None = None,
    batch_size: int = 1024,
    scale: float | None = None,
) -> ModelOutputs:
    """Outputs of a fitted estimator or pipeline.

    A classifier's raw scores are used where they are the logits of its probabilities (checked on the first records:
    logistic regression, gradient boosting, XGBoost, LightGBM, ...), because those do not saturate; else its
    probabilities, clipped at `resolution`. A classifier without probabilities gives its decision function as
    logits (support vector machines), and without that only labels. A record of a class that the estimator never saw
    gets the smallest probability.

    Raises:
      SignalError: outputs that do not fit the task or the labels.
    """
    x = _as_fitted(records.x, estimator)
    step = max(batch_size, _CHUNK)
    if task == "regression":
        return gaussian_outputs(np.concatenate(list(_chunks(estimator.predict, x, step))), records.y, scale=scale)
    if task == "multilabel":
        return _outputs_of_many(estimator, x, records.y, step)
    pool = np.unique(records.y) if classes is None else np.asarray(classes)
    known = getattr(estimator, "classes_", pool)
    if isinstance(known, list):
        raise SignalError(
            f"The classifier predicts {len(known)} targets at once, but the records have one label each. Give the "
            "labels of all targets, as it was trained on them."
        )
    known = np.asarray(known)
    index = columns_of(records.y, known, pool)
    floor = resolution(estimator)
    scores = raw_scores(estimator, _head(x, _CHECKED))
    if scores is not None:
        values = np.concatenate(list(_chunks(scores, x, step)))
        phi = phi_from_logits(values, index)
        phi = np.where(index < 0, np.log(floor) - np.log1p(-floor), phi)
    elif hasattr(estimator, "predict_proba"):
        values = np.concatenate(list(_chunks(estimator.predict_proba, x, step)))
        if values.ndim != 2 or values.shape[1] != len(known):
            raise SignalError(
                f"predict_proba gives an array of shape {values.shape} for {len(known)} classes; it must be (n, c)."
            )
        phi = phi_from_probabilities(values, index, floor=floor)
    else:
        labels = np.concatenate(list(_chunks(estimator.predict, x, step)))
        return outputs_from_labels(columns_of(labels, known, pool) == index)
    return outputs_from_phi(phi, values.argmax(axis=1) == index)


@names_unknown_categories
def _outputs_of_many(estimator: Any, x: Any, y: np.ndarray, step: int) -> ModelOutputs:
    """Outputs of a classifier of several labels at once, or of several targets with classes of their own."""
    n, k = y.shape
    known, floor = getattr(estimator, "classes_", None), resolution(estimator)
    known = known if isinstance(known, list) and len(known) == k else None
    if hasattr(estimator, "predict_proba"):
        parts = list(_parts(estimator.predict_proba, x, step))
        if isinstance(parts[0], (list, tuple)):  # (n, classes) of each target
            columns = [np.concatenate([np.asarray(part[j]) for part in parts]) for j in range(len(parts[0]))]
            if len(columns) != k or known is None:
                raise SignalError(f"predict_proba gives {len(columns)} targets for labels of shape {y.shape}.")
            each = [
                phi_from_probabilities(
                    values, columns_of(y[:, j], known[j], np.unique(np.append(known[j], y[:, j]))), floor=floor
                )
                for j, values in enumerate(columns)
            ]
            return outputs_of_many(np.stack(each, axis=1))
        values = np.concatenate([np.asarray(part) for part in parts])
        if values.shape == (n, k):
            require_labels(y, values.shape)
            return outputs_of_many(each_phi(values, y, reading="probabilities", floor=floor))
    elif hasattr(estimator, "decision_function"):
        values = np.concatenate([np.asarray(part) for part in _parts(estimator.decision_function, x, step)])
        if values.shape == (n, k):
            require_labels(y, values.shape)
            return outputs_of_many(each_phi(values, y, reading="logits", floor=floor))
    labels = np.concatenate(list(_chunks(estimator.predict, x, step)))
    if labels.shape != y.shape:
        raise SignalError(
            f"The classifier predicts an array of shape {labels.shape} for labels of shape {y.shape}. Give the labels "
            "as it was trained on them."
        )
    return outputs_from_labels((labels == y).all(axis=1))


def resolution(estimator: Any) -> float:
    """Half of the smallest probability that an estimator's outputs can tell from 0.

    The average of m votes steps by 1/m: half a step below a lone vote is 1 / (2 (m + 1)), which keeps the many exact
    zeros of a forest from standing far out. A leaf of k training records with mixed labels votes in steps of 1/k.
    Any other estimator is taken to be smooth up to float64's rounding.

    >>> from sklearn.ensemble import RandomForestClassifier
    >>> round(resolution(RandomForestClassifier(n_estimators=99)), 4)
    0.005
    """
    inner = _last(estimator)
    name = type(inner).__name__
    if name in _OF_EACH_LABEL and getattr(inner, "estimators_", None):
        return max(resolution(one) for one in inner.estimators_)
    if name == "BaggingClassifier" and type(getattr(inner, "estimator_", None)).__name__ in _VOTERS:
        votes = inner.n_estimators
    elif name in _VOTERS:
        count = _VOTERS[name]
        votes = getattr(inner, count) if count else 1
    else:
        return float(np.finfo(np.float64).eps)
    return 1 / (2 * (votes * _largest_mixed_leaf(inner) + 1))


def _largest_mixed_leaf(inner: Any) -> int:
    """Most training records in one leaf that holds several classes; 1 if every leaf is pure."""
    trees = [tree.tree_ for tree in getattr(inner, "estimators_", [inner]) if hasattr(tree, "tree_")]
    sizes = [tree.n_node_samples[(tree.children_left == -1) & (tree.impurity > 1e-12)] for tree in trees]
    return max((int(size.max()) for size in sizes if len(size)), default=1)


def _last(estimator: Any) -> Any:
    """The estimator that decides: the best one of a search, the last step of a pipeline."""
    if hasattr(estimator, "best_estimator_"):
        return _last(estimator.best_estimator_)
    if hasattr(estimator, "steps"):
        return _last(estimator.steps[-1][1])
    return estimator


def raw_scores(estimator: Any, x: Any) -> Callable[[Any], np.ndarray] | None:
    """A function that gives the estimator's logits (n, k), None if it has none.

    Args:
      x: a few records, on which softmax(scores) must equal the probabilities where the estimator gives both.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    root = boosting.library(_last(estimator))
    if root == "xgboost":
        function = functools.partial(estimator.predict, output_margin=True)
    elif root == "lightgbm":
        function = functools.partial(estimator.predict_proba, raw_score=True)
    elif hasattr(estimator, "decision_function"):
        function = estimator.decision_function
    else:
        return None

    def logits(part: Any) -> np.ndarray:
        values = np.asarray(function(part), np.float64)
        return np.stack([np.zeros_like(values), values], axis=1) if values.ndim == 1 else values

    values = logits(x)
    if not hasattr(estimator, "predict_proba"):
        return logits if values.shape[1] == len(getattr(estimator, "classes_", ())) else None
    p = np.asarray(estimator.predict_proba(x), np.float64)
    if values.shape != p.shape:
        return None
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return logits if np.allclose(shifted / shifted.sum(axis=1, keepdims=True), p, atol=1e-5) else None


def _head(x: Any, count: int) -> Any:
    return x.iloc[:count] if hasattr(x, "iloc") else x[:count]


def _parts(function: Callable[[Any], Any], x: Any, step: int) -> Iterator[Any]:
    for start in range(0, len(x), step):
        yield function(x.iloc[start : start + step] if hasattr(x, "iloc") else x[start : start + step])


def _chunks(function: Callable[[Any], Any], x: Any, step: int) -> Iterator[np.ndarray]:
    return map(np.asarray, _parts(function, x, step))


def _as_fitted(x: Any, estimator: Any) -> Any:
    """The features in the form the estimator was fitted on: with the column names it knows, or as an array."""
    return form_taken(estimator, _as_named(x, estimator))


def _as_named(x: Any, estimator: Any) -> Any:
    try:
        names = getattr(estimator, "feature_names_in_", None)
    except ValueError:  # some meta-estimators ask their unfitted parts
        names = None
    if hasattr(x, "iloc"):
        if names is not None and set(names) <= set(x.columns):
            return x if list(names) == list(x.columns) else x[list(names)]
        if names is None and all(getattr(kind, "kind", "O") in "biuf" for kind in x.dtypes):
            return x.to_numpy()
        return x
    if names is not None and getattr(x, "ndim", 0) == 2 and x.shape[1] == len(names):
        import pandas as pd

        return pd.DataFrame(x, columns=list(names))
    return x
