"""Balanced accuracy without hindsight, and all metrics of an attack together."""

import numpy as np
import pytest
from scipy.special import ndtr

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import advantage, balanced_accuracy, best_threshold, evaluate_scores, fpr_key
from mlflow_privacy.types import Scores


def test_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ranks, member = rng.integers(0, 9, 25).astype(float), rng.random(25) < 0.5
        if member.all() or not member.any():
            continue
        gain = lambda c: (ranks[member] >= c).mean() - (ranks[~member] >= c).mean()  # noqa: B023
        assert gain(best_threshold(ranks, member)) == pytest.approx(max(gain(c) for c in [*set(ranks), np.inf]))


@pytest.mark.parametrize("sizes", [(10, 10), (100, 100), (40, 400)])
def test_null_interval_of_balanced_accuracy_covers_one_half(sizes):
    """400 trials: 92 % is nearly three standard errors below 95 %. In hindsight the best threshold always beats ½."""
    rng = np.random.default_rng(1)
    member = np.arange(sum(sizes)) < sizes[0]
    hits, values, hindsight = 0, [], []
    for _ in range(400):
        ranks = rng.normal(size=len(member))
        got = balanced_accuracy(ranks, member, rng=rng)
        hits += got.low <= 0.5 <= got.high
        values.append(got.value)
        cut = best_threshold(ranks, member)
        hindsight.append(((ranks[member] >= cut).mean() + (ranks[~member] < cut).mean()) / 2)
    assert hits / 400 >= 0.92
    assert abs(np.mean(values) - 0.5) < 4 * np.std(values) / 20
    assert min(hindsight) >= 0.5
    assert np.mean(hindsight) > 0.52


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_interval_covers_what_the_chosen_thresholds_achieve(shift):
    """The truth of either half's threshold is known in this model: BA(t) = ½ (Φ(shift − t) + Φ(t))."""
    rng = np.random.default_rng(2)
    member = np.arange(300) < 150
    hits = 0
    for trial in range(400):
        ranks = rng.normal(size=300) + shift * member
        got = balanced_accuracy(ranks, member, rng=np.random.default_rng(trial))
        replay, first = np.random.default_rng(trial), np.zeros(300, bool)
        for group in (np.flatnonzero(member), np.flatnonzero(~member)):
            first[replay.permutation(group)[:75]] = True
        cuts = np.array([best_threshold(ranks[half], member[half]) for half in (first, ~first)])
        hits += got.low <= np.mean(ndtr(shift - cuts) + ndtr(cuts)) / 2 <= got.high
    assert hits / 400 >= 0.92


@pytest.mark.parametrize("seed", range(5))
def test_perfect_separation_is_an_advantage_near_one(seed):
    """N(20, 1) against N(0, 1), 20 + 20 records: the cut belongs in the middle of the gap, not at a record."""
    rng, member = np.random.default_rng(seed), np.arange(40) < 20
    value = rng.normal(size=40) + 20 * member
    _, metrics = evaluate_scores(Scores(value), member)
    assert metrics["advantage"].value == 1
    assert metrics["balanced_accuracy"].value == 1
    assert 0.7 < metrics["advantage"].low < 1


def test_the_cut_is_the_middle_of_the_gap_in_the_attacks_own_unit():
    """Dense ranks have no gaps; a score that is far out has."""
    assert best_threshold(np.array([0.0, 1.0, 9.0, 10.0]), np.array([False, False, True, True])) == 5.0
    assert best_threshold(np.array([1.0, np.inf]), np.array([False, True])) == np.inf
    assert best_threshold(np.array([-np.inf, 1.0]), np.array([False, True])) == 1.0
    assert best_threshold(np.array([-np.inf, np.inf]), np.array([False, True])) == np.inf
    assert (
        balanced_accuracy(
            np.where(np.arange(40) < 20, np.inf, -np.inf), np.arange(40) < 20, rng=np.random.default_rng(0)
        ).value
        == 1
    )
    close = np.array([1.0, np.nextafter(1.0, 2)])
    assert best_threshold(close, np.array([False, True])) == close[1]
    member = np.arange(400) < 200
    value = np.where(member, 20.0, 0.0) + np.random.default_rng(0).exponential(size=400) * np.where(member, 1, 6)
    found = evaluate_scores(Scores(value), member)[1]["balanced_accuracy"]
    twins = []
    replay, first = np.random.default_rng(0), np.zeros(400, bool)
    for group in (np.flatnonzero(member), np.flatnonzero(~member)):
        first[replay.permutation(group)[:100]] = True
    for half in (first, ~first):
        called = value[~half] >= best_threshold(value[half], member[half])
        twins += [(called == member[~half]).mean()]
    assert found.value == pytest.approx(np.mean(twins))


def test_one_score_is_cut_by_what_breaks_its_ties():
    member = np.arange(80) < 40
    tie = np.random.default_rng(1).normal(size=80) + 30 * member
    assert evaluate_scores(Scores(np.ones(80), tie), member)[1]["advantage"].value == 1


def test_advantage_is_twice_the_distance_from_one_half():
    member = np.arange(200) < 100
    got = balanced_accuracy(
        np.random.default_rng(3).normal(size=200) + 2 * member, member, rng=np.random.default_rng(0)
    )
    gain = advantage(got)
    assert (gain.value, gain.low, gain.high) == (2 * got.value - 1, 2 * got.low - 1, 2 * got.high - 1)


def test_one_member_cannot_be_halved():
    got = balanced_accuracy(np.arange(9.0), np.arange(9) == 0, rng=np.random.default_rng(0))
    assert not got.resolvable
    assert not advantage(got).resolvable


def test_keys_are_exactly_the_contract():
    rng = np.random.default_rng(4)
    member = np.arange(400) < 200
    roc, metrics = evaluate_scores(Scores(rng.normal(size=400)), member)
    assert list(metrics) == [
        "auc",
        "tpr_at_fpr_0.1",
        "tpr_at_fpr_0.01",
        "tpr_at_fpr_0.001",
        "tpr_at_fpr_0.0001",
        "tpr_at_fpr_0",
        "balanced_accuracy",
        "advantage",
    ]
    assert [key for key, m in metrics.items() if not m.resolvable] == ["tpr_at_fpr_0.001", "tpr_at_fpr_0.0001"]
    assert len(roc.fpr) == len(roc.tpr_high)
    assert fpr_key(1e-7) == "tpr_at_fpr_0.0000001"
    assert fpr_key(1) == "tpr_at_fpr_1"


def test_ties_are_broken_by_the_second_key():
    member = np.arange(100) < 50
    value = np.ones(100)
    blind = evaluate_scores(Scores(value), member)[1]
    seeing = evaluate_scores(Scores(value, member.astype(float)), member)[1]
    assert blind["auc"].value == 0.5
    assert seeing["auc"].value == 1.0
    assert seeing["tpr_at_fpr_0"].value == 1.0


def test_thresholds_are_in_the_attacks_own_unit():
    rng = np.random.default_rng(5)
    member = np.arange(60) < 30
    scores = Scores(rng.normal(size=60) * 1000 + 500 * member)
    roc, _ = evaluate_scores(scores, member)
    for fpr, threshold in zip(roc.fpr, roc.threshold):
        assert (scores.value[~member] >= threshold).mean() == fpr


def test_same_seed_same_numbers():
    rng = np.random.default_rng(6)
    member, value = np.arange(100) < 50, rng.normal(size=100)
    first, second = (evaluate_scores(Scores(value), member, seed=7)[1] for _ in range(2))
    assert {k: str(v) for k, v in first.items()} == {k: str(v) for k, v in second.items()}


def test_nan_scores_are_counted():
    member = np.arange(4) < 2
    with pytest.raises(DesignError, match=r"Scores\.value has 1 NaN of 4"):
        evaluate_scores(Scores(np.array([1.0, np.nan, 0.0, 2.0])), member)
    with pytest.raises(DesignError, match=r"Scores\.tie has 4 NaN"):
        evaluate_scores(Scores(np.zeros(4), np.full(4, np.nan)), member)
