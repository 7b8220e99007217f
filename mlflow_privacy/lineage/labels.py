"""What the labels of an audit are, decided once and before anything trains: classes, several labels at once, amounts.

| labels | model | asked as |
|---|---|---|
| (n,) | | classes or amounts, see `tasks` |
| (n, k), one 1 in each row | of classes | classes 0..k-1, or those that `classes` names |
| (n, k), zeros and ones | of several labels at once | "multilabel" |
| (n, k), classes in each column | an estimator of several targets | "multilabel" |
| (n, ...), amounts | a regressor, an autoencoder | regression |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.tasks import infer_task, loss_kind, model_kind, stated_loss
from mlflow_privacy.trainers.settings import plain_loss
from mlflow_privacy.types import Records, Task

_OF_EACH = ("bce", "binarycrossentropy", "multilabel")  # losses of each label by itself
_SUM = 1e-4  # of a row of shares
_ASKED = 8  # records


class Settled(NamedTuple):
    """The records with labels as an audit asks for them.

    Attributes:
      one_hot: {"columns", "dtype", "classes"} of labels that came one-hot, for whoever trains on them so; else None.
    """

    pool: Records
    population: Records | None
    task: Task
    one_hot: Mapping[str, Any] | None = None


def settle_labels(
    native: Any,
    pool: Records,
    population: Records | None,
    *,
    task: Task | None = None,
    loss: str | None = None,
    names: Sequence[Any] | None = None,
) -> Settled:
    """Decides the task, and makes one-hot labels classes.

    Args:
      native: the audited model.
      task: as the caller says it, which wins.
      loss: of the recipe.
      names: labels in the order of the outputs, if they are named.

    Raises:
      LineageError: labels of this form cannot be asked of this model.
      SignalError: the model is none of labels.

    >>> pool = Records(np.eye(3), np.eye(3), np.arange(3).astype(str))
    >>> settled = settle_labels(None, pool, None)
    >>> settled.task, settled.pool.y.tolist(), settled.one_hot["columns"]
    ('classification', [0, 1, 2], 3)
    """
    parts = (pool,) if population is None else (pool, population)
    y = pool.y
    if y.ndim == 1:
        found = _of_one(native, y, task, loss)
        return _settled([_cast(part, found) for part in parts], found)
    if task == "regression" or (task is None and _of_amounts(native, y, loss)):
        if y.dtype.kind not in "biuf":
            raise LineageError(f"its targets of shape {y.shape} are no numbers, but the task is regression")
        return _settled(parts, "regression")
    hot = all(one_hot(part.y) for part in parts)
    if hot and not _asks_each(native, pool, loss):
        return _settled([_indexed(part, names) for part in parts], "classification", _kept_form(y, names))
    if _shares(y):
        raise LineageError(
            f"its labels of shape {y.shape} are shares of classes, not one class a record: give the class of each "
            'record (labels.argmax(1)), or task="regression" for a model of the shares themselves'
        )
    if y.ndim != 2 or not _discrete(y):
        raise LineageError(
            f"its labels have shape {y.shape} and dtype {y.dtype}, which are neither one-hot nor several labels of "
            'zeros and ones, but the model is one of classes. If they are amounts, say so: task="regression"'
        )
    whole = [
        part if part.y.dtype.kind != "f" else Records(part.x, part.y.astype(np.int64), part.row_ids) for part in parts
    ]
    return _settled(whole, "multilabel", None)


def one_hot(y: np.ndarray) -> bool:
    """Whether labels (n, k) hold one 1 in each row, and zeros.

    >>> one_hot(np.eye(3)), one_hot(np.array([[1, 1], [0, 1]])), one_hot(np.array([1, 0]))
    (True, False, False)
    """
    y = np.asarray(y)
    if y.ndim != 2 or y.shape[1] < 2 or y.dtype.kind not in "biuf":
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _shares(y: np.ndarray) -> bool:
    """Whether labels are (n, c) fractions of which each row sums to 1."""
    if y.ndim != 2 or y.dtype.kind != "f" or not (y >= 0).all() or (y == np.round(y)).all():
        return False
    return bool((np.abs(y.sum(axis=1) - 1) <= _SUM).all())


def _of_one(native: Any, y: np.ndarray, task: Task | None, loss: str | None) -> Task:
    found = task or infer_task(native, y, loss)
    if task == "classification" and y.dtype.kind == "f" and not (y == np.round(y)).all():
        raise LineageError('its labels are fractions, but task="classification" was said: they are no classes')
    if task == "regression" and y.dtype.kind not in "biuf":
        raise LineageError('its labels are names, but task="regression" was said: they are no amounts')
    return found


def _of_amounts(native: Any, y: np.ndarray, loss: str | None) -> bool:
    """Whether several values of a record are amounts."""
    said = model_kind(native) or loss_kind(loss) or loss_kind(stated_loss(native))
    return said == "regression" if said is not None else y.ndim != 2 or not _discrete(y) or not _zeros_and_ones(y)


def _discrete(y: np.ndarray) -> bool:
    return y.dtype.kind in "biuUS" or bool((y.dtype.kind == "f") and (y == np.round(y)).all())


def _zeros_and_ones(y: np.ndarray) -> bool:
    return y.dtype.kind in "US" or bool(((y == 0) | (y == 1)).all())


def _asks_each(native: Any, pool: Records, loss: str | None) -> bool:
    """Whether a model of one-hot labels learned each column by itself: by its loss, or by an estimator's answers."""
    name = plain_loss(loss) or plain_loss(stated_loss(native))
    if name:
        return name.startswith(_OF_EACH)
    if not callable(getattr(native, "get_params", None)) or not callable(getattr(native, "predict", None)):
        return False
    if isinstance(getattr(native, "classes_", None), list):
        return True
    return np.ndim(native.predict(pool.take(np.arange(min(len(pool), _ASKED))).x)) == 2


def _indexed(records: Records, names: Sequence[Any] | None) -> Records:
    y = np.asarray(records.y).argmax(axis=1)
    return Records(records.x, y if names is None else _named(names, records.y.shape[1])[y], records.row_ids)


def _named(names: Sequence[Any], k: int) -> np.ndarray:
    if len(names) != k:
        raise LineageError(f"classes names {len(names)} labels, but its one-hot labels have {k} columns")
    return np.asarray(list(names))


def _kept_form(y: np.ndarray, names: Sequence[Any] | None) -> dict[str, Any]:
    form: dict[str, Any] = {"columns": int(y.shape[1]), "dtype": y.dtype.name}
    return form if names is None else {**form, "classes": np.asarray(list(names)).tolist()}


def _cast(records: Records, task: Task) -> Records:
    """Class labels that are whole numbers as integers."""
    y = records.y
    if task == "classification" and y.dtype.kind == "f" and (y == np.round(y)).all():
        return Records(records.x, y.astype(np.int64), records.row_ids)
    return records


def _settled(parts: Sequence[Records], task: Task, form: Mapping[str, Any] | None = None) -> Settled:
    return Settled(parts[0], parts[1] if len(parts) > 1 else None, task, form)
