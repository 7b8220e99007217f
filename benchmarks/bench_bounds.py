"""How much of a Gaussian mechanism's ε each bound can show, with more and more canaries or models and in the limit.

    python benchmarks/bench_bounds.py

Counts are expected ones and the number of guesses (or the threshold) is the best one, known beforehand, so this is what
the theorem can give and not what choosing costs. δ = 1e-5, 95 % confidence. Ten minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from mlflow_privacy.metrics.epsilon import (
    gaussian_epsilon,
    gaussian_mu,
    one_run_epsilon,
    one_run_fdp_epsilon,
    one_run_fdp_mu,
    rates_epsilon,
    rates_mu,
)
from mlflow_privacy.stats import clopper_pearson

DELTA, ALPHA = 1e-5, 0.05
_PLAIN = {"delta": DELTA, "significance": ALPHA}
EPSILONS, SIZES = (1.0, 2.0, 4.0, 8.0), (10**3, 10**4, 10**5, 10**6)


def expected_counts(mu: float, n: int, k: int) -> tuple[int, int]:
    """(right, guesses) among the k highest and k lowest of n scores N(±μ/2, 1), in expectation."""
    t = brentq(lambda t: n / 2 * (ndtr(mu / 2 - t) + ndtr(-mu / 2 - t)) - k, -20, 20)
    return int(n * ndtr(mu / 2 - t)), 2 * k


def best_one_run(strength: Callable[[int, int, int], float], mu: float, n: int, points: int) -> float:
    """The largest expected bound over numbers of guesses."""
    counts = np.unique(np.rint(np.geomspace(10, min(n / 2, 30_000), points)).astype(int))
    return max(strength(*expected_counts(mu, n, int(k)), n) for k in counts)


def limit_one_run(mu: float, found: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The bound with endless canaries, at the best share of guesses; found(accuracy, share) -> ε or μ."""
    t = np.linspace(0, 12 + mu, 20_001)
    right, wrong = ndtr(mu / 2 - t), ndtr(-mu / 2 - t)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nanmax(found(right / (right + wrong), right + wrong)))


def steinke(a: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rejected as long as a > q + 2δ/(α share)."""
    q = np.clip(a - 2 * DELTA / (ALPHA * share), 0.5, None)
    return np.log(q / (1 - q))


def approximate(a: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rejected as long as α share (1 − a) < e^−ε (α share a − δ)."""
    return np.log(np.clip(a - DELTA / (ALPHA * share), 1e-300, None) / (1 - a))


def gaussian(a: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rejected as long as α share (1 − a) < Φ(Φ⁻¹(α share a) − μ); guesses down to one in a billion."""
    mu = ndtri(ALPHA * share * a) - ndtri(ALPHA * share * (1 - a))
    return np.where(share > 1e-9, mu, np.nan)


def best_rates(found: Callable[[float, float], float], mu: float, n: int) -> float:
    """The largest expected bound over thresholds, from n/2 models with and n/2 without the canary."""
    best, half = 0.0, n // 2
    for t in np.linspace(-mu, 2 * mu + 4, 200):
        tp, fp = int(half * ndtr(mu - t)), round(half * ndtr(-t))
        low, high = float(clopper_pearson(tp, half, 1 - ALPHA)[0]), float(clopper_pearson(fp, half, 1 - ALPHA)[1])
        best = max(best, found(low, high))
    return best


def rows() -> Iterable[tuple[str, float, list[float]]]:
    """(bound, ε, share of ε at each size and in the limit)."""
    for epsilon in EPSILONS:
        mu = gaussian_mu(epsilon, DELTA)
        one_run: dict[str, tuple[Callable[[int, int, int], float], int, float]] = {
            "one_run, steinke": (lambda c, g, n: one_run_epsilon(c, g, n, **_PLAIN), 12, limit_one_run(mu, steinke)),
            "one_run, mahloujifar": (
                lambda c, g, n: one_run_fdp_epsilon(c, g, n, **_PLAIN),
                25,
                limit_one_run(mu, approximate),
            ),
            "one_run_fdp": (
                lambda c, g, n: gaussian_epsilon(one_run_fdp_mu(c, g, n, significance=ALPHA), DELTA),
                40,
                gaussian_epsilon(limit_one_run(mu, gaussian), DELTA),
            ),
        }
        for name, (strength, points, limit) in one_run.items():
            yield name, epsilon, [*(best_one_run(strength, mu, n, points) / epsilon for n in SIZES), limit / epsilon]
        many: dict[str, Callable[[float, float], float]] = {
            "clopper_pearson": lambda low, high: float(rates_epsilon(low, high, DELTA)),
            "gaussian_dp": lambda low, high: gaussian_epsilon(float(rates_mu(high, 1 - low)), DELTA),
        }
        for name, found in many.items():
            yield name, epsilon, [*(best_rates(found, mu, n) / epsilon for n in SIZES), 1.0]


def main() -> None:
    print("| bound | ε |", *(f"n = {n:.0e} |".replace("e+0", "e") for n in SIZES), "limit |")
    for name, epsilon, values in sorted(rows()):
        print(f"| {name} | {epsilon:g} |", *(f"{100 * v:.0f} % |" if math.isfinite(v) else "|" for v in values))


if __name__ == "__main__":
    main()
