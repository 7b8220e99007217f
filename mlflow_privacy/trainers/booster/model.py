"""A boosted model as its library's own object, and what its scores mean; imports no library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

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


def columns_of(x: Any) -> list[str] | None:
    """Names of a table's columns; None for an array."""
    return [*map(str, x.columns)] if hasattr(x, "iloc") else None


def in_columns(x: Any, names: Sequence[str] | None) -> Any:
    """Features as a library takes them: a table with the columns that the model knows, else an array.

    >>> import numpy as np
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
