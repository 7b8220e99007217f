"""An attack that takes members for non-members is an alarm of its own, in the verdict and for a gate."""

import dataclasses

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.decide.gate import AuditFacts, check_policy
from mlflow_privacy.decide.policy import parse_policy
from mlflow_privacy.errors import SignalError
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.markdown import markdown_verdict
from mlflow_privacy.report.sections.checks import turned_round
from mlflow_privacy.report.sections.verdict import finding
from mlflow_privacy.report.tables import audit_json
from mlflow_privacy.store.results import _caution
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Estimate, Records

OPTIONS = AuditOptions(num_ref_models=4, blind_baseline=False, progress=False)


def tree_target(*, swapped):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300)
    member = np.arange(300) < 150
    pool = Records(x, y, np.arange(300).astype(str))
    tree = DecisionTreeClassifier(random_state=0)
    recipe = make_recipe(tree, task="classification", data=pool)
    audited = AuditedModel("m", None, None, None, None, "sklearn", tree.fit(x[member], y[member]))
    return AuditTarget(audited, pool, ~member if swapped else member, "classification", recipe=recipe)


def test_swapped_members_are_told_first_everywhere():
    result = audit(
        tree_target(swapped=True), AuditOptions(**{**OPTIONS.model_dump(), "allow_unfamiliar_members": True})
    )
    said = turned_round(result)
    assert "takes members for non-members" in said
    assert "training and held-out data are swapped" in said
    assert said in result.warnings
    assert said in finding(result, {}).caution
    assert "something is turned round" in _caution(result)
    text = markdown_verdict(result)
    assert text.index("Something is turned round:") < text.index("| Attack")
    assert text.count("Something is turned round") == 1
    assert audit_json(result)["turned_round"] == said


def test_a_gate_does_not_pass_it():
    policy = parse_policy({"rules": [{"metric": "rmia/auc", "max": 0.6, "allow_caution": False}]})
    metrics = {"privacy/rmia/auc": 0.1, "privacy/blind/auc_low": 0.4, "privacy/blind/auc_high": 0.6}
    (breach,) = check_policy(metrics, policy, facts=AuditFacts(n_references=8, unlike="Something is turned round: …"))
    assert "turned round" in breach.line


@pytest.mark.parametrize(("low", "high", "told"), [(0.1, 0.2, True), (0.42, 0.5, False), (0.44, 0.52, False)])
def test_only_an_interval_wholly_below_one_half_counts(low, high, told):
    result = example_result(n=200)
    attacks = tuple(
        dataclasses.replace(attack, metrics={**attack.metrics, "auc": Estimate((low + high) / 2, low, high, 400)})
        for attack in result.attacks
    )
    assert bool(turned_round(dataclasses.replace(result, attacks=attacks))) is told


def test_an_audit_as_it_should_be_has_no_such_word():
    result = audit(tree_target(swapped=False), OPTIONS)
    assert turned_round(result) == ""
    assert not any("turned round" in warning for warning in result.warnings)


@pytest.mark.parametrize("depth", [4, None], ids=["that fits a little", "that fits well"])
def test_a_pyfunc_of_unnamed_columns_in_another_order(depth):
    """One that fits its records well is refused; of a weaker one the figures themselves tell."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300)
    tree = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(x[:150], y[:150])
    pool = Records(x, y, np.arange(300).astype(str))

    class Reversed:
        def predict(self, x):
            return tree.predict_proba(x)[:, ::-1]

    audited = AuditedModel("m", None, None, None, None, "pyfunc", Reversed())
    target = AuditTarget(audited, pool, np.arange(300) < 150, "classification")
    if depth is None:
        with pytest.raises(SignalError, match=r"not in the order of its labels .*classes=\[1, 0\]"):
            audit(target, OPTIONS)
    else:
        assert "stand in another order than the labels" in turned_round(audit(target, OPTIONS))
    result = audit(dataclasses.replace(target, classes=(1, 0)), OPTIONS)
    assert result.attacks[0].metrics["auc"].low > 0.6
