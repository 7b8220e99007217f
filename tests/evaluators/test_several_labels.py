"""Models of one-hot labels, of several labels or amounts a record, and of none, through the one line."""

import warnings

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import mlflow_privacy
from mlflow_privacy.errors import LineageError, SignalError

FAST = {"num_ref_models": 4, "progress": False}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 12)).astype(np.float32)
HOT = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, 160)]
MANY = (RNG.random((160, 4)) < 0.4).astype(np.float32)
AMOUNTS = RNG.normal(size=(160, 2)).astype(np.float32)


def halves(x, y):
    return (x[:80], y[:80]), (x[80:], y[80:])


def log_net(x, y, loss, *, outputs):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(12, 64), torch.nn.ReLU(), torch.nn.Linear(64, outputs))
    step = torch.optim.Adam(net.parameters(), 1e-2)
    given, wanted = torch.tensor(np.asarray(x)[:80]), torch.tensor(np.asarray(y)[:80])
    for _ in range(120):
        step.zero_grad()
        getattr(torch.nn.functional, loss)(net(given), wanted).backward()
        step.step()
    train, holdout = halves(x, y)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(
            train=train,
            holdout=holdout,
            recipe={"optimizer": "adam", "learning_rate": 1e-2, "epochs": 120, "batch_size": 80, "loss": loss},
        )
        model = mlflow.pytorch.log_model(net, name="model", serialization_format="pickle", pip_requirements=[])
    return model.model_uri


@pytest.mark.parametrize(
    ("y", "loss", "task"),
    [
        (HOT, "cross_entropy", "classification"),
        (MANY, "binary_cross_entropy_with_logits", "multilabel"),
        (pd.DataFrame(AMOUNTS, columns=["u", "v"]), "mse_loss", "regression"),
        (X, "mse_loss", "regression"),
    ],
    ids=["one-hot", "labels", "amounts", "autoencoder"],
)
def test_nets(tracking, y, loss, task):
    uri = log_net(X, y, loss, outputs=y.shape[1])
    result = mlflow_privacy.evaluate(uri, **FAST)
    assert result.metrics["privacy/rmia/auc"] > 0.75
    assert result.metrics["privacy/blind/auc_low"] < 0.5
    audit = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/privacy/audit.json")
    assert audit["task"] == task
    assert audit["references"]["n"] == 4


def log_estimator(model, x, y, **lineage):
    train, holdout = halves(x, y)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=train, holdout=holdout, **lineage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logged = mlflow.sklearn.log_model(
                model, name="model", serialization_format="cloudpickle", pip_requirements=[]
            )
    return logged.model_uri


def test_a_forest_of_several_labels(tracking):
    forest = RandomForestClassifier(10, random_state=0).fit(X[:80], MANY[:80])
    result = mlflow_privacy.evaluate(log_estimator(forest, X, MANY), **FAST)
    assert result.metrics["privacy/rmia/auc"] > 0.85
    assert result.metrics["privacy/fidelity/reference_member_accuracy"] > 0.5


@pytest.mark.parametrize("how", ["columns", "files", "pair", "options"])
def test_several_target_columns_of_a_frame(tracking, how):
    """With a column of names among the features, which no array would hold."""
    x = pd.DataFrame(X[:, :4], columns=list("abcd")).assign(kind=np.where(X[:, 4] > 0, "p", "q"))
    y = pd.DataFrame(AMOUNTS, columns=["u", "v"])
    columns = make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough")
    forest = make_pipeline(columns, RandomForestRegressor(10, random_state=0)).fit(x[:80], y[:80])
    frame = x.assign(**y)
    frame[:80].to_csv("train.csv", index=False)
    frame[80:].to_csv("holdout.csv", index=False)
    parts = {
        "columns": (frame[:80], frame[80:]),
        "files": ("train.csv", "holdout.csv"),
        "pair": halves(x, y),
        "options": (frame[:80], frame[80:]),
    }[how]
    given = dict(zip(("train", "holdout"), parts)) | ({} if how == "pair" else {"targets": ["u", "v"]})
    with mlflow.start_run():
        if how != "options":
            mlflow_privacy.log_lineage(**given, store="reference" if how == "files" else "copy")
        uri = mlflow.sklearn.log_model(
            forest, name="model", serialization_format="cloudpickle", pip_requirements=[]
        ).model_uri
    result = mlflow_privacy.evaluate(uri, **FAST, **(given if how == "options" else {}))
    assert result.metrics["privacy/rmia/auc"] > 0.8
    audit = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/privacy/audit.json")
    assert audit["rows"]["members"] == 80


def test_a_target_column_that_is_not_there_is_named(tracking):
    frame = pd.DataFrame(X[:, :3], columns=["a", "u", "v"])
    with mlflow.start_run(), pytest.raises(LineageError, match="no target column 'u' and 'w'; its columns are a, u, v"):
        mlflow_privacy.log_lineage(train=frame, targets=["u", "w"])


def test_train_fn_gets_one_hot_labels_as_they_were_logged(tracking):
    class Known(mlflow.pyfunc.PythonModel):
        def __init__(self, forest):
            self.forest = forest

        def predict(self, context, model_input, params=None):
            return self.forest.predict_proba(np.asarray(model_input))

    def train(x, y, seed):
        assert y.shape == (len(x), 3)
        return RandomForestClassifier(10, random_state=seed).fit(x, y.argmax(1))

    train_part, holdout = halves(X, HOT)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=train_part, holdout=holdout)
        model = mlflow.pyfunc.log_model(
            name="model", python_model=Known(train(X[:80], HOT[:80], 0)), pip_requirements=[]
        )
    result = mlflow_privacy.evaluate(model.model_uri, train_fn=train, **FAST)
    assert result.metrics["privacy/rmia/auc"] > 0.85


def test_clusters_are_refused_before_anything_trains(tracking):
    y = RNG.integers(0, 3, 160)
    uri = log_estimator(KMeans(3, n_init=1, random_state=0).fit(X[:80]), X, y)
    with pytest.raises(SignalError, match="groups records into clusters"):
        mlflow_privacy.evaluate(uri, **FAST)


def test_counts_are_amounts_where_the_task_says_so(tracking):
    """A pyfunc says nothing of itself, and its whole-number targets look like classes."""

    class Counts(mlflow.pyfunc.PythonModel):
        def __init__(self, model):
            self.model = model

        def predict(self, context, model_input, params=None):
            return self.model.predict(np.asarray(model_input))

    y = RNG.poisson(3, 160)
    train, holdout = halves(X, y)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=train, holdout=holdout)
        fitted = PoissonRegressor(alpha=1e-3).fit(X[:80], y[:80])
        uri = mlflow.pyfunc.log_model(name="model", python_model=Counts(fitted), pip_requirements=[]).model_uri
    with pytest.raises(SignalError, match='say task="regression"'):
        mlflow_privacy.evaluate(uri, **FAST)
    result = mlflow_privacy.evaluate(uri, task="regression", **FAST)
    assert 0.4 < result.metrics["privacy/population/auc"] < 0.9
