"""An audit names the class that a model leaks, where the average over all records hides it."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.decide.gate import check_gate, check_policy
from mlflow_privacy.decide.policy import parse_policy
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.report.text import headline_attack, overall_verdict, verdict, worst_group
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

OPTIONS = AuditOptions(num_ref_models=4, blind_baseline=False, progress=False)


@pytest.fixture(scope="module")
def target():
    """A forest whose class weights let 14 % of the records, the defaulters, count six times as much."""
    rng, n = np.random.default_rng(0), 1600
    x = rng.normal(size=(n, 6))
    y = (x[:, 0] + 1.5 * rng.normal(size=n) > 1.9).astype(int)
    member = rng.permutation(n) < n // 2
    forest = RandomForestClassifier(40, max_depth=6, min_samples_leaf=8, class_weight="balanced", random_state=0)
    forest.fit(x[member], y[member])
    return AuditTarget(
        AuditedModel("memory", None, None, None, None, "sklearn", forest),
        Records(x, y, np.array([f"row:{i}" for i in range(n)])),
        member,
        "classification",
        recipe=make_recipe(forest, task="classification"),
        label_name="default",
    )


def test_the_exposed_class_is_named_with_its_own_figures(target):
    result = audit(target, OPTIONS)
    group = worst_group(result)
    assert (group.slicing, group.label) == ("class", "1")
    assert group.metrics["tpr_at_fpr_0.1"].low > 0.4
    assert group.others["tpr_at_fpr_0.1"].high < 0.35
    assert "“default: 1”" in verdict(result)
    assert "default" not in overall_verdict(result)
    metrics = result.metrics
    assert metrics["privacy/headline/group/class_1/tpr_at_fpr_0.1"] == round(group.metrics["tpr_at_fpr_0.1"].value, 6)
    assert metrics["privacy/headline/worst_group/tpr_at_fpr_0.1_low"] == round(group.metrics["tpr_at_fpr_0.1"].low, 6)
    assert {"privacy/lira/worst_group/auc", "privacy/bavaria/worst_group/auc"} <= metrics.keys()
    others = {"rmia", "lira", "bavaria", "learned", "rmia_offline"} - {result.headline}
    assert not any(key.startswith(f"privacy/{name}/group/") for key in metrics for name in others)


def test_intervals_of_one_audit_do_not_contradict_each_other(target):
    """Whoever accepts more false alarms recognises no fewer: of all records, of every group, and of the worst."""
    metrics = audit(target, OPTIONS).metrics
    for part in ("", "worst_group/", "group/class_0/", "group/class_1/"):
        keys = [f"privacy/headline/{part}tpr_at_fpr_{fpr}" for fpr in ("0", "0.001", "0.01", "0.1")]
        keys = [key for key in keys if key in metrics]
        assert len(keys) >= 2
        for end in ("", "_low", "_high"):
            found = [metrics[key + end] for key in keys]
            assert found == sorted(found)


def test_gate_and_policy_hold_a_limit_against_the_worst_group(target):
    metrics = audit(target, OPTIONS).metrics
    whole, worst = "headline/tpr_at_fpr_0.1", "headline/worst_group/tpr_at_fpr_0.1"
    assert check_gate(metrics, {whole: 0.5}) == ()
    assert [breach.metric for breach in check_gate(metrics, {worst: 0.5})] == [f"privacy/{worst}"]
    rules = [{"metric": name, "max": 0.5} for name in (whole, worst, "headline/group/class_0/auc")]
    policy = parse_policy({"rules": rules, "allow_caution": True, "allow_weak": True})
    assert {breach.metric for breach in check_policy(metrics, policy)} == {
        f"privacy/{worst}",
        "privacy/headline/group/class_0/auc",
    }
    unresolved = check_gate(metrics, {"headline/worst_group/tpr_at_fpr_0.0001": 1.0})
    assert "could not resolve" in unresolved[0].line
    with pytest.raises(ConfigError, match="headline/group/class_7/auc is not a metric of this audit"):
        check_gate(metrics, {"headline/group/class_7/auc": 0.6})


def test_slices_named_by_the_user_are_groups_too(target):
    result = audit(target, OPTIONS.model_copy(update={"slices": ["0"]}))
    assert {group.slicing for group in headline_attack(result).groups} == {"class", "0"}
    assert any(key.startswith("privacy/headline/group/0_") for key in result.metrics)


def test_a_limit_on_the_worst_group_is_known_before_anything_is_trained(target):
    limits = {"headline/worst_group/tpr_at_fpr_0.01": 0.05, "headline/worst_group/tpr_at_fpr_0": 0.05}
    with pytest.raises(ConfigError) as error:
        audit(target, OPTIONS.model_copy(update={"thresholds": limits}))
    assert "'headline/worst_group/tpr_at_fpr_0'" in str(error.value)
    assert "'headline/worst_group/tpr_at_fpr_0.01'" not in str(error.value).split("did you mean")[0]
