"""Reference models of one recipe trained together, one by one, and the time that their products alone would take.

    python benchmarks/bench_ensemble.py                                # MLPs on the CPU, all cores
    python benchmarks/bench_ensemble.py --nets mlp lenet cnn --device cuda
    OMP_NUM_THREADS=1 python benchmarks/bench_ensemble.py --nets lenet cnn wrn10-1 --models 4 --records 512 --batch-size 64

Both ways take turns, and the best of the repetitions counts. The floor is the FLOPs of all dense and convolutional layers,
forward and backward, over what one large float32 product reaches on the same device in between.
"""  # noqa: E501

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.stacked import ensemble as torch_ensemble
from mlflow_privacy.trainers.stacked.way import Way, choose, costs
from mlflow_privacy.types import Records
from mlflow_privacy.zoo import build_model

TABLE, IMAGE = (600,), (3, 32, 32)
NETS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "mlp": (
        TABLE,
        lambda: build_model("mlp", TABLE, 100, {"hidden": [128], "activation": "tanh"}, task="classification"),
    ),
    "mlp with norms": (
        TABLE,
        lambda: nn.Sequential(nn.Linear(600, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 100)),
    ),
    "lenet": (IMAGE, lambda: build_model("lenet", IMAGE, 100, {}, task="classification")),
    "cnn": (IMAGE, lambda: build_model("cnn", IMAGE, 100, {}, task="classification")),
    "wrn10-1": (IMAGE, lambda: build_model("wrn", IMAGE, 100, {"depth": 10, "width": 1}, task="classification")),
}
Clock = Callable[[], float]
ONE_BY_ONE = Way("one by one", 1, 1, "asked for")


def flops(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Of a training step a record: each layer's product three times, but the first layer's input needs no gradient.

    >>> flops(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7)), (3,))
    270
    """
    first = next(m for m in module.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd)))
    of_first: list[int] = []
    hook = first.register_forward_hook(lambda m, _, out: of_first.append(m.weight[0].numel() * out[0].numel()))
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    hook.remove()
    module.train()
    return 2 * (3 * costs(module, shape)[0] - of_first[0])


def gflops(device: torch.device, clock: Clock, size: int = 1024, repetitions: int = 15) -> float:
    """GFLOP/s that one float32 product reaches, the best of some."""
    a, b = (torch.rand(size, size, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(repetitions):
        wait(device)
        start = clock()
        a @ b
        wait(device)
        best = min(best, clock() - start)
    return 2 * size**3 / best / 1e9


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make(
    shape: tuple[int, ...], module: nn.Module, arguments: argparse.Namespace, clock: Clock
) -> Callable[[Way], float]:
    """A function that trains all models in one way and returns the seconds that it took."""
    rng = np.random.default_rng(0)
    n = 2 * arguments.records
    x = (rng.random((n, *shape)) < 0.3).astype(np.float32)
    records = Records(x, rng.integers(100, size=n), np.arange(n).astype(str))
    settings = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
    }
    recipe = make_recipe(module, settings, task="classification", data=records)
    rows = np.stack([rng.permutation(n) < n // 2 for _ in range(arguments.models)])

    def train(way: Way) -> float:
        start = clock()
        with mock.patch.object(torch_ensemble, "choose", return_value=way):
            models = trainer_for(recipe).train(recipe, records, rows, range(len(rows)), device=arguments.device)
            for _ in models:
                pass
        wait(torch.device(arguments.device))
        return clock() - start

    return train


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both ways and of the floor, and which way would be chosen."""
    from mlflow_privacy.trainers.settings import parse_settings

    shape, build = NETS[name]
    torch.manual_seed(0)
    module, device = build(), torch.device(arguments.device)
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    train = make(shape, module, arguments, clock)
    settings = parse_settings(
        {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 1, "batch_size": arguments.batch_size},
        task="classification",
    )
    chosen = choose(module, settings, device, n_models=arguments.models, record_shape=shape)
    stacked = chosen if chosen.kind == "stacked" else Way("stacked", arguments.models, 1, "asked for")
    seconds: dict[str, list[float]] = {"stacked": [], "one by one": []}
    speed = 0.0
    for _ in range(arguments.repeats):
        speed = max(speed, gflops(device, clock))
        for way in (stacked, ONE_BY_ONE):
            seconds[way.kind].append(train(way))
    work = flops(module, shape) * arguments.records * arguments.epochs * arguments.models
    best = {kind: min(values) for kind, values in seconds.items()}
    return {"name": name, **best, "floor": work / speed / 1e9, "speed": speed, "chosen": chosen}


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table.

    >>> row = {"name": "a", "stacked": 2.0, "one by one": 3.0, "floor": 1.0, "speed": 90.0, "chosen": ONE_BY_ONE}
    >>> print(table([row]).splitlines()[-1])
    | a | 3.00 | 2.00 | 1.50 × | 1.00 | 90 | 2.00 × | one by one: asked for |
    """
    head = "| network | one by one, s | stacked, s | ratio | floor, s | GFLOP/s | stacked / floor | chosen |"
    lines = [head, "|---" * 8 + "|"]
    for row in rows:
        alone, stacked, floor = row["one by one"], row["stacked"], row["floor"]
        lines.append(
            f"| {row['name']} | {alone:.2f} | {stacked:.2f} | {alone / stacked:.2f} × | {floor:.2f} | "
            f"{row['speed']:.0f} | {stacked / floor:.2f} × | {row['chosen']} |"
        )
    return "\n".join(lines)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=["mlp", "mlp with norms"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", type=int, default=9)
    parser.add_argument("--records", type=int, default=10_000, help="that each model trains on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-seconds", action="store_true", help="of all threads, where other programs are running")
    arguments = parser.parse_args(given)
    rows = []
    for name in arguments.nets:
        rows.append(measure(name, arguments))
        print(f"{name} done", file=sys.stderr)
    print(
        f"{arguments.models} models, {arguments.records} records each, {arguments.epochs} epoch(s), batches of "
        f"{arguments.batch_size}, best of {arguments.repeats}; {arguments.device}, {torch.get_num_threads()} "
        f"thread(s), torch {torch.__version__}{', CPU seconds' if arguments.cpu_seconds else ''}\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
