"""Intervals cover what they promise; log-space helpers keep their digits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from mlflow_privacy import stats
from mlflow_privacy.errors import DesignError


@pytest.mark.parametrize("n", [1, 7, 50, 400])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_clopper_pearson_covers_exactly_as_promised_and_each_side_by_half(n, confidence):
    """No simulation: the probabilities of all counts are summed."""
    counts = np.arange(n + 1)
    low, high = stats.clopper_pearson(counts, n, confidence)
    half = (1 - confidence) / 2
    for p in np.concatenate([np.linspace(0.001, 0.999, 41), [0.0, 1.0]]):
        weights = scipy_stats.binom.pmf(counts, n, p)
        assert weights[p < low].sum() <= half + 1e-9
        assert weights[p > high].sum() <= half + 1e-9


def test_clopper_pearson_is_not_needlessly_wide():
    """For large n it comes near the normal interval."""
    low, high = stats.clopper_pearson(50_000, 100_000)
    assert float(high - low) == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 1e5), rel=0.01)


def test_clopper_pearson_inverts_its_definition():
    low, high = stats.clopper_pearson(7, 20)
    assert scipy_stats.binom.sf(6, 20, low) == pytest.approx(0.025)
    assert scipy_stats.binom.cdf(7, 20, high) == pytest.approx(0.025)


@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.999]))
def test_order_statistics_are_binomial_quantiles(n, p, confidence):
    low, high = stats.order_statistic_range(n, p, confidence)
    tail = (1 - confidence) / 2
    binomial = scipy_stats.binom(n, p)
    assert binomial.cdf(low - 1) <= tail + 1e-12
    assert binomial.sf(high) <= tail + 1e-12
    assert low == 0 or binomial.cdf(low) >= tail - 1e-12  # tight: one further would miss too often
    assert high == 0 or binomial.sf(high - 1) >= tail - 1e-12


def test_order_statistics_enclose_the_true_quantile():
    rng = np.random.default_rng(0)
    draws = -np.sort(-rng.random((2000, 300)), axis=1)  # upper-0.1 quantile is 0.9
    low, high = stats.order_statistic_range(300, 0.1)
    covered = (draws[:, low - 1] > 0.9) & (draws[:, high] <= 0.9)
    assert covered.mean() > 0.95 - 3 * 0.005


def test_mover_of_normal_intervals_is_the_normal_interval():
    values, errors, weights = np.array([0.3, -0.2, 0.5]), np.array([0.1, 0.2, 0.05]), np.array([1.0, -2.0, 0.5])
    low, high = stats.mover(values, values - 1.96 * errors, values + 1.96 * errors, weights)
    half = 1.96 * math.sqrt((weights**2 * errors**2).sum())
    assert float(low) == pytest.approx(weights @ values - half)
    assert float(high) == pytest.approx(weights @ values + half)


def test_mover_keeps_asymmetry_and_swaps_ends_for_negative_weights():
    low, high = stats.mover(np.array([0.0]), np.array([-1.0]), np.array([3.0]), np.array([-1.0]))
    assert (float(low), float(high)) == (-3.0, 1.0)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_chernoff_interval_solves_its_equation(n, value):
    low, high = stats.chernoff_interval(value, n)
    assert 0 <= low <= value <= high <= 1
    limit = math.log(2 / 0.05) / n
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9 and 1e-9 < value < 1 - 1e-9:  # where a double can hold the equation
            kl = value * math.log(value / end) + (1 - value) * math.log((1 - value) / (1 - end))
            assert kl == pytest.approx(limit, rel=1e-3, abs=1e-9)


def test_chernoff_interval_covers_every_binomial():
    counts = np.arange(31)
    ends = np.array([stats.chernoff_interval(k / 30, 30) for k in counts])
    for p in np.linspace(0.01, 0.99, 33):
        covered = (ends[:, 0] <= p) & (p <= ends[:, 1])
        assert scipy_stats.binom.pmf(counts, 30, p)[covered].sum() >= 0.95


def test_logit_interval_stays_inside_and_is_normal_in_the_middle():
    low, high = stats.logit_interval(0.5, 0.01)
    assert high - low == pytest.approx(2 * 1.96 * 0.01, rel=1e-3)
    low, high = stats.logit_interval(0.999, 0.1)
    assert 0 < low < 0.999 < high <= 1


@given(st.floats(-1e4, 1e4))
def test_log_sigmoid_is_the_log_of_sigmoid_where_that_has_digits(x):
    if abs(x) < 30:
        assert float(stats.log_sigmoid(x)) == pytest.approx(math.log(float(stats.sigmoid(x))), rel=1e-12, abs=1e-13)
    assert math.isfinite(float(stats.log_sigmoid(x)))


def test_logmeanexp_does_not_underflow():
    assert float(stats.logmeanexp(np.array([[-5000.0, -5000.0 + math.log(3)]]))[0]) == pytest.approx(
        -5000 + math.log(2)
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_mann_whitney_counts_pairs(above, below):
    a, b = np.array(above, float), np.array(below, float)
    wanted = ((a[:, None] > b) + 0.5 * (a[:, None] == b)).mean()
    assert stats.mann_whitney(a, b) == pytest.approx(wanted)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95])
def test_impossible_confidence_is_named(confidence):
    with pytest.raises(DesignError, match=f"confidence must be in .* got {confidence}"):
        stats.clopper_pearson(1, 2, confidence)


def test_impossible_counts_and_values_are_refused():
    with pytest.raises(DesignError, match="0 <= k <= n"):
        stats.clopper_pearson(3, 2)
    with pytest.raises(DesignError, match="got 1"):
        stats.logit_interval(1, 0.1)
