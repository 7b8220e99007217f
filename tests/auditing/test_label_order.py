"""Outputs in another order than the sorted labels are noticed; a weak or a lopsided classifier is audited."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.label_order import better_order
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.errors import SignalError
from mlflow_privacy.lineage.recipe import resolve_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

torch = pytest.importorskip("torch")
OPTIONS = AuditOptions(num_ref_models=2, blind_baseline=False, progress=False)
RECIPE = {"optimizer": "adam", "learning_rate": 1e-2, "epochs": 40, "batch_size": 64}


def confusion(label, predicted, k):
    table = np.zeros((k, k), np.int64)
    np.add.at(table, (label, predicted), 1)
    return table


@pytest.mark.parametrize("k", [2, 3, 6, 11])
def test_a_permutation_is_found_at_any_skill_worth_auditing(k):
    rng = np.random.default_rng(k)
    for skill in (0.6, 0.8, 1.0):
        label = rng.integers(0, k, 100 * k)
        order = np.roll(np.arange(k), 1)
        predicted = order[np.where(rng.random(len(label)) < skill, label, rng.integers(0, k, len(label)))]
        assert better_order(confusion(label, predicted, k)).tolist() == order.tolist()


def test_no_guessing_model_is_refused():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        k = int(rng.choice([2, 3, 5, 10]))
        n = int(rng.choice([10 * k, 40 * k]))
        often, called = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k))
        label, guess = rng.choice(k, n, p=often), rng.choice(k, n, p=called)
        skill = rng.choice([0.0, 0.1, 0.3])
        predicted = np.where(rng.random(n) < skill, label, guess)
        assert better_order(confusion(label, predicted, k)) is None


def net_target(y, names, classes=None, *, n=240, seed=0):
    """A net that knows its members by heart; `names[i]` is the label of its output i."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12)).astype(np.float32)
    index = np.array([names.index(label) for label in y.tolist()])
    member = np.arange(n) < n // 2
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(12, 64), torch.nn.ReLU(), torch.nn.Linear(64, len(names)))
    step = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        step.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.tensor(x[member])), torch.tensor(index[member])).backward()
        step.step()
    pool = Records(x, y, np.array([f"row:{i}" for i in range(n)]))
    recipe, problem = resolve_recipe(
        net, AuditOptions(), logged=RECIPE, params={}, task="classification", pool=pool, classes=classes
    )
    assert not problem
    audited = AuditedModel("models:/m/1", "m", "1", None, None, "pytorch", net)
    return AuditTarget(audited, pool, member, "classification", recipe=recipe, classes=classes)


LABELS = {
    "two names": (np.array(["no", "yes"]), ["yes", "no"]),
    "numbers": (np.array([0, 1, 2]), [2, 0, 1]),
    "numbers as texts": (np.array([str(i) for i in range(12)]), [str(i) for i in range(12)]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_another_order_asks_for_classes_and_with_them_all_models_are_read_right(kind):
    labels, names = LABELS[kind]
    y = np.random.default_rng(1).choice(labels, 240)
    with pytest.raises(SignalError, match="(?s)not in the order of its labels.*log_lineage.classes="):
        audit(net_target(y, names), OPTIONS)
    result = audit(net_target(y, names, tuple(names)), OPTIONS)
    fidelity = result.fidelity
    assert fidelity.target["member_accuracy"] > 0.95
    assert fidelity.reference["member_accuracy"] > 0.9
    assert result.metrics["privacy/rmia/auc"] > 0.6


def test_wrong_classes_are_noticed_too():
    y = np.random.default_rng(1).choice(["no", "yes"], 240)
    with pytest.raises(SignalError, match="in the order given"):
        audit(net_target(y, ["yes", "no"], ("no", "yes")), OPTIONS)


def test_a_classifier_that_is_paid_for_a_rare_class_is_audited():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(400, 3)), (rng.random(400) < 0.1).astype(int)
    member = np.arange(400) < 200
    model = LogisticRegression(class_weight={0: 1.0, 1: 40.0}).fit(x[member], y[member])
    assert (model.predict(x[member]) == y[member]).mean() < 0.3  # nearly all are called rare
    pool = Records(x, y, np.arange(400).astype(str))
    audited = AuditedModel("m", None, None, None, None, "sklearn", model)
    result = audit(AuditTarget(audited, pool, member, "classification"), OPTIONS)
    assert result.fidelity.target["member_accuracy"] < 0.3
