"""AUC by DeLong: equal to the pairwise count, and its interval covers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from mlflow_privacy.metrics import auc, compare_auc, tally
from mlflow_privacy.metrics.delong import delong

scored = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=30).filter(
    lambda rows: min(sum(m for _, m in rows), sum(not m for _, m in rows)) >= 2
)


@given(scored)
def test_value_and_variance_equal_the_pairwise_definition(rows):
    ranks, member = np.array([float(s) for s, _ in rows]), np.array([m for _, m in rows])
    wins = (ranks[member][:, None] > ranks[~member]) + 0.5 * (ranks[member][:, None] == ranks[~member])
    value, parts = delong(tally(ranks, member))
    assert value == pytest.approx(wins.mean())
    assert parts[0] == pytest.approx(wins.mean(axis=1).var(ddof=1) / member.sum(), abs=1e-15)
    assert parts[1] == pytest.approx(wins.mean(axis=0).var(ddof=1) / (~member).sum(), abs=1e-15)


@given(scored)
def test_interval_encloses_the_value_and_stays_in_the_unit_interval(rows):
    ranks, member = np.array([float(s) for s, _ in rows]), np.array([m for _, m in rows])
    got = auc(ranks, member)
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert got.low < got.high
    flipped = auc(-ranks, member)
    assert flipped.value == pytest.approx(1 - got.value)
    assert flipped.low == pytest.approx(1 - got.high, abs=1e-6)


def coverage(draw, truth, n1, n0, trials, seed):
    rng = np.random.default_rng(seed)
    member = np.arange(n1 + n0) < n1
    hits = 0
    for _ in range(trials):
        got = auc(np.concatenate(draw(rng, n1, n0)), member)
        hits += got.low <= truth <= got.high
    return hits / trials


def test_null_interval_covers_one_half_in_95_percent():
    """Members and non-members exchangeable, 400 trials; 95 % ± 2."""
    draw = lambda rng, n1, n0: (rng.normal(size=n1), rng.normal(size=n0))
    assert abs(coverage(draw, 0.5, 250, 250, 400, seed=1) - 0.95) <= 0.02


@pytest.mark.parametrize("truth", [0.6, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("sizes", [(12, 12), (20, 200), (200, 20), (150, 150)])
def test_interval_covers_shifted_members_at_least_as_promised(truth, sizes):
    """400 samples: 92 % is nearly three standard errors below 95 %."""
    shift = math.sqrt(2) * ndtri(truth)
    draw = lambda rng, n1, n0: (rng.normal(shift, 1, n1), rng.normal(0, 1, n0))
    assert coverage(draw, truth, *sizes, 400, seed=2) >= 0.92


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda r, n1, n0: (np.where(r.random(n1) < 0.9, 9, 0) + r.normal(size=n1), r.normal(size=n0)), 0.95),
        (lambda r, n1, n0: (9 + r.normal(size=n1), np.where(r.random(n0) < 0.01, 20, 0) + r.normal(size=n0)), 0.99),
        (lambda r, n1, n0: (r.normal(math.sqrt(10) * ndtri(0.95), 3, n1), r.normal(size=n0)), 0.95),
        (lambda r, n1, n0: (r.integers(0, 2, n1), r.integers(0, 2, n0)), 0.5),
    ],
    ids=["a tenth hidden", "an outlier in a hundred", "unequal spread", "two values only"],
)
@pytest.mark.parametrize("sizes", [(20, 200), (100, 100)])
def test_interval_covers_where_the_normal_approximation_is_worst(draw, truth, sizes):
    """DeLong's own variance covers 77 to 93 % in some of these (docs/attacks.md)."""
    assert coverage(draw, truth, *sizes, 400, seed=3) >= 0.92


def test_interval_is_tight_for_large_samples():
    rng = np.random.default_rng(4)
    member = np.arange(20_000) < 10_000
    got = auc(rng.normal(size=20_000), member)
    assert got.high - got.low == pytest.approx(2 * 1.96 * math.sqrt(20_001 / 12 / 1e8), rel=0.03)


def test_perfect_separation_is_not_certainty():
    member = np.arange(60) < 30
    got = auc(member.astype(float), member)
    assert got.value == 1.0
    assert got.low == pytest.approx(0.025 ** (1 / 30))
    worst = auc(1.0 - member, member)
    assert worst.value == 0.0
    assert worst.high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_constant_scores_and_single_records_have_wide_intervals():
    member = np.arange(40) < 20
    flat = auc(np.zeros(40), member)
    assert flat.value == 0.5
    assert flat.low < 0.4
    assert flat.high > 0.6
    single = auc(np.array([1.0, 0.0, 2.0]), np.array([True, False, False]))
    assert single.low < 0.1
    assert single.high > 0.9


def test_more_confidence_is_a_wider_interval():
    rng = np.random.default_rng(5)
    member = np.arange(100) < 50
    ranks = rng.normal(size=100) + member
    widths = [auc(ranks, member, c).high - auc(ranks, member, c).low for c in (0.8, 0.95, 0.999)]
    assert widths[0] < widths[1] < widths[2]


def test_paired_difference_covers_and_is_narrower_than_two_intervals():
    rng = np.random.default_rng(6)
    member = np.arange(300) < 150
    truth = ndtr(0.8 / math.sqrt(2.18)) - ndtr(0.5 / math.sqrt(2.18))  # Φ(shift / √(2 · 1.09))
    hits, widths = 0, []
    for _ in range(300):
        common = rng.normal(size=300)
        a, b = (common + 0.3 * rng.normal(size=300) + shift * member for shift in (0.8, 0.5))
        got = compare_auc(a, b, member)
        hits += got.low <= truth <= got.high
        widths.append(got.high - got.low)
    assert 0.92 <= hits / 300 <= 0.985
    assert np.mean(widths) < 0.6 * (auc(a, member).high - auc(a, member).low)


def test_an_attack_does_not_differ_from_itself():
    rng = np.random.default_rng(7)
    member = np.arange(50) < 25
    ranks = rng.normal(size=50)
    got = compare_auc(ranks, np.exp(ranks), member)
    assert (got.value, got.low, got.high) == (0.0, 0.0, 0.0)
