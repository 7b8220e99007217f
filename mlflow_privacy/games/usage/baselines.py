"""What the debiased estimate of usage is compared with: plain aggregation and maximum likelihood."""

from __future__ import annotations

import math

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.games.usage.estimate import check_usage


def usage_direct(guesses: np.ndarray) -> float:
    """Baseline: the mean of guesses in [0, 1] as they are. Biased towards FPR + p (TPR − FPR).

    >>> usage_direct(np.array([0.0, 1.0, 1.0, 0.0]))
    0.5
    """
    return float(np.clip(np.asarray(guesses, np.float64), 0.0, 1.0).mean())


def usage_mle(log_in: np.ndarray, log_out: np.ndarray) -> float:
    r"""Baseline: the share under which the target's signals are likeliest, records taken as independent.

    .. math:: \hat p = \arg\max_p \sum_i \log\big(p\,f_{in,i} + (1 - p)\,f_{out,i}\big)

    The sum is concave in p. Tong et al. (2025) compare with it; it needs densities of every record.

    Args:
      log_in, log_out: (n,) log-densities of the target's signal as a member and as a non-member
        (`record_likelihoods`).

    Example:
      >>> usage_mle(np.array([0.0, 0.0, -50.0, -50.0]), np.array([-50.0, -50.0, 0.0, 0.0]))
      0.5
    """
    ratio = np.asarray(log_in, np.float64) - np.asarray(log_out, np.float64)

    def slope(p: float) -> float:  # d/dp, each term (r − 1) / (1 + p (r − 1)) without overflow
        # (1 − e^−l) / ((1 − p) e^−l + p) for l > 0, (e^l − 1) / (1 + p (e^l − 1)) otherwise.
        e = np.exp(-np.abs(ratio))
        up = (1 - e) / np.maximum((1 - p) * e + p, 1e-300)
        down = (e - 1) / np.maximum(1 + p * (e - 1), 1e-300)
        return float(np.where(ratio > 0, up, down).sum())

    if slope(0.0) <= 0:
        return 0.0
    if slope(1.0) >= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return round((low + high) / 2, 12)


def record_likelihoods(target: np.ndarray, reference: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian log-densities of the target's signals: each record's own IN and OUT mean, one variance for all.

    Args:
      target: (n,) signals; reference: (n, m); member: (n, m) bool. Every record needs an IN and an OUT reference.

    Returns: (log_in, log_out), each (n,).

    Example:
      >>> member = np.array([[True, False], [False, True]])
      >>> log_in, log_out = record_likelihoods(np.array([1.0, 0.0]), member * 1.0, member)
      >>> (log_in > log_out).tolist()
      [True, False]
    """
    target, reference, member = check_usage(target, reference, member)
    counts = member.sum(1), (~member).sum(1)
    if min(c.min() for c in counts) < 1:
        raise DesignError("Every record needs at least one IN and one OUT reference; train references in pairs.")
    densities = []
    for mask, count in zip((member, ~member), counts):
        mean = np.where(mask, reference, 0.0).sum(1) / count
        freedom = max(float((count - 1).sum()), 1.0)
        variance = float((np.where(mask, reference - mean[:, None], 0.0) ** 2).sum()) / freedom
        # The mean of k references misses by σ/√k, which the target's distance from it contains as well.
        variance = max(variance, 1e-12) * (1 + 1 / count)
        densities.append(-0.5 * ((target - mean) ** 2 / variance + np.log(2 * math.pi * variance)))
    return densities[0], densities[1]
