"""Signals of Keras models, from the logits before their last softmax or sigmoid."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlflow_privacy.signals.classification import (
    each_phi,
    outputs_from_phi,
    outputs_from_scores,
    outputs_of_many,
    phi_from_probabilities,
    require_labels,
)
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.trainers.keras.model import keras_net, outputs_of
from mlflow_privacy.trainers.labels import label_index
from mlflow_privacy.types import ModelOutputs, Reading, Records, Task

_FLOOR = 1e-7  # of probabilities in float32


def keras_outputs(
    model: Any,
    records: Records,
    *,
    task: Task,
    classes: np.ndarray | None,
    batch_size: int = 1024,
    scale: float | None = None,
) -> ModelOutputs | None:
    """Outputs of a Keras model of one input and one output; None for any other model.

    Raises:
      SignalError: its outputs do not fit the labels.
    """
    net = keras_net(model)
    if net is None or task not in ("classification", "multilabel", "regression"):
        return None
    values, kind = outputs_of(net, records.x, task=task, batch_size=batch_size)
    if kind == "regression":
        return gaussian_outputs(values if net.width > 1 else values[:, 0], records.y, scale=scale)
    if task == "multilabel":
        require_labels(np.asarray(records.y), values.shape)
        reading: Reading = "probabilities" if kind == "probabilities" else "logits"
        return outputs_of_many(each_phi(values, records.y, reading=reading, floor=_FLOOR))
    pool = np.unique(records.y) if classes is None else np.asarray(classes)
    index = label_index(records.y, pool.tolist(), net.classes)
    if kind == "probabilities":
        phi = phi_from_probabilities(values, index, floor=_FLOOR)
        return outputs_from_phi(phi, values.argmax(axis=1) == index)
    scores = values[:, 0] if kind == "binary" else values
    return outputs_from_scores(scores, index, one_against_all=kind == "one against all")
