"""What labels are, and what a model is asked for: decided by what it is or says, before anything trains."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.mixture import GaussianMixture
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlflow_privacy.errors import LineageError, SignalError
from mlflow_privacy.lineage.labels import settle_labels
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.lineage.recipe import resolve_recipe
from mlflow_privacy.lineage.tasks import model_kind, stated_loss
from mlflow_privacy.trainers import trainer_for
from mlflow_privacy.types import Records

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABEL = np.arange(40) % 3
HOT = np.eye(3)[LABEL]
MANY = (RNG.random((40, 3)) < 0.5).astype(float)
MANY[0] = 1


def settle(y, native=None, **said):
    return settle_labels(native, Records(X, y, np.arange(40).astype(str)), None, **said)


@pytest.mark.parametrize(
    ("y", "loss", "task"),
    [
        (HOT, "cross_entropy", "classification"),
        (HOT, None, "classification"),
        (HOT.astype(bool), None, "classification"),
        (HOT, "bce_with_logits", "multilabel"),
        (HOT, "mse", "regression"),
        (MANY, "binary_cross_entropy", "multilabel"),
        (MANY, None, "multilabel"),
        (MANY, "mse", "regression"),
        (X, None, "regression"),
        (X[:, None, None], "mse", "regression"),
        (RNG.integers(0, 9, (40, 2)), None, "regression"),
    ],
)
def test_several_values_a_record(y, loss, task):
    settled = settle(y, loss=loss)
    assert settled.task == task
    if task == "classification":
        assert settled.pool.y.tolist() == LABEL.tolist()
        assert settled.one_hot["columns"] == 3
    else:
        assert settled.pool.y.shape == y.shape
        assert settled.one_hot is None


def test_an_estimator_tells_one_hot_labels_from_labels_of_their_own():
    mlp = MLPClassifier((4,), max_iter=3)
    with pytest.warns():
        each = mlp.fit(X, HOT.astype(int))
    assert settle(HOT, each).task == "multilabel"
    assert settle(HOT, RandomForestClassifier(3).fit(X, HOT)).task == "multilabel"
    assert settle(HOT, LogisticRegression().fit(X, LABEL)).task == "classification"


def test_one_hot_labels_take_the_names_of_classes():
    settled = settle(HOT, names=["low", "mid", "high"])
    assert settled.pool.y[:3].tolist() == ["low", "mid", "high"]
    with pytest.raises(LineageError, match="classes names 2 labels, but its one-hot labels have 3 columns"):
        settle(HOT, names=["low", "high"])


@pytest.mark.parametrize("names", [None, ["low", "mid", "high"]])
def test_code_of_the_callers_trains_on_one_hot_labels_as_they_were_logged(names):
    settled = settle(HOT.astype(np.float32), names=names)
    seen = []
    recipe, _ = resolve_recipe(
        None,
        LineageOptions(train_fn=lambda x, y, seed: seen.append(y) or "model"),
        logged=None,
        params={},
        task="classification",
        pool=settled.pool,
        one_hot=settled.one_hot,
    )
    next(trainer_for(recipe).train(recipe, settled.pool, np.ones((1, 40), bool), [0]))
    assert seen[0].dtype == np.float32
    np.testing.assert_array_equal(seen[0], HOT)


@pytest.mark.parametrize(
    ("y", "said", "match"),
    [
        (np.full((40, 4), 0.25), {"loss": "cross_entropy"}, "shares of classes, not one class a record"),
        (X, {"task": "classification"}, "neither one-hot nor several labels"),
        (X[:, 0], {"task": "classification"}, "its labels are fractions"),
        (np.full(40, "a"), {"task": "regression"}, "its labels are names"),
    ],
)
def test_labels_that_do_not_fit_are_one_error(y, said, match):
    with pytest.raises(LineageError, match=match):
        settle(y, **said)


def test_what_is_said_wins_over_what_the_model_is():
    assert settle(LABEL, LogisticRegression(), task="regression").task == "regression"
    assert settle(LABEL, LinearRegression(), task="classification").task == "classification"
    assert settle(LABEL.astype(float), None, task="classification").pool.y.dtype.kind == "i"
    assert settle(MANY, None, task="regression").task == "regression"


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (KMeans(3, n_init=1), "groups records into clusters"),
        (make_pipeline(StandardScaler(), KMeans(3, n_init=1)), "groups records into clusters"),
        (IsolationForest(n_estimators=3), "looks for outliers"),
        (GaussianMixture(2), "estimates how likely records are"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_clusters_and_outliers_are_no_labels(model, what):
    with pytest.raises(SignalError, match=what):
        settle(LABEL, model.fit(X))
    assert settle(LABEL, model, task="regression").task == "regression"


def test_probabilities_say_classes_of_whole_numbers_alone():
    """A plain net of skorch has `predict_proba` whatever it learns."""

    class Net:
        def predict_proba(self, x):
            raise NotImplementedError

    amounts = RNG.integers(-1000, 1000, 40)
    assert settle(amounts, Net()).task == "classification"
    assert settle(amounts, None).task == "regression"
    assert settle(X[:, 0], Net()).task == "regression"


def test_whole_numbers_of_a_regressor_are_amounts():
    assert settle(RNG.poisson(3, 40), PoissonRegressor()).task == "regression"


def test_what_statsmodels_fits_says_its_family():
    api = pytest.importorskip("statsmodels.api")
    binary = (LABEL > 0).astype(int)
    assert model_kind(api.OLS(X[:, 0], X[:, 1:]).fit()) == "regression"
    assert model_kind(api.Logit(binary, X).fit(disp=0)) == "classification"
    assert model_kind(api.GLM(binary, X, family=api.families.Binomial()).fit()) == "classification"
    assert model_kind(api.GLM(LABEL, X, family=api.families.Poisson()).fit()) == "regression"
    series = api.tsa.AutoReg(X[:, 0], 1).fit()
    with pytest.raises(SignalError, match="forecasts a series"):
        model_kind(series)


def test_forecasters_have_no_members():
    class Prophet:
        pass

    Prophet.__module__ = "prophet.forecaster"
    with pytest.raises(SignalError, match="A prophet Prophet forecasts a series"):
        settle(X[:, 0], Prophet())


def test_native_boosters_say_their_objective():
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X, label=LABEL)
    kinds = {"count:poisson": "regression", "reg:squarederror": "regression", "multi:softprob": "classification"}
    for objective, kind in kinds.items():
        more = {"num_class": 3} if kind == "classification" else {}
        assert model_kind(xgboost.train({"objective": objective, **more}, data, 1)) == kind
    lightgbm = pytest.importorskip("lightgbm")
    for objective, kind in {
        "poisson": "regression",
        "regression_l1": "regression",
        "multiclass": "classification",
    }.items():
        more = {"num_class": 3} if kind == "classification" else {}
        options = {"objective": objective, "verbose": -1, "min_data_in_leaf": 1, **more}
        assert model_kind(lightgbm.train(options, lightgbm.Dataset(X, LABEL), 1)) == kind


def test_a_compiled_keras_model_says_its_loss():
    class Loss:
        pass

    class Model:
        loss = Loss()

    Loss.__name__ = "MeanSquaredError"
    Model.__module__ = "keras.src.models"
    assert stated_loss(Model()) == "MeanSquaredError"
    assert settle(LABEL, Model()).task == "regression"
    Model.loss = "categorical_crossentropy"
    assert settle(HOT, Model()).task == "classification"
    Model.loss = "binary_crossentropy"
    assert settle(HOT, Model()).task == "multilabel"
