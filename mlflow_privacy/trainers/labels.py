"""Which output of a model each label means, where the library of the model numbers its classes; imports no library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import SignalError


def label_index(y: np.ndarray, classes: Sequence[Any], outputs: int, labels: Sequence[Any] | None = None) -> np.ndarray:
    """(n,) which output each label means, -1 for one that the model has none for.

    Args:
      y: (n,) labels.
      classes: labels of the pool, in the order of the outputs.
      outputs: how many the model has.
      labels: of its outputs, if it knows them.

    Raises:
      SignalError: the labels fit the outputs in no way.

    >>> label_index(np.array(["b", "a"]), ["a", "b"], 2).tolist()
    [1, 0]
    >>> label_index(np.array([0, 2]), [0, 2], 3).tolist()  # a class that is in nobody's data
    [0, 2]
    """
    known = [value.item() if isinstance(value, np.generic) else value for value in classes]
    values = np.asarray(y).tolist()
    if labels is not None:
        for read in (lambda value: value, str, _as_number):
            place = {read(label): i for i, label in enumerate(labels)}
            if all(read(value) in place for value in known):
                return np.array([place.get(read(value), -1) for value in values], np.int64)
    if len(known) == outputs:
        place = {value: i for i, value in enumerate(known)}
        return np.array([place.get(value, -1) for value in values], np.int64)
    if all(_is_index(value, outputs) for value in known):
        return np.array([int(value) if _is_index(value, outputs) else -1 for value in values], np.int64)
    raise SignalError(
        f"The model has {outputs} classes and the pool {len(known)} ({', '.join(map(repr, known[:5]))}), which are no "
        f"numbers 0 to {outputs - 1}, so which output means which label is not known. Name the labels in the order of "
        'the outputs: classes=[...] in evaluator_config={"privacy_meter": ...} or in log_lineage.'
    )


def _is_index(value: Any, outputs: int) -> bool:
    return isinstance(value, (int, float)) and float(value).is_integer() and 0 <= value < outputs


def _as_number(value: Any) -> Any:
    """ "1" and 1.0 as one number; what is none stays itself."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
