"""Paired differences of AUC and TPR: against brute force, under the null, with a planted difference."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import auc, compare_auc, tpr_at_fpr
from mlflow_privacy.metrics.paired import (
    auc_difference,
    delong_covariance,
    holm,
    independent_difference,
    tpr_difference,
)
from mlflow_privacy.types import Estimate


def correlated(rng, n, separations, share=0.7):
    """Scores of two models of n members and n non-members that agree on what is hard; their true AUCs are known."""
    member = np.repeat([True, False], n)
    common = math.sqrt(share) * rng.normal(size=2 * n)
    return [s * member + common + math.sqrt(1 - share) * rng.normal(size=2 * n) for s in separations], member


def brute_force_covariance(ranks, member):
    """DeLong, DeLong and Clarke-Pearson (1988), equations 5 and 6, pair by pair."""

    def kernel(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    tens, ones = [], []
    for r in ranks:
        inside, outside = r[member], r[~member]
        tens.append([sum(kernel(x, y) for y in outside) / len(outside) for x in inside])
        ones.append([sum(kernel(x, y) for x in inside) / len(inside) for y in outside])
    k = len(ranks)
    out = np.zeros((k, k))
    for values in (tens, ones):
        means = [sum(v) / len(v) for v in values]
        size = len(values[0])
        for a in range(k):
            for b in range(k):
                total = sum((values[a][i] - means[a]) * (values[b][i] - means[b]) for i in range(size))
                out[a, b] += total / (size - 1) / size
    return out


@pytest.mark.parametrize("decimals", [6, 0])  # with 0 nearly all scores tie
def test_covariance_equals_brute_force_also_with_ties(decimals):
    ranks, member = correlated(np.random.default_rng(0), 25, (0.5, 1.0))
    ranks = [np.round(r, decimals) for r in (*ranks, -ranks[0])]
    member[3] = False  # unequal classes
    aucs, covariance = delong_covariance(ranks, member)
    np.testing.assert_allclose(aucs, [roc_auc_score(member, r) for r in ranks], atol=1e-12)
    np.testing.assert_allclose(covariance, brute_force_covariance(ranks, member), atol=1e-12)
    np.testing.assert_allclose(covariance[0, 2], -covariance[0, 0], atol=1e-12)  # the mirror image errs against it


def test_the_diagonal_is_the_variance_of_one_auc_and_the_difference_that_of_compare_auc():
    (a, b), member = correlated(np.random.default_rng(1), 300, (0.5, 0.8))
    found = auc_difference(a, b, member)
    other = compare_auc(b, a, member)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((other.low, other.high), abs=1e-12)
    _, covariance = delong_covariance([a, b], member)
    half = 1.96 * math.sqrt(covariance[0, 0])
    assert auc(a, member).high - auc(a, member).value == pytest.approx(half, rel=0.05)


def test_models_that_order_records_alike_do_not_differ():
    (a, _), member = correlated(np.random.default_rng(2), 80, (1.0, 1.0))
    for same in (a, np.exp(a)):
        for found in (
            auc_difference(a, same, member),
            tpr_difference(a, same, member, 0.1, rng=np.random.default_rng(0)),
        ):
            assert (found.estimate.value, found.estimate.low, found.estimate.high, found.p_value) == (0, 0, 0, 1)


def test_exchanging_the_models_turns_the_sign_and_nothing_else():
    (a, b), member = correlated(np.random.default_rng(3), 200, (0.3, 0.9))
    there, back = auc_difference(a, b, member), auc_difference(b, a, member)
    assert there.estimate.value == -back.estimate.value
    assert (there.estimate.low, there.p_value) == pytest.approx((-back.estimate.high, back.p_value))


def test_null_rejects_5_percent_and_intervals_cover_95_percent():
    rng, tests = np.random.default_rng(4), 600
    separations = (0.4, 0.8)
    truth = norm.cdf(0.8 / math.sqrt(2)) - norm.cdf(0.4 / math.sqrt(2))
    rejected = covered = 0
    for _ in range(tests):
        (a, b), member = correlated(rng, 100, (0.6, 0.6))
        rejected += auc_difference(a, b, member).p_value < 0.05
        (a, b), member = correlated(rng, 100, separations)
        estimate = auc_difference(a, b, member).estimate
        covered += estimate.low <= truth <= estimate.high
    low, high = binom.ppf([0.001, 0.999], tests, 0.05)
    assert low <= rejected <= high
    assert low <= tests - covered <= high


def test_pairing_finds_what_two_separate_intervals_do_not():
    rng = np.random.default_rng(5)
    paired = apart = 0
    for _ in range(60):
        (a, b), member = correlated(rng, 200, (0.5, 0.7), share=0.9)
        paired += auc_difference(a, b, member).p_value < 0.05
        apart += independent_difference(auc(a, member), auc(b, member)).p_value < 0.05
    assert paired > 55
    assert apart < 30


def test_perfect_separation_does_not_make_the_difference_certain():
    member = np.repeat([True, False], 15)
    perfect = np.where(member, 2.0, 0.0) + np.linspace(0, 1, 30)
    nearly = perfect.copy()
    nearly[0] = -1.0
    found = auc_difference(perfect, nearly, member)
    assert found.p_value > 0.05
    assert found.estimate.high > 0


def naive_tpr(ranks, member, fpr):
    """The lowest threshold whose FPR is at most `fpr`, by trying every score."""
    best = 0.0
    for threshold in np.unique(ranks):
        if (ranks[~member] >= threshold).mean() <= fpr + 1e-12:
            best = max(best, (ranks[member] >= threshold).mean())
    return best


@pytest.mark.parametrize("decimals", [6, 0])
def test_bootstrap_equals_its_naive_twin_resample_by_resample(decimals):
    (a, b), member = correlated(np.random.default_rng(6), 30, (0.5, 1.5))
    a, b = np.round(a, decimals), np.round(b, decimals)
    found = tpr_difference(a, b, member, 0.2, rng=np.random.default_rng(7), n_boot=40)
    assert found.estimate.value == pytest.approx(naive_tpr(b, member, 0.2) - naive_tpr(a, member, 0.2))
    rng, drawn = np.random.default_rng(7), []
    inside, outside = np.flatnonzero(member), np.flatnonzero(~member)
    members = [rng.integers(0, 30, 30) for _ in range(40)]
    nonmembers = [rng.integers(0, 30, 30) for _ in range(40)]
    for m, o in zip(members, nonmembers):
        rows = np.concatenate([inside[m], outside[o]])
        truth = np.repeat([True, False], 30)
        drawn.append(naive_tpr(b[rows], truth, 0.2) - naive_tpr(a[rows], truth, 0.2))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = found.estimate.value
    assert (found.estimate.low, found.estimate.high) == pytest.approx((min(low, value), max(high, value)))


def test_tpr_difference_holds_its_level_covers_and_finds_a_planted_difference():
    rng, tests, fpr = np.random.default_rng(8), 150, 0.1
    threshold = norm.ppf(1 - fpr)
    truth = norm.cdf(1.6 - threshold) - norm.cdf(0.8 - threshold)
    rejected = missed = found = 0
    for _ in range(tests):
        (a, b), member = correlated(rng, 200, (0.8, 0.8))
        rejected += tpr_difference(a, b, member, fpr, rng=rng, n_boot=300).p_value < 0.05
        (a, b), member = correlated(rng, 200, (0.8, 1.6))
        result = tpr_difference(a, b, member, fpr, rng=rng, n_boot=300)
        missed += not result.estimate.low <= truth <= result.estimate.high
        found += result.p_value < 0.05
    assert rejected <= binom.ppf(0.999, tests, 0.05)
    assert missed <= binom.ppf(0.999, tests, 0.05)
    assert found > 0.9 * tests


def test_an_fpr_below_one_non_member_is_not_resolvable():
    (a, b), member = correlated(np.random.default_rng(9), 50, (0.5, 1.0))
    found = tpr_difference(a, b, member, 0.01, rng=np.random.default_rng(0))
    assert not found.estimate.resolvable
    assert math.isnan(found.p_value)
    assert not independent_difference(tpr_at_fpr(a, member, 0.01), tpr_at_fpr(b, member, 0.01)).estimate.resolvable
    with pytest.raises(DesignError, match="fpr must be"):
        tpr_difference(a, b, member, 0.0, rng=np.random.default_rng(0))


def test_independent_samples_hold_their_level():
    rng, tests = np.random.default_rng(10), 400
    rejected = 0
    for _ in range(tests):
        (a, _), member = correlated(rng, 100, (0.6, 0.6))
        (b, _), _ = correlated(rng, 100, (0.6, 0.6))
        rejected += independent_difference(auc(a, member), auc(b, member)).p_value < 0.05
    assert binom.ppf(0.001, tests, 0.05) <= rejected <= binom.ppf(0.999, tests, 0.05)


def test_the_p_value_is_below_5_percent_exactly_where_the_interval_leaves_out_0():
    for low in (-0.02, -0.0001, 0.0001, 0.05):
        first = Estimate(0.5, 0.5, 0.5, 100)
        found = independent_difference(first, Estimate(0.6, 0.5 + low, 0.7, 100))
        assert (found.p_value < 0.05) == (found.estimate.low > 0)


def test_holm_keeps_the_chance_of_any_false_finding_at_5_percent():
    rng, tests = np.random.default_rng(11), 2000
    any_found = sum(min(holm(rng.uniform(size=6))) < 0.05 for _ in range(tests))
    assert binom.ppf(0.001, tests, 0.05) <= any_found <= binom.ppf(0.999, tests, 0.05)
    assert holm([0.2, float("nan"), 0.02])[::2] == [0.2, 0.04]
    assert math.isnan(holm([0.2, float("nan"), 0.02])[1])
    assert holm([]) == []


def test_a_class_of_one_has_no_covariance():
    with pytest.raises(DesignError, match="at least two members"):
        delong_covariance([np.arange(3.0)], np.array([True, False, False]))
