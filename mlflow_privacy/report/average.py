"""Several targets of one recipe: the mean of each figure, with an interval across targets.

Scores of different models are not on one scale, so each target is measured by itself and the figures are averaged;
pooled scores would be a mixture of scales with an ROC curve of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import check_confidence
from mlflow_privacy.types import AttackResult, Estimate, Roc

_SLACK = 1e-9


def t_interval(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Estimate:
    r"""Mean of one rate per target, with Student's interval across targets.

    .. math:: \bar v \pm t_{n-1} \, s / \sqrt n \quad \text{clipped to } [0, 1]

    It says where the mean over further targets of this recipe lies. With two targets t is 12.7 at 95 %: such an
    interval is wide, and rightly so. One target has no interval: its ends are NaN.

    Args:
      values: (n,) rates in [0, 1], one a target.
      confidence: in (0.5, 1).

    Raises: DesignError: there is no value.

    Example:
      >>> print(t_interval([0.6, 0.62, 0.64]))
      0.62 [0.5703, 0.6697]
    """
    values = np.asarray(values, np.float64)
    n = values.size
    if not n:
        raise DesignError("t_interval needs the value of at least one target, got none.")
    mean = float(values.mean())
    if n == 1:
        check_confidence(confidence)
        return Estimate(mean, math.nan, math.nan, 1, confidence)
    quantile = float(special.stdtrit(n - 1, 0.5 + check_confidence(confidence) / 2))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, max(mean - half, 0.0), min(mean + half, 1.0), n, confidence)


def average(estimates: Sequence[Estimate], confidence: float | None = None) -> Estimate:
    """One figure over targets; those that cannot resolve it do not count, and if none can, nor can the average.

    Where all targets agree to the last digit, as they do at 0, the spread says nothing: the interval is then the mean
    of the targets' own.

    Args:
      estimates: one a target, each with its own interval.
      confidence: of the interval; None for that of the estimates.

    Example:
      >>> print(average([Estimate(0.0, 0.0, 0.2, 50), Estimate(0.0, 0.0, 0.3, 50)]))
      0 [0, 0.25]
    """
    confidence = estimates[0].confidence if confidence is None and estimates else confidence or 0.95
    known = [e for e in estimates if e.resolvable and math.isfinite(e.value)]
    if not known:
        return Estimate(math.nan, math.nan, math.nan, 0, confidence, resolvable=False)
    values = np.array([e.value for e in known])
    if len(known) > 1 and (values == values[0]).all():
        low, high = (float(np.mean([getattr(e, end) for e in known])) for end in ("low", "high"))
        return Estimate(float(values[0]), low, high, len(known), confidence)
    return t_interval(values, confidence)


def average_metrics(attacks: Sequence[AttackResult]) -> dict[str, Estimate]:
    """AUC and TPR at each FPR of one attack, over targets."""
    keys = [key for key in attacks[0].metrics if key == "auc" or key.startswith("tpr_at_fpr_")]
    return {key: average([a.metrics[key] for a in attacks if key in a.metrics]) for key in keys}


def average_roc(rocs: Sequence[Roc], n_nonmembers: int, *, confidence: float = 0.95, slanted: bool = False) -> Roc:
    """ROC curves of several targets averaged vertically, with a pointwise band across targets.

    Fawcett (2006), https://doi.org/10.1016/j.patrec.2005.10.010, Algorithm 4. The grid of FPRs is spaced evenly in
    the logarithm down to 1 / n_nonmembers, and evenly beside, with 0 in front. One curve alone keeps its own band.

    Args:
      rocs: one a target.
      n_nonmembers: of the target with the fewest: a lower FPR is not resolvable.
      slanted: between two vertices go along the straight line, whose area is the AUC, instead of the step that a
        threshold attains; they differ where members and non-members tie.

    Returns: `Roc` on the grid; its thresholds are NaN, since each target has its own.

    Example:
      >>> perfect = Roc(*(np.array(v) for v in ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [np.inf, 1, 0], [0] * 3, [1] * 3)))
      >>> float(average_roc([perfect, perfect], 10).tpr.min())
      1.0
    """
    grid = np.union1d(np.geomspace(1 / max(n_nonmembers, 2), 1.0, 240), np.linspace(0.0, 1.0, 161)[1:])
    grid = np.concatenate([[0.0], grid[grid >= 1 / max(n_nonmembers, 2) - _SLACK]])
    values = np.stack([_tpr_on(roc.fpr, roc.tpr, grid, slanted) for roc in rocs])
    mean = values.mean(0)
    if len(rocs) == 1:
        (roc,) = rocs
        low, high = (_tpr_on(roc.fpr, band, grid, slanted) for band in (roc.tpr_low, roc.tpr_high))
    else:
        quantile = float(special.stdtrit(len(rocs) - 1, 0.5 + check_confidence(confidence) / 2))
        half = quantile * values.std(0, ddof=1) / math.sqrt(len(rocs))
        own = [np.mean([_tpr_on(r.fpr, band(r), grid, slanted) for r in rocs], axis=0) for band in (_low, _high)]
        agree = half == 0  # as in `average`
        low = np.where(agree, np.minimum(own[0], mean), np.maximum(mean - half, 0))
        high = np.where(agree, np.maximum(own[1], mean), np.minimum(mean + half, 1))
    return Roc(grid, mean, np.full(len(grid), np.nan), low, high)


def _low(roc: Roc) -> np.ndarray:
    return roc.tpr_low


def _high(roc: Roc) -> np.ndarray:
    return roc.tpr_high


def _tpr_on(fpr: np.ndarray, tpr: np.ndarray, grid: np.ndarray, slanted: bool) -> np.ndarray:
    """A curve's highest TPR at an FPR of at most each value of the grid; `slanted` interpolates up to the next one."""
    at = np.searchsorted(fpr, grid + _SLACK, side="right") - 1
    values = np.asarray(tpr, np.float64)[at]
    if not slanted:
        return values
    after = np.minimum(at + 1, len(fpr) - 1)
    width = fpr[after] - fpr[at]
    share = np.divide(grid - fpr[at], width, out=np.zeros(len(grid)), where=width > 0)
    return values + np.clip(share, 0, 1) * (tpr[after] - tpr[at])
