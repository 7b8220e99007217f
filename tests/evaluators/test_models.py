"""Every kind of model through the one line: modules, traced graphs, regressors, labels only, any framework."""

import warnings

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeRegressor
from trees import split

import mlflow_privacy
from mlflow_privacy.errors import PrivacyAuditError

torch = pytest.importorskip("torch")

RECIPE = {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 32, "epochs": 25}
FAST = {"num_ref_models": 4, "blind_baseline": False}


@pytest.fixture
def digits():
    data = load_digits()
    order = np.random.default_rng(0).permutation(600)
    x, y = (data.data / 16).astype(np.float32)[order], data.target[order]
    return (x[:300], y[:300]), (x[300:], y[300:])


def network(x, y):
    """An MLP that memorises 300 digits."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(25):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(torch.as_tensor(x[batch])), torch.as_tensor(y[batch])).backward()
            optimizer.step()
    return module.eval()


def log_torch(train, holdout, **lineage):
    with mlflow.start_run():
        mlflow.pytorch.log_model(
            network(*train), name="model", registered_model_name="m", input_example=train[0][:2], pip_requirements=[]
        )
        mlflow_privacy.log_lineage(train=train, holdout=holdout, **lineage)


def test_a_module_with_its_recipe(tracking, digits):
    log_torch(*digits, recipe=RECIPE)
    result = mlflow_privacy.evaluate("models:/m/1", **FAST)
    assert result.metrics["privacy/rmia/auc"] > 0.55
    gap = (
        result.metrics["privacy/fidelity/target_nonmember_accuracy"]
        - (result.metrics["privacy/fidelity/reference_nonmember_accuracy"])
    )
    assert abs(gap) < 0.1  # references are like the target
    (reference,) = tracking.search_runs(
        [tracking.get_experiment_by_name("test").experiment_id],
        "tags.`privacy.role` = 'reference' and params.reference_index = '0'",
    )
    weights = tracking.list_artifacts(reference.info.run_id, "weights")
    assert [entry.path for entry in weights] == ["weights/model.safetensors"]


def test_a_module_without_a_recipe_gets_the_weaker_audit_which_says_so(tracking, digits, caplog):
    log_torch(*digits)
    result = mlflow_privacy.evaluate("models:/m/1", **FAST)
    assert "privacy/population/auc" in result.metrics
    assert "privacy/rmia/auc" not in result.metrics
    version = tracking.get_model_version("m", "1")
    assert "weaker audit" in version.description
    assert "no reference models" in version.tags["privacy.caution"]
    assert tracking.get_run(result.run_id).data.tags["privacy.headline"].startswith("Weaker audit:")
    assert "weaker audit" in caplog.text  # what a notebook shows


def test_a_wrong_recipe_of_the_caller_is_an_error_with_every_fault(tracking, digits):
    log_torch(*digits)
    with pytest.raises(PrivacyAuditError, match=r"(?s)epoch.*epochs.*batch_size|batch_size.*epoch.*epochs"):
        mlflow_privacy.evaluate("models:/m/1", recipe={"optimizer": "adam", "lr": 0.1, "epoch": 3}, **FAST)


def test_a_regressor_by_its_likelihood(tracking):
    data = load_diabetes(as_frame=True).frame
    train, holdout = data.iloc[:220], data.iloc[220:].reset_index(drop=True)
    with mlflow.start_run():
        model = DecisionTreeRegressor(random_state=0).fit(train.drop(columns="target"), train["target"])
        mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="target")
        mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name="m",
            pip_requirements=[],
            serialization_format="cloudpickle",
        )
    result = mlflow_privacy.evaluate("models:/m/1", attacks=["rmia", "population"], **FAST)
    assert result.metrics["privacy/population/auc"] > 0.95  # an unpruned regression tree knows its records exactly
    assert result.metrics["privacy/rmia/auc"] > 0.8


class Labels(mlflow.pyfunc.PythonModel):
    """Gives labels only."""

    def __init__(self, model):
        self.model = model

    def predict(self, context, model_input, params=None):
        return self.model.predict(model_input)


class Probabilities(Labels):
    """Gives probabilities, and nothing to train from."""

    def predict(self, context, model_input, params=None):
        return self.model.predict_proba(model_input)


def log_pyfunc(cls):
    train, holdout = split()
    model = KNeighborsClassifier(1).fit(train.drop(columns="target"), train["target"])
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.log_model(
            name="model", python_model=cls(model), registered_model_name="m", pip_requirements=[], code_paths=None
        )
        mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="target")
    return model, train, holdout


def test_a_model_that_gives_labels_only_gets_the_gap_attack(tracking):
    model, _, holdout = log_pyfunc(Labels)
    result = mlflow_privacy.evaluate("models:/m/1", **FAST)
    accuracy = model.score(holdout.drop(columns="target"), holdout["target"])
    # One nearest neighbour is right on every member: the gap attack's AUC is 1/2 + (1 - accuracy) / 2.
    assert result.metrics["privacy/gap/auc"] == pytest.approx(1 - accuracy / 2, abs=1e-6)
    assert "privacy/rmia/auc" not in result.metrics


def train_logistic(x, y, seed):
    return LogisticRegression(C=1e3, max_iter=500, random_state=seed).fit(np.asarray(x) / 100, y)


def test_train_fn_trains_references_of_any_framework(tracking):
    log_pyfunc(Probabilities)
    weak = mlflow_privacy.evaluate("models:/m/1", **FAST)
    assert "privacy/rmia/auc" not in weak.metrics
    full = mlflow_privacy.evaluate("models:/m/1", train_fn=train_logistic, **FAST)
    assert "privacy/rmia/auc" in full.metrics


def test_code_named_by_a_string_is_not_imported(tracking):
    log_pyfunc(Probabilities)
    with pytest.raises(PrivacyAuditError, match="allow_code"):
        mlflow_privacy.evaluate("models:/m/1", recipe={"train_fn": "antigravity:fly"}, **FAST)


def test_null_a_model_that_saw_neither_half_gives_nothing_away(tracking):
    """Members and non-members of which the target saw none: 95 % intervals hold 0.5 (one draw, fixed seed)."""
    data = load_digits()
    x, y = (data.data / 16).astype(np.float32), data.target
    other, rest = slice(0, 500), np.random.default_rng(1).permutation(np.arange(500, 1797))
    train, holdout = rest[:640], rest[640:1280]
    with mlflow.start_run():
        model = LogisticRegression(max_iter=300).fit(x[other], y[other])
        mlflow.sklearn.log_model(model, name="model", registered_model_name="m", pip_requirements=[])
        mlflow_privacy.log_lineage(train=(x[train], y[train]), holdout=(x[holdout], y[holdout]))
    metrics = mlflow_privacy.evaluate("models:/m/1", **FAST).metrics
    for attack in ("rmia", "rmia_offline", "lira", "bavaria", "headline"):
        assert metrics[f"privacy/{attack}/auc_low"] < 0.5 < metrics[f"privacy/{attack}/auc_high"]


def test_scores_name_every_record_by_its_row(tracking, digits):
    log_torch(*digits, recipe=RECIPE)
    result = mlflow_privacy.evaluate("models:/m/1", **FAST)
    path = mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="privacy/scores.parquet")
    table = pd.read_parquet(path)
    assert set(table["row_id"]) == {f"train:{i}" for i in range(300)} | {f"holdout:{i}" for i in range(300)}
    assert table.loc[table["row_id"].str.startswith("train:"), "member"].all()
    assert table["risk_rank"].is_monotonic_increasing
