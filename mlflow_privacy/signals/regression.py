r"""Signals of regressors: the Gaussian log-likelihood of the target under the model's prediction.

.. math:: \ell = -\tfrac{k}{2}\log(2\pi\sigma^2) - \frac{\lVert y - \hat y\rVert^2}{2\sigma^2}

with k outputs and one σ per model, its root mean squared residual unless given.
"""

from __future__ import annotations

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.classification import require_finite
from mlflow_privacy.types import ModelOutputs

_LEAST_SCALE = 1e-12  # of a model without any residual


def residual_scale(outputs: ModelOutputs) -> float:
    """σ of a regressor: its root mean squared residual, to be passed as `scale` for other records of the same model.

    >>> residual_scale(gaussian_outputs(np.array([0.0, 0.0]), np.array([3.0, -3.0])))
    3.0
    """
    return max(float(np.sqrt(np.mean(outputs.loss, dtype=np.float64))), _LEAST_SCALE)


def gaussian_outputs(prediction: np.ndarray, y: np.ndarray, *, scale: float | None = None) -> ModelOutputs:
    """Outputs of a regressor.

    Args:
      prediction: (n,) or (n, k).
      y: (n,) or (n, k) targets.
      scale: σ; None takes it from these records.

    Returns:
      Log-likelihoods, summed over the k outputs, and squared errors, averaged over them.

    Raises:
      SignalError: shapes differ, targets are not numbers, or predictions are not finite.

    Example:
      >>> round(float(gaussian_outputs(np.array([1.0]), np.array([1.0]), scale=1.0).signal[0]), 4)
      -0.9189
    """
    prediction, y = np.asarray(prediction), np.asarray(y)
    if prediction.dtype.kind not in "biuf" or y.dtype.kind not in "biuf":
        raise SignalError(
            f"A regressor's predictions and targets must be numbers, got dtypes {prediction.dtype} and {y.dtype}."
        )
    if scale is not None and not scale > 0:
        raise SignalError(f"scale must be positive, got {scale}.")
    n = len(y)
    if prediction.size != y.size or len(prediction) != n:
        raise SignalError(
            f"The model predicts an array of shape {prediction.shape} for targets of shape {y.shape}. One number per "
            "record and output is needed: check that this is a regression model."
        )
    prediction = prediction.reshape(n, -1).astype(np.float64)
    require_finite(prediction)
    squared = (y.reshape(n, -1) - prediction) ** 2  # (n, k)
    loss = squared.mean(axis=1)
    sigma = max(float(np.sqrt(loss.mean())), _LEAST_SCALE) if scale is None else float(scale)
    signal = -0.5 * squared.shape[1] * np.log(2 * np.pi * sigma**2) - squared.sum(axis=1) / (2 * sigma**2)
    return ModelOutputs(signal.astype(np.float32), None, loss.astype(np.float32), "log")
