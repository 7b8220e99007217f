"""Models by name: torch builders, scikit-learn estimators, users' own; never anything imported by a dotted name."""

import importlib

import numpy as np
import pytest

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", (5,), {}),
        ("mlp", (5,), {"hidden": []}),
        ("mlp", (1, 8, 8), {"hidden": [16, 8], "dropout": 0.5}),
        ("cnn", (1, 8, 8), {}),
        ("cnn", (3, 9, 7), {"channels": [4, 4], "hidden": [], "dropout": 0.1}),
    ],
)
def test_torch_models_map_a_batch_to_logits_and_every_layer_resets(name, shape, options):
    net = zoo.build_model(name, shape, 3, options, task="classification")
    assert net(torch.zeros(2, *shape)).shape == (2, 3)
    owners = [m for m in net.modules() if list(m.parameters(recurse=False))]
    assert owners
    assert all(hasattr(m, "reset_parameters") for m in owners)


def test_torch_models_are_made_of_torchs_own_layers_so_that_they_load_anywhere():
    net = zoo.build_model("cnn", (1, 8, 8), 10, {}, task="classification")
    assert {type(m).__module__.split(".")[0] for m in net.modules()} == {"torch"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": [0]}, "hidden must be a list of positive integers"),
        ({"hidden": 64}, "hidden must be a list of positive integers"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"hiden": [4]}, "unknown key train.model_options.hiden of 'mlp', did you mean 'hidden'?"),
    ],
)
def test_wrong_options_of_a_torch_model_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        zoo.build_model("mlp", (4,), 2, options, task="classification")


def test_images_that_are_halved_too_often_are_refused():
    with pytest.raises(ConfigError, match="halves a 8×8 image too often: give at most 3 entries"):
        zoo.build_model("cnn", (1, 8, 8), 2, {"channels": [2, 2, 2, 2]}, task="classification")


def test_estimators_are_found_by_class_name_and_learn():
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    forest = zoo.build_model("RandomForestClassifier", (2,), 2, {"n_estimators": 3}, task="classification")
    assert forest.fit(x, y).n_estimators == 3
    assert type(zoo.build_model("Ridge", (2,), 1, {}, task="regression")).__name__ == "Ridge"


@pytest.mark.parametrize(
    ("name", "options", "task", "message"),
    [
        ("RandomForestClasifier", {}, None, "did you mean 'RandomForestClassifier'?"),
        (
            "RandomForestClassifier",
            {"n_estimater": 3},
            None,
            "model_options.n_estimater .*, did you mean 'n_estimators'?",
        ),
        ("RandomForestClassifier", {"n_estimators": -3}, None, r"must be an int in the range \[1, inf\). Got -3"),
        ("RandomForestClassifier", {}, "regression", "cannot learn a regression"),
        ("StackingClassifier", {}, None, "needs another estimator as estimators"),
    ],
)
def test_wrong_estimators_and_parameters_are_named(name, options, task, message):
    with pytest.raises(ConfigError, match=message):
        zoo.build_model(name, (2,), 2, options, task=task)


@pytest.mark.parametrize(
    "name", ["os.system", "sklearn.svm.SVC", "subprocess:run", "__builtins__", "clone", "BaseEstimator"]
)
def test_no_name_imports_anything_outside_scikit_learn(name, monkeypatch):
    asked = []
    original = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda module: asked.append(module) or original(module))
    assert zoo.find_estimator(name) is None
    assert zoo.check_model(name, {}, task=None)
    assert {module.split(".")[0] for module in asked} <= {"sklearn"}


def test_a_builder_is_registered_by_a_decorator_and_its_options_are_checked(monkeypatch):
    monkeypatch.setattr("mlflow_privacy.zoo.registry.MODELS", dict(zoo.MODELS))

    @zoo.model("two-layers", inputs="flat")
    def two_layers(input_shape, num_outputs, *, width=4):
        return torch.nn.Sequential(torch.nn.Linear(*input_shape, width), torch.nn.Linear(width, num_outputs))

    net = zoo.build_model("two-layers", (3,), 2, {"width": 5}, task="classification")
    assert net[0].out_features == 5
    with pytest.raises(ConfigError, match="did you mean 'width'?"):
        zoo.build_model("two-layers", (3,), 2, {"widht": 5}, task="classification")
