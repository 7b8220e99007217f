"""Networks trained in a stack equal the same networks trained one by one, running statistics and masks included."""

import numpy as np
import pytest
import torch
from torch import nn

from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.stacked import ensemble
from mlflow_privacy.types import Records
from mlflow_privacy.zoo.alexnet import alexnet
from mlflow_privacy.zoo.layers import HeInConv2d, Rescale
from mlflow_privacy.zoo.models import cnn, lenet
from mlflow_privacy.zoo.vgg import vgg_net
from mlflow_privacy.zoo.wide_resnet import WideResNet

SETTINGS = {
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "epochs": 2,
    "batch_size": 8,
    "schedule": "cosine",
}
AUGMENTED = {**SETTINGS, "augmentation": {"crop": 2, "flip": 0.5, "cutout": 4}, "label_smoothing": 0.1}
N = 39  # halves of 19 and 20 records: full batches and smaller ones


def narrow(net, factor, classes=3):
    """The same layers in the same order with fewer channels."""
    layers, width, hidden = [], None, [m for m in net if isinstance(m, nn.Linear)]
    side = None
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            out = layer.out_channels // factor
            inputs = layer.in_channels if width is None else width
            layers.append(type(layer)(inputs, out, layer.kernel_size, layer.stride, layer.padding))
            side, width = layer.out_channels, out
        elif isinstance(layer, nn.BatchNorm2d):
            layers.append(nn.BatchNorm2d(width))
        elif isinstance(layer, nn.Linear):
            inputs = width * (layer.in_features // side) if layer is hidden[0] else width
            width = classes if layer is hidden[-1] else layer.out_features // (16 * factor)
            layers.append(type(layer)(inputs, width))
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def dense():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(768, 9), nn.BatchNorm1d(9), nn.ELU(), nn.LayerNorm(9), nn.Dropout(0.3), nn.Linear(9, 3)
    )


def small():
    return nn.Sequential(
        Rescale([0.5, 0.4, 0.3], 0.2),
        nn.Conv2d(3, 4, 3, stride=2, bias=False),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Dropout(0.2),
        HeInConv2d(4, 6, 3),
        nn.BatchNorm2d(6, momentum=0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, 3),
    )


NETS = {
    "dense with norms": (dense, SETTINGS),
    "layers of all kinds": (small, {**AUGMENTED, "grad_clip": 0.1}),
    "cnn": (lambda: cnn((3, 16, 16), 3, channels=[4, 6], hidden=[8], dropout=0.25), AUGMENTED),
    "lenet": (
        lambda: lenet((3, 16, 16), 3),
        {**SETTINGS, "optimizer": "adam", "momentum": None, "learning_rate": 1e-3},
    ),
    "alexnet": (lambda: narrow(alexnet((3, 16, 16), 3), 16), AUGMENTED),
    "vgg11": (
        lambda: narrow(vgg_net((3, 16, 16), 3, depth=11, batch_norm=True, dropout=0.5, pool=1), 16),
        {**SETTINGS, "drop_last": True},
    ),
    "wrn10-1": (lambda: WideResNet(3, 3, depth=10, width=1), AUGMENTED),
    "wrn10-1 with dropout": (lambda: WideResNet(3, 3, depth=10, width=1, dropout=0.3), SETTINGS),
}


def train(module, settings, way, monkeypatch, *, images=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3, 16, 16)) if images is None else images
    data = Records(x, rng.integers(3, size=N), np.arange(N).astype(str))
    recipe = make_recipe(module, settings, task="classification", data=data)
    half = rng.permutation(N) < N // 2
    other = rng.permutation(N) < N // 2
    rows = np.array([half, ~half, other])
    monkeypatch.setattr(ensemble, "choose", lambda *args, **kwargs: way)
    return list(trainer_for(recipe).train(recipe, data, rows, [5, 6, 7], device="cpu"))


@pytest.mark.parametrize("name", NETS)
def test_stacked_equals_one_by_one(name, monkeypatch):
    build, settings = NETS[name]
    torch.manual_seed(0)
    module = build().double()
    fast = train(module, settings, ensemble.Way("stacked", 2, 1, "test"), monkeypatch)
    slow = train(module, settings, ensemble.Way("one by one", 1, 1, "test"), monkeypatch)
    moved = 0.0
    for a, b, other in zip(fast, slow, slow[1:] + slow[:1], strict=True):
        assert not a.training
        for (key, p), q, r in zip(
            a.state_dict().items(), b.state_dict().values(), other.state_dict().values(), strict=True
        ):
            # float64 sums in another order, over six steps
            torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
            moved = max(moved, float((q - r).abs().max()))
    assert moved > 1e-2  # the models differ from each other by far more than the two ways


def test_whole_numbers_are_kept_as_bytes_and_train_the_same_models(monkeypatch):
    images = np.random.default_rng(3).integers(0, 256, size=(N, 3, 16, 16))
    way = ensemble.Way("stacked", 2, 1, "test")
    a = train(small(), AUGMENTED, way, monkeypatch, images=images.astype(np.float32))
    b = train(small(), AUGMENTED, way, monkeypatch, images=images.astype(np.uint8))
    for p, q in zip(a, b, strict=True):
        for left, right in zip(p.state_dict().values(), q.state_dict().values(), strict=True):
            assert torch.equal(left, right)
