"""Signals of native boosters: XGBoost's and LightGBM's `Booster`, CatBoost's models."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.classification import CERTAIN, outputs_from_labels, outputs_from_scores
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.trainers.booster.trainer import boosted_of, scores_of
from mlflow_privacy.trainers.labels import label_index
from mlflow_privacy.types import ModelOutputs, Records, Task


def booster_outputs(
    model: Any, records: Records, *, task: Task, classes: np.ndarray | None, scale: float | None = None, **_: Any
) -> ModelOutputs | None:
    """Outputs of a native booster, a classifier's from its raw scores; None for any other model.

    Raises:
      SignalError: its outputs do not fit the task or the labels.
    """
    boosted = boosted_of(model)
    if boosted is None:
        return None
    if task == "regression":
        predictions = scores_of(dataclasses.replace(boosted, scores="regression"), records.x)
        return gaussian_outputs(predictions, records.y, scale=scale)
    if boosted.scores == "regression":
        raise SignalError(
            f"The loss of this {boosted.library} booster, {boosted.objective}, is that of a regression, but the task "
            "is classification."
        )
    pool = np.unique(records.y) if classes is None else np.asarray(classes)
    index = label_index(records.y, pool.tolist(), boosted.outputs, boosted.labels)
    values = np.asarray(scores_of(boosted, records.x), np.float64)
    if boosted.scores == "labels":
        return outputs_from_labels(values.astype(np.int64) == index)
    outputs = 2 if values.ndim == 1 else values.shape[1]
    if values.ndim > 2 or len(values) != len(records) or outputs != boosted.outputs:
        raise SignalError(f"The booster gives scores of shape {values.shape} for {boosted.outputs} classes.")
    values = np.maximum(values, -CERTAIN)  # CatBoost's is -∞ for a class that it never saw
    return outputs_from_scores(values, index, one_against_all=boosted.scores == "one against all")
