"""Intervals and log-space helpers; NumPy and SciPy only."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import special

from mlflow_privacy.errors import DesignError

_RARE = 0.00135  # beyond three standard errors on one side
# Of the guide table of `positions`. Fewer queries do not pay for it; a block of 32,768 stays in the cache.
_FEW_QUERIES, _CELLS_PER_VALUE, _QUERIES_AT_ONCE = 2_000, 4, 1 << 15


def sigmoid(x: np.ndarray | float) -> np.ndarray:
    """σ(x) in float64, without overflow.

    >>> float(sigmoid(0.0)), float(sigmoid(-1000.0))
    (0.5, 0.0)
    """
    return special.expit(np.asarray(x, np.float64))


def log_sigmoid(x: np.ndarray | float) -> np.ndarray:
    """log σ(x) in float64; keeps 16 digits where σ itself rounds to 0 or 1.

    >>> float(log_sigmoid(-800.0)), float(log_sigmoid(0.0)) == -math.log(2)
    (-800.0, True)
    """
    x = np.asarray(x, np.float64)
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))


def logmeanexp(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """log(mean(exp(x))) along `axis`, without underflow.

    >>> float(logmeanexp(np.array([-1000.0, -1000.0])))
    -1000.0
    """
    x = np.asarray(x, np.float64)
    return special.logsumexp(x, axis=axis) - math.log(x.shape[axis])


def check_confidence(confidence: float) -> float:
    """Returns `confidence`, or raises `DesignError` if it is not in (0.5, 1)."""
    if not 0.5 < confidence < 1:
        raise DesignError(f"confidence must be in (0.5, 1), got {confidence}; 0.95 is usual.")
    return float(confidence)


def normal_quantile(confidence: float) -> float:
    """Half-width, in standard errors, of a two-sided normal interval.

    >>> round(normal_quantile(0.95), 3)
    1.96
    """
    return float(special.ndtri(0.5 + check_confidence(confidence) / 2))


def clopper_pearson(
    k: np.ndarray | int, n: np.ndarray | int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    r"""Exact interval of a binomial proportion.

    .. math:: P(X \ge k \mid p = low) = P(X \le k \mid p = high) = (1 - confidence) / 2

    Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404. Covers at least `confidence` for every p.

    Args:
      k: successes, broadcast against `n`.
      n: trials; 0 gives [0, 1].

    Returns: (low, high), each of the broadcast shape.

    Example:
      >>> low, high = clopper_pearson(0, 10)
      >>> float(low), round(float(high), 4)
      (0.0, 0.3085)
    """
    tail = (1 - check_confidence(confidence)) / 2
    k, n = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    if (k < 0).any() or (k > n).any():
        raise DesignError("clopper_pearson needs 0 <= k <= n.")
    # The beta quantile is undefined at the two ends, where the bound is 0 or 1 by definition.
    low = np.where(k > 0, special.betaincinv(np.maximum(k, 1), n - k + 1, tail), 0.0)
    high = np.where(k < n, special.betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
    return low, high


def surely_another_rate(rate: float, n: int, expected: float, n_expected: int) -> bool:
    """Whether a rate on n records can hardly be that of others, at three standard errors of an exact binomial test.

    Args:
      rate: measured on n records.
      expected: the other rate, on about `n_expected` records, so that a rate of 1 does not mean that none can fail.

    Example:
      >>> surely_another_rate(1 / 3, 3, 0.9, 100), surely_another_rate(0.5, 100, 0.9, 100)
      (False, True)
    """
    from scipy.stats import binom

    likely = (expected * n_expected + 1) / (n_expected + 2)  # the rule of succession
    right = round(rate * n)
    tail = binom.cdf(right, n, likely) if right < likely * n else binom.sf(right - 1, n, likely)
    return bool(tail < _RARE)


def order_statistic_range(n: int, p: np.ndarray | float, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Which order statistics of n values enclose their true upper-p quantile.

    The number K of values above that quantile is Binomial(n, p), so the quantile lies below the `low`-th largest
    value and not below the (`high` + 1)-th largest, each but for (1 − confidence)/2. The same bounds as the
    Beta(k, n − k + 1) distribution of an order statistic's tail probability gives.

    Returns: (low, high) integers with P(K < low) ≤ (1 − confidence)/2 and P(K > high) ≤ (1 − confidence)/2.

    Example:
      >>> low, high = order_statistic_range(1000, 0.01)
      >>> int(low), int(high)
      (4, 17)
    """
    tail = (1 - check_confidence(confidence)) / 2
    return _binomial_quantile(tail, n, p), _binomial_quantile(1 - tail, n, p)


def _binomial_quantile(q: float, n: int, p: np.ndarray | float) -> np.ndarray:
    """Smallest k with P(Binomial(n, p) ≤ k) ≥ q (`scipy.stats.binom.ppf` without importing scipy.stats: 0.4 s)."""
    p = np.asarray(p, np.float64)
    inner = np.clip(p, 1e-15, 1 - 1e-15)  # bdtrik gives NaN for subnormal p
    k = np.clip(np.ceil(special.bdtrik(q, n, inner)), 0, n)
    k = np.where((k > 0) & (special.bdtr(np.maximum(k - 1, 0), n, inner) >= q), k - 1, k)
    return np.where(p <= 0, 0, np.where(p >= 1, n, k)).astype(np.int64)


def mover(
    values: np.ndarray, lows: np.ndarray, highs: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Interval of a weighted sum of independent estimates from the intervals of each ("square-and-add").

    .. math:: low = \hat\theta - \sqrt{\sum_i w_i^2 (\hat\theta_i - l_i)^2} \quad (w_i > 0)

    Zou and Donner (2008), https://doi.org/10.1002/sim.3095. Asymmetric intervals stay asymmetric. For a negative
    weight the two ends of that estimate change places.

    Args:
      values, lows, highs: (t, ...) estimates and their intervals.
      weights: (t,).

    Returns: (low, high) of Σ w·θ, of shape (...).

    Example:
      >>> low, high = mover(np.array([0.5, 0.2]), np.array([0.4, 0.1]), np.array([0.6, 0.4]), np.array([1.0, -1.0]))
      >>> round(float(low), 4), round(float(high), 4)
      (0.0764, 0.4414)
    """
    values, lows, highs = (np.asarray(a, np.float64) for a in (values, lows, highs))
    w = np.asarray(weights, np.float64).reshape((-1,) + (1,) * (values.ndim - 1))
    total = (w * values).sum(0)
    down, up = w * (values - lows), w * (highs - values)
    down, up = np.where(w >= 0, down, -up), np.where(w >= 0, up, -down)
    return total - np.sqrt((down**2).sum(0)), total + np.sqrt((up**2).sum(0))


def logit_interval(value: float, error: float, confidence: float = 0.95) -> tuple[float, float]:
    """Normal interval on the log-odds scale (delta method), carried back: it never leaves (0, 1).

    >>> low, high = logit_interval(0.9, 0.05)
    >>> round(low, 3), round(high, 3)
    (0.752, 0.964)
    """
    if not 0 < value < 1:
        raise DesignError(f"logit_interval needs a value in (0, 1), got {value}.")
    half = normal_quantile(confidence) * error / (value * (1 - value))
    centre = special.logit(value)
    return float(special.expit(centre - half)), float(special.expit(centre + half))


def chernoff_interval(value: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Distribution-free interval of the mean of n independent values in [0, 1], or of a U-statistic of n blocks.

    .. math:: \{\theta : n\,KL(\hat\theta \| \theta) \le \log(2 / (1 - confidence))\}

    Hoeffding (1963), https://doi.org/10.1080/01621459.1963.10500830, Theorem 1 and section 5b: an AUC averages over
    disjoint member/non-member pairs, so it is one with n = min(n_members, n_nonmembers). Valid for every sample
    size, and wide.

    Example:
      >>> low, high = chernoff_interval(1.0, 20)
      >>> round(low, 4), high  # low is (0.025) ** (1 / 20)
      (0.8316, 1.0)
    """
    limit = math.log(2 / (1 - check_confidence(confidence))) / n
    return _chernoff_low(value, limit), 1 - _chernoff_low(1 - value, limit)


def _chernoff_low(value: float, limit: float) -> float:
    """The θ < value with KL(value ‖ θ) = limit, sought as log θ because it may be very small."""
    from scipy.optimize import brentq

    if value < 1e-15:  # also the rounding of 1 − value
        return 0.0
    rest = max(1 - value, 0.0)

    def excess(log_theta: float) -> float:
        return value * (math.log(value) - log_theta) + float(special.rel_entr(rest, -math.expm1(log_theta))) - limit

    top = math.log(value)
    bottom = top - (limit + 1) / value  # KL ≥ value · log(value / θ) + (1 − value) log(1 − value) ≥ ... − 1
    return math.exp(brentq(excess, bottom, top)) if rest > 0 else math.exp(top - limit)


def positions(ordered: np.ndarray, queries: np.ndarray, side: Literal["left", "right"] = "left") -> np.ndarray:
    """`np.searchsorted(ordered, queries, side)` of finite numbers, faster for many unsorted queries.

    A bisection of unsorted queries waits for memory and mispredicts every branch. Here a guide table gives, for each
    of many equal cells of the range, how many of `ordered` lie in the cells before. The few that share the query's cell
    are told apart by a bisection of all queries at once, without branches: as many rounds as the fullest cell needs.

    Args:
      ordered: (k,) ascending, finite.
      queries: (n,) finite, in any order.

    Returns: (n,) int64.

    Example:
      >>> positions(np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.0, 3.0]), "right").tolist()
      [3, 0, 3]
    """
    k = len(ordered)
    span = float(ordered[-1]) - float(ordered[0]) if k else 0.0
    if k < 2 or len(queries) < _FEW_QUERIES or not 0 < span < math.inf:
        return np.searchsorted(ordered, queries, side)
    cells = _CELLS_PER_VALUE * k
    # Rounded subtraction and multiplication are monotone: what lies in an earlier cell is smaller, always.
    first, scale = ordered[0], (cells - 1) / span
    if not 0 < scale < math.inf:
        return np.searchsorted(ordered, queries, side)
    counts = np.bincount(((ordered - first) * scale).astype(np.int64), minlength=cells)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    largest = 2 ** int(counts.max()).bit_length()
    beyond = np.append(ordered, np.full(largest, np.inf))  # no probe leaves the array
    found = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        part = queries[start : start + _QUERIES_AT_ONCE]
        at = before.take(((np.clip(part, first, ordered[-1]) - first) * scale).astype(np.int64))
        step = largest // 2
        while step:
            probe = beyond.take(at + (step - 1))
            at += step * (probe < part if side == "left" else probe <= part)
            step //= 2
        found[start : start + _QUERIES_AT_ONCE] = np.minimum(at, k)  # +inf is not smaller than the end's filling
    return found


def mann_whitney(above: np.ndarray, below: np.ndarray) -> float:
    """Pr[a > b] + ½ Pr[a = b] over all pairs of `above` and `below`: an AUC without its interval.

    >>> mann_whitney(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    0.875
    """
    ordered, queries = np.sort(below), np.sort(above)  # sorted queries walk the memory in order
    left = np.searchsorted(ordered, queries, "left")
    equal = ordered.take(np.minimum(left, len(ordered) - 1)) == queries
    beaten = 2 * left
    if equal.any():
        beaten[equal] += np.searchsorted(ordered, queries[equal], "right") - left[equal]
    return float(beaten.mean() / (2 * len(ordered)))
