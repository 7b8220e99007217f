"""Groups by themselves: naive twins, the null, planted groups that an average hides, names, and the worst of all."""

import dataclasses
import posixpath
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from mlflow_privacy.metrics import DEFAULT_FPRS, auc, tpr_at_fpr
from mlflow_privacy.metrics.evaluation import looked_at
from mlflow_privacy.metrics.groups import group_results, groups_of, slicings_of, worst_group
from mlflow_privacy.report.example import example_result
from mlflow_privacy.types import Estimate, GroupResult


def leaky(n, seed, shares, separations):
    """Scores of records in classes of these shares, whose members are this far from the non-members."""
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    label = rng.choice(len(shares), n, p=shares)
    return rng.normal(size=n) + np.array(separations)[label] * member, member, label


def by_class(ranks, member, label, **options):
    return group_results(ranks, member, {"class": groups_of(label)}, fprs=DEFAULT_FPRS, **options)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", None, "a"], object),
        np.array(["a", float("nan"), "a"], object),
        pd.Series(["a", pd.NA, "a"], dtype="string").to_numpy(),
        pd.Series(["a", None, "a"], dtype="category").to_numpy(),
        np.array([1.0, np.nan, 1.0]),
        pd.Series([1, None, 1], dtype="Int64").to_numpy(object),
        pd.to_datetime(pd.Series(["2026-01-01", None, "2026-01-01"])).to_numpy(),
    ],
)
def test_records_without_a_value_are_a_group_called_missing(values):
    groups = groups_of(values)
    assert [groups.names[code] == "missing" for code in groups.code] == [False, True, False]
    assert len(groups.names) == 2


def test_a_category_that_is_called_nan_stays_itself():
    assert groups_of(np.array(["nan", "x"])).names == ("nan", "x")


@pytest.mark.parametrize("ties", [False, True])
def test_every_figure_equals_its_naive_twin(ties):
    ranks, member, label = leaky(3000, 0, [0.8, 0.2], [0.2, 2.0])
    ranks = np.round(ranks, 1) if ties else ranks
    found = by_class(ranks, member, label)
    for group in found:
        own = label == int(group.label)
        assert (group.n_members, group.n_nonmembers) == ((own & member).sum(), (own & ~member).sum())
        assert group.metrics["auc"] == auc(ranks[own], member[own], 0.975)
        for fpr in DEFAULT_FPRS[:-1]:
            twin = tpr_at_fpr(ranks[own], member[own], fpr, 0.975)
            assert str(group.metrics[f"tpr_at_fpr_{np.format_float_positional(fpr)}"]) == str(twin)
        assert "tpr_at_fpr_0" not in group.metrics
    worst = found[0]
    assert (worst.label, worst.worse) == ("1", ("tpr_at_fpr_0.1", "auc"))
    rest = ranks[label == 0], member[label == 0]
    assert worst.others["tpr_at_fpr_0.1"] == tpr_at_fpr(*rest, 0.1, 0.975)
    assert dataclasses.astuple(worst.others["auc"]) == pytest.approx(dataclasses.astuple(auc(*rest, 0.975)))


def test_under_the_null_few_audits_name_a_group():
    """Members leak alike in every group. 400 audits: 5 % would be 20, and the careful side of it is about 2 %."""
    named = 0
    for seed in range(400):
        ranks, member, label = leaky(1500, seed, [0.7, 0.2, 0.1], [1.0, 1.0, 1.0])
        named += bool(by_class(ranks, member, label)[0].worse)
    assert named <= 20


def test_a_group_with_other_scores_is_not_named_for_that():
    """A shift of all scores of a class, members and non-members, is no leak: its own threshold moves along."""
    named = 0
    for seed in range(100):
        ranks, member, label = leaky(1500, seed, [0.5, 0.5], [0.0, 0.0])
        named += bool(by_class(ranks + 3 * label, member, label)[0].worse)
    assert named <= 5


def test_a_group_that_an_average_hides_is_found_with_a_threshold_of_its_own():
    """One in ten records leaks, and all of its scores are low: with one threshold nobody of it is recognised."""
    ranks, member, label = leaky(6000, 1, [0.9, 0.1], [0.0, 2.5])
    ranks = ranks - 4 * label
    assert tpr_at_fpr(ranks, member, 0.1).low < 0.1
    worst = by_class(ranks, member, label)[0]
    assert (worst.label, worst.worse[0]) == ("1", "tpr_at_fpr_0.1")
    assert worst.metrics["tpr_at_fpr_0.1"].low > 0.7
    assert worst.others["tpr_at_fpr_0.1"].high < 0.2


def test_a_group_of_which_few_are_exposed_is_worse_at_a_low_rate_alone():
    """2 % of its members are recognised beyond doubt; an AUC cannot tell, nor can 10 % false alarms."""
    rng = np.random.default_rng(2)
    n = 24_000
    member, label = rng.random(n) < 0.5, rng.integers(0, 2, n)
    ranks = rng.normal(size=n) + 20 * (member & (label == 1) & (rng.random(n) < 0.02))
    worst = by_class(ranks, member, label)[0]
    assert worst.label == "1"
    assert worst.worse[0] == "tpr_at_fpr_0.001"
    assert worst.worse[-1] != "auc"


def test_the_worst_of_several_is_first_and_order_and_scale_change_nothing():
    ranks, member, label = leaky(4000, 3, [0.25] * 4, [0.1, 0.1, 2.5, 1.2])
    found = by_class(ranks, member, label)
    assert [group.label for group in found[:2]] == ["2", "3"]
    assert [bool(group.worse) for group in found] == [True, True, False, False]
    order = np.random.default_rng(0).permutation(len(ranks))
    assert str(by_class(np.exp(ranks)[order], member[order], label[order])) == str(found)


def test_without_comparison_the_figures_are_the_same():
    ranks, member, label = leaky(2000, 4, [0.5, 0.5], [0.0, 2.0])
    compared = {group.name: group for group in by_class(ranks, member, label)}
    for group in by_class(ranks, member, label, compare=False):
        assert group.worse == ()
        assert str(group.metrics) == str(compared[group.name].metrics)


def test_groups_come_from_the_task_and_the_named_slices():
    y = np.repeat([0, 1], 50)
    assert list(slicings_of("classification", y, {"class": y, "zip": y})) == ["class", "class (given)", "zip"]
    assert list(slicings_of("regression", y, {})) == ["target value"]
    assert list(slicings_of("language", y, {"source": y})) == ["source"]
    ranks, member, _ = leaky(100, 5, [1.0], [0.0])
    assert group_results(ranks, member, {"class": groups_of(np.zeros(100))}, fprs=DEFAULT_FPRS) == ()


@given(st.lists(st.text(max_size=300), min_size=2, max_size=5, unique=True))
def test_any_label_gives_names_of_metrics_that_mlflow_takes(labels):
    n = 40 * len(labels)
    ranks, member = np.arange(float(n)), np.arange(n) % 2 == 0
    code = np.repeat(np.arange(len(labels)), 40)
    groups = dataclasses.replace(groups_of(code), names=tuple(labels))
    found = group_results(ranks, member, {"a/../b": groups}, fprs=(0.1,), compare=False)
    names = [f"privacy/rmia_offline/group/{group.name}/tpr_at_fpr_0.0001_high" for group in found]
    assert len(set(names)) == len(labels)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_. :/-]{1,250}", name)
        assert posixpath.normpath(name) == name


def test_worst_group_holds_the_true_worst_of_all_groups():
    """The interval of a maximum: 95 % of 400 audits, three s.e. below is 92 %; its value is not the luckiest one."""
    separations, held, values = np.array([0.0, 0.3, 0.6, 0.9, 1.2, 1.2]), 0, []
    truth = float(ndtr(ndtri(0.1) + 1.2))
    for seed in range(400):
        ranks, member, label = leaky(1800, seed, [0.3, 0.3, 0.1, 0.1, 0.1, 0.1], separations)
        worst = worst_group(by_class(ranks, member, label, compare=False), {"tpr_at_fpr_0.1": _NONE}, 0.95)
        held += worst["tpr_at_fpr_0.1"].low <= truth <= worst["tpr_at_fpr_0.1"].high
        values.append(worst["tpr_at_fpr_0.1"].value)
    assert held / 400 >= 0.92
    assert abs(np.mean(values) - truth) < 0.1


_NONE = Estimate(0.0, 0.0, 0.0, 1)


def test_a_limit_on_the_worst_group_sees_the_exposed_one_even_where_its_interval_is_wide():
    """Ten of 1,000 false alarms are 1 or 2 of a small group: its lower end is 0, and a large safe group's is not."""
    ranks, member, label = leaky(2400, 7, [0.88, 0.12], [0.3, 3.0])
    found = by_class(ranks, member, label)
    small, large = (group.metrics["tpr_at_fpr_0.01"] for group in found)
    assert (found[0].label, small.low, large.low > 0) == ("1", 0.0, True)
    worst = worst_group(found, {"tpr_at_fpr_0.01": _NONE}, 0.95)["tpr_at_fpr_0.01"]
    assert (worst.value, worst.low, worst.high) == (small.value, large.low, small.high)


def test_without_groups_all_records_are_the_worst_group():
    """So that one policy holds for every model; and a rate that no group resolves is that of all records."""
    whole = {"auc": Estimate(0.6, 0.5, 0.7, 9), "tpr_at_fpr_0.01": _NONE, "tpr_at_fpr_0": _NONE, "advantage": _NONE}
    assert worst_group((), whole, 0.95) == {"auc": whole["auc"], "tpr_at_fpr_0.01": _NONE}
    small = GroupResult(
        "class",
        "1",
        "class_1",
        20,
        20,
        {"auc": Estimate(0.9, 0.8, 0.95, 40), "tpr_at_fpr_0.01": dataclasses.replace(_NONE, resolvable=False)},
    )
    found = worst_group((small,), whole, 0.95)
    assert (found["auc"].low, found["tpr_at_fpr_0.01"]) == (0.8, _NONE)


def test_a_result_logs_the_worst_groups_of_its_verdict_and_the_worst_of_every_attack():
    result = example_result(n=3000)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 30, len(result.y))
    attacks = tuple(
        dataclasses.replace(attack, groups=by_class(attack.scores.rank(), result.membership, y, compare=False))
        for attack in result.attacks
    )
    metrics = dataclasses.replace(result, attacks=attacks).metrics
    groups = {key.split("/")[3] for key in metrics if "/group/" in key}
    assert len(groups) == 20
    assert {key.split("/")[1] for key in metrics if "/group/" in key} == {"rmia", "headline"}
    worst = {key.split("/")[1] for key in metrics if "/worst_group/" in key}
    assert worst == {"headline", *(attack.name for attack in attacks)}
    best = attacks[0].groups[0].name
    assert metrics[f"privacy/rmia/group/{best}/auc_low"] <= metrics[f"privacy/rmia/group/{best}/auc"]


def test_rates_are_looked_at_where_the_group_itself_has_nonmembers_enough():
    ranks, member, label = leaky(12_000, 6, [0.99, 0.01], [0.0, 3.0])
    worst = by_class(ranks, member, label)[0]
    assert worst.label == "1"
    assert looked_at(worst.n_nonmembers) == (0.1,)
    assert set(worst.worse) <= {"tpr_at_fpr_0.1", "auc"}
