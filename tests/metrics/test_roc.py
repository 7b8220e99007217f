"""The ROC is the raw step curve; TPR at an FPR covers the truth, threshold error included."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import roc_curve, tally, tpr_at_fpr
from mlflow_privacy.metrics.roc import tpr_interval
from mlflow_privacy.stats import clopper_pearson

scored = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({m for _, m in rows}) == 2
)


def split(rows):
    return np.array([float(s) for s, _ in rows]), np.array([m for _, m in rows])


def full_curve(ranks, member):
    """Every operating point, one threshold at a time."""
    cuts = [np.inf, *sorted(set(ranks), reverse=True)]
    return (
        np.array([(ranks[~member] >= c).mean() for c in cuts]),
        np.array([(ranks[member] >= c).mean() for c in cuts]),
    )


@given(scored)
def test_thinned_curve_is_the_same_curve(rows):
    """Every operating point lies on the polygon through the vertices, read as steps too; no vertex can be spared."""
    ranks, member = split(rows)
    fpr, tpr = full_curve(ranks, member)
    roc = roc_curve(ranks, member)
    assert (roc.fpr[0], roc.tpr[0], roc.fpr[-1], roc.tpr[-1]) == (0, 0, 1, 1)
    assert roc.threshold[0] == np.inf
    for x, y in zip(fpr, tpr):
        dx, dy = np.diff(roc.fpr), np.diff(roc.tpr)
        cross = (x - roc.fpr[:-1]) * dy - (y - roc.tpr[:-1]) * dx
        inside = (x >= roc.fpr[:-1] - 1e-12) & (x <= roc.fpr[1:] + 1e-12)
        inside &= (y >= roc.tpr[:-1] - 1e-12) & (y <= roc.tpr[1:] + 1e-12)
        assert (inside & (np.abs(cross) < 1e-9)).any()
    for x in fpr:
        assert roc.tpr[roc.fpr <= x].max() == tpr[fpr <= x].max()
    for steps in (np.diff(roc.fpr), np.diff(roc.tpr)):
        assert not ((steps[:-1] == 0) & (steps[1:] == 0)).any()


@given(scored)
def test_thresholds_give_back_their_vertices(rows):
    ranks, member = split(rows)
    roc = roc_curve(ranks, member)
    for fpr, tpr, threshold in zip(roc.fpr, roc.tpr, roc.threshold):
        assert (ranks[~member] >= threshold).mean() == fpr
        assert (ranks[member] >= threshold).mean() == tpr


@given(scored, st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]))
def test_tpr_is_the_best_of_all_thresholds_within_the_fpr(rows, fpr):
    ranks, member = split(rows)
    curve_fpr, curve_tpr = full_curve(ranks, member)
    got = tpr_at_fpr(ranks, member, fpr)
    if 0 < fpr * (~member).sum() < 1 - 1e-9:
        assert not got.resolvable
        assert math.isnan(got.value)
    else:
        assert got.value == pytest.approx(curve_tpr[curve_fpr <= fpr + 1e-9].max())
        assert got.low <= got.value <= got.high


def test_fpr_times_n_is_counted_without_rounding_error():
    """0.1 · 30 is 3.0000000000000004 or 2.9999999999999996 depending on the order; it must be 3."""
    for n in (10, 30, 70, 110, 1000):
        ranks = np.concatenate([np.arange(n), np.arange(n) + 0.5])
        member = np.arange(2 * n) >= n
        assert tpr_at_fpr(ranks, member, 0.1).value == pytest.approx((n // 10 + 1) / n)


def test_what_the_nonmembers_cannot_resolve_is_not_zero():
    rng = np.random.default_rng(0)
    member = np.arange(2000) < 1000
    ranks = rng.normal(size=2000)
    assert tpr_at_fpr(ranks, member, 0.001).resolvable
    unresolved = tpr_at_fpr(ranks, member, 0.0009)
    assert not unresolved.resolvable
    assert str(unresolved) == "not resolvable"
    assert tpr_at_fpr(ranks, member, 0.0).resolvable


def test_ties_with_the_largest_nonmember_do_not_count_at_fpr_zero():
    ranks = np.array([1.0, 2.0, 2.0, 3.0])
    member = np.array([False, False, True, True])
    assert tpr_at_fpr(ranks, member, 0.0).value == 0.5


def test_without_false_alarms_nothing_is_known_from_below():
    """No sample bounds the highest score that a non-member may have; from above the members say all there is."""
    ranks = np.arange(100.0)
    member = np.arange(100) >= 60
    member[:20] = True
    got = tpr_at_fpr(ranks, member, 0.0)
    assert (got.value, got.low, got.high) == (40 / 60, 0.0, float(clopper_pearson(40, 60)[1]))


MODELS = {
    "null": (lambda rng, n: rng.normal(0, 1, n), lambda a: a),
    "shift": (lambda rng, n: rng.normal(1, 1, n), lambda a: ndtr(ndtri(a) + 1)),
    "wide": (lambda rng, n: rng.normal(0, 3, n), lambda a: ndtr(ndtri(a) / 3)),
    "a tenth exposed": (
        lambda rng, n: np.where(rng.random(n) < 0.1, 8, 0) + rng.normal(0, 1, n),
        lambda a: 0.1 * ndtr(ndtri(a) + 8) + 0.9 * a,
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [(300, 300), (1000, 200), (100, 1000)])
def test_tpr_interval_covers_the_true_tpr_at_least_as_promised(name, sizes):
    """400 samples: s.e. of a 95 % coverage is 1.1 %, so 92 % is nearly three below; each side 2.5 % + 3 · 0.8 %."""
    draw, truth = MODELS[name]
    rng = np.random.default_rng(1)
    n1, n0 = sizes
    member = np.arange(n1 + n0) < n1
    fprs = np.array([0.1, 0.01])
    wanted = truth(fprs)
    below, above = np.zeros(2), np.zeros(2)
    for _ in range(400):
        t = tally(np.concatenate([draw(rng, n1), rng.normal(0, 1, n0)]), member)
        _, low, high = tpr_interval(t, fprs, 0.95)
        below += wanted < low
        above += wanted > high
    assert ((below + above) / 400 <= 0.08).all()
    assert (below / 400 <= 0.05).all()
    assert (above / 400 <= 0.05).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sizes", [(40, 30), (2000, 60), (60, 2000)])
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_interval_of_a_small_group_covers_at_its_corrected_confidence(name, sizes, confidence):
    """As for a slice among ten. 400 samples at 99.5 %: s.e. 0.35 %, so 98 % is four below; 92 % nearly three for 95."""
    draw, truth = MODELS[name]
    rng = np.random.default_rng(6)
    n1, n0 = sizes
    member = np.arange(n1 + n0) < n1
    fprs = np.array([fpr for fpr in (0.0, 0.001, 0.01, 0.1) if fpr == 0 or fpr * n0 >= 1])
    wanted, missed = truth(fprs), np.zeros(len(fprs))
    for _ in range(400):
        t = tally(np.concatenate([draw(rng, n1), rng.normal(0, 1, n0)]), member)
        _, low, high = tpr_interval(t, fprs, confidence)
        missed += (wanted < low) | (wanted > high)
    assert (missed / 400 <= (0.08 if confidence == 0.95 else 0.02)).all()


def test_of_a_constant_classifier_nothing_can_be_recognised():
    """Its one threshold calls all records members or none, so a gate on the upper end need not fear the former."""
    for n in (40, 400, 4000):
        got = tpr_at_fpr(np.zeros(2 * n), np.arange(2 * n) < n, 0.1)
        assert (got.value, got.low) == (0.0, 0.0)
        assert got.high == float(clopper_pearson(0, n)[1])


@pytest.mark.parametrize("levels", [2, 3, 8])
@pytest.mark.parametrize("sizes", [(300, 300), (100, 1000)])
def test_interval_covers_the_tpr_of_the_best_threshold_where_scores_are_tied(levels, sizes):
    """The truth is that of the lowest threshold whose own FPR is at most 10 %. 400 samples, as above."""
    rng = np.random.default_rng(2)
    n1, n0 = sizes
    member = np.arange(n1 + n0) < n1
    shares = {True: np.arange(1.0, levels + 1), False: np.arange(levels, 0.0, -1)}
    shares = {side: p / p.sum() for side, p in shares.items()}
    fpr, tpr = (np.append(0, np.cumsum(shares[side][::-1])) for side in (False, True))
    wanted = tpr[fpr <= 0.1].max()
    below = above = 0
    for _ in range(400):
        drawn = [rng.choice(levels, n, p=shares[side]) for side, n in ((True, n1), (False, n0))]
        got = tpr_at_fpr(np.concatenate(drawn).astype(float), member, 0.1)
        below, above = below + (wanted < got.low), above + (wanted > got.high)
    assert max(below, above) <= 20


@given(scored, st.lists(st.floats(0, 1), min_size=2, max_size=6), st.sampled_from([0.8, 0.95, 0.995]))
def test_who_accepts_more_false_alarms_recognises_no_fewer(rows, fprs, confidence):
    """Value and both ends, at any FPRs, also between those that a threshold can have, and where the curve jumps."""
    t = tally(*split(rows))
    ends = np.array(tpr_interval(t, np.sort([0.0, *fprs, 1.0]), confidence))
    assert (np.diff(ends, axis=1) >= -1e-12).all()


def test_no_curve_makes_the_intervals_contradict_each_other():
    """Curves with cliffs and ties, many of them: there the upper end of the formula alone falls by up to 0.0005."""
    rng = np.random.default_rng(7)
    for _ in range(200):
        n1, n0 = rng.integers(20, 400, 2)
        lumps = np.repeat(rng.normal(size=8), -(-int(n1) // 8))[:n1] + rng.normal(size=n1) * 0.05
        t = tally(np.round(np.concatenate([lumps, rng.normal(size=n0)]), 2), np.arange(n1 + n0) < n1)
        ends = np.array(tpr_interval(t, np.linspace(0, 1, 3 * n0), 0.95))
        assert (np.diff(ends, axis=1) >= -1e-12).all()
        roc = roc_curve(np.repeat(t.values, t.members + t.nonmembers), _members_first(t))
        assert (np.diff(roc.tpr_high) >= 0).all()


def _members_first(t):
    return np.concatenate([np.repeat([True, False], [a, b]) for a, b in zip(t.members, t.nonmembers)])


def test_intervals_are_no_wider_than_their_two_errors_make_them():
    """With 100 times as many non-members as members it is Clopper–Pearson's."""
    rng = np.random.default_rng(8)
    member = np.arange(101_000) < 1_000
    got = tpr_at_fpr(np.concatenate([rng.normal(1, 1, 1_000), rng.normal(0, 1, 100_000)]), member, 0.01)
    low, high = clopper_pearson(round(got.value * 1000), 1000)
    assert got.high - got.low < 1.05 * float(high - low)


def test_binomial_error_alone_would_not_cover():
    """The wrong answer is rejected: Clopper–Pearson at the estimated threshold misses far too often."""
    rng = np.random.default_rng(2)
    member = np.arange(1200) < 1000
    missed = 0
    for _ in range(200):
        ranks = np.concatenate([rng.normal(1, 1, 1000), rng.normal(0, 1, 200)])
        value = tpr_at_fpr(ranks, member, 0.1).value
        low, high = clopper_pearson(round(value * 1000), 1000)
        missed += not low <= ndtr(ndtri(0.1) + 1) <= high
    assert missed / 200 > 0.3


def test_interval_shrinks_to_the_truth():
    """Tight as well as valid: at 200,000 non-members the width is a few normal standard errors."""
    rng = np.random.default_rng(3)
    member = np.arange(400_000) < 200_000
    got = tpr_at_fpr(rng.normal(size=400_000) + member, member, 0.01)
    truth = ndtr(ndtri(0.01) + 1)
    slope = math.exp(-0.5 * ((ndtri(0.01) + 1) ** 2 - ndtri(0.01) ** 2))
    error = math.sqrt(truth * (1 - truth) / 2e5 + slope**2 * 0.01 * 0.99 / 2e5)
    assert got.high - got.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_band_of_the_roc_is_the_interval_at_that_fpr():
    rng = np.random.default_rng(4)
    member = np.arange(400) < 200
    ranks = rng.normal(size=400) + member
    roc = roc_curve(ranks, member)
    assert (roc.tpr_low <= roc.tpr).all()
    assert (roc.tpr <= roc.tpr_high).all()
    estimate = tpr_at_fpr(ranks, member, 0.1)
    at = np.flatnonzero(np.isclose(roc.fpr, 0.1))[-1]
    assert roc.tpr[at] == estimate.value
    assert roc.tpr_low[at] == pytest.approx(estimate.low)
    assert roc.tpr_high[at] == pytest.approx(estimate.high)


def test_monotone_transforms_and_order_change_nothing():
    rng = np.random.default_rng(5)
    member = np.arange(300) < 100
    ranks = rng.normal(size=300) + member
    order = rng.permutation(300)
    base, moved = roc_curve(ranks, member), roc_curve(np.exp(ranks)[order], member[order])
    np.testing.assert_array_equal(base.fpr, moved.fpr)
    np.testing.assert_array_equal(base.tpr_high, moved.tpr_high)


def test_faults_are_named():
    member = np.array([True, False])
    with pytest.raises(DesignError, match="1 of 2 scores are NaN"):
        tally(np.array([np.nan, 1.0]), member)
    with pytest.raises(DesignError, match="all 2 records are members"):
        tally(np.zeros(2), np.ones(2, bool))
    with pytest.raises(DesignError, match=r"got \(3,\) and \(2,\)"):
        tally(np.zeros(3), member)
    with pytest.raises(DesignError, match=r"fpr must be in \[0, 1\], got 10"):
        tpr_at_fpr(np.zeros(2), member, 10)
