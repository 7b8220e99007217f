"""A privacy policy: its file, what breaks it, and the verdict on the version."""

import contextlib
import dataclasses
import json
import math

import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.models import EvaluationResult

from mlflow_privacy.cli import main
from mlflow_privacy.decide.gate import AuditFacts, check_policy, policy_thresholds, read_facts
from mlflow_privacy.decide.policy import load_policy, parse_policy
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.report.example import example_result
from mlflow_privacy.store import results
from mlflow_privacy.types import AuditedModel, Estimate

METRICS = {
    "privacy/rmia/auc": 0.7,
    "privacy/rmia/auc_low": 0.65,
    "privacy/rmia/auc_high": 0.75,
    "privacy/rmia/tpr_at_fpr_0.01": 0.04,
    "privacy/rmia/tpr_at_fpr_0.01_low": 0.02,
    "privacy/rmia/tpr_at_fpr_0.01_high": 0.08,
    "privacy/blind/auc": 0.51,
    "privacy/blind/auc_low": 0.45,
    "privacy/blind/auc_high": 0.56,
    "privacy/fidelity/target_nonmember_accuracy": 0.9,
}
FACTS = AuditFacts(n_nonmembers=500, n_references=8, audited_at=1_790_000_000_000, run_id="r1")
NOW = 1_790_000_000 + 10 * 86400


def policy(*rules, **conditions):
    return parse_policy({"rules": list(rules), **conditions})


def lines(of, metrics=METRICS, facts=FACTS):
    return [breach.line for breach in check_policy(metrics, of, facts=facts, now=NOW)]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"metric": "rmia/auc", "max": 0.7}, True),
        ({"metric": "privacy/rmia/auc", "max": 0.69}, False),
        ({"metric": "rmia/auc", "max": 0.7, "end": "upper"}, False),
        ({"metric": "rmia/auc", "max": 0.75, "end": "upper"}, True),
        ({"metric": "rmia/auc", "max": 0.65, "end": "lower"}, True),
        ({"metric": "fidelity/target_nonmember_accuracy", "min": 0.9}, True),
        ({"metric": "fidelity/target_nonmember_accuracy", "min": 0.91}, False),
        ({"metric": "rmia/auc", "min": 0.66, "end": "lower"}, False),
    ],
)
def test_a_rule_is_kept_up_to_and_including_its_bound(rule, kept):
    assert (lines(policy(rule)) == []) == kept


def test_an_audit_without_references_breaks_every_rule_unless_that_is_allowed():
    rule, weak = {"metric": "rmia/auc", "max": 1.0}, dataclasses.replace(FACTS, n_references=0)
    assert "no reference models" in lines(policy(rule), facts=weak)[0]
    assert lines(policy(rule, allow_weak=True), facts=weak) == []
    assert lines(policy({**rule, "allow_weak": True}), facts=weak) == []
    assert lines(policy(rule)) == []


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"min_nonmembers": 501}, "the audit had 500 non-members, the policy asks for 501"),
        ({"required_references": 9}, "the audit had 8 reference models, the policy asks for 9"),
        ({"max_age_days": 9}, "the audit is 10.0 days old, the policy asks for at most 9"),
    ],
)
def test_an_audit_that_does_not_meet_a_condition_breaks_the_rule_whatever_its_figure(conditions, said):
    good = {"metric": "rmia/auc", "max": 1.0}
    met = {"min_nonmembers": 500, "required_references": 8, "max_age_days": 11}
    assert lines(policy({**good, **met})) == []
    for of in (policy({**good, **conditions}), policy(good, **conditions)):  # of the rule, or of the whole policy
        assert lines(of) == [f"privacy/rmia/auc: {said}"]
        assert "does not say" in lines(of, facts=AuditFacts())[0]
    (name,) = conditions
    assert lines(policy({**good, name: met[name]}, **conditions)) == []  # a rule's own condition wins


def test_a_blind_baseline_that_separates_breaks_a_rule_unless_it_is_allowed():
    drifted = {**METRICS, "privacy/blind/auc": 0.7, "privacy/blind/auc_low": 0.65, "privacy/blind/auc_high": 0.75}
    missing = {key: value for key, value in METRICS.items() if "blind" not in key}
    rule = {"metric": "rmia/auc", "max": 1.0}
    assert "blind baseline 0.7 [0.65, 0.75]" in lines(policy(rule), drifted)[0]
    assert "no blind baseline was run" in lines(policy(rule), missing)[0]
    for metrics in (drifted, missing):
        assert lines(policy({**rule, "allow_caution": True}), metrics) == []
        assert lines(policy(rule, allow_caution=True), metrics) == []
    assert lines(policy({"metric": "blind/auc", "max": 0.8}), drifted) == []  # it is about the baseline itself


def test_a_blind_baseline_below_one_half_breaks_nothing():
    below = {**METRICS, "privacy/blind/auc": 0.467, "privacy/blind/auc_low": 0.436, "privacy/blind/auc_high": 0.499}
    assert lines(policy({"metric": "rmia/auc", "max": 1.0}), below) == []


def test_what_was_not_resolved_is_a_breach_unless_the_policy_says_otherwise():
    rule = {"metric": "rmia/tpr_at_fpr_0.0001", "max": 1.0}
    assert "could not resolve it" in lines(policy(rule))[0]
    assert lines(policy({**rule, "require_resolved": False})) == []
    (breach,) = check_policy(METRICS, policy(rule), facts=FACTS, now=NOW)
    assert math.isnan(breach.value)


def test_all_wrong_names_of_a_policy_come_together():
    with pytest.raises(ConfigError) as error:
        check_policy(METRICS, policy({"metric": "rmai/auc", "max": 0.6}, {"metric": "blindd/auc", "max": 0.6}))
    assert len(str(error.value).splitlines()) == 3
    assert "did you mean rmia/auc" in str(error.value)


def test_all_faults_of_a_file_come_together_with_the_nearest_keys(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "rules:\n"
        "  - {metric: rmia/auc, maks: 0.6}\n"
        "  - {metric: rmia/auc, max: 0.6, min: 0.5}\n"
        "  - {metric: rmia/auc, max: high, end: top}\n"
        "  - {max: true}\n"
        "max_age_day: 3\n"
    )
    with pytest.raises(ConfigError) as error:
        load_policy(path)
    text = str(error.value)
    assert "rules.0: got an unexpected key 'maks', did you mean 'max'?" in text
    assert "rules.1: give exactly one of max and min" in text
    assert "rules.2.max" in text
    assert "rules.2.end" in text
    assert "rules.3.metric: field required" in text
    assert "rules.3.max: must be a number" in text
    assert "did you mean 'max_age_days'" in text
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: []", "at least 1 item"),
        ("[1]", "must be a mapping"),
        ("rules: [{metric: rmia/auc, max: 5}]", r"must be in \[0, 1\], got 5 \(for 5 % write 0.05\)"),
        ("rules: [{metric: rmia/auc_high, max: 0.5}]", "say end: lower or end: upper"),
        ("rules: [{metric: rmia/auc, max: .inf}]", "finite"),
        ("rules: !!python/object/apply:os.system [ls]", "not plain YAML"),
        ("rules: [{metric: a/auc, max: 0.5}]\nrules: [{metric: a/auc, max: 0.9}]", "appears twice"),
    ],
)
def test_a_policy_that_would_not_do_what_it_says_is_refused(tmp_path, text, said):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_policy(path)


def test_thresholds_of_a_policy_decide_as_mlflow_decides():
    import mlflow

    strict = policy({"metric": "rmia/auc", "max": 0.9}, {"metric": "rmia/auc", "max": 0.72, "end": "upper"})
    loose = policy({"metric": "rmia/auc", "max": 0.9}, {"metric": "fidelity/target_nonmember_accuracy", "min": 0.8})
    result = EvaluationResult(metrics=METRICS, artifacts={})
    for of, kept in ((strict, False), (loose, True)):
        call = lambda of=of: mlflow.validate_evaluation_results(
            candidate_result=result, validation_thresholds=policy_thresholds(of)
        )
        if kept:
            call()
        else:
            with pytest.raises(MlflowException, match="privacy/rmia/auc_high"):
                call()
    both = policy({"metric": "rmia/auc", "max": 0.9}, {"metric": "rmia/auc", "max": 0.6})
    assert policy_thresholds(both)["privacy/rmia/auc"].threshold == 0.6
    with pytest.raises(ConfigError, match="one threshold per metric"):
        policy_thresholds(policy({"metric": "rmia/auc", "max": 0.9}, {"metric": "rmia/auc", "min": 0.6}))


# --- through MLflow ----------------------------------------------------------------------------------------------


@pytest.fixture
def publish(tracking, monkeypatch):
    """Registers a version that holds nothing and publishes an audit of it; returns its URI."""
    monkeypatch.setattr(results, "roc_figure", lambda result: b"")
    monkeypatch.setattr(results, "score_histograms", lambda result: b"")
    monkeypatch.setattr(results, "_write_report", lambda *args, **given: [])
    experiment = tracking.get_experiment_by_name("test").experiment_id

    def publish(**changes):
        with contextlib.suppress(MlflowException):
            tracking.create_registered_model("credit")
        source = tracking.create_run(experiment).info.run_id
        model_id = tracking.create_logged_model(experiment, name="model", source_run_id=source).model_id
        version = str(tracking.create_model_version("credit", f"models:/{model_id}", source).version)
        model = AuditedModel(f"models:/credit/{version}", "credit", version, model_id, source, "sklearn")
        run_id = tracking.create_run(experiment).info.run_id
        result = dataclasses.replace(example_result(n=200, model=model), **changes)
        results.publish(result, run_id=run_id, client=tracking, log_metrics=True)
        tracking.set_terminated(run_id)
        return model.uri, run_id

    return publish


@pytest.fixture
def gate(tmp_path):
    def gate(uri, *args, **rules):
        path = tmp_path / "privacy_policy.yaml"
        path.write_text(json.dumps(rules))
        return CliRunner().invoke(main, ["gate", uri, "--policy", str(path), *args])

    return gate


def test_exit_codes_and_the_verdict_on_the_version(publish, gate, tracking):
    uri, run_id = publish()
    tags = lambda: {k: v for k, v in tracking.get_model_version("credit", "1").tags.items() if "gate" in k}
    metrics, facts = read_facts(uri, tracking)
    assert (facts.n_nonmembers, facts.n_references, facts.run_id) == (200, 8, run_id)
    auc = metrics["privacy/rmia/auc"]

    kept = gate(uri, rules=[{"metric": "rmia/auc", "max": 0.99}])
    assert (kept.exit_code, tags()) == (0, {})
    assert "passes: policy privacy_policy.yaml" in kept.output

    kept = gate(uri, "--tag", rules=[{"metric": "rmia/auc", "max": 0.99}], max_age_days=1, min_nonmembers=200)
    first = tags()
    assert kept.exit_code == 0
    assert (first["privacy.gate"], first["privacy.gate_audit"]) == ("pass", run_id)

    broken = gate(uri, "--tag", rules=[{"metric": "rmia/auc", "max": 0.55}], min_nonmembers=201)
    assert broken.exit_code == 1
    assert broken.output.splitlines() == [
        "privacy/rmia/auc: the audit had 200 non-members, the policy asks for 201",
        f"privacy/rmia/auc: {auc:g} exceeds 0.55",
    ]
    assert tags()["privacy.gate"] == "fail"
    assert tags()["privacy.gate_policy"] != first["privacy.gate_policy"]

    for question in (
        gate(uri, "--tag", rules=[{"metric": "nothing/auc", "max": 0.55}]),
        gate(uri, "--tag", rules=[]),
        gate("models:/credit/7", "--tag", rules=[{"metric": "rmia/auc", "max": 0.55}]),
    ):
        assert question.exit_code == 2
    assert tags()["privacy.gate"] == "fail"  # a question that was not answered leaves no verdict


def test_an_alias_is_tagged_on_the_version_it_means(publish, gate, tracking):
    publish()
    publish(blind=Estimate(0.8, 0.75, 0.85, 400))
    tracking.set_registered_model_alias("credit", "candidate", "2")
    result = gate("models:/credit@candidate", "--tag", rules=[{"metric": "rmia/auc", "max": 0.99}])
    assert result.exit_code == 1
    assert "differ without the model" in result.output
    assert tracking.get_model_version("credit", "2").tags["privacy.gate"] == "fail"
    assert "privacy.gate" not in tracking.get_model_version("credit", "1").tags


def test_an_audit_of_another_model_does_not_let_this_one_pass(publish, gate, tracking):
    (one, _), (_, other_run) = publish(), publish()
    result = gate(one, "--tag", "--run-id", other_run, rules=[{"metric": "rmia/auc", "max": 0.99}])
    assert result.exit_code == 2
    assert "is no audit of" in result.output
    assert "privacy.gate" not in tracking.get_model_version("credit", "1").tags


def test_limits_and_policy_hold_together_but_only_a_policy_is_tagged(publish, gate, tracking):
    uri, _ = publish()
    rules = [{"metric": "rmia/auc", "max": 0.99}]
    assert gate(uri, "--max", "rmia/auc=0.99", rules=rules).exit_code == 0
    assert gate(uri, "--max", "rmia/auc=0.5", rules=rules).exit_code == 1
    assert gate(uri, "--tag", "--max", "rmia/auc=0.5", rules=rules).exit_code == 2
    assert CliRunner().invoke(main, ["gate", uri, "--tag", "--max", "rmia/auc=0.99"]).exit_code == 2
