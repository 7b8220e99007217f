"""Log directories as Privacy Meter v2 leaves them, made of plain torch modules of the tests' own."""

import json
import pickle

import numpy as np
import torch
from torch import nn

N, CLASSES = 60, 3
METADATA = {
    "optimizer": "SGD",
    "batch_size": 16,
    "epochs": 2,
    "learning_rate": 0.1,
    "weight_decay": 0.0,
    "dataset": "pm-table",
    "model_name": "mlp",
}


def memberships(pairs, n=N, seed=0):
    """(2 pairs, n) bool: rows 2i and 2i + 1 are complements."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(pairs):
        row = np.zeros(n, bool)
        row[rng.permutation(n)[: n // 2]] = True
        rows += [row, ~row]
    return np.array(rows)


class Perceptron(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 128), nn.Linear(128, classes)

    def forward(self, x):
        return self.fc2(torch.tanh(self.fc1(x)))


class Convolutional(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2).flatten(1)
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class Unit(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.proj_conv = None
        if before != after or stride > 1:
            self.proj_conv = nn.Conv2d(before, after, 1, stride, bias=False)
        self.norm_1, self.conv_1 = nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm_2, self.conv_2 = nn.BatchNorm2d(after), nn.Conv2d(after, after, 3, 1, 1, bias=False)

    def forward(self, x):
        first = self.norm_1(x).relu()
        last = self.conv_2(self.norm_2(self.conv_1(first)).relu())
        return last + (x if self.proj_conv is None else self.proj_conv(first))


class Wide(nn.Module):
    def __init__(self, classes, width=1):
        super().__init__()
        layers, before = [nn.Conv2d(3, 16, 3, padding=1, bias=False)], 16
        for group, size in enumerate((16, 32, 64)):
            for i in range(4):
                layers.append(Unit(before, size * width, 2 if group and not i else 1))
                before = size * width
        layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


class Fast(nn.Module):
    """The network behind `speedyresnet`, as it is stored: inside a moving average of weights."""

    def __init__(self):
        super().__init__()
        net, widths = nn.ModuleDict(), (32, 64, 256, 512)
        net["initial_block"] = nn.ModuleDict(
            {"whiten": nn.Conv2d(3, 12, 2, bias=False), "project": nn.Conv2d(12, 32, 1, bias=False)}
        )
        for i in range(3):
            before, after = widths[i : i + 2]
            net[f"residual{i + 1}"] = nn.ModuleDict(
                {
                    "conv1": nn.Conv2d(before, after, 3, padding="same", bias=False),
                    "conv2": nn.Conv2d(after, after, 3, padding="same", bias=False),
                    "norm1": nn.BatchNorm2d(after, eps=1e-12),
                    "norm2": nn.BatchNorm2d(after, eps=1e-12),
                }
            )
        net["linear"] = nn.Linear(512, 10, bias=False)
        self.net_ema = nn.ModuleDict({"net_dict": net})

    def forward(self, x):
        net, both = self.net_ema["net_dict"], torch.cat([x, x.flip(3)])
        both = nn.functional.gelu(net["initial_block"]["project"](net["initial_block"]["whiten"](both)))
        for i in (1, 2, 3):
            group = net[f"residual{i}"]
            first = nn.functional.gelu(group["norm1"](nn.functional.max_pool2d(group["conv1"](both), 2)))
            both = first + nn.functional.gelu(group["norm2"](group["conv2"](first)))
        logits = net["linear"](both.amax((2, 3))) / 9
        return logits[: len(x)] / 2 + logits[len(x) :] / 2


def write(folder, modules, rows, *, form="pkl", **metadata):
    """Writes a directory; returns it."""
    models = folder / "models"
    models.mkdir(parents=True)
    np.save(models / "memberships.npy", rows)
    values = {}
    for i, (module, row) in enumerate(zip(modules, rows, strict=True)):
        path = models / f"model_{i}.{form}"
        if form == "pkl":
            path.write_bytes(pickle.dumps(module.state_dict()))
        elif form == "safetensors":
            from safetensors.torch import save_model

            save_model(module, str(path))
        else:
            torch.save(module.state_dict(), path)
        values[str(i)] = {
            **METADATA,
            "num_train": int(row.sum()),
            "model_path": f"demo/models/{path.name}",
            "train_acc": 0.05,  # these networks are hardly trained, and an audit refuses a model that belies its log
            "test_acc": 0.5,
            "train_loss": 0.1,
            "test_loss": 1.5,
            **metadata,
        }
    (models / "models_metadata.json").write_text(json.dumps(values, indent=4))
    return folder
