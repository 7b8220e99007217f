"""The true-negative rate of the loss at a false-negative rate of 1 %: a first look where there are no references."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.options import AuditOptions, parse_options
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.auditing.screening import loss_tnr
from mlflow_privacy.decide.gate import check_gate
from mlflow_privacy.decide.policy import parse_policy
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.metrics.roc import tnr_at_fnr, tpr_at_fpr
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.sections.screening import worth_references
from mlflow_privacy.report.tables import metrics_json
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Estimate, ModelOutputs, Records

NAME = "privacy/screening/loss_tnr"


def naive(signal, member, fnr):
    """Every threshold by itself: of those that miss at most so many members, the one that tells most others apart."""
    best = 0.0
    for threshold in [*signal, np.inf]:
        called_out = signal < threshold
        if called_out[member].sum() <= fnr * member.sum() + 1e-9:
            best = max(best, called_out[~member].mean())
    return best


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_best_threshold_of_a_naive_twin(seed):
    rng = np.random.default_rng(seed)
    member = rng.random(400) < 0.6
    signal = np.round(rng.normal(size=400) + 0.7 * member, 1 + seed % 2)  # with ties
    for fnr in (0.0, 0.01, 0.05, 0.3):
        assert tnr_at_fnr(signal, member, fnr).value == pytest.approx(naive(signal, member, fnr))


def test_it_is_a_tpr_with_the_roles_swapped():
    rng = np.random.default_rng(0)
    member = rng.random(500) < 0.5
    signal = rng.normal(size=500) + member
    assert tnr_at_fnr(signal, member, 0.05) == tpr_at_fpr(-signal, ~member, 0.05)
    with pytest.raises(DesignError, match="NaN"):
        tnr_at_fnr(np.where(member, signal, np.nan), member, 0.05)


def intervals(shift, trials, n=1000, scale=1.0):
    """Of members from N(shift, scale²) and non-members from N(0, 1)."""
    rng = np.random.default_rng(7)
    member = np.arange(2 * n) < n
    for _ in range(trials):
        yield tnr_at_fnr(np.where(member, shift + scale * rng.normal(size=2 * n), rng.normal(size=2 * n)), member, 0.01)


def test_where_nothing_is_there_the_interval_covers_guessing_and_is_narrow():
    found = list(intervals(0.0, 400))
    covered = np.mean([e.low <= 0.01 <= e.high for e in found])
    assert covered >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 400)
    assert np.mean([e.low > 0.01 for e in found]) <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 400)  # false alarms
    assert np.mean([e.high for e in found]) < 0.04
    assert abs(np.mean([e.value for e in found]) - 0.01) < 0.002


def test_a_planted_leak_is_found_and_its_rate_covered():
    truth = norm.cdf(1.5 + 0.5 * norm.ppf(0.01))  # the members' lower 1 % quantile, on the non-members' scale
    found = list(intervals(1.5, 200, scale=0.5))
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 200)
    assert all(e.low > 0.1 for e in found)
    assert np.mean([e.high - e.low for e in found]) < 0.25


def test_too_few_members_resolve_no_false_negative_rate_of_one_per_cent():
    assert not tnr_at_fnr(np.arange(150.0), np.arange(150) < 99, 0.01).resolvable


def outputs(link):
    signal = np.random.default_rng(0).normal(size=400)
    return ModelOutputs(signal, None, -signal, link)


def test_labels_alone_and_audits_with_references_have_none():
    member = np.arange(400) < 200
    assert loss_tnr(outputs("logit"), member, None, 0.95) is not None
    assert loss_tnr(outputs("label"), member, None, 0.95) is None
    assert loss_tnr(outputs("logit"), member, object(), 0.95) is None


def target(n=400, features=60):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, features)), rng.integers(2, size=n)
    member = rng.permutation(n) < n // 2
    model = LogisticRegression(C=1e3, max_iter=1000).fit(x[member], y[member])
    records = Records(x, y, np.array([f"row:{i}" for i in range(n)]))
    audited = AuditedModel("memory", None, None, None, None, "sklearn", model)
    return AuditTarget(audited, records, member, "classification", recipe=make_recipe(model, task="classification"))


@pytest.fixture(scope="module")
def weak():
    return audit(target(), AuditOptions(num_ref_models=0, blind_baseline=False))


def test_an_audit_without_references_has_the_figure_with_its_interval_and_says_what_it_is_worth(weak):
    metrics = weak.metrics
    assert metrics[f"{NAME}_low"] <= metrics[NAME] <= metrics[f"{NAME}_high"]
    loss = next(attack for attack in weak.attacks if attack.name == "loss")
    assert metrics[NAME] == pytest.approx(naive(loss.scores.value, weak.membership, 0.01), abs=1e-6)
    assert metrics_json(weak)["screening"]["loss_tnr"]["value"] == pytest.approx(metrics[NAME], abs=1e-6)
    (said,) = [line for line in weak.warnings if "Is it worth training reference models?" in line]
    assert f"{weak.screening.value:.2f}"[:4] in said


def test_an_audit_with_references_has_none():
    strong = audit(target(), AuditOptions(num_ref_models=2, blind_baseline=False, progress=False))
    assert strong.screening is None
    assert NAME not in strong.metrics
    assert "screening" not in metrics_json(strong)
    assert not any("Is it worth" in line for line in strong.warnings)


@pytest.mark.parametrize(
    ("figure", "begin", "part"),
    [
        (Estimate(0.07, 0.05, 0.09, 2000), "Yes:", "0.070 [0.050, 0.090]"),
        (Estimate(0.012, 0.0, 0.03, 2000), "This does not tell:", "no sign of safety"),
        (Estimate(0.0, 0.0, 0.004, 2000), "This does not tell:", "no sign of safety"),
        (Estimate(np.nan, np.nan, np.nan, 90, resolvable=False), "4,000 members are too few", "train some"),
    ],
)
def test_the_words_never_call_a_model_safe(figure, begin, part):
    said = worth_references(dataclasses.replace(example_result(), screening=figure))
    assert said.removeprefix("Is it worth training reference models? ").startswith(begin)
    assert part in said
    assert worth_references(example_result()) == ""


def test_no_gate_passes_on_it(weak):
    for given in (NAME, "screening/loss_tnr"):
        for options in ({}, {"allow_weak": True}, {"upper": True, "allow_weak": True}):
            with pytest.raises(ConfigError, match="no limit can be held against it"):
                check_gate(weak.metrics, {given: 0.99}, **options)
        with pytest.raises(ConfigError, match="no limit can be held against it"):
            parse_policy({"rules": [{"metric": given, "max": 0.99}], "allow_weak": True})
    with pytest.raises(ConfigError, match="did you mean|valid are") as caught:
        check_gate(weak.metrics, {"screening_loss_tnr": 0.99})
    assert "screening/loss_tnr" not in str(caught.value)


def test_no_limit_of_the_report_names_it():
    options = parse_options({"num_ref_models": 0, "thresholds": {"screening/loss_tnr": 0.5}, "blind_baseline": False})
    with pytest.raises(ConfigError, match="no metric of this audit"):
        audit(target(), options)
