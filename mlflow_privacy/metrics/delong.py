"""AUC with DeLong's variance, and the paired comparison of two attacks on the same records."""

from __future__ import annotations

import math

import numpy as np

from mlflow_privacy.metrics.roc import Tally, tally
from mlflow_privacy.stats import check_confidence, chernoff_interval, logit_interval, normal_quantile
from mlflow_privacy.types import Estimate

# DeLong's variance itself is unreliable where no more pairs are ordered wrongly than if fewer members (or non-members)
# than this lay on the wrong side of all others.
_FEW_DISCORDANT = 10


def auc(ranks: np.ndarray, member: np.ndarray, confidence: float = 0.95) -> Estimate:
    r"""Probability that a member outranks a non-member, ties counted half.

    .. math:: \hat\theta = \Pr[s_{in} > s_{out}] + \tfrac12 \Pr[s_{in} = s_{out}]

    DeLong, DeLong and Clarke-Pearson (1988), https://doi.org/10.2307/2531595, by midranks in O(n log n) as in Sun
    and Xu (2014), https://doi.org/10.1109/LSP.2014.2337313. The interval is normal on the log-odds scale with a
    Student quantile (Satterthwaite's degrees of freedom). Two cases where DeLong's variance is too small are
    widened: with fewer than 10 discordant records, to include the score interval with Hanley and McNeil's
    variance (Newcombe 2006, method 5, https://doi.org/10.1002/sim.2324); and with perfect separation (variance 0),
    to the distribution-free bound of `stats.chernoff_interval`. Measured coverage: docs/attacks.md.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.

    Raises: DesignError: what `tally` raises.

    Example:
      >>> auc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True])).value
      0.75
      >>> print(auc(np.arange(40.0), np.arange(40) >= 20))
      1 [0.8316, 1]
    """
    return auc_of(tally(ranks, member), confidence)


def auc_of(t: Tally, confidence: float) -> Estimate:
    """`auc` of a tally."""
    check_confidence(confidence)
    value, parts = delong(t)
    low, high = auc_interval(value, parts, (t.n_members, t.n_nonmembers), confidence)
    return Estimate(value, low, high, t.n_members + t.n_nonmembers, confidence)


def auc_interval(
    value: float, parts: tuple[float, float], sizes: tuple[int, int], confidence: float
) -> tuple[float, float]:
    """Interval of an AUC from the variance that members and non-members each contribute; see `auc`.

    Args:
      parts: variance due to the sampling of members, and of non-members.
      sizes: numbers of members and of non-members.
    """
    from scipy.special import stdtrit

    smallest = min(sizes)
    variance = sum(parts)
    if variance <= 0 or not 0 < value < 1:
        low, high = chernoff_interval(value, smallest, confidence)
    else:
        freedom = variance**2 / sum(p**2 / max(s - 1, 1) for p, s in zip(parts, sizes))
        student = float(stdtrit(freedom, 0.5 + confidence / 2)) / normal_quantile(confidence)
        low, high = logit_interval(value, math.sqrt(variance) * student, confidence)
    if smallest * min(value, 1 - value) < _FEW_DISCORDANT:
        score_low, score_high = _score_interval(value, sizes, confidence)
        low, high = min(low, score_low), max(high, score_high)
    return low, high


def compare_auc(ranks_a: np.ndarray, ranks_b: np.ndarray, member: np.ndarray, confidence: float = 0.95) -> Estimate:
    """AUC of attack a minus AUC of attack b on the same records, by DeLong's paired variance.

    Two attacks on the same records err together, so their intervals may overlap where this one excludes 0.

    Args:
      ranks_a, ranks_b: (n,) scores of either attack.
      member: (n,) bool.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = np.arange(400) < 200
      >>> good = member + rng.normal(size=400)
      >>> compare_auc(good, rng.normal(size=400), member).low > 0
      True
    """
    member = np.asarray(member, bool)
    (value_a, in_a, out_a), (value_b, in_b, out_b) = (placements(r, member) for r in (ranks_a, ranks_b))
    difference = value_a - value_b
    variance = _mean_variance(in_a - in_b) + _mean_variance(out_a - out_b)
    half = normal_quantile(confidence) * math.sqrt(variance)
    low, high = max(difference - half, -1.0), min(difference + half, 1.0)
    return Estimate(difference, low, high, len(member), confidence)


def delong(t: Tally) -> tuple[float, tuple[float, float]]:
    """AUC, and the variance due to the sampling of members and of non-members."""
    n1, n0 = t.n_members, t.n_nonmembers
    # Placements: the share of the other class below a score, half of the share at it.
    member_beats = (np.cumsum(t.nonmembers) - 0.5 * t.nonmembers) / n0
    nonmember_beaten = 1 - (np.cumsum(t.members) - 0.5 * t.members) / n1
    value = float((t.members * member_beats).sum() / n1)
    # A class of one record shows no spread; its contribution is at most that of a yes/no variable.
    widest = value * (1 - value)
    from_members = (t.members * (member_beats - value) ** 2).sum() / (n1 - 1) / n1 if n1 > 1 else widest
    from_nonmembers = (t.nonmembers * (nonmember_beaten - value) ** 2).sum() / (n0 - 1) / n0 if n0 > 1 else widest
    if t.values.size == 1:  # all scores equal: rounding must not look like spread
        return 0.5, (0.0, 0.0)
    return min(max(value, 0.0), 1.0), (float(from_members), float(from_nonmembers))


def placements(ranks: np.ndarray, member: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """AUC, and per record the share of the other class that it is rightly ordered with."""
    t = tally(ranks, member)
    index = np.searchsorted(t.values, ranks)
    beats = ((np.cumsum(t.nonmembers) - 0.5 * t.nonmembers) / t.n_nonmembers)[index[member]]
    beaten = (1 - (np.cumsum(t.members) - 0.5 * t.members) / t.n_members)[index[~member]]
    return float(beats.mean()), beats, beaten


def _mean_variance(values: np.ndarray) -> float:
    """Variance of the mean of `values`; a single value is bounded by the variance of one in [−1, 1]."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 1.0


def _score_interval(value: float, sizes: tuple[int, int], confidence: float) -> tuple[float, float]:
    r"""Newcombe's method 5: all θ with (θ̂ − θ)² ≤ z² V(θ).

    .. math:: V(\theta) = \frac{\theta(1-\theta)}{n_1 n_0}
        \left[1 + (N-1)\left(\frac{1-\theta}{2-\theta} + \frac{\theta}{1+\theta}\right)\right], N = (n_1 + n_0)/2
    """
    from scipy.optimize import brentq

    z = normal_quantile(confidence)
    product, half = sizes[0] * sizes[1], sum(sizes) / 2

    def excess(theta: float) -> float:
        spread = 1 + (half - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 - z**2 * theta * (1 - theta) * spread / product

    low = brentq(excess, 0.0, value) if value > 0 and excess(value) < 0 else value
    high = brentq(excess, value, 1.0) if value < 1 and excess(value) < 0 else value
    return float(low), float(high)
