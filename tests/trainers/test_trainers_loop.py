"""The loop of one module: memory format, recorded steps and precision change nothing but roundings and time."""

from __future__ import annotations

import logging
import math
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.settings import TorchSettings, parse_settings, recipe_settings_from_params
from mlflow_privacy.trainers.torch import loop as torch_loop
from mlflow_privacy.trainers.torch.graph import unfit
from mlflow_privacy.trainers.torch.layout import fast_layout, inference_batch
from mlflow_privacy.trainers.torch.reinit import reinitialise
from mlflow_privacy.trainers.torch.tensors import Feeder
from mlflow_privacy.types import Records

SETTINGS = {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "epochs": 3, "batch_size": 16}
CPU = torch.device("cpu")


def images(n=72, classes=3, side=8, seed=0):
    """Bytes; the class is where the image is bright."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.integers(0, 120, (n, 3, side, side))
    for i, label in enumerate(y):
        x[i, label] += 100
    return Records(x.astype(np.uint8), y, np.arange(n).astype(str))


class Scale(nn.Module):
    def forward(self, x):
        return x / 128 - 1


class Views(nn.Module):
    """Takes a view of its feature maps, which `channels_last` does not allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        x = self.conv(x / 128 - 1)
        return self.head(x.view(len(x), -1))


def net(dropout=0.0, norm=True):
    return nn.Sequential(
        Scale(),
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(54, 3),
    )


def train(module, data, rows, seeds, settings=SETTINGS, device="cpu"):
    recipe = make_recipe(module, settings, task="classification")
    return list(trainer_for(recipe).train(recipe, data, rows, seeds, device=device))


def weights(model):
    return torch.cat([value.detach().double().cpu().flatten() for value in model.state_dict().values()])


def whole(data, models=1):
    return np.ones((models, len(data)), bool)


# Memory format


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_convolutional_net_trained_in_another_format_is_the_same_model(dropout, monkeypatch):
    data = images()
    (fast,) = train(net(dropout), data, whole(data), [3])
    with mock.patch.object(torch_loop, "_wants_layout", return_value=False):
        (plain,) = train(net(dropout), data, whole(data), [3])
    (other,) = train(net(dropout), data, whole(data), [4])
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-4, atol=1e-5)
    assert (weights(other) - weights(plain)).norm() > 0.1
    assert all(value.is_contiguous() for value in fast.state_dict().values())


def test_the_format_is_used_while_a_convolutional_net_trains():
    seen = []

    class Looks(nn.Conv2d):
        def forward(self, x):
            seen.append(self.weight.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    module = nn.Sequential(Scale(), Looks(3, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    data = images()
    settings = TorchSettings("sgd", 0.1, epochs=1, batch_size=16)
    feeder, targets = Feeder(torch.from_numpy(data.x), CPU, torch.float32), torch.from_numpy(data.y)
    model = reinitialise(module, 0)
    arguments = (feeder, targets, torch.arange(72), nn.functional.cross_entropy, settings)
    torch_loop.fit(model, *arguments, seed=0, report=lambda step: None)
    assert seen[-5:] == [True] * 5  # 72 records in batches of 16


@pytest.mark.parametrize("module", [Views(), nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout(0.1))], ids=["view", "noise"])
def test_a_net_that_would_compute_something_else_keeps_its_format(module):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with fast_layout(module, torch.rand(8, 3, 8, 8)) as changed:
        assert not changed
        assert all(p.is_contiguous() for p in module.parameters())
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_trying_a_format_leaves_no_trace():
    torch.manual_seed(1)
    module = net(0.3)
    batch = torch.rand(8, 3, 8, 8)
    before, random = weights(module), torch.get_rng_state()
    with fast_layout(module, batch) as changed:
        assert changed
        assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(weights(module), before)
    assert all(p.grad is None and p.is_contiguous() for p in module.parameters())


def test_a_module_in_a_format_of_its_own_keeps_it():
    module = net().to(memory_format=torch.channels_last)
    with fast_layout(module, torch.rand(8, 3, 8, 8)) as changed:
        assert not changed
    assert not module[1].weight.is_contiguous()


def test_views_train_and_are_asked_all_the_same():
    data = images()
    (model,) = train(Views(), data, whole(data), [0])
    assert model_outputs(model, data, task="classification", device="cpu").correct.mean() > 0.8


def test_signals_of_a_convolutional_net_do_not_depend_on_the_format(monkeypatch):
    data = images(300)
    model = reinitialise(net(), 5).eval()
    fast = model_outputs(model, data, task="classification", device="cpu")
    monkeypatch.setattr("mlflow_privacy.signals.torch.is_convolutional", lambda module: False)
    plain = model_outputs(model, data, task="classification", device="cpu", batch_size=300)
    np.testing.assert_allclose(fast.signal, plain.signal, rtol=1e-4, atol=1e-5)
    assert all(value.is_contiguous() for value in model.state_dict().values())


def test_batches_of_inference_are_small_on_a_cpu_for_convolutions_alone():
    record = torch.Size([3, 32, 32])
    assert inference_batch(net(), record, 1024, CPU) == 128
    assert inference_batch(net(), record, 50, CPU) == 50
    assert inference_batch(net(), record, 1024, torch.device("cuda")) == 1024
    assert inference_batch(nn.Linear(3, 3), torch.Size([3]), 1024, CPU) == 1024


# Recorded steps


def recorded(module, data, rows, settings, record):
    """References trained through one engine, and through the loop as it is."""
    parsed = parse_settings(settings, task="classification")
    feeder, targets = Feeder(torch.from_numpy(data.x), CPU, torch.float32), torch.from_numpy(data.y)
    loss = nn.functional.cross_entropy
    engine = torch_loop.step_engine(module, feeder, targets, rows, loss, parsed, record=record)
    assert engine is not None
    for seed, row in enumerate(rows):
        pair = []
        for own in (engine, None):
            model = reinitialise(module, seed)
            arguments = (feeder, targets, row, loss, parsed)
            torch_loop.fit(model, *arguments, seed=seed, report=lambda step: None, engine=own)
            pair.append(weights(model))
        yield pair


def warmed(run):
    """As a recording does it: three steps before, which must leave nothing behind."""
    for _ in range(3):
        run()
    return run


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "lr": 0.02},
        {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "schedule": "cosine"},
        {"optimizer": "adam", "lr": 0.003, "grad_clip": 0.5, "schedule": "linear", "warmup_steps": 3},
        {"optimizer": "adamw", "lr": 0.003, "amsgrad": True, "augmentation": ["flip", {"crop": 1}, {"cutout": 2}]},
    ],
    ids=["sgd", "nesterov", "adam, clipped", "adamw, augmented"],
)
def test_one_network_that_trains_in_place_of_each_reference_gives_the_same_models(settings):
    data = images()
    rows = [torch.arange(0, 72, 2), torch.arange(10, 70), torch.arange(0, 32)]  # 36, 60, 32 records; batches of 16
    # Adam divides by the gradient's size, and that of a bias before a normalisation is rounding alone.
    module = net(norm="sgd" in settings["optimizer"])
    pairs = list(recorded(module, data, rows, {"epochs": 3, "batch_size": 16, **settings}, warmed))
    for own, plain in pairs:
        torch.testing.assert_close(own, plain, rtol=1e-3, atol=2e-5)
    assert (pairs[0][1] - pairs[1][1]).norm() > 0.1


def test_full_batches_are_replayed_and_the_rest_runs_as_written():
    replayed = []
    data = images()

    def record(run):
        def replay():
            replayed.append(1)
            run()

        return replay

    list(recorded(net(), data, [torch.arange(36)], {**SETTINGS, "epochs": 2}, record))
    assert len(replayed) == 4  # 16 + 16 of 36 in each of two epochs


def test_an_engine_that_keeps_the_last_references_momentum_would_be_seen():
    """The comparison can fail: without setting the optimizer's state to zero the second model differs."""
    data = images()
    rows = [torch.arange(48), torch.arange(48)]
    with mock.patch.object(torch.Tensor, "zero_", lambda self: self):
        pairs = list(recorded(net(norm=False), data, rows, SETTINGS, lambda run: run))
    assert not torch.allclose(*pairs[1], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("module", "settings", "words"),
    [
        (net(), {"optimizer": "rmsprop"}, "rmsprop"),
        (net(), {"optimizer_options": {"momentum": 0.9, "dampening": 0.1}}, "does not begin with zeros"),
        (nn.Sequential(nn.Linear(1, 1)), {"dp": {"noise_multiplier": 1.0}}, "privacy"),
        (nn.Sequential(nn.Linear(1, 1)), {"epochs": 1}, "fewer than 200"),
        (Views(), {}, "Views may do something else"),
    ],
)
def test_what_is_not_recorded(module, settings, words):
    base = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 50, "batch_size": 4}
    assert words in unfit(module, TorchSettings(**{**base, **settings}), [40, 40])
    assert unfit(nn.Sequential(nn.Linear(1, 1)), TorchSettings(**base), [40, 40]) is None


def test_hooks_are_not_recorded():
    module = nn.Sequential(nn.Linear(1, 1))
    module[0].register_forward_hook(lambda *_: None)
    assert "hooks" in unfit(module, TorchSettings("sgd", 0.1, epochs=50, batch_size=4), [40])


def test_a_recording_that_fails_is_told_and_does_without(caplog):
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    data = images()
    feeder, targets = Feeder(torch.from_numpy(data.x), CPU, torch.float32), torch.from_numpy(data.y)
    module, parsed = net(), parse_settings(SETTINGS, task="classification")
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        loss = nn.functional.cross_entropy
        made = torch_loop.step_engine(module, feeder, targets, [torch.arange(40)], loss, parsed, record=refuse)
    assert made is None
    assert "not permitted when stream is capturing" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_recorded_on_a_cpu():
    data = images()
    feeder, targets = Feeder(torch.from_numpy(data.x), CPU, torch.float32), torch.from_numpy(data.y)
    parsed = parse_settings({**SETTINGS, "epochs": 1000}, task="classification")
    rows, loss = [torch.arange(72)], nn.functional.cross_entropy
    assert torch_loop.step_engine(net(), feeder, targets, rows, loss, parsed) is None


def test_records_that_are_not_on_the_device_are_picked_by_an_index_that_is_not_either():
    """Else each step would wait for the device to tell which records it takes."""
    asked = []

    class Apart(Feeder):
        resident = False

        def take(self, index):
            asked.append(index)
            return super().take(index)

    data = images()
    parsed = parse_settings({**SETTINGS, "epochs": 1}, task="classification")
    rows = torch.arange(72)
    model = reinitialise(net(), 0)
    feeder = Apart(torch.from_numpy(data.x), CPU, torch.float32)
    targets = torch.from_numpy(data.y)
    torch_loop.fit(model, feeder, targets, rows, nn.functional.cross_entropy, parsed, seed=0, report=lambda step: None)
    taken = torch.cat(asked[-5:])
    assert sorted(taken.tolist()) == list(range(72))


# Precision


def test_the_default_precision_changes_no_fingerprint():
    digests = [
        recipe_digest(make_recipe(net(), {**SETTINGS, **more}, task="classification"))
        for more in ({}, {"precision": "auto"}, {"precision": "tf32"}, {"precision": "bf16"})
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert "precision" not in make_recipe(net(), SETTINGS, task="classification").spec["settings"]


def test_precisions_are_checked():
    assert parse_settings({**SETTINGS, "precision": "BFloat16"}, task="classification").precision == "bf16"
    with pytest.raises(RecipeError, match="did you mean 'tf32'"):
        parse_settings({**SETTINGS, "precision": "tf23"}, task="classification")
    with pytest.raises(RecipeError, match="does not go with dp"):
        parse_settings(
            {**SETTINGS, "precision": "bf16", "dp": {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "delta": 1e-5}},
            task="classification",
        )


def test_a_precision_among_a_runs_parameters_is_a_metric_or_another_tools_and_no_setting():
    assert recipe_settings_from_params({"optimizer": "adam", "precision": "0.87"}) == {"optimizer": "adam"}


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", False), ("tf32", True), ("auto", None), ("bf16", None)]
)
def test_tf32_is_switched_as_asked_for_and_back(precision, expected):
    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = flags()
    with torch_loop.reproducible(torch.device("cuda"), precision):
        products, convolutions = flags()
        assert products is (before[0] if expected is None else expected)
        assert convolutions is (precision != "float32")
    assert flags() == before


def test_bfloat16_trains_about_the_same_model_with_weights_in_float32():
    data = images()
    settings = {**SETTINGS, "epochs": 8}
    (plain,) = train(net(), data, whole(data), [1], settings)
    (half,) = train(net(), data, whole(data), [1], {**settings, "precision": "bf16"})
    difference = (weights(half) - weights(plain)).norm() / weights(plain).norm()
    assert 1e-6 < difference < 0.05
    assert all(p.dtype == torch.float32 for p in half.parameters())
    for model in (plain, half):
        assert model_outputs(model, data, task="classification", device="cpu").correct.mean() > 0.9


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", [{}, {"crop": 1, "flip": 0.5}])
def test_a_replayed_graph_gives_the_models_of_the_plain_loop(augmentation):
    data = images(720)
    settings = {**SETTINGS, "epochs": 8, "augmentation": augmentation, "schedule": "cosine", "precision": "float32"}
    module = nn.Sequential(*list(net())[1:])  # layers of torch alone
    data = Records((data.x / np.float32(128) - 1).astype(np.float32), data.y, data.ids)
    rows = np.stack([np.arange(720) % 3 > 0, np.arange(720) % 4 > 0])
    with mock.patch.object(torch_loop, "StepEngine", wraps=torch_loop.StepEngine) as made:
        graph = train(module, data, rows, [1, 2], settings, "cuda")
    assert made.call_count == 1
    with mock.patch.object(torch_loop, "reason_against", return_value="compared"):
        plain = train(module, data, rows, [1, 2], settings, "cuda")
    for a, b in zip(graph, plain, strict=True):
        torch.testing.assert_close(weights(a), weights(b), rtol=1e-2, atol=1e-3)
    outputs = [model_outputs(m, data, task="classification", device="cuda").correct.mean() for m in (*graph, *plain)]
    assert min(outputs) > 0.9
    assert math.isclose(outputs[0], outputs[2], abs_tol=0.01)


@pytest.mark.gpu
def test_precisions_agree_on_a_gpu_up_to_the_noise_of_seeds():
    data = images(720)
    rows = whole(data)
    accuracy = {}
    for precision in ("float32", "tf32", "bf16", "auto"):
        (model,) = train(net(), data, rows, [1], {**SETTINGS, "precision": precision}, "cuda")
        accuracy[precision] = model_outputs(model, data, task="classification", device="cuda").correct.mean()
    assert max(accuracy.values()) - min(accuracy.values()) < 0.02
