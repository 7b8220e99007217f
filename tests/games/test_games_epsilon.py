"""The mathematics of ε: closed forms, naive twins, inverses."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics.epsilon import (
    approximate_inverse,
    fdp_margin,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_inverse,
    gaussian_mu,
    one_run_epsilon,
    one_run_fdp_epsilon,
    one_run_fdp_mu,
    one_run_p_value,
    rates_epsilon,
    rates_mu,
)
from mlflow_privacy.stats import clopper_pearson


@pytest.mark.parametrize(("mu", "epsilon"), [(0.3, 0.2), (1.0, 0.0), (1.0, 2.0), (3.0, 5.0)])
def test_gaussian_delta_is_the_hockey_stick_divergence(mu, epsilon):
    """δ(ε) = ∫ max(p − e^ε q, 0), integrated by brute force."""

    def gap(x):
        return max(math.exp(-((x - mu) ** 2) / 2) - math.exp(epsilon - x**2 / 2), 0.0) / math.sqrt(2 * math.pi)

    crossing = epsilon / mu + mu / 2
    wanted = quad(gap, crossing, crossing + 12)[0]
    assert gaussian_delta(mu, epsilon) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("mu", [0.01, 0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 1e-2])
def test_gaussian_epsilon_and_mu_are_inverses(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    if epsilon > 0:
        assert gaussian_delta(mu, epsilon) == pytest.approx(delta, rel=1e-6)
        assert gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-6)
    else:
        assert gaussian_delta(mu, 0.0) <= delta


def test_gaussian_epsilon_at_the_ends():
    assert gaussian_epsilon(0.0, 0.0) == 0.0
    assert gaussian_epsilon(1.0, 0.0) == math.inf
    assert gaussian_epsilon(-1.0, 1e-5) == 0.0


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize(("correct", "guesses"), [(0, 1), (1, 1), (7, 10), (10, 10), (15, 20)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e-3, 0.1])
def test_one_run_p_value_equals_its_naive_twin(n, correct, guesses, epsilon, delta):
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(guesses + 1)]
    worst = max((sum(pmf[correct - i : correct]) / i for i in range(1, correct + 1)), default=0.0)
    wanted = min(sum(pmf[correct:]) + 2 * n * delta * worst, 1.0)
    assert one_run_p_value(correct, guesses, epsilon, delta, n) == pytest.approx(wanted, abs=1e-12)


def test_one_run_without_delta_is_clopper_pearson_of_the_accuracy():
    for correct, guesses in [(60, 100), (95, 100), (700, 1000)]:
        low = float(clopper_pearson(correct, guesses, 0.9)[0])  # two-sided 90 % has 5 % below
        got = one_run_epsilon(correct, guesses, 2000, delta=0.0, significance=0.05)
        assert got == pytest.approx(max(math.log(low / (1 - low)), 0.0), abs=1e-6)


def test_approximate_curve_without_delta_gives_the_same_bound_as_pure_dp():
    """Two different proofs of one fact: the recursion under f_{ε,0} is the binomial tail."""
    for correct, guesses in [(9, 10), (80, 100), (100, 100)]:
        one = one_run_epsilon(correct, guesses, 300, delta=0.0, significance=0.05)
        other = one_run_fdp_epsilon(correct, guesses, 300, delta=0.0, significance=0.05)
        # The recursion starts from all mass at exactly `correct`, so it is a little looser.
        assert one * 0.9 < other <= one + 1e-6


def test_delta_only_lowers_a_bound():
    values = [one_run_epsilon(90, 100, 1000, delta=d, significance=0.05) for d in (0, 1e-9, 1e-6, 1e-4, 1e-2)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[3] > values[4] == 0.0


def test_a_bound_in_hand_is_kept_unless_beaten():
    assert one_run_epsilon(60, 100, 100, delta=0.0, significance=0.05, above=2.0) == 2.0
    plain = one_run_epsilon(90, 100, 100, delta=1e-6, significance=0.05)
    assert one_run_epsilon(90, 100, 100, delta=1e-6, significance=0.05, above=0.4) == pytest.approx(plain, abs=1e-6)
    mu = one_run_fdp_mu(90, 100, 100, significance=0.05)
    assert one_run_fdp_mu(90, 100, 100, significance=0.05, above=mu / 2) == pytest.approx(mu, abs=1e-6)


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_gaussian_inverse_inverts_the_blow_up(mu):
    inverse = gaussian_inverse(mu)
    for x in (1e-8, 0.01, 0.5, 0.99):
        assert inverse(float(ndtr(ndtri(x) + mu))) == pytest.approx(x, rel=1e-6)
    assert inverse(0.0) == 0.0
    assert inverse(1.0) == 1.0


def test_approximate_inverse_inverts_the_blow_up_of_dong_et_al():
    epsilon, delta = 0.8, 0.03
    inverse = approximate_inverse(epsilon, delta)
    for x in (0.0, 0.05, 0.3, 0.7, 0.95):
        blown = min(1.0, delta + math.exp(epsilon) * x, 1 - math.exp(-epsilon) * (1 - delta - x))
        assert inverse(blown) <= x + 1e-12
        assert inverse(blown) == pytest.approx(x, abs=1e-9) or blown == 1.0


def test_recursion_never_calls_a_possible_count_too_unlikely():
    """Canaries told independently with Gaussian noise: the probability of v right must never be called too small.

    `fdp_margin` > 0 says Pr[V ≥ v] < significance. For independent releases V is binomial and that is checked.
    """
    guesses = 40
    for mu, n in itertools.product((0.0, 0.5, 1.0, 2.0), (40, 400)):
        accuracy = float(ndtr(mu / 2))  # of the best guess on each canary
        for correct in range(guesses + 1):
            truth = float(binom.sf(correct - 1, guesses, accuracy))
            for significance in (0.3, 0.05, 0.001):
                if fdp_margin(correct, guesses, n, significance, gaussian_inverse(mu)) > 0:
                    assert truth <= significance + 1e-12


def test_rates():
    assert rates_epsilon(0.5, 0.1, 0.1) == pytest.approx(math.log(4))
    assert rates_epsilon(0.05, 0.1, 0.1) == 0.0
    assert rates_epsilon(np.array([0.2, 0.9]), np.array([0.5, 0.3]), 0.0).tolist() == pytest.approx([0, math.log(3)])
    for mu in (0.2, 1.0, 3.0):
        assert rates_mu(ndtr(-1.0), ndtr(1.0 - mu)) == pytest.approx(mu)
    assert rates_mu(0.7, 0.7) == 0.0
    assert rates_mu(1.0, 0.0) == 0.0  # ∞ − ∞ shows nothing


def test_faults_are_named_together():
    with pytest.raises(DesignError, match=r"correct <= guesses.*significance.*delta"):
        one_run_epsilon(5, 3, 10, delta=2.0, significance=0.7)
    with pytest.raises(DesignError, match=r"delta must be in \(0, 1\), got 0"):
        gaussian_mu(1.0, 0.0)
