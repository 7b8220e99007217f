"""Signals: what one model says about each record, for torch, scikit-learn and any model that predicts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.booster import booster_outputs
from mlflow_privacy.signals.keras import keras_outputs
from mlflow_privacy.signals.registry import SIGNALS, functions_key, registered_outputs
from mlflow_privacy.signals.regression import residual_scale
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.trainers.booster.trainer import boosted_of
from mlflow_privacy.trainers.keras.model import KerasNet, keras_net
from mlflow_privacy.trainers.registry import inner_model, others_model
from mlflow_privacy.types import ModelOutputs, Reading, Records, Task

if TYPE_CHECKING:
    from mlflow_privacy.signals.language.outputs import LanguageAids

__all__ = ["SIGNALS", "model_outputs", "others_key", "outputs_reading", "residual_scale"]


def model_outputs(
    model: Any,
    records: Records,
    *,
    task: Task,
    classes: np.ndarray | None = None,
    device: str = "auto",
    batch_size: int = 1024,
    scale: float | None = None,
    extras: Sequence[str] = (),
    aids: LanguageAids | None = None,
    reading: Reading | None = None,
    columns: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
) -> ModelOutputs:
    """What a model says about each record.

    Classifiers: φ = log p_y - log(1 - p_y), from logits where there are any; correctness for models that give only
    labels. Regressors: the Gaussian log-likelihood. Causal language models: the mean log-probability of tokens.

    Args:
      model: a PyTorch module, an estimator with scikit-learn's API, a native booster, a `text.LanguageModel`, what a
        function in `SIGNALS` knows, an MLflow pyfunc model, or anything else with `predict`.
      records: n records.
      task: "classification", "multilabel" (several labels of a record at once) or "regression".
      classes: sorted labels of the whole pool; those of `records` if None.
      device: for PyTorch modules: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
      batch_size: of inference; halved when the device runs out of memory. It does not change the result.
      scale: σ of a regressor, from `residual_scale` of its outputs on the pool; None takes it from `records`.
      extras: keys of further signals of a causal language model, from `attacks.extra_signals`.
      aids: what some of them need: base model, masked model, prefix.
      reading: what the outputs of a classifier are, as the caller says it, or of a PyTorch module from
        `outputs_reading`; None finds it for these records.
      columns: of a model that is only known by its predictions: names of the outputs that count.
      params: for the `predict` of an MLflow model.

    Returns:
      (n,) signals, correctness and losses.

    Raises:
      SignalError: the model gives nothing that an attack can use; the message says what it gave and the remedy.

    Example:
      >>> from sklearn.linear_model import LogisticRegression
      >>> x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
      >>> records = Records(x, y, np.arange(4).astype(str))
      >>> model_outputs(LogisticRegression().fit(x, y), records, task="classification").correct.tolist()
      [True, True, True, True]
    """
    if not len(records):
        raise SignalError("There are no records to compute signals of.")
    if batch_size < 1:
        raise SignalError(f"batch_size must be at least 1, got {batch_size}.")
    if isinstance(model, LanguageModel):
        from mlflow_privacy.signals.language.outputs import classifier_outputs, language_outputs

        if model.objective == "causal_lm":
            return language_outputs(model, records, device=device, batch_size=batch_size, extras=extras, aids=aids)
    if extras:
        raise SignalError(f"Only a causal language model gives {', '.join(extras)}, not a {type(model).__qualname__}.")
    if isinstance(model, LanguageModel):
        return classifier_outputs(model, records, classes=classes, device=device, batch_size=batch_size)
    model = _native(model)
    boosted = booster_outputs(model, records, task=task, classes=classes, scale=scale)
    if boosted is not None:
        return boosted
    of_keras = keras_outputs(model, records, task=task, classes=classes, batch_size=batch_size, scale=scale)
    if of_keras is not None:
        return of_keras
    model = model.model if isinstance(model, KerasNet) else model
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from mlflow_privacy.signals.torch import module_outputs

        return module_outputs(
            model,
            records,
            task=task,
            classes=classes,
            device=device,
            batch_size=batch_size,
            scale=scale,
            reading=reading,
        )
    if _is_estimator(model):
        from mlflow_privacy.signals.sklearn import estimator_outputs

        return estimator_outputs(model, records, task=task, classes=classes, batch_size=batch_size, scale=scale)
    known = np.unique(records.y) if classes is None and task == "classification" else classes
    asked = {"task": task, "classes": known, "device": device, "batch_size": batch_size, "scale": scale}
    registered = registered_outputs(others_model(model), records, **asked)
    if registered is not None:
        return registered
    if callable(getattr(model, "predict", None)) or callable(model):
        from mlflow_privacy.signals.pyfunc import prediction_outputs

        return prediction_outputs(
            model,
            records,
            task=task,
            classes=classes,
            batch_size=batch_size,
            scale=scale,
            reading=reading,
            columns=columns,
            params=params,
        )
    raise SignalError(
        f"A {type(model).__module__}.{type(model).__qualname__} cannot be asked for predictions: it is no PyTorch "
        "module, no estimator, and has no predict. Log the model with an MLflow flavor that has a pyfunc."
    )


def outputs_reading(
    model: Any,
    data: Sequence[Records],
    *,
    task: Task = "classification",
    classes: np.ndarray | None = None,
    loss: str | None = None,
    device: str = "auto",
    batch_size: int = 1024,
) -> Reading | None:
    """Whether a PyTorch classifier gives logits or probabilities; see `module_reading`. None for any other model.

    But a Keras model whose compiled loss says `from_logits` gives logits.

    An audit decides it once, on the audited model, and reads every model on every record so.
    """
    if isinstance(model, LanguageModel):
        return None
    if getattr(getattr(inner_model(model), "loss", None), "from_logits", None) is True:
        return "logits"
    model, torch = _native(model), sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return None
    from mlflow_privacy.signals.torch import many_reading, module_reading

    if task == "multilabel":
        return many_reading(model, data, loss=loss, device=device, batch_size=batch_size)
    return module_reading(model, data, classes=classes, loss=loss, device=device, batch_size=batch_size)


def others_key(model: Any) -> str | None:
    """What the functions of other packages do that are asked about a model; None for a model that ours know."""
    torch, native = sys.modules.get("torch"), _native(model)
    ours = (
        isinstance(model, LanguageModel)
        or boosted_of(native) is not None
        or keras_net(native) is not None
        or (torch is not None and isinstance(native, torch.nn.Module))
        or _is_estimator(native)
    )
    return None if ours else functions_key()


def _is_estimator(model: Any) -> bool:
    return callable(getattr(model, "predict", None)) and (
        hasattr(model, "predict_proba") or callable(getattr(model, "get_params", None))
    )


def _native(model: Any) -> Any:
    """The estimator or module inside an MLflow pyfunc model, which says more than its `predict`."""
    native = inner_model(model)
    torch = sys.modules.get("torch")
    usable = hasattr(native, "predict_proba") or (torch is not None and isinstance(native, torch.nn.Module))
    return native if usable else model
