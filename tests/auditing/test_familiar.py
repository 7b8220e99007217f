"""A model that does not know its own records is refused; no honest one is, however weak."""

import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlflow_privacy.auditing.familiar import check_logged_quality, unfamiliar
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.errors import LineageError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, LoggedQuality, Records

KINDS = {
    "logistic": lambda seed: LogisticRegression(C=1e2, max_iter=200),
    "bayes": lambda seed: GaussianNB(),
    "stump": lambda seed: DecisionTreeClassifier(max_depth=2, random_state=seed),
    "tree": lambda seed: DecisionTreeClassifier(random_state=seed),
    "forest": lambda seed: RandomForestClassifier(10, random_state=seed),
}


def draw(rng, n, weights, noise):
    x = rng.normal(size=(n, len(weights)))
    return x, (x @ weights + noise * rng.normal(size=n) > 0).astype(int)


def treats(kind, *, n, width, noise, share, seed, honest, really=None):
    """What `unfamiliar` says of a model that was trained on its members, or on other records of the distribution."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=width) / np.sqrt(width)
    x, y = draw(rng, 2 * n, weights, noise)
    member = np.arange(2 * n) < int(2 * n * share)
    trained = (x[member], y[member]) if honest else draw(rng, int(member.sum()), weights, noise)

    def outputs(model):
        records = Records(x, y, np.arange(2 * n).astype(str))
        return model_outputs(model, records, task="classification", classes=np.array([0, 1]))

    rows = []
    for _ in range(2):
        half = rng.permutation(2 * n) < n
        rows += [half, ~half]
    references = [outputs(KINDS[kind](j).fit(x[row], y[row])) for j, row in enumerate(rows)]
    target = outputs(KINDS[really or kind](99).fit(*trained))
    return unfamiliar(target, member, references, np.array(rows).T)


@pytest.mark.parametrize("kind", KINDS)
def test_no_honest_model_is_refused(kind):
    rng = np.random.default_rng(5)
    for seed in range(24):
        case = {"n": int(rng.choice([40, 100, 300])), "width": int(rng.choice([3, 20, 90]))}
        case |= {"noise": float(rng.choice([0.1, 1.0, 5.0])), "share": float(rng.choice([0.5, 0.7, 0.9]))}
        assert treats(kind, **case, seed=seed, honest=True) == "", case


@pytest.mark.parametrize(("recipe", "really"), [("tree", "stump"), ("forest", "stump"), ("tree", "bayes")])
def test_a_gentler_training_than_the_recipe_says_is_not_taken_for_other_records(recipe, really):
    for seed in range(8):
        case = {"n": 200, "width": 8, "noise": 1.0, "share": 0.5}
        assert treats(recipe, **case, seed=seed, honest=True, really=really) == ""


@pytest.mark.parametrize("kind", ["tree", "forest"])
def test_other_records_than_the_model_was_trained_on_are_found(kind):
    for seed in range(4):
        said = treats(kind, n=400, width=60, noise=1.0, share=0.5, seed=seed, honest=False)
        assert "like records it never saw" in said
        assert "accuracy" in said


def make_target(model, x, y, member, task="classification", **more):
    pool = Records(x, y, np.array([f"row:{i}" for i in range(len(y))]))
    audited = AuditedModel("models:/m/1", "m", "1", None, None, "sklearn", model)
    return AuditTarget(audited, pool, member, task, recipe=make_recipe(model, task=task), **more)


OPTIONS = AuditOptions(num_ref_models=4, blind_baseline=False, progress=False)


def test_an_audit_with_other_records_is_refused_unless_that_is_allowed():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 6)), rng.integers(0, 2, 300)
    model = DecisionTreeClassifier(random_state=0).fit(rng.normal(size=(150, 6)), rng.integers(0, 2, 150))
    target = make_target(model, x, y, np.arange(300) < 150, doubts=("It came by post.",))
    with pytest.raises(LineageError, match=r"(?s)not the records this model.*by post.*log_lineage.*allow_unfamiliar"):
        audit(target, OPTIONS)
    result = audit(target, OPTIONS.model_copy(update={"allow_unfamiliar_members": True}))
    assert result.warnings[0].startswith("The members may not be the records this model was trained on: it treats")
    honest = DecisionTreeClassifier(random_state=0).fit(x[:150], y[:150])
    assert audit(make_target(honest, x, y, np.arange(300) < 150), OPTIONS).metrics["privacy/rmia/auc"] > 0.7


@pytest.fixture
def flipped():
    """A model whose records' labels were flipped in part after training; and who they are."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 4))
    y = (x[:, 0] > 0).astype(int)
    model = LogisticRegression().fit(x[:1000], y[:1000])
    y[:150] = 1 - y[:150]
    return model, x, y, np.arange(2000) < 1000


def test_what_the_training_run_logged_is_believed(flipped):
    quality = LoggedQuality("accuracy", 0.995, "training_accuracy_score", exact=True)
    with pytest.raises(LineageError, match=r"accuracy on them is 0\.8.*training_accuracy_score = 0.995"):
        audit(make_target(*flipped, quality=quality), OPTIONS.model_copy(update={"num_ref_models": 0}))
    quality = dataclasses.replace(quality, value=0.87)
    assert audit(make_target(*flipped, quality=quality), OPTIONS.model_copy(update={"num_ref_models": 0}))


def checked(target, value, *, exact=True, rows=slice(None)):
    pool, member = target.pool, target.membership
    outputs = model_outputs(target.model.native, pool.take(rows), task=target.task, classes=None)
    kind = "accuracy" if target.task == "classification" else "r2"
    target = dataclasses.replace(target, quality=LoggedQuality(kind, value, "said", exact))
    try:
        return check_logged_quality(target, outputs, member[rows], pool.y[rows], allow=False)
    except LineageError:
        return "refused"


def test_a_running_mean_copies_and_samples_have_room(flipped):
    target = make_target(*flipped)
    accuracy = float((flipped[0].predict(flipped[1][:1000]) == flipped[2][:1000]).mean())
    assert checked(target, accuracy) == checked(target, accuracy + 0.04) == ()
    assert checked(target, accuracy + 0.06) == "refused"
    assert checked(target, accuracy + 0.1, exact=False) == ()
    # Copies of 200 records, all of them right, were left out: the model may well have had more right in all.
    more = dataclasses.replace(target, n_trained=1200)
    assert checked(more, (1000 * accuracy + 200) / 1200) == ()
    sample = np.r_[0:150, 1000:1150]  # only flipped ones: far more than chance
    assert checked(target, accuracy, rows=sample) == "refused"
    sample = np.random.default_rng(0).permutation(2000)[:200]
    assert checked(target, accuracy + 0.05, rows=sample) == ()


def test_the_fit_of_a_regressor_is_compared_too():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 5))
    y = x[:, 0] + 0.1 * rng.normal(size=400)
    for model in (Ridge().fit(x[:200], y[:200]), DecisionTreeRegressor(max_depth=3).fit(x[:200], y[:200])):
        target = make_target(model, x, y, np.arange(400) < 200, task="regression")
        fit = model.score(x[:200], y[:200])
        assert checked(target, fit) == ()
        assert checked(target, fit + 0.06) == "refused"
