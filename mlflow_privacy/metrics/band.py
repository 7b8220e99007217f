"""Clopper–Pearson bounds and order-statistic ranges for every point of a long curve, from one table per sample size.

Each bound is the quantile of another beta distribution, 6 µs in SciPy: seconds for the band of a large ROC. But the
lower bound of k of n is smooth in k, and nearly straight where both axes are arcsin √: a few hundred exact values and
polynomials of degree 5 between them give the others to 1e-11. Everything else follows from this one table: upper bounds
by symmetry, and the binomial quantiles as the places where the two bounds pass p.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import special

from mlflow_privacy.stats import check_confidence, clopper_pearson, order_statistic_range

# Below this size every value is computed exactly; so are those this near to either end, where the curve bends.
_SMALL, _ENDS = 1_000, 100
_NODES, _NODES_OF = 800, 25_000  # 800 nodes for 25,000 trials; their number grows as the square root of the trials'
_DEGREE = 5
_DOUBT = 1e-9  # far more than the error: so near to a bound an order statistic is computed exactly


def interval_table(n: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """`stats.clopper_pearson` of 0, 1, …, n successes in n trials, to 1e-11.

    Returns: (low, high), each (n + 1,).

    Example:
      >>> low, high = interval_table(5000, 0.95)
      >>> wanted = clopper_pearson(1000, 5000)
      >>> bool(np.allclose((low[1000], high[1000]), wanted, rtol=1e-10))
      True
    """
    low = _lower_bounds(n, check_confidence(confidence))
    return low, 1 - low[::-1]


def order_ranges(n: int, p: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """`stats.order_statistic_range` of many p, the same integers.

    P(Binomial(n, p) ≤ k) falls in p and passes a tail's probability at the upper bound of k, or at the lower bound of
    k + 1 for the other tail. So a quantile is the number of bounds below p.

    Args:
      p: (f,) in [0, 1].

    Example:
      >>> low, high = order_ranges(1000, np.array([0.01]), 0.95)
      >>> low.tolist(), high.tolist()
      ([4], [17])
    """
    low, high = interval_table(n, confidence)
    found, doubtful = [], np.zeros(len(p), bool)
    for bounds in (high[:-1], low[1:]):
        at = np.searchsorted(bounds, p, side="left")
        found.append(at)
        for neighbour in (np.maximum(at - 1, 0), np.minimum(at, n - 1)):
            doubtful |= np.abs(bounds[neighbour] - p) < _DOUBT
    if doubtful.any():
        for mine, exact in zip(found, order_statistic_range(n, p[doubtful], confidence)):
            mine[doubtful] = exact
    return found[0], found[1]


@functools.lru_cache(maxsize=512)  # all attacks of one audit have the same records and groups, hence few different n
def _lower_bounds(n: int, confidence: float) -> np.ndarray:
    """(n + 1,) lower bounds, read-only."""
    tail = (1 - confidence) / 2
    k = np.arange(n + 1.0)
    if n < _SMALL:
        low = clopper_pearson(k, n, confidence)[0]
    else:
        low = np.empty(n + 1)
        ends = (k < _ENDS) | (k > n - _ENDS)
        low[ends] = _exact(k[ends], n, tail)
        low[~ends] = _between(k[~ends], n, tail)
    low.flags.writeable = False
    return low


def _exact(k: np.ndarray, n: int, tail: float) -> np.ndarray:
    """The beta quantile itself; k need not be whole."""
    inner = np.maximum(k, 1e-3)
    return np.where(k > 0, special.betaincinv(inner, n - inner + 1, tail), 0.0)


def _between(k: np.ndarray, n: int, tail: float) -> np.ndarray:
    """The same by Lagrange's polynomial through the six nodes around each k, on the scale of arcsin √."""
    nodes = int(_NODES * math.sqrt(max(n / _NODES_OF, 1.0)))
    step = math.pi / 2 / nodes
    values = np.arcsin(np.sqrt(_exact(n * np.sin(np.arange(nodes + 1) * step) ** 2, n, tail)))
    at = np.arcsin(np.sqrt(k / n)) / step
    first = np.clip(at.astype(np.int64) - _DEGREE // 2, 0, nodes - _DEGREE)
    at -= first
    total = np.zeros(len(k))
    for i in range(_DEGREE + 1):
        weight = values.take(first + i)
        for j in range(_DEGREE + 1):
            if i != j:
                weight *= (at - j) / (i - j)
        total += weight
    return np.sin(total) ** 2
