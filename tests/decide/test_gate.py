from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_privacy.decide.gate import Breach, check_gate, parse_limit
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.report.example import example_result

METRICS = {
    "privacy/rmia/auc": 0.7,
    "privacy/rmia/auc_low": 0.6,
    "privacy/rmia/auc_high": 0.8,
    "privacy/rmia/tpr_at_fpr_0.01": 0.04,
    "privacy/rmia/tpr_at_fpr_0.01_low": 0.02,
    "privacy/rmia/tpr_at_fpr_0.01_high": 0.06,
    "privacy/fidelity/target_member_accuracy": 0.99,
    "accuracy": 0.9,
}


@pytest.mark.parametrize("name", ["rmia/auc", "privacy/rmia/auc"])
def test_a_metric_above_its_limit_is_a_breach(name):
    assert check_gate(METRICS, {name: 0.6}) == (Breach("privacy/rmia/auc", 0.7, 0.6, "value"),)
    assert check_gate(METRICS, {name: 0.7}) == ()


def test_the_upper_end_of_the_interval_is_the_stricter_gate():
    limits = {"rmia/auc": 0.75, "rmia/tpr_at_fpr_0.01": 0.05}
    assert check_gate(METRICS, limits) == ()
    assert [(b.value, b.bound) for b in check_gate(METRICS, limits, upper=True)] == [(0.8, "upper"), (0.06, "upper")]


@given(st.floats(0, 1), st.floats(0, 1))
def test_gate_breaches_exactly_above_the_limit(value, limit):
    assert bool(check_gate({"privacy/a/auc": value}, {"a/auc": limit})) == (value > limit)


@pytest.mark.parametrize("upper", [False, True])
def test_a_tpr_that_was_not_resolvable_is_a_breach_and_never_a_pass(upper):
    (breach,) = check_gate(METRICS, {"rmia/tpr_at_fpr_0.0001": 1.0}, upper=upper)
    assert math.isnan(breach.value)
    assert "could not resolve" in breach.line


def test_nan_is_a_breach():
    assert len(check_gate({"privacy/rmia/auc": math.nan}, {"rmia/auc": 1.0})) == 1


def test_all_faults_come_together_with_the_nearest_names():
    with pytest.raises(ConfigError) as error:
        check_gate(METRICS, {"rmai/auc": 0.6, "rmia/tpr_at_fpr_O.01": 0.1, "accuracy": 0.5, "rmia/auc": 60})
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert "did you mean rmia/auc" in lines[1]
    assert "rmia/tpr_at_fpr_0.01" in lines[2]
    assert "privacy/accuracy is not a metric of this audit" in lines[3]
    assert "must be in [0, 1], got 60" in lines[4]


def test_an_unknown_attack_is_an_error_also_for_a_tpr():
    with pytest.raises(ConfigError, match=r"lira/tpr_at_fpr_0\.01 is not a metric"):
        check_gate(METRICS, {"lira/tpr_at_fpr_0.01": 0.1})


def test_a_metric_without_an_interval_has_no_upper_end():
    name = "fidelity/target_member_accuracy"
    assert check_gate(METRICS, {name: 1.0}) == ()
    with pytest.raises(ConfigError, match="has no interval"):
        check_gate(METRICS, {name: 1.0}, upper=True)


def test_a_gate_without_limits_or_metrics_is_an_error():
    with pytest.raises(ConfigError, match="at least one limit"):
        check_gate(METRICS, {})
    with pytest.raises(ConfigError, match="it has none"):
        check_gate({}, {"rmia/auc": 0.6})


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_a_limit_that_nothing_exceeds_is_an_error(limit):
    with pytest.raises(ConfigError, match="finite"):
        check_gate(METRICS, {"rmia/auc": limit})


@pytest.mark.parametrize("text", ["rmia/auc", "=0.5", "rmia/auc=", "rmia/auc=high", "rmia/auc=nan", "rmia/auc=inf"])
def test_a_malformed_limit_says_what_a_limit_looks_like(text):
    with pytest.raises(ConfigError, match=r"rmia/tpr_at_fpr_0.01=0.05"):
        parse_limit(text)


def test_a_limit_is_parsed():
    assert parse_limit(" rmia/auc = 0.6") == ("rmia/auc", 0.6)


def test_a_real_audit_can_be_gated():
    result = example_result(n=500)
    assert (
        check_gate(result.metrics, {"rmia/auc": 1.0, "rmia/tpr_at_fpr_0.01": 1.0, "blind/auc": 0.6}, upper=True) == ()
    )
    assert len(check_gate(result.metrics, {"rmia/tpr_at_fpr_0.0001": 1.0})) == 1


def test_an_audit_without_references_passes_only_where_that_is_allowed():
    weak = {"privacy/loss/auc": 0.52, "privacy/fidelity/target_member_loss": 0.4}
    (breach,) = check_gate(weak, {"loss/auc": 0.6})
    assert "no reference models" in breach.line
    assert "--allow-weak" in breach.line
    assert check_gate(weak, {"loss/auc": 0.6}, allow_weak=True) == ()
    assert check_gate({**weak, "privacy/fidelity/reference_member_loss": 0.4}, {"loss/auc": 0.6}) == ()
