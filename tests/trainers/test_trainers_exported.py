"""Modules that were logged as traced graphs are audited and retrained like those they were traced from."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from mlflow_privacy.errors import RecipeError  # noqa: E402
from mlflow_privacy.signals import model_outputs  # noqa: E402
from mlflow_privacy.trainers import make_recipe, trainer_for  # noqa: E402
from mlflow_privacy.trainers.torch.exported import restore_exported  # noqa: E402
from mlflow_privacy.types import Records  # noqa: E402

SETTINGS = {"optimizer": "sgd", "learning_rate": 0.05, "epochs": 3, "batch_size": 16, "momentum": 0.9}


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    )


def export(module, tmp_path, *, train=False):
    """Through a file, as a registry has it."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(module.train(train), (torch.randn(5, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(tmp_path / "model.pt2"))
    return torch.export.load(str(tmp_path / "model.pt2")).module()


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 1, 8, 8)).astype(np.float32)
    return Records(x, rng.integers(3, size=64), np.arange(64).astype(str))


@pytest.mark.parametrize("train", [False, True])
def test_signals_are_those_of_the_original_in_evaluation_mode(data, tmp_path, train):
    torch.manual_seed(0)
    original = network()
    restored = restore_exported(export(original, tmp_path, train=train))
    ours = model_outputs(restored, data, task="classification")
    theirs = model_outputs(original.eval(), data, task="classification")
    np.testing.assert_allclose(ours.signal, theirs.signal, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_references_equal_those_of_the_original_module(data, tmp_path, train):
    torch.manual_seed(0)
    original = network()
    restored = restore_exported(export(original, tmp_path, train=train))
    members = np.random.default_rng(1).random((1, 64)) < 0.5
    models = []
    for module in (original, restored):
        recipe = make_recipe(module, SETTINGS, task="classification", data=data)
        models += trainer_for(recipe).train(recipe, data, members, [7], device="cpu")
    signals = [model_outputs(model, data, task="classification").signal for model in models]
    np.testing.assert_allclose(signals[1], signals[0], rtol=1e-3, atol=1e-4)


def test_a_graph_traced_in_either_mode_has_the_same_recipe(data, tmp_path):
    torch.manual_seed(0)
    original = network()
    recipes = [
        make_recipe(
            restore_exported(export(original, tmp_path, train=train)), SETTINGS, task="classification", data=data
        )
        for train in (False, True)
    ]
    assert recipes[0].spec == recipes[1].spec


def test_another_graph_has_another_recipe(data, tmp_path):
    layers = list(network())
    specs = []
    for activation in (nn.ReLU(), nn.GELU()):
        layers[2] = activation
        restored = restore_exported(export(nn.Sequential(*layers), tmp_path))
        specs.append(make_recipe(restored, SETTINGS, task="classification", data=data).spec)
    assert specs[0] != specs[1]


def test_weights_of_a_reference_load_again(data, tmp_path):
    restored = restore_exported(export(network(), tmp_path))
    recipe = make_recipe(restored, SETTINGS, task="classification", data=data)
    trainer = trainer_for(recipe)
    (model,) = trainer.train(recipe, data, np.ones((1, 64), bool), [7], device="cpu")
    assert trainer.save(recipe, model, tmp_path)
    again = trainer.load(recipe, tmp_path)
    np.testing.assert_allclose(
        model_outputs(again, data, task="classification").signal,
        model_outputs(model, data, task="classification").signal,
        rtol=1e-5,
    )


class Tokens(nn.Module):
    """Embedding with a padding index, and layer and group normalisation."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.layer_norm, self.group_norm = nn.LayerNorm(8), nn.GroupNorm(2, 8)
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(self.group_norm(self.layer_norm(self.embedding(x).mean(dim=1))))


def test_references_of_a_token_model_equal_those_of_the_original(tmp_path):
    rng = np.random.default_rng(0)
    data = Records(rng.integers(20, size=(64, 6)), rng.integers(3, size=64), np.arange(64).astype(str))
    torch.manual_seed(0)
    original = Tokens()
    tokens = (torch.as_tensor(data.x[:5]),)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(original.eval(), tokens, dynamic_shapes=shapes), str(tmp_path / "model.pt2"))
    restored = restore_exported(torch.export.load(str(tmp_path / "model.pt2")).module())
    members = rng.random((1, 64)) < 0.5
    models = []
    for module in (original, restored):
        recipe = make_recipe(module, SETTINGS, task="classification", data=data)
        models += trainer_for(recipe).train(recipe, data, members, [7], device="cpu")
    signals = [model_outputs(model, data, task="classification").signal for model in models]
    np.testing.assert_allclose(signals[1], signals[0], rtol=1e-3, atol=1e-4)


class Scaled(nn.Module):
    """Owns a bare parameter, for which a traced graph knows no rule."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(x.flatten(1)) * self.scale


def test_layers_without_a_known_rule_are_named(data, tmp_path):
    restored = restore_exported(export(Scaled(), tmp_path))
    with pytest.raises(RecipeError, match="scale"):
        make_recipe(restored, SETTINGS, task="classification", data=data)
