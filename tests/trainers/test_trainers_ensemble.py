"""Models trained together equal models trained one by one."""

import numpy as np
import pytest
import torch
from torch import nn

from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.settings import parse_settings
from mlflow_privacy.trainers.stacked import ensemble
from mlflow_privacy.types import Records

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "epochs": 3, "batch_size": 16, "schedule": "cosine"}
ADAM = {"optimizer": "adamw", "learning_rate": 1e-2, "epochs": 2, "batch_size": 32, "weight_decay": 0.1}


def net(p=0.0, activation=nn.ReLU, outputs=3, bias=True):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 16, bias=bias),
        activation(),
        nn.Dropout(p),
        nn.Sequential(nn.Linear(16, 8), nn.Tanh()),
        nn.Linear(8, outputs),
    )


def train(module, settings, rows, *, together, monkeypatch, task="classification", n=101):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3, 4)).astype(np.float32)
    y = rng.integers(3, size=n) if task == "classification" else rng.normal(size=n).astype(np.float32)
    data = Records(x, y, np.arange(n).astype(str))
    recipe = make_recipe(module, settings, task=task, data=data)
    if not together:
        monkeypatch.setattr(ensemble, "choose", lambda *args, **kwargs: ensemble.Way("one by one", 1, 1, "asked for"))
    return list(trainer_for(recipe).train(recipe, data, rows, range(len(rows)), device="cpu"))


@pytest.mark.parametrize(
    ("module", "settings", "task"),
    [
        (net(), SGD, "classification"),
        (net(p=0.5), SGD, "classification"),
        (net(activation=nn.GELU, bias=False), ADAM, "classification"),
        (net(), {**ADAM, "grad_clip": 0.05}, "classification"),
        (net(), {**SGD, "label_smoothing": 0.1, "drop_last": True}, "classification"),
        (net(outputs=1), {**SGD, "learning_rate": 0.01}, "regression"),
        (nn.Linear(12, 3), {**SGD, "nesterov": True, "weight_decay": 0.01}, "classification"),
    ],
)
def test_together_equals_one_by_one(module, settings, task, monkeypatch):
    if isinstance(module, nn.Linear):
        module = nn.Sequential(nn.Flatten(), module)
    rng = np.random.default_rng(1)
    # Complementary halves of an odd pool: two lengths, and one more model than a group holds.
    halves = [rng.permutation(101) < 50 for _ in range(3)]
    rows = np.array([row for half in halves for row in (half, ~half)][:5])
    fast = train(module, settings, rows, together=True, monkeypatch=monkeypatch, task=task)
    slow = train(module, settings, rows, together=False, monkeypatch=monkeypatch, task=task)
    start = slow[0].state_dict()
    for a, b in zip(fast, slow, strict=True):
        for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            # float32 sums in another order, over some 30 steps
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=name)
    assert any((p - q).abs().max() > 1e-2 for p, q in zip(start.values(), slow[1].state_dict().values()))


def size(module, settings=SGD, device="cpu"):
    parsed = parse_settings(settings, task="classification")
    return ensemble.group_size(module, parsed, torch.device(device))


def test_what_cannot_be_stacked_trains_one_by_one():
    assert size(net()) > 1
    assert size(nn.Sequential(nn.Conv2d(1, 1, 3))) == 1
    assert size(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))) == 1
    assert size(nn.Sequential(nn.Linear(2, 2), nn.AlphaDropout())) == 1
    shared = nn.Linear(2, 2)
    assert size(nn.Sequential(shared, nn.ReLU(), shared)) == 1
    frozen = net()
    frozen[1].weight.requires_grad_(False)
    assert size(frozen) == 1
    assert size(net(p=0.5), device="cuda") == 1

    class Own(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 1

    assert size(Own(nn.Linear(2, 2))) == 1


def test_large_models_train_in_smaller_groups():
    with torch.device("meta"):
        large = nn.Sequential(nn.Linear(10_000, 5_000), nn.ReLU(), nn.Linear(5_000, 10))
    assert size(large) == 2**31 // (4 * 4 * sum(p.numel() for p in large.parameters()))


def test_progress_never_exceeds_the_total(monkeypatch):
    calls = []
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(2, size=40)
    data = Records(x, y, np.arange(40).astype(str))
    recipe = make_recipe(nn.Linear(3, 2), SGD, task="classification", data=data)
    rows = np.arange(40) % 2 == np.arange(4)[:, None] % 2
    list(trainer_for(recipe).train(recipe, data, rows, range(4), progress=lambda *call: calls.append(call)))
    assert calls[-1] == (4 * 3 * 2, 4 * 3 * 2)
    assert all(done <= total for done, total in calls)
