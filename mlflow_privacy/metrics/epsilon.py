"""From counts and rates to lower bounds on ε: the mathematics of privacy auditing, without choosing anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from scipy import special
from scipy.optimize import brentq

from mlflow_privacy.errors import DesignError

_NORMAL = NormalDist()
_LARGEST = 500.0  # of ε and μ that are sought; e^500 is beyond any claim


def gaussian_delta(mu: float, epsilon: float) -> float:
    r"""δ of a μ-Gaussian-DP mechanism at ε.

    .. math:: \delta(\varepsilon) = \Phi(\mu/2 - \varepsilon/\mu) - e^{\varepsilon}\,\Phi(-\mu/2 - \varepsilon/\mu)

    Balle and Wang (2018), https://arxiv.org/abs/1805.06530, Theorem 8 with μ = Δ/σ; exact, not a tail bound.

    >>> round(gaussian_delta(1.0, 0.0), 6)  # the total variation distance of N(0, 1) and N(1, 1)
    0.382925
    """
    if mu <= 0:
        return 0.0
    log_a = float(special.log_ndtr(mu / 2 - epsilon / mu))
    log_b = epsilon + float(special.log_ndtr(-mu / 2 - epsilon / mu))
    # In logarithms: e^ε Φ(·) is of the size of Φ(·) and both may underflow.
    return math.exp(log_a) * -math.expm1(min(log_b - log_a, 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    r"""ε of a μ-Gaussian-DP mechanism at δ, the inverse of `gaussian_delta`; 0 for μ ≤ 0, inf at δ = 0.

    >>> round(gaussian_epsilon(1.0, 1e-5), 4)
    4.3772
    """
    check_delta(delta)
    if mu <= 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    if delta == 0 or math.isinf(mu):
        return math.inf
    top = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # δ(ε) ≤ Φ(μ/2 − ε/μ) ≤ exp(−(ε/μ − μ/2)²/2)
    return float(brentq(lambda e: gaussian_delta(mu, e) - delta, 0.0, top + 1e-9, xtol=1e-12))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """μ of the Gaussian mechanism that is exactly (ε, δ)-DP.

    >>> round(gaussian_mu(4.3772, 1e-5), 4)
    1.0
    """
    check_delta(delta, positive=True)
    top = 1.0
    while gaussian_delta(top, epsilon) < delta:
        top *= 2
    return float(brentq(lambda mu: gaussian_delta(mu, epsilon) - delta, 0.0, top, xtol=1e-12))


def one_run_p_value(correct: int, guesses: int, epsilon: float, delta: float, n: int) -> float:
    r"""How likely an (ε, δ)-DP training gives at least this many correct guesses in one run.

    Each of n canaries is in the training set by an independent fair coin; the attacker sees the model, names
    `guesses` coins and abstains from the others. With W ~ Binomial(guesses, e^ε/(1 + e^ε)):

    .. math:: \Pr[V \ge v] \le \Pr[W \ge v] + 2 n \delta \max_{i \ge 1} \frac{\Pr[v - i \le W < v]}{i}

    Steinke, Nasr and Jagielski (2023), https://arxiv.org/abs/2305.08846, Theorem 5.2.

    Args:
      correct, guesses: v of r guesses were right.
      n: all canaries, the abstentions included; δ may fail on each.

    Example:
      >>> one_run_p_value(10, 10, 0.0, 0.0, 100) == 0.5**10
      True
    """
    if correct <= 0:
        return 1.0
    q = float(special.expit(epsilon))
    tail = float(special.betainc(correct, guesses - correct + 1, q))
    if delta == 0:
        return tail
    step = np.arange(1, correct + 1)
    low = correct - step  # P(W ≥ low), 1 at low = 0
    at_least = np.where(low > 0, special.betainc(np.maximum(low, 1), guesses - low + 1, q), 1.0)
    return min(1.0, tail + 2 * n * delta * float(((at_least - tail) / step).max(initial=0.0)))


def one_run_epsilon(
    correct: int, guesses: int, n: int, *, delta: float, significance: float, above: float = 0.0
) -> float:
    """Largest ε that `one_run_p_value` rejects; 0 if it rejects none.

    Args:
      significance: in (0, 0.5); 1 − confidence, already divided by the number of candidates if several were tried.
      above: a bound already in hand: returned unless this one is larger, after one evaluation.

    Example:
      >>> round(one_run_epsilon(100, 100, 100, delta=0.0, significance=0.05), 3)
      3.493
    """
    check_counts(correct, guesses, n, delta, significance)

    def margin(epsilon: float) -> float:
        return significance - one_run_p_value(correct, guesses, epsilon, delta, n)

    return _largest_rejected(margin, above)


def fdp_margin(correct: int, guesses: int, n: int, significance: float, inverse: Callable[[float], float]) -> float:
    r"""Positive if f-DP makes `correct` of `guesses` right less likely than `significance`.

    Let q_i be the probability of exactly i right, r_k = Σ_{i≥k} i q_i / n and h_k = Σ_{i≥k} (c − i) q_i / n: a random
    canary was guessed, rightly or wrongly, and at least k guesses were right. Turning that canary's coin makes a
    right guess wrong, so f-DP gives, with the blow-up f̄ = 1 − f,

    .. math:: h_{k-1} \ge \max(h_k, \bar f^{-1}(r_k)), \quad
        r_{k-1} = r_k + \frac{k-1}{c-k+1} (h_{k-1} - h_k)

    From Pr[V ≥ v] = significance, that is r_v = α v/n and h_v = α (c − v)/n, this runs down to k = 0. There
    r_0 + h_0 = c/n must hold; if the recursion exceeds it, the probability is below α.

    Mahloujifar, Melis and Chaudhuri (2024), https://arxiv.org/abs/2410.22235, Theorem 9 and Algorithm 3.

    Args:
      inverse: f̄⁻¹, non-decreasing from [0, 1] to [0, 1].
    """
    right, wrong = significance * correct / n, significance * (guesses - correct) / n
    for i in range(correct - 1, -1, -1):
        raised = max(wrong, inverse(right))
        if raised == wrong:  # then neither changes any more
            break
        right, wrong = min(right + i / (guesses - i) * (raised - wrong), 1.0), raised
    return right + wrong - guesses / n


def gaussian_inverse(mu: float) -> Callable[[float], float]:
    """f̄⁻¹ of Gaussian DP, y ↦ Φ(Φ⁻¹(y) − μ).

    >>> round(gaussian_inverse(1.0)(0.5), 4)
    0.1587
    """
    root_half = math.sqrt(0.5)

    def inverse(y: float) -> float:
        if y <= 0 or y >= 1:
            return max(0.0, min(y, 1.0))
        return 0.5 * math.erfc((mu - _NORMAL.inv_cdf(y)) * root_half)

    return inverse


def approximate_inverse(epsilon: float, delta: float) -> Callable[[float], float]:
    """f̄⁻¹ of (ε, δ)-DP itself, y ↦ max(0, e^−ε (y − δ), 1 − δ − e^ε (1 − y)); supposes nothing else.

    Dong, Roth and Su (2019), https://arxiv.org/abs/1905.02383, Proposition 2.5.

    >>> round(approximate_inverse(math.log(3), 0.0)(0.75), 4)
    0.25
    """
    shrink, grow = math.exp(-epsilon), math.exp(epsilon)
    return lambda y: max(0.0, shrink * (y - delta), 1 - delta - grow * (1 - y))


def one_run_fdp_mu(correct: int, guesses: int, n: int, *, significance: float, above: float = 0.0) -> float:
    """Largest μ for which `fdp_margin` rejects Gaussian DP; 0 if it rejects none.

    >>> round(one_run_fdp_mu(100, 100, 100, significance=0.05), 3)
    1.703
    """
    check_counts(correct, guesses, n, 0.0, significance)
    return _largest_rejected(lambda mu: fdp_margin(correct, guesses, n, significance, gaussian_inverse(mu)), above)


def one_run_fdp_epsilon(
    correct: int, guesses: int, n: int, *, delta: float, significance: float, above: float = 0.0
) -> float:
    """Largest ε for which `fdp_margin` rejects (ε, δ)-DP, whatever the mechanism; 0 if it rejects none.

    >>> round(one_run_fdp_epsilon(100, 100, 100, delta=0.0, significance=0.05), 3)
    3.493
    """
    check_counts(correct, guesses, n, delta, significance)
    return _largest_rejected(
        lambda e: fdp_margin(correct, guesses, n, significance, approximate_inverse(e, delta)), above
    )


def rates_epsilon(power: np.ndarray | float, error: np.ndarray | float, delta: float) -> np.ndarray:
    r"""ε that a test's error rates prove, 0 where they prove none.

    .. math:: \varepsilon \ge \log\frac{power - \delta}{error}

    Kairouz, Oh and Viswanath (2015), https://arxiv.org/abs/1311.0776. (power, error) is a lower bound of the TPR
    with an upper bound of the FPR, or of the TNR with one of the FNR.

    >>> round(float(rates_epsilon(0.5, 0.1, 0.0)), 4)
    1.6094
    """
    power, error = np.asarray(power, np.float64), np.asarray(error, np.float64)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(np.maximum(power - delta, 0.0)) - np.log(error), 0.0)


def rates_mu(false_positive: np.ndarray | float, false_negative: np.ndarray | float) -> np.ndarray:
    r"""μ of Gaussian DP that upper bounds of a test's two error rates prove, 0 where they prove none.

    .. math:: \mu \ge \Phi^{-1}(1 - FPR) - \Phi^{-1}(FNR)

    Nasr et al. (2023), https://arxiv.org/abs/2302.07956, section 5, after Dong, Roth and Su (2019).

    >>> round(float(rates_mu(0.158655, 0.5)), 4)
    1.0
    """
    fpr, fnr = (np.clip(np.asarray(r, np.float64), 0.0, 1.0) for r in (false_positive, false_negative))
    with np.errstate(invalid="ignore"):
        mu = -special.ndtri(fpr) - special.ndtri(fnr)
    return np.maximum(np.nan_to_num(mu, nan=0.0, posinf=np.inf, neginf=0.0), 0.0)


def check_delta(delta: float, *, positive: bool = False) -> float:
    """Returns `delta`, or raises `DesignError` if it is not in [0, 1) (in (0, 1) if `positive`)."""
    if not 0 <= delta < 1 or (positive and delta == 0):
        wanted = "(0, 1)" if positive else "[0, 1)"
        raise DesignError(f"delta must be in {wanted}, got {delta}; the δ of the privacy claim, such as 1e-5.")
    return float(delta)


def check_counts(correct: int, guesses: int, n: int, delta: float, significance: float) -> None:
    """Raises one `DesignError` with all faults of a count of guesses."""
    faults = []
    if not 0 <= correct <= guesses <= n or n < 1:
        faults.append(f"0 <= correct <= guesses <= n must hold, got {correct}, {guesses}, {n}")
    if not 0 < significance < 0.5:
        faults.append(f"significance must be in (0, 0.5), got {significance}")
    if not 0 <= delta < 1:
        faults.append(f"delta must be in [0, 1), got {delta}")
    if faults:
        raise DesignError("; ".join(faults) + ".")


def _largest_rejected(margin: Callable[[float], float], above: float) -> float:
    """The root of a margin that is positive where the claim is rejected, sought upwards from `above`."""
    if margin(above) <= 0:
        return above
    low, high = above, max(1.0, 2 * above)
    while margin(high) > 0:
        low, high = high, 2 * high
        if high > _LARGEST:
            return low
    return float(brentq(margin, low, high, xtol=1e-9))
