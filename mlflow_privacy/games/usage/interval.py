"""How uncertain an estimated share is: the error of records and of models, from the references or from a bound."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from mlflow_privacy.stats import normal_quantile

# Bound on the correlation of two guesses under one model, used where references are too few to show it: 0.02, with
# many records 40/n. Measured on logistic regressions and MLPs of 300 to 20,000 records: up to 0.019, and up to 20/n.
CORRELATION, CORRELATION_RECORDS = 0.02, 40.0
SHARES = np.linspace(0.0, 1.0, 2001)


def default_correlation(n: int) -> float:
    """What two guesses under one model are supposed to correlate by at most, for a data set of n records.

    >>> default_correlation(500), default_correlation(20_000)
    (0.02, 0.002)
    """
    return min(CORRELATION, CORRELATION_RECORDS / n)


def rates_of(guess: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m, 2) rates (t_j, f_j) of each reference, and (2,) variances of single guesses of members and non-members."""
    sizes = np.stack([member.sum(0), (~member).sum(0)], axis=1)
    rates = np.stack([(guess * member).sum(0), (guess * ~member).sum(0)], axis=1) / sizes
    # About the overall mean, floored as if one guess of either kind were still to come (Laplace's rule).
    spread = []
    for mask in (member, ~member):
        values, k = guess[mask], mask.sum()
        centre = (values.sum() + 1) / (k + 2)
        spread.append(max(float(values.var()), float(centre * (1 - centre)) if values.var() == 0 else 0.0))
    return rates, np.array(spread)


def _quadratic(matrix: np.ndarray) -> np.ndarray:
    """w' M w for w = (p, 1 − p) at every share."""
    p, q = SHARES, 1 - SHARES
    return p * p * matrix[0, 0] + 2 * p * q * matrix[0, 1] + q * q * matrix[1, 1]


def width_of_references(rates: np.ndarray, spread: np.ndarray, member: np.ndarray, confidence: float) -> np.ndarray:
    """Half-widths in m̄ at every share by the references' own covariance; infinite for one reference."""
    n, m = member.shape
    if m < 2:
        return np.full(len(SHARES), math.inf)
    covariance = np.cov(rates.T)
    by_records = spread / np.array([member.sum(0).mean(), (~member).sum(0).mean()])
    extra = np.maximum(np.diag(covariance) - by_records, 0.0)
    limit = math.sqrt(extra[0] * extra[1])
    shared = float(np.clip(covariance[0, 1], -limit, limit))
    between = np.array([[extra[0], shared], [shared, extra[1]]])
    floor = covariance.copy()
    np.fill_diagonal(floor, np.maximum(np.diag(covariance), by_records))
    records = (SHARES * spread[0] + (1 - SHARES) * spread[1]) / n
    variance = records + _quadratic(between) + np.maximum(_quadratic(floor), 0.0) / m
    return float(special.stdtrit(m - 1, 0.5 + confidence / 2)) * np.sqrt(variance)


def width_of_bound(spread: np.ndarray, n: int, m: int, confidence: float, correlation: float) -> np.ndarray:
    """Half-widths in m̄ at every share if guesses under one model correlate by `correlation`, rates included."""
    deviations = SHARES * math.sqrt(spread[0]) + (1 - SHARES) * math.sqrt(spread[1])
    shared = correlation * deviations**2
    records = (SHARES * spread[0] + (1 - SHARES) * spread[1]) / n
    of_rates = 2 * (SHARES**2 * spread[0] + (1 - SHARES) ** 2 * spread[1]) / n
    return normal_quantile(confidence) * np.sqrt(records + shared + (of_rates + shared) / m)


def gap_variance(rates: np.ndarray, spread: np.ndarray, member: np.ndarray, correlation: float) -> float:
    """Variance of TPR − FPR: by the references' own differences, or by the records alone if that is more."""
    m = len(rates)
    by_records = float((spread / np.array([member.sum(), (~member).sum()])).sum())
    between = float(np.var(rates[:, 0] - rates[:, 1], ddof=1)) / m if m > 1 else correlation * float(spread.sum()) / m
    return max(by_records, between)
