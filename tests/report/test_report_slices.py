"""Risk by slice: closed forms, naive twins, the null, and a planted leak."""

import numpy as np
import pytest

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import auc, tpr_at_fpr
from mlflow_privacy.metrics.groups import groups_of
from mlflow_privacy.report.slices import check_slices, most_exposed, slice_risk, trimmed_auc


def scores(n, seed, separation=0.0):
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    return rng.normal(size=n) + separation * member, member, rng


@pytest.mark.parametrize("ties", [False, True])
def test_every_figure_equals_its_naive_twin(ties):
    ranks, member, rng = scores(900, 0, 0.8)
    ranks = np.round(ranks, 1) if ties else ranks
    group = rng.choice(["a", "b", "c"], 900)
    (found,), count, corrected = slice_risk(ranks, member, {"g": groups_of(group)}, fpr=0.1)
    assert count == 3
    assert corrected == pytest.approx(1 - 0.05 / 3)
    for row in found.rows:
        own = group == row.label
        twin, rest = auc(ranks[own], member[own], corrected), auc(ranks[~own], member[~own], corrected)
        assert (row.auc.value, row.auc.low, row.auc.high) == pytest.approx((twin.value, twin.low, twin.high))
        assert row.difference.value == pytest.approx(twin.value - rest.value)
        assert (row.n_members, row.n_nonmembers) == ((own & member).sum(), (own & ~member).sum())
        # By a threshold of its own, and with the interval of every other TPR: the threshold is estimated here too.
        assert row.recognised == tpr_at_fpr(ranks[own], member[own], 0.1, corrected)


def test_under_the_null_few_audits_call_any_slice_different():
    alarms = 0
    for seed in range(200):
        ranks, member, rng = scores(600, seed, 0.7)
        (found,), _, _ = slice_risk(ranks, member, {"g": groups_of(rng.integers(0, 8, 600))}, fpr=0.1)
        alarms += any(row.differs for row in found.rows)
    assert alarms <= 20  # 5 % of 200 is 10; Bonferroni stays below, and 20 is three standard deviations above


def test_without_the_correction_many_would():
    alarms = 0
    for seed in range(60):
        ranks, member, rng = scores(600, seed, 0.7)
        found, _, _ = slice_risk(ranks, member, {"g": groups_of(rng.integers(0, 8, 600))}, fpr=0.1, confidence=0.6)
        loose = 1 - 0.4 / 8  # each at 95 %
        assert found[0].rows[0].auc.confidence == pytest.approx(loose)
        alarms += any(row.differs for row in found[0].rows)
    assert alarms > 10


def test_a_planted_slice_is_first_and_differs():
    ranks, member, rng = scores(2000, 3)
    leaky = rng.random(2000) < 0.2
    ranks = ranks + 2.0 * (member & leaky)
    (found,), _, _ = slice_risk(ranks, member, {"g": groups_of(np.where(leaky, "leaky", "safe"))}, fpr=0.1)
    assert found.rows[0].label == "leaky"
    assert found.rows[0].differs
    assert found.rows[0].difference.low > 0.2
    assert found.rows[0].recognised.low > found.rows[1].recognised.high


def test_nothing_depends_on_the_order_of_records_or_the_scale_of_scores():
    ranks, member, rng = scores(500, 4, 1.0)
    group = rng.integers(0, 3, 500)
    order = rng.permutation(500)
    first = slice_risk(ranks, member, {"g": groups_of(group)}, fpr=0.1)
    assert slice_risk(ranks[order], member[order], {"g": groups_of(group[order])}, fpr=0.1) == first
    assert slice_risk(np.exp(ranks), member, {"g": groups_of(group)}, fpr=0.1) == first


def test_small_slices_are_counted_and_not_measured():
    ranks, member, _ = scores(400, 5)
    group = np.array(["big"] * 200 + ["large"] * 190 + ["tiny"] * 10)
    (found,), count, _ = slice_risk(ranks, member, {"g": groups_of(group)}, fpr=0.1)
    assert (count, found.n_small, len(found.rows)) == (2, 1, 2)
    assert slice_risk(ranks, member, {"g": groups_of(np.zeros(400))}, fpr=0.1)[:2] == ((), 0)


def test_long_lists_of_slices_are_cut_and_say_so():
    ranks, member, rng = scores(6000, 6)
    (found,), count, _ = slice_risk(ranks, member, {"g": groups_of(rng.integers(0, 60, 6000))}, fpr=0.1)
    assert count == 60
    assert len(found.rows) + found.n_hidden == 60


def test_groups_of_numbers_are_quartiles_and_labels_are_themselves():
    values = np.random.default_rng(0).normal(size=1000)
    values[:7] = np.nan
    groups = groups_of(values)
    assert len(groups.names) == 5
    assert np.bincount(groups.code)[:4] == pytest.approx([248.25] * 4, abs=2)
    assert np.bincount(groups.code)[4] == 7
    assert groups_of(["b", "a", "b"]).names == ("a", "b")
    assert groups_of(np.array([1, "x", None], object)).names == ("1", "missing", "x")
    assert groups_of(np.array([True, False])).names == ("False", "True")


def test_most_exposed_equals_a_sort_and_counts_nonmembers():
    ranks, member, _ = scores(300, 7)
    ranks = np.round(ranks, 1)  # ties
    ids = np.array([f"r{i}" for i in range(300)])
    found = most_exposed(ranks, ranks, member, ids, member, count=25)
    inside = np.flatnonzero(member)
    twin = sorted(inside.tolist(), key=lambda i: (-ranks[i], i))[:25]
    assert [r.row_id for r in found] == [f"r{i}" for i in twin]
    assert [r.nonmembers_above for r in found] == [int((ranks[~member] >= ranks[i]).sum()) for i in twin]
    assert [r.rank for r in found] == [int((ranks[member] > ranks[i]).sum()) + 1 for i in twin]
    assert most_exposed(ranks, ranks, member, ids, member, count=0) == ()


def test_without_the_leaking_few_nothing_is_left():
    ranks, member, rng = scores(4000, 8)
    few = member & (rng.random(4000) < 0.04)
    ranks = ranks + 50 * few
    left = trimmed_auc(ranks, member, 0.05, 0.95)
    assert auc(ranks, member).low > 0.5
    assert left.low < 0.5
    assert trimmed_auc(ranks[:12], member[:12], 0.05, 0.95) is None


def test_slices_of_a_wrong_shape_are_refused():
    check_slices({"a": np.zeros(3)}, 3)
    with pytest.raises(DesignError, match=r"slices\['a'\] has shape \(2,\)"):
        check_slices({"a": np.zeros(2)}, 3)
