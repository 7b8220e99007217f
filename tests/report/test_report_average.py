"""Averages over targets: closed form, coverage, and that what is not resolvable stays so."""

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import roc_curve
from mlflow_privacy.report.average import average, average_roc, t_interval
from mlflow_privacy.report.average_figures import average_figure, target_roc
from mlflow_privacy.report.average_tables import (
    ACROSS,
    NOT_RESOLVABLE,
    WITHIN,
    average_arrays,
    average_csv,
    average_flat_metrics,
    average_rows,
    metric_parts,
)
from mlflow_privacy.report.example import example_result
from mlflow_privacy.types import Estimate, Roc

NAN = Estimate(math.nan, math.nan, math.nan, 10, resolvable=False)


@pytest.fixture(scope="module")
def results():
    return [example_result(n=300, seed=seed) for seed in range(3)]


def trapezoid(x, y):
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


@pytest.mark.parametrize("n", [2, 3, 8])
def test_t_interval_equals_scipys(n):
    values = np.random.default_rng(n).uniform(0.4, 0.6, n)
    ours = t_interval(values, 0.9)
    low, high = stats.t.interval(0.9, n - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose([ours.low, ours.high], np.clip([low, high], 0, 1))
    assert (ours.n, ours.confidence) == (n, 0.9)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_t_interval_covers_the_mean_over_further_targets(n):
    rng = np.random.default_rng(n)
    draws = rng.normal(0.6, 0.02, (3000, n))
    found = [t_interval(values) for values in draws]
    covered = np.mean([e.low <= 0.6 <= e.high for e in found])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 3000)
    # The normal quantile in its place does not cover: the test would notice.
    half = 1.96 * draws.std(1, ddof=1) / math.sqrt(n)
    assert np.mean(np.abs(draws.mean(1) - 0.6) <= half) < 0.91


def test_two_targets_give_a_wide_interval_that_stays_inside_0_and_1():
    wide = t_interval([0.02, 0.06])
    assert (wide.low, round(wide.high, 3)) == (0.0, round(0.04 + 12.706 * 0.02, 3))
    assert t_interval([0.9, 1.0]).high == 1.0


def test_one_target_has_no_interval_across_targets_and_none_is_an_error():
    one = t_interval([0.7])
    assert one.value == 0.7
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    with pytest.raises(DesignError, match="at least one target"):
        t_interval([])


def test_what_no_target_resolves_is_not_resolved_by_their_average():
    assert not average([NAN, NAN]).resolvable
    some = average([Estimate(0.2, 0.1, 0.3, 9), NAN, Estimate(0.4, 0.1, 0.5, 9)])
    assert some.value == pytest.approx(0.3)
    assert some.n == 2


def test_agreement_to_the_last_digit_is_not_certainty():
    same = average([Estimate(0.0, 0.0, 0.02, 9), Estimate(0.0, 0.0, 0.04, 9)])
    assert (same.low, same.high) == (0.0, pytest.approx(0.03))
    perfect = Roc(*(np.array(v, float) for v in ([0, 0, 1], [0, 1, 1], [np.inf, 1, 0], [0, 0.8, 0.9], [0.5, 1, 1])))
    assert average_roc([perfect, perfect], 50).tpr_low[0] == pytest.approx(0.8)


def test_average_curve_equals_a_naive_twin(results):
    rocs = [r.attacks[0].roc for r in results]
    mean = average_roc(rocs, 300)
    for grid, value in list(zip(mean.fpr, mean.tpr, strict=True))[::37]:
        naive = np.mean([max(t for f, t in zip(r.fpr, r.tpr, strict=True) if f <= grid + 1e-9) for r in rocs])
        assert value == pytest.approx(naive)
    assert mean.fpr[0] == 0
    assert mean.fpr[1] == pytest.approx(1 / 300)  # nothing below what 300 non-members resolve
    assert (np.diff(mean.tpr) >= 0).all()
    assert ((mean.tpr_low <= mean.tpr) & (mean.tpr <= mean.tpr_high)).all()


def test_area_under_the_slanted_average_is_the_average_auc_also_with_ties():
    rng = np.random.default_rng(0)
    member = np.arange(400) < 200
    ranks = [np.round(rng.normal(size=400) + member, 0) for _ in range(3)]  # many ties
    rocs = [roc_curve(r, member) for r in ranks]
    aucs = [trapezoid(r.fpr, r.tpr) for r in rocs]
    mean = average_roc(rocs, 200, slanted=True)
    assert trapezoid(mean.fpr, mean.tpr) == pytest.approx(np.mean(aucs), abs=2e-3)
    stepped = average_roc(rocs, 200)
    assert trapezoid(stepped.fpr, stepped.tpr) < np.mean(aucs) - 0.02


def test_shuffling_the_targets_changes_nothing_but_their_numbers(results):
    forth, back = ([("mlp", r) for r in order] for order in (results, results[::-1]))
    assert average_flat_metrics(forth) == pytest.approx(average_flat_metrics(back))


def test_figures_are_averaged_and_scores_never_pooled(results):
    """A target whose scores are on another scale leaves the average where it is; pooled scores would not."""
    import dataclasses

    attack = results[1].attacks[0]
    scaled = dataclasses.replace(attack, scores=dataclasses.replace(attack.scores, value=attack.scores.value * 100))
    other = dataclasses.replace(results[1], attacks=(scaled, *results[1].attacks[1:]))
    plain = average_flat_metrics([("m", results[0]), ("m", results[1])])
    assert average_flat_metrics([("m", results[0]), ("m", other)]) == plain


def test_table_names_both_kinds_of_interval_and_what_is_not_resolvable(results):
    named = [("a", results[0]), ("b", results[1]), ("a", results[2])]
    rows = list(csv.DictReader(io.StringIO(average_csv(named).decode())))
    rmia = [row for row in rows if row["attack"] == "rmia"]
    assert [(r["variant"], r["target"], r["interval"], r["n_targets"]) for r in rmia] == [
        ("a", "0", WITHIN, "1"),
        ("a", "2", WITHIN, "1"),
        ("a", "average", ACROSS, "2"),
        ("b", "1", WITHIN, "1"),
        ("b", "average", ACROSS, "1"),
    ]
    assert {r["tpr_at_fpr_0.001"] for r in rmia} == {NOT_RESOLVABLE}
    assert {r["tpr_at_fpr_0.001_low"] for r in rmia} == {""}
    assert float(rmia[2]["auc"]) == pytest.approx((float(rmia[0]["auc"]) + float(rmia[1]["auc"])) / 2, abs=1e-6)
    assert rmia[4]["auc"] == rmia[3]["auc"]
    assert rmia[4]["auc_low"] == ""
    assert len(rows) == len(average_rows(named)) == 4 * 5


def test_metrics_equal_the_table_and_have_names_that_mlflow_takes(results):
    from mlflow.utils.validation import _validate_metric_name

    long = "x" * 400
    named = [("org/model", results[0]), ("org/model", results[1]), (long, results[2])]
    metrics = average_flat_metrics(named)
    for name in metrics:
        _validate_metric_name(name)
        assert len(name) <= 250
    row = next(r for r in average_rows(named) if r["target"] == "average")
    (part, _) = metric_parts(["org/model", long])
    assert metrics[f"average/{part}/rmia/auc_high"] == row["auc_high"]
    assert not any("0.001" in name for name in metrics)
    assert len(set(metric_parts(["a/b", "a_b", "a:b"]))) == 3


def test_arrays_hold_the_average_and_nan_where_it_is_not_resolvable(results):
    arrays = average_arrays([("m", r) for r in results])
    assert arrays["auc"] == pytest.approx(np.mean([r.attacks[0].metrics["auc"].value for r in results]))
    assert np.isnan(arrays["one_tenth_fpr"])
    assert arrays["n_targets"] == 3
    assert "a/fpr" in average_arrays([("a", results[0]), ("b", results[1])])


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("names", ["mmm", "aab", "a"])
def test_figures_are_drawn_for_one_target_and_for_many(results, names, log):
    from PIL import Image

    content = average_figure(list(zip(names, results, strict=False)), log=log, title="$x$ & <b>")
    image = Image.open(io.BytesIO(content))
    assert image.size[0] == 1008
    assert 500 < image.size[1] < 1000
    assert len(content) < 200_000
    assert target_roc(results[0], log=log) != content
