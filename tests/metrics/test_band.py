"""Tables of intervals are the intervals themselves, from far fewer evaluations."""

import numpy as np
import pytest

from mlflow_privacy.metrics import roc_curve, tally
from mlflow_privacy.metrics.band import interval_table, order_ranges
from mlflow_privacy.metrics.roc import tpr_interval
from mlflow_privacy.stats import clopper_pearson, order_statistic_range


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 37, 999, 1_000, 4_001, 60_000])
def test_table_is_clopper_pearson_to_eleven_digits(n, confidence):
    k = np.unique(np.concatenate([np.arange(min(n, 400) + 1), n - np.arange(min(n, 400) + 1), np.arange(0, n, 37)]))
    wanted = clopper_pearson(k, n, confidence)
    for got, exact in zip(interval_table(n, confidence), wanted):
        np.testing.assert_allclose(got[k], exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [3, 500, 20_000])
def test_order_ranges_are_the_binomial_quantiles_themselves(n):
    rng = np.random.default_rng(0)
    low, high = interval_table(n, 0.95)
    # Also at the bounds, where a rounding decides.
    p = np.clip(
        np.concatenate([np.arange(0, n + 1, max(n // 700, 1)) / n, rng.random(300), low[:50], high[-50:]]), 0, 1
    )
    for got, exact in zip(order_ranges(n, p, 0.95), order_statistic_range(n, p, 0.95)):
        np.testing.assert_array_equal(got, exact)


def test_band_of_a_long_curve_is_the_interval_of_each_of_its_points():
    rng = np.random.default_rng(1)
    member = rng.random(6_000) < 0.4
    ranks = rng.normal(size=6_000) + member
    t = tally(ranks, member)
    fpr = np.arange(0, t.n_nonmembers + 1, 3) / t.n_nonmembers
    assert len(fpr) > 1_000
    many = tpr_interval(t, fpr, 0.95)
    some = [tpr_interval(t, part, 0.95) for part in np.array_split(fpr, len(fpr) // 100)]
    for got, parts in zip(many, zip(*some)):
        np.testing.assert_allclose(got, np.concatenate(parts), rtol=0, atol=1e-11)


def test_dense_ranks_are_counted_as_any_others():
    rng = np.random.default_rng(2)
    member = rng.random(500) < 0.5
    ranks = rng.integers(0, 90, 500).astype(float) * 2  # whole numbers with gaps
    counted, sorted_ = tally(ranks, member), tally(ranks + 0.5, member)
    np.testing.assert_array_equal(counted.values + 0.5, sorted_.values)
    np.testing.assert_array_equal(counted.members, sorted_.members)
    np.testing.assert_array_equal(counted.nonmembers, sorted_.nonmembers)
    one, other = roc_curve(ranks, member), roc_curve(np.exp(ranks / 50), member)
    np.testing.assert_array_equal(one.tpr, other.tpr)
    np.testing.assert_array_equal(one.tpr_low, other.tpr_low)
