"""References that are no references, as of inputs that were scaled outside the model: said first, with the cause."""

import dataclasses

import numpy as np
import pytest

from mlflow_privacy.auditing.findings import large_inputs
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.decide.gate import AuditFacts, check_policy
from mlflow_privacy.decide.policy import parse_policy
from mlflow_privacy.lineage.recipe import resolve_recipe
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.markdown import markdown_verdict
from mlflow_privacy.report.sections.checks import checks, far_off
from mlflow_privacy.report.sections.verdict import finding
from mlflow_privacy.trainers import trainer_for
from mlflow_privacy.types import AuditedModel, AuditTarget, Fidelity, Records

torch = pytest.importorskip("torch")
OPTIONS = AuditOptions(num_ref_models=4, blind_baseline=False, progress=False)
RECIPE = {"optimizer": "adam", "learning_rate": 1e-2, "epochs": 40, "batch_size": 64}


def net_target(scale, *, n=400, seed=0):
    """A net on bytes; `scale` is what its training loop did to them before the net saw them."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 48)).astype(np.uint8)
    y = (x[:, :8].mean(axis=1) + 20 * rng.normal(size=n) > 127).astype(int)
    member = np.arange(n) < n // 2
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(48, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    step = torch.optim.Adam(net.parameters(), 1e-2)
    inputs = torch.tensor(scale(x[member].astype(np.float32)))
    for _ in range(120):
        step.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), torch.tensor(y[member])).backward()
        step.step()
    pool = Records(x, y, np.array([f"row:{i}" for i in range(n)]))
    recipe, _ = resolve_recipe(net, AuditOptions(), logged=RECIPE, params={}, task="classification", pool=pool)
    return AuditTarget(
        AuditedModel("m", None, None, None, None, "pytorch", net), pool, member, "classification", recipe=recipe
    )


def test_inputs_scaled_outside_the_module_are_named_first():
    result = audit(net_target(lambda x: x / 255), OPTIONS)
    assert "whole numbers from 0 to 255" in result.warnings[0]
    assert "scaled them outside the model" in result.warnings[0]
    assert "scaled them outside" in finding(result, {}).caution
    text = markdown_verdict(result)
    assert text.index("The reference models are not like this model") < text.index("| Attack")
    assert next(check for check in checks(result) if check.name == "Recipe fidelity").status == "wrong"


def test_without_references_the_loss_alone_tells():
    target = dataclasses.replace(net_target(lambda x: x / 255), recipe=None)
    assert any("scaled its inputs outside the model" in warning for warning in audit(target, OPTIONS).warnings)


def test_inputs_taken_as_they_are_raise_no_alarm():
    target = net_target(lambda x: x)
    (net,) = trainer_for(target.recipe).train(target.recipe, target.pool, target.membership[None], [7])
    result = audit(dataclasses.replace(target, model=dataclasses.replace(target.model, native=net)), OPTIONS)
    assert far_off(result) == ""
    assert not any("outside the model" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("target", "alarm"),
    [
        ({"nonmember_accuracy": 0.84, "nonmember_loss": 0.61}, False),
        ({"nonmember_accuracy": 0.55, "nonmember_loss": 0.61}, True),
        ({"nonmember_accuracy": 0.84, "nonmember_loss": 6.1}, True),
        ({"nonmember_accuracy": 0.80, "nonmember_loss": 0.9}, False),  # looked at in the table of checks
    ],
)
def test_far_is_far(target, alarm):
    result = example_result(n=400)
    own = {**result.fidelity.target, **target}
    result = dataclasses.replace(
        result, fidelity=Fidelity(own, result.fidelity.reference, result.fidelity.reference_std)
    )
    assert bool(far_off(result)) == alarm


def test_a_policy_does_not_count_figures_of_references_that_are_none():
    policy = parse_policy({"rules": [{"metric": "rmia/auc", "max": 1.0, "allow_caution": False}]})
    metrics = {"privacy/rmia/auc": 0.5, "privacy/blind/auc_low": 0.4, "privacy/blind/auc_high": 0.6}
    facts = AuditFacts(n_references=8, unlike="The reference models are not like this model: …")
    (breach,) = check_policy(metrics, policy, facts=facts)
    assert "not like this model" in breach.line


def test_numbers_that_are_large():
    import pandas as pd

    assert large_inputs(np.array([["a"]], object)) == ""
    assert large_inputs(np.random.default_rng(0).normal(size=(50, 3))) == ""
    assert large_inputs(pd.DataFrame({"a": ["x"] * 3, "b": [1000.5, 2000.0, 3000.0]})) == "values from 1000 to 3000"
    assert large_inputs(np.full((4, 2), np.nan)) == ""
