r"""Signals of regressors: the Gaussian log-likelihood of the target under the model's prediction.

.. math:: \ell = -\tfrac{k}{2}\log(2\pi\sigma^2) - \frac{\lVert y - \hat y\rVert^2}{2\sigma^2}

with k outputs and one σ per model, unless given its root mean squared residual without the outliers, or what the median
says of normal residuals if that is less. A few targets a million times too large, or the non-members of a model that
knows its members by heart, would otherwise make σ so large that all small residuals look alike.
"""

from __future__ import annotations

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.classification import require_finite
from mlflow_privacy.types import ModelOutputs

# Of the residuals' sizes, other than exact zeros (a tree's on its own records). Of normal residuals the cut is 9.9 σ:
# none is left out. The median may be one of the members' where those are most and are known by heart, and then says
# nothing of the others: σ is no less than a part of the root mean square.
_BULK, _CUT, _PART = 0.9, 6.0, 1 / 30
_NORMAL_MEDIAN = 0.6744897501960817  # of the size of normal residuals with σ = 1
_LARGEST = 1e300  # so that means of many are finite


def residual_scale(outputs: ModelOutputs) -> float:
    """σ of a regressor: its root mean squared residual, to be passed as `scale` for other records of the same model.

    Residuals six times as large as the 90 % quantile of those that are not 0 are outliers, and left out. Where the
    median is that of normal residuals with a smaller σ, that counts, down to a thirtieth.

    >>> residual_scale(gaussian_outputs(np.array([0.0, 0.0]), np.array([3.0, -3.0])))
    3.0
    >>> residual_scale(gaussian_outputs(np.zeros(20), np.array([1e-15] * 19 + [1e20])))
    1e-15
    """
    return _robust_scale(np.sqrt(np.asarray(outputs.loss, np.float64)))


def _robust_scale(size: np.ndarray) -> float:
    """σ of residuals of these sizes (n,), each a root mean square over the outputs; scales as they do."""
    nonzero = size[size > 0]
    if not len(nonzero):
        return 1.0  # a model without any residual: every record has the same signal, whatever σ
    inside = size[size <= _CUT * np.quantile(nonzero, _BULK, method="higher" if len(nonzero) < 10 else "lower")]
    top = inside.max()
    mean_square_root = top * np.sqrt(np.mean((inside / top) ** 2))
    of_median = np.median(inside[inside > 0]) / _NORMAL_MEDIAN
    return float(max(min(mean_square_root, max(of_median, _PART * mean_square_root)), np.finfo(np.float64).tiny))


def gaussian_outputs(prediction: np.ndarray, y: np.ndarray, *, scale: float | None = None) -> ModelOutputs:
    """Outputs of a regressor, in float64: float32 makes residuals of unlike size equal, and squares overflow it.

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
    residual = y.reshape(n, -1).astype(np.float64) - prediction  # (n, k)
    k, top = residual.shape[1], np.abs(residual).max(axis=1, keepdims=True)
    unit = residual / np.where(top > 0, top, 1.0)  # whose squares neither overflow nor vanish
    size = top[:, 0] * np.sqrt((unit**2).mean(axis=1))
    sigma = _robust_scale(size) if scale is None else float(scale)
    with np.errstate(over="ignore"):
        loss = np.minimum(size**2, _LARGEST)
        distance = np.minimum(k * (size / sigma) ** 2 / 2, _LARGEST)
    signal = -k * (0.5 * np.log(2 * np.pi) + np.log(sigma)) - distance
    return ModelOutputs(signal, None, loss, "log")
