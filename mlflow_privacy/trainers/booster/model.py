"""A boosted model as its library's own object, and what its scores mean; imports no library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from mlflow_privacy.errors import SignalError

# What the scores of a classifier are: the logit of the second class, logits of a softmax, one logit a class, labels
# alone; or the predictions of a regressor.
Scores = Literal["binary", "multi", "one against all", "labels", "regression"]


@dataclasses.dataclass(frozen=True, eq=False)
class Boosted:
    """A native booster.

    Attributes:
      model: `xgboost.Booster`, `lightgbm.Booster`, or a CatBoost model.
      library: "xgboost", "lightgbm" or "catboost".
      objective: the loss, as the library calls it.
      scores: what `trainer.scores_of` gives for it.
      outputs: how many classes; 1 for a regressor.
      labels: (outputs,) of a model that knows its labels, else None.
      fractions: its labels may be shares between two classes, so that they alone tell the task.
    """

    model: Any
    library: str
    objective: str
    scores: Scores
    outputs: int = 1
    labels: tuple[Any, ...] | None = None
    fractions: bool = False

    trainer_kind: ClassVar[str] = "booster"

    @property
    def _estimator_type(self) -> str | None:
        """What scikit-learn's estimators say of themselves; None where the labels decide."""
        return None if self.fractions else "regressor" if self.scores == "regression" else "classifier"


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


def columns_of(x: Any) -> list[str] | None:
    """Names of a table's columns; None for an array."""
    return [*map(str, x.columns)] if hasattr(x, "iloc") else None


def in_columns(x: Any, names: Sequence[str] | None) -> Any:
    """Features as a library takes them: a table with the columns that the model knows, else an array.

    >>> in_columns(np.eye(2), ["a", "b"]).columns.tolist()
    ['a', 'b']
    """
    if hasattr(x, "iloc"):
        if names is not None and set(names) <= set(map(str, x.columns)):
            return x if [*map(str, x.columns)] == [*names] else x[[*names]]
        return x.to_numpy() if all(getattr(kind, "kind", "O") in "biuf" for kind in x.dtypes) else x
    if names is not None and getattr(x, "ndim", 0) == 2 and x.shape[1] == len(names):
        import pandas as pd

        return pd.DataFrame(x, columns=[*names])
    return x
