"""Kinds of models and lineage for `bench_models.py`, each trained, logged as its framework says, and registered."""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")

import mlflow
import numpy as np
import pandas as pd

import mlflow_privacy
from mlflow_privacy.seeding import seeded

N = 150  # members, and as many non-members


@dataclasses.dataclass(frozen=True)
class Logged:
    """A registered model, what the caller of the audit says besides, and each record's loss as its framework gives it.

    Attributes:
      losses: (2 N,) of members, then of non-members; None where no loss of a record can be had.
    """

    uri: str
    losses: np.ndarray | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind: its group, its name, the packages it takes, and what makes and logs it."""

    group: str
    name: str
    needs: tuple[str, ...]
    make: Callable[[], Logged]


KINDS: list[Kind] = []


def kind(group: str, name: str, *needs: str) -> Callable[[Callable[[], Logged]], Callable[[], Logged]]:
    def add(make: Callable[[], Logged]) -> Callable[[], Logged]:
        KINDS.append(Kind(group, name, needs, make))
        return make

    return add


# Data: noisy labels, so that whoever fits them well remembers records.


def table(seed: int = 0, features: int = 8, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * N, features))
    score = x[:, :classes] + rng.normal(0, 1.2, (2 * N, classes))
    return x, score.argmax(axis=1)


def frame_of(x: np.ndarray, y: Any) -> pd.DataFrame:
    return pd.DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])]).assign(target=y)


def numbers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * N, 8))
    return x, x[:, 0] + rng.normal(0, 1.0, 2 * N)


def log_loss(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) of probabilities (n, c) and class indices."""
    return -np.log(np.clip(p[np.arange(len(y)), y], 1e-300, None)) + np.log(
        np.clip(1 - p[np.arange(len(y)), y], 1e-300, None)
    )


def lineage(x: Any, y: Any, **more: Any) -> None:
    mlflow_privacy.log_lineage(train=(x[:N], y[:N]), holdout=(x[N:], y[N:]), **more)


def log_sklearn(model: Any, *, flavor: Any = None, **options: Any) -> str:
    """The model's URI; cloudpickle, since MLflow refuses trees in its default format."""
    module = flavor or mlflow.sklearn
    if module is mlflow.sklearn:
        options = {"serialization_format": "cloudpickle", **options}
    name = f"m{len(mlflow.MlflowClient().search_registered_models())}"
    module.log_model(model, name="model", registered_model_name=name, pip_requirements=[], **options)
    return f"models:/{name}/1"


def classifier(model: Any, *, labels: Any = None, classes: int = 2, flavor: Any = None, fit: Any = None) -> Logged:
    x, index = table(classes=classes)
    y = index if labels is None else np.asarray(labels)[index]
    model.fit(x[:N], y[:N], **(fit or {}))
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model, flavor=flavor)
    if hasattr(model, "predict_proba"):
        place = np.searchsorted(model.classes_, y)
        return Logged(uri, log_loss(np.asarray(model.predict_proba(x), np.float64), place))
    return Logged(uri)


def regressor(model: Any, *, flavor: Any = None, whole: bool = False, options: Any = None) -> Logged:
    x, y = numbers()
    if whole:
        y = np.random.default_rng(1).poisson(np.exp(x[:, 0] / 2 + 1)).astype(float)
    model.fit(x[:N], y[:N])
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model, flavor=flavor)
    return Logged(uri, (y - np.asarray(model.predict(x)).reshape(-1)) ** 2, dict(options or {}))


# scikit-learn

SK = "scikit-learn"


def _estimators() -> dict[str, Callable[[], Any]]:
    from sklearn import ensemble, linear_model, naive_bayes, neighbors, neural_network, svm, tree
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    logistic = linear_model.LogisticRegression
    return {
        "logistic regression": lambda: logistic(C=100),
        "random forest": lambda: ensemble.RandomForestClassifier(20, random_state=0),
        "histogram gradient boosting": lambda: ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0),
        "decision tree": lambda: tree.DecisionTreeClassifier(min_samples_leaf=3, random_state=0),
        "naive Bayes": naive_bayes.GaussianNB,
        "nearest neighbours": lambda: neighbors.KNeighborsClassifier(5),
        "MLP": lambda: neural_network.MLPClassifier((32,), max_iter=300, random_state=0),
        "SVM with probabilities": lambda: svm.SVC(C=10, probability=True, random_state=0),
        "SVM without": lambda: svm.LinearSVC(C=10),
        "pipeline": lambda: make_pipeline(StandardScaler(), PolynomialFeatures(2), logistic(C=10, max_iter=500)),
        "calibrated classifier": lambda: CalibratedClassifierCV(svm.LinearSVC(), cv=3),
        "grid search": lambda: GridSearchCV(logistic(), {"C": [1, 10]}, cv=3),
        "voting": lambda: ensemble.VotingClassifier(
            [("a", logistic(C=10)), ("b", tree.DecisionTreeClassifier(max_depth=4, random_state=0))], voting="soft"
        ),
    }


for _name in (
    "logistic regression", "random forest", "histogram gradient boosting", "decision tree", "naive Bayes",
    "nearest neighbours", "MLP", "SVM with probabilities", "SVM without", "pipeline", "calibrated classifier",
    "grid search", "voting",
):  # fmt: skip
    kind(SK, _name)(lambda name=_name: classifier(_estimators()[name]()))


@kind(SK, "names as labels")
def _() -> Logged:
    from sklearn.linear_model import LogisticRegression

    return classifier(LogisticRegression(C=100), labels=["rejected", "accepted", "review"], classes=3)


@kind(SK, "frame of numbers and words, `OneHotEncoder`")
def _() -> Logged:
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    x, y = table()
    frame = frame_of(x, y)
    frame["town"] = np.random.default_rng(0).choice(["north", "south", "east"], 2 * N)
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["town"]), remainder="passthrough"
    )
    model = make_pipeline(encode, GradientBoostingClassifier(n_estimators=30, random_state=0))
    features = frame.drop(columns="target")
    model.fit(features[:N], y[:N])
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=frame[:N], holdout=frame[N:], targets="target")
        uri = log_sklearn(model)
    return Logged(uri, log_loss(model.predict_proba(features), y))


@kind(SK, "words of a text, TF-IDF")
def _() -> Logged:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(200)])
    texts = np.array([" ".join(rng.choice(words, 12)) for _ in range(2 * N)], object)
    y = rng.integers(0, 2, 2 * N)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=30)).fit(texts[:N], y[:N])
    frame = pd.DataFrame({"text": texts, "target": y})
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=frame[:N], holdout=frame[N:], targets="target")
        uri = log_sklearn(model)
    return Logged(uri, log_loss(model.predict_proba(texts), y))


@kind(SK, "several labels a record (`MultiOutputClassifier`)")
def _() -> Logged:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier

    x, _ = table()
    y = (x[:, :3] + np.random.default_rng(1).normal(0, 1, (2 * N, 3)) > 0).astype(int)
    model = MultiOutputClassifier(LogisticRegression(C=100)).fit(x[:N], y[:N])
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model)
    own = np.stack([p[np.arange(2 * N), y[:, j]] for j, p in enumerate(model.predict_proba(x))], axis=1)
    return Logged(uri, -np.log(own).sum(axis=1))


@kind(SK, "several numbers a record (multi-output ridge)")
def _() -> Logged:
    from sklearn.linear_model import Ridge

    x, _ = numbers()
    y = x[:, :2] + np.random.default_rng(1).normal(0, 1, (2 * N, 2))
    model = Ridge(1e-3).fit(x[:N], y[:N])
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model)
    return Logged(uri, ((y - model.predict(x)) ** 2).mean(axis=1))


def _regressors() -> dict[str, Callable[[], Any]]:
    from sklearn import ensemble, linear_model

    return {
        "ridge": lambda: linear_model.Ridge(1e-3),
        "random forest of numbers": lambda: ensemble.RandomForestRegressor(20, random_state=0),
    }


for _name in ("ridge", "random forest of numbers"):
    kind(SK, _name)(lambda name=_name: regressor(_regressors()[name]()))


@kind(SK, "Poisson regression of counts")
def _() -> Logged:
    from sklearn.linear_model import PoissonRegressor

    return regressor(PoissonRegressor(), whole=True)


@kind(SK, "clusters (`KMeans`)")
def _() -> Logged:
    from sklearn.cluster import KMeans

    x, y = table()
    model = KMeans(2, n_init=3, random_state=0).fit(x[:N])
    with mlflow.start_run():
        lineage(x, y)
        return Logged(log_sklearn(model))


@kind(SK, "outliers (`IsolationForest`)")
def _() -> Logged:
    from sklearn.ensemble import IsolationForest

    x, y = table()
    model = IsolationForest(random_state=0).fit(x[:N])
    with mlflow.start_run():
        lineage(x, 2 * y - 1)
        return Logged(log_sklearn(model))


@kind(SK, "skorch, its module given as a class", "skorch")
def _() -> Logged:
    import torch
    from skorch import NeuralNetClassifier

    x, y = table()
    x = x.astype(np.float32)
    with seeded(0):
        model = NeuralNetClassifier(
            torch.nn.Linear, module__in_features=8, module__out_features=2, criterion=torch.nn.CrossEntropyLoss,
            max_epochs=60, lr=0.3, train_split=None, verbose=0, iterator_train__shuffle=True,
        )  # fmt: skip
        model.fit(x[:N], y[:N])
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model)
    return Logged(uri, log_loss(model.predict_proba(x).astype(np.float64), y))


@kind(SK, "skorch, its module given trained", "skorch")
def _() -> Logged:
    import torch
    from skorch import NeuralNetClassifier

    x, y = table()
    x = x.astype(np.float32)
    with seeded(0):
        net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
        model = NeuralNetClassifier(
            net, criterion=torch.nn.CrossEntropyLoss, max_epochs=60, lr=0.3, train_split=None, verbose=0
        )
        model.fit(x[:N], y[:N])
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model)
    return Logged(uri, log_loss(model.predict_proba(x).astype(np.float64), y))


@kind(SK, "`OneHotEncoder()` with a category of one record")
def _() -> Logged:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    x, y = table()
    frame = frame_of(x, y).assign(town=np.where(np.arange(2 * N) == 0, "rare", "usual"))
    encode = make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough")
    model, features = make_pipeline(encode, LogisticRegression(C=100)), frame.drop(columns="target")
    model.fit(features[:N], y[:N])
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=frame[:N], holdout=frame[N:], targets="target")
        uri = log_sklearn(model)
    return Logged(uri, log_loss(model.predict_proba(features), y))


# Boosting

BOOST = "boosting"


@kind(BOOST, "`XGBClassifier`", "xgboost")
def _() -> Logged:
    from xgboost import XGBClassifier

    return classifier(XGBClassifier(n_estimators=20, n_jobs=1), flavor=mlflow.xgboost)


@kind(BOOST, "`XGBClassifier` with early stopping", "xgboost")
def _() -> Logged:
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=50, n_jobs=1, early_stopping_rounds=5)
    other = table(seed=1)
    return classifier(model, flavor=mlflow.xgboost, fit={"eval_set": [other], "verbose": False})


@kind(BOOST, "`XGBRegressor`", "xgboost")
def _() -> Logged:
    from xgboost import XGBRegressor

    return regressor(XGBRegressor(n_estimators=20, n_jobs=1), flavor=mlflow.xgboost)


@kind(BOOST, "native XGBoost", "xgboost")
def _() -> Logged:
    import xgboost

    x, y = table(classes=3)
    settings = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    model = xgboost.train(settings, xgboost.DMatrix(x[:N], y[:N]), 20)
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model, flavor=mlflow.xgboost)
    return Logged(uri, log_loss(model.predict(xgboost.DMatrix(x)).astype(np.float64), y))


@kind(BOOST, "`LGBMClassifier`", "lightgbm")
def _() -> Logged:
    from lightgbm import LGBMClassifier

    return classifier(LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1), flavor=mlflow.lightgbm)


@kind(BOOST, "native LightGBM", "lightgbm")
def _() -> Logged:
    import lightgbm

    x, y = table()
    settings = {"objective": "binary", "num_threads": 1, "verbose": -1}
    model = lightgbm.train(settings, lightgbm.Dataset(x[:N], y[:N]), 20)
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model, flavor=mlflow.lightgbm)
    p = model.predict(x)
    return Logged(uri, log_loss(np.stack([1 - p, p], axis=1), y))


@kind(BOOST, "`CatBoostClassifier`", "catboost")
def _() -> Logged:
    from catboost import CatBoostClassifier

    model = CatBoostClassifier(iterations=30, thread_count=1, verbose=0, allow_writing_files=False)
    return classifier(model, flavor=mlflow.catboost)


@kind(BOOST, "`CatBoostRegressor` of counts", "catboost")
def _() -> Logged:
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(iterations=30, thread_count=1, verbose=0, allow_writing_files=False)
    return regressor(model, flavor=mlflow.catboost, whole=True)


# PyTorch

TORCH = "PyTorch"
SETTINGS = {"optimizer": "adam", "learning_rate": 1e-2, "epochs": 60, "batch_size": 50}


def fit(net: Any, x: Any, y: Any, loss: Any) -> None:
    """The loop that `SETTINGS` says, as anybody writes it."""
    import torch

    step = torch.optim.Adam(net.parameters(), SETTINGS["learning_rate"])
    for _ in range(SETTINGS["epochs"]):
        for rows in torch.randperm(N).split(SETTINGS["batch_size"]):
            step.zero_grad()
            loss(net(x[rows]), y[rows]).backward()
            step.step()
    net.eval()


def module(
    layers: Callable[[], Any],
    x: np.ndarray,
    y: np.ndarray,
    loss: str,
    losses: Callable[[np.ndarray], np.ndarray],
    *,
    recipe: bool = True,
    scripted: bool = False,
    export: bool = False,
    targets: Any = None,
) -> Logged:
    """Trains, logs and registers a module; `losses` gets its outputs on all records."""
    import torch

    with seeded(0):
        net = layers()
        fit(net, torch.from_numpy(x), torch.from_numpy(y if targets is None else targets), _loss(loss))
    with torch.no_grad():
        out = net(torch.from_numpy(x)).double().numpy()
    with mlflow.start_run():
        lineage(x, y, recipe={**SETTINGS, "loss": loss} if recipe else None)
        options = {"input_example": x[:2]} if export else {"serialization_format": "pickle"}
        logged = torch.jit.script(net) if scripted else net
        uri = log_sklearn(logged, flavor=mlflow.pytorch, **options)
    return Logged(uri, losses(out))


def _loss(name: str) -> Any:
    from torch.nn import functional

    return getattr(functional, {"bce_with_logits": "binary_cross_entropy_with_logits"}.get(name, name))


def cross_entropy(y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Loss, and what it misses of the odds, of logits (n, c)."""

    def losses(out: np.ndarray) -> np.ndarray:
        p = np.exp(out - out.max(axis=1, keepdims=True))
        return log_loss(p / p.sum(axis=1, keepdims=True), y)

    return losses


def mlp(outputs: int, *last: Any, inputs: int = 8) -> Callable[[], Any]:
    def make() -> Any:
        from torch import nn

        return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs), *(layer() for layer in last))

    return make


def floats(classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, y = table(classes=classes)
    return x.astype(np.float32), y.astype(np.int64)


@kind(TORCH, "MLP, pickled", "torch")
def _() -> Logged:
    x, y = floats(3)
    return module(mlp(3), x, y, "cross_entropy", cross_entropy(y))


@kind(TORCH, "MLP, MLflow's own format (pt2)", "torch")
def _() -> Logged:
    x, y = floats(3)
    return module(mlp(3), x, y, "cross_entropy", cross_entropy(y), export=True)


@kind(TORCH, "MLP without a recipe", "torch")
def _() -> Logged:
    x, y = floats(3)
    return module(mlp(3), x, y, "cross_entropy", cross_entropy(y), recipe=False)


@kind(TORCH, "MLP, scripted", "torch")
def _() -> Logged:
    x, y = floats(3)
    return module(mlp(3), x, y, "cross_entropy", cross_entropy(y), scripted=True)


@kind(TORCH, "one logit", "torch")
def _() -> Logged:
    import torch

    x, y = floats()
    targets = y[:, None].astype(np.float32)
    del torch
    return module(mlp(1), x, y, "bce_with_logits", lambda out: -(2 * y - 1) * out[:, 0], targets=targets)


@kind(TORCH, "one probability (sigmoid)", "torch")
def _() -> Logged:
    from torch import nn

    x, y = floats()
    targets = y[:, None].astype(np.float32)

    def losses(out: np.ndarray) -> np.ndarray:
        return log_loss(np.concatenate([1 - out, out], axis=1), y)

    return module(mlp(1, nn.Sigmoid), x, y, "binary_cross_entropy", losses, targets=targets)


@kind(TORCH, "log-probabilities (`LogSoftmax`)", "torch")
def _() -> Logged:
    from torch import nn

    x, y = floats(3)
    return module(mlp(3, lambda: nn.LogSoftmax(1)), x, y, "nll_loss", cross_entropy(y))


@kind(TORCH, "one-hot labels", "torch")
def _() -> Logged:
    x, y = floats(3)
    return module(mlp(3), x, np.eye(3, dtype=np.float32)[y], "cross_entropy", cross_entropy(y))


@kind(TORCH, "several labels a record", "torch")
def _() -> Logged:
    x, _ = floats()
    y = (x[:, :3] + np.random.default_rng(1).normal(0, 1, (2 * N, 3)) > 0).astype(np.float32)
    return module(mlp(3), x, y, "bce_with_logits", lambda out: np.logaddexp(0, -(2 * y - 1) * out).sum(axis=1))


@kind(TORCH, "a number", "torch")
def _() -> Logged:
    x, y = numbers()
    x, y = x.astype(np.float32), y.astype(np.float32)[:, None]
    return module(mlp(1), x, y[:, 0], "mse_loss", lambda out: (out[:, 0] - y[:, 0]) ** 2, targets=y)


@kind(TORCH, "several numbers a record", "torch")
def _() -> Logged:
    x, _ = floats()
    y = (x[:, :2] + np.random.default_rng(1).normal(0, 1, (2 * N, 2))).astype(np.float32)
    return module(mlp(2), x, y, "mse_loss", lambda out: ((out - y) ** 2).mean(axis=1))


@kind(TORCH, "autoencoder", "torch")
def _() -> Logged:
    x, _ = floats()
    return module(mlp(8), x, x, "mse_loss", lambda out: ((out - x) ** 2).mean(axis=1))


@kind(TORCH, "images of bytes, a small CNN", "torch")
def _() -> Logged:
    import torch

    class Scaled(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.float() / 255

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2 * N, 1, 8, 8)).astype(np.uint8)
    y = rng.integers(0, 2, 2 * N)

    def layers() -> Any:
        from torch import nn

        return nn.Sequential(Scaled(), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))

    return module(layers, x, y, "cross_entropy", cross_entropy(y))


@kind(TORCH, "whole numbers into `nn.Embedding`", "torch")
def _() -> Logged:
    from torch import nn

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 50, (2 * N, 6)), rng.integers(0, 2, 2 * N)

    def layers() -> Any:
        return nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(48, 2))

    return module(layers, x, y, "cross_entropy", cross_entropy(y))


@kind(TORCH, "an embedding before layers that take fractions", "torch")
def _() -> Logged:
    import torch

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_month, self.out = torch.nn.Embedding(12, 4), torch.nn.Linear(9, 2)

        def forward(self, x: Any) -> Any:
            return self.out(torch.cat([self.of_month(x[:, 0].long()), x[:, 1:]], dim=1))

    x, y = floats()
    x = np.concatenate([np.random.default_rng(0).integers(0, 12, (2 * N, 1)), x[:, :5]], axis=1).astype(np.float32)
    return module(Mixed, x, y, "cross_entropy", cross_entropy(y))


@kind(TORCH, "several inputs by name", "torch")
def _() -> Logged:
    import torch

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_town, self.out = torch.nn.Embedding(5, 3), torch.nn.Linear(4, 2)

        def forward(self, income: Any, town: Any) -> Any:
            return self.out(torch.cat([income[:, None], self.of_town(town)], dim=1))

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"income": rng.normal(size=2 * N).astype(np.float32), "town": rng.integers(0, 5, 2 * N)})
    y = rng.integers(0, 2, 2 * N)
    parts = [torch.from_numpy(frame[name].to_numpy()) for name in frame]
    with seeded(0):
        net = Named()
        step = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(60):
            for rows in torch.randperm(N).split(50):
                step.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(*(p[rows] for p in parts)), torch.from_numpy(y)[rows])
                loss.backward()
                step.step()
    with torch.no_grad():
        out = net.eval()(*parts).double().numpy()
    frame["target"] = y
    with mlflow.start_run():
        recipe = {**SETTINGS, "loss": "cross_entropy"}
        mlflow_privacy.log_lineage(train=frame[:N], holdout=frame[N:], targets="target", recipe=recipe)
        uri = log_sklearn(net, flavor=mlflow.pytorch, serialization_format="pickle")
    return Logged(uri, cross_entropy(y)(out))


# Texts

TEXT = "transformers"


def _gpt2(cls: str, **config: Any) -> Any:
    import transformers

    values = {"vocab_size": 210, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2, "pad_token_id": 0}
    values |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    with seeded(0):
        return getattr(transformers, cls)(transformers.GPT2Config(**values, **config)).eval()


def _words() -> tuple[Any, list[str]]:
    """A tokenizer of 200 words, and 2 N texts of ten of them."""
    import tokenizers
    import transformers

    words = {"<end>": 0, **{f"w{i}": i + 1 for i in range(200)}}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<end>", model_max_length=32
    )
    rng = np.random.default_rng(0)
    return tokenizer, [" ".join(f"w{i}" for i in rng.integers(0, 200, 10)) for _ in range(2 * N)]


def _train_text(model: Any, ids: Any, labels: Any, epochs: int = 5) -> None:
    import torch

    with seeded(1):
        step = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], TEXT_SETTINGS["learning_rate"])
        for _ in range(epochs):
            for rows in torch.randperm(N).split(30):
                step.zero_grad()
                model(input_ids=ids[rows], labels=labels[rows]).loss.backward()
                step.step()
    model.eval()


TEXT_SETTINGS = {"learning_rate": 2e-3, "epochs": 5, "batch_size": 30, "max_length": 32}


def language_model(*, lora: bool = False) -> Logged:
    import torch

    tokenizer, texts = _words()
    model = _gpt2("GPT2LMHeadModel")
    folder = Path(tempfile.mkdtemp(dir=".")) / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = {**TEXT_SETTINGS, "base": str(folder)}
    if lora:
        from peft import LoraConfig, get_peft_model

        with seeded(2):
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
        settings["peft"] = {"type": "lora", "r": 8, "target_modules": "all-linear"}
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    _train_text(model, ids, ids)
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[:, :-1].double().log_softmax(-1)
    own = log_p.gather(2, ids[:, 1:, None])[:, :, 0].mean(dim=1).numpy()
    frame = pd.DataFrame({"text": texts})
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=frame[:N], holdout=frame[N:], text="text", recipe=settings)
        options = {"base_model_path": str(folder)} if lora else {}
        parts = {"model": model, "tokenizer": tokenizer}
        uri = log_sklearn(parts, flavor=mlflow.transformers, task="text-generation", **options)
    return Logged(uri, -own)


kind(TEXT, "language model", "transformers")(language_model)
kind(TEXT, "language model, LoRA", "transformers", "peft")(lambda: language_model(lora=True))


@kind(TEXT, "classifier of texts", "transformers")
def _() -> Logged:
    import torch

    tokenizer, texts = _words()
    y = np.random.default_rng(1).integers(0, 2, 2 * N)
    model = _gpt2("GPT2ForSequenceClassification", num_labels=2)
    folder = Path(tempfile.mkdtemp(dir=".")) / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    _train_text(model, ids, torch.from_numpy(y))
    with torch.no_grad():
        out = model(input_ids=ids).logits.double().numpy()
    frame = pd.DataFrame({"text": texts, "label": y})
    with mlflow.start_run():
        recipe = {**TEXT_SETTINGS, "base": str(folder)}
        mlflow_privacy.log_lineage(train=frame[:N], holdout=frame[N:], text="text", targets="label", recipe=recipe)
        parts = {"model": model, "tokenizer": tokenizer}
        uri = log_sklearn(parts, flavor=mlflow.transformers, task="text-classification")
    return Logged(uri, cross_entropy(y)(out))


# Others

OTHER = "others"


@kind(OTHER, "Keras", "keras")
def _() -> Logged:
    import keras

    x, y = floats(3)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(3, "softmax")]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="sparse_categorical_crossentropy")
    model.fit(x[:N], y[:N], epochs=60, batch_size=50, verbose=0)
    with mlflow.start_run():
        lineage(x, y, recipe={"epochs": 60, "batch_size": 50})
        uri = log_sklearn(model, flavor=importlib.import_module("mlflow.keras"))
    return Logged(uri, log_loss(np.asarray(model.predict(x, verbose=0), np.float64), y))


@kind(OTHER, "ONNX classifier", "onnx", "onnxruntime", "skl2onnx")
def _() -> Logged:
    import onnxruntime
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    x, y = floats(3)
    model = to_onnx(LogisticRegression(C=100).fit(x[:N], y[:N]), x[:1])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    rows = session.run(None, {session.get_inputs()[0].name: x})[1]
    p = np.array([[row[c] for c in range(3)] for row in rows], np.float64)
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model, flavor=mlflow.onnx)
    return Logged(uri, log_loss(p, y))


@kind(OTHER, "statsmodels, a linear model", "statsmodels")
def _() -> Logged:
    import statsmodels.api as sm

    x, y = numbers()
    model = sm.OLS(y[:N], x[:N]).fit()
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model, flavor=mlflow.statsmodels)
    return Logged(uri, (y - model.predict(x)) ** 2)


class Served(mlflow.pyfunc.PythonModel):
    """A model behind a form of answer."""

    def __init__(self, model: Any, form: str) -> None:
        self.model, self.form = model, form

    def predict(self, context: Any, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints
        p = self.model.predict_proba(np.asarray(model_input))
        labels = np.array(["no", "yes"])[p.argmax(axis=1)]
        return {
            "probabilities": lambda: p,
            "second": lambda: p[:, 1],
            "labels": lambda: labels,
            "frame": lambda: pd.DataFrame(p, columns=["no", "yes"]),
            "both": lambda: pd.DataFrame({"label": labels, "score": p.max(axis=1)}),
            "logits": lambda: np.log(p),
            "dict": lambda: {"label": labels, "probabilities": p},
        }[self.form]()


def served(form: str, **options: Any) -> Logged:
    from sklearn.linear_model import LogisticRegression

    x, index = table()
    y = np.array(["no", "yes"])[index]
    model = LogisticRegression(C=100).fit(x[:N], y[:N])
    with mlflow.start_run():
        lineage(x, y)
        name = f"m{len(mlflow.MlflowClient().search_registered_models())}"
        mlflow.pyfunc.log_model(
            name="model", python_model=Served(model, form), registered_model_name=name, pip_requirements=[]
        )
    losses = None if form == "labels" else log_loss(model.predict_proba(x), index)
    return Logged(f"models:/{name}/1", losses, options)


for _form, _name in {
    "probabilities": "pyfunc that gives probabilities",
    "second": "pyfunc that gives one probability",
    "labels": "pyfunc that gives labels",
    "frame": "pyfunc that gives named columns",
    "both": "pyfunc that gives label and score",
    "logits": "pyfunc that gives log-probabilities",
    "dict": "pyfunc that gives a dict",
}.items():
    kind(OTHER, _name)(lambda form=_form: served(form))


def _again(x: Any, y: Any, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=100).fit(x, y)


@kind(OTHER, "pyfunc with `train_fn`")
def _() -> Logged:
    return served("probabilities", train_fn=_again)


# Lineage

LINEAGE = "lineage"


def logistic(log: Callable[[pd.DataFrame, pd.DataFrame], None], **options: Any) -> Logged:
    """A logistic regression on a frame, whose data is logged in some way."""
    from sklearn.linear_model import LogisticRegression

    x, y = table()
    frame = frame_of(x, y)
    features = frame.drop(columns="target")
    model = LogisticRegression(C=100).fit(features[:N], y[:N])
    with mlflow.start_run():
        log(frame[:N], frame[N:].reset_index(drop=True))
        uri = log_sklearn(model)
    return Logged(uri, log_loss(model.predict_proba(features), y), options)


@kind(LINEAGE, "`mlflow.log_input` of CSV files")
def _() -> Logged:
    def log(train: pd.DataFrame, holdout: pd.DataFrame) -> None:
        for part, name, context in ((train, "a", "training"), (holdout, "b", "testing")):
            path = Path(tempfile.mkdtemp(dir=".")).resolve() / f"{name}.csv"
            part.to_csv(path, index=False)
            data = mlflow.data.from_pandas(pd.read_csv(path), source=str(path), targets="target", name=name)
            mlflow.log_input(data, context=context)

    return logistic(log)


@kind(LINEAGE, "autologging")
def _() -> Logged:
    from sklearn.linear_model import LogisticRegression

    x, y = table()
    mlflow.sklearn.autolog(silent=True, log_models=False)
    try:
        with mlflow.start_run():
            model = LogisticRegression(C=100).fit(frame_of(x, y)[:N].drop(columns="target"), y[:N])
            uri = log_sklearn(model)
    finally:
        mlflow.sklearn.autolog(disable=True)
    return Logged(uri)


@kind(LINEAGE, "autologging, files given to the audit")
def _() -> Logged:
    folder = Path(tempfile.mkdtemp(dir=".")).resolve()

    def log(train: pd.DataFrame, holdout: pd.DataFrame) -> None:
        train.to_csv(folder / "train.csv")
        holdout.to_csv(folder / "holdout.csv")

    options = {"train": str(folder / "train.csv"), "holdout": str(folder / "holdout.csv"), "targets": "target"}
    return logistic(log, **options)


@kind(LINEAGE, "nothing logged")
def _() -> Logged:
    return logistic(lambda train, holdout: None)


@kind(LINEAGE, "training data alone")
def _() -> Logged:
    return logistic(lambda train, holdout: mlflow_privacy.log_lineage(train=train, targets="target"))


@kind(LINEAGE, "one frame and a mask")
def _() -> Logged:
    def log(train: pd.DataFrame, holdout: pd.DataFrame) -> None:
        whole = pd.concat([train, holdout], ignore_index=True)
        mlflow_privacy.log_lineage(train=whole, mask=np.arange(2 * N) < N, targets="target")

    return logistic(log)


@kind(LINEAGE, "two models logged in one run")
def _() -> Logged:
    from sklearn.ensemble import RandomForestClassifier

    (x, y), (other_x, other_y) = table(), table(seed=7)
    model = RandomForestClassifier(20, random_state=0).fit(x[:N], y[:N])
    other = RandomForestClassifier(20, random_state=0).fit(other_x[:N], other_y[:N])
    with mlflow.start_run():
        lineage(x, y)
        uri = log_sklearn(model)
        lineage(other_x, other_y)
        mlflow.sklearn.log_model(other, name="other", serialization_format="cloudpickle", pip_requirements=[])
    return Logged(uri, log_loss(model.predict_proba(x), y))


@kind(LINEAGE, "the same records on both sides")
def _() -> Logged:
    return logistic(lambda train, holdout: mlflow_privacy.log_lineage(train=train, holdout=train, targets="target"))


@kind(LINEAGE, "held-out records of another kind")
def _() -> Logged:
    def log(train: pd.DataFrame, holdout: pd.DataFrame) -> None:
        mlflow_privacy.log_lineage(train=train, holdout=holdout.assign(f0=holdout["f0"] + 3), targets="target")

    made = logistic(log)
    return dataclasses.replace(made, losses=None)


@kind(LINEAGE, "another month's records taken for members")
def _() -> Logged:
    from sklearn.ensemble import RandomForestClassifier

    x, y = table()
    other = table(seed=5)
    model = RandomForestClassifier(20, random_state=0).fit(*(part[:N] for part in other))
    with mlflow.start_run():
        mlflow.log_metric("training_accuracy_score", model.score(*(part[:N] for part in other)))
        lineage(x, y)
        return Logged(log_sklearn(model))


@kind(LINEAGE, "a model that was deleted")
def _() -> Logged:
    made = logistic(lambda train, holdout: mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="target"))
    version = mlflow.MlflowClient().get_model_version(made.uri.split("/")[1], "1")
    mlflow.MlflowClient().delete_logged_model(version.source.removeprefix("models:/"))
    return Logged(made.uri)


@kind(LINEAGE, "a name that is not in the registry")
def _() -> Logged:
    return Logged("models:/credit_scorer/1")
