"""How well the model did on its training data, as the training run logged it: by autologging or by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mlflow_privacy.types import LoggedQuality

# MLflow's autologging of scikit-learn computes these from the fitted model on just the records that it was fitted on.
_EXACT = {
    "training_accuracy_score": "accuracy",
    "training_score": "score",
    "training_r2_score": "r2",
}
_OF_TRAINING = {"train", "training"}
_ACCURACY = {"accuracy", "acc"}
_FILLING = {"epoch", "final", "last", "score", "categorical", "sparse", "binary", "multiclass", "mean"}


def logged_quality(client: Any, run: Any, model_id: str | None, task: str) -> LoggedQuality | None:
    """The accuracy (or R²) on the training data that the source run says the model has; None if it says nothing.

    Of a run with several models only metrics that belong to this one count.
    """
    if run is None or task not in ("classification", "multilabel", "regression"):
        return None
    outputs = getattr(run.outputs, "model_outputs", None) or []
    metrics = dict(run.data.metrics)
    if len({output.model_id for output in outputs}) > 1:
        metrics = _metrics_of_model(client, model_id, run.info.run_id)
    return quality_in(metrics, task)


def _metrics_of_model(client: Any, model_id: str | None, run_id: str) -> dict[str, float]:
    from mlflow.exceptions import MlflowException

    if model_id is None:
        return {}
    try:
        found = client.get_logged_model(model_id).metrics or []
    except MlflowException:
        return {}
    return {metric.key: metric.value for metric in found if metric.run_id in (None, run_id)}


def quality_in(metrics: Mapping[str, float], task: str) -> LoggedQuality | None:
    """The first of the usual names that these metrics hold.

    >>> quality_in({"training_accuracy_score": 0.98, "val_accuracy": 0.7}, "classification")
    LoggedQuality(kind='accuracy', value=0.98, name='training_accuracy_score', exact=True)
    >>> quality_in({"epoch/train_acc": 81.5}, "classification").value, quality_in({"accuracy": 0.9}, "classification")
    (0.815, None)
    >>> quality_in({"accuracy": 0.9, "val_accuracy": 0.8}, "classification").name  # of Keras
    'accuracy'
    """
    wanted = "r2" if task == "regression" else "accuracy"
    for name, kind in _EXACT.items():
        if name in metrics and kind in (wanted, "score"):
            found = LoggedQuality(wanted, float(metrics[name]), name, exact=True)
            return found if _possible(found) else None
    if wanted != "accuracy":
        return None
    for name in sorted(metrics, key=len):
        words = set(filter(None, re.split(r"[^a-z0-9]+", name.lower())))
        of_training = bool(words & _OF_TRAINING) or (words <= _ACCURACY and f"val_{name}" in metrics)
        if of_training and words & _ACCURACY and words <= _OF_TRAINING | _ACCURACY | _FILLING:
            value = float(metrics[name])
            found = LoggedQuality("accuracy", value / 100 if 1 < value <= 100 else value, name, exact=False)
            if _possible(found):
                return found
    return None


def _possible(quality: LoggedQuality) -> bool:
    return math.isfinite(quality.value) and (quality.kind != "accuracy" or 0 <= quality.value <= 1)
