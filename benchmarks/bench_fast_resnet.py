"""How fast, and how well, the short recipe learns CIFAR-10: accuracy and seconds over seeds, as Markdown tables.

    python benchmarks/bench_fast_resnet.py --data DIR [--seeds 5] [--target 0.94]         on a GPU
    python benchmarks/bench_fast_resnet.py --data DIR --rows 5000 --epochs 8 --seeds 1    on a CPU
    ... --plain                                                  and one epoch of wrn28-2 by the plain trainer

Trains on the training records (or the first `--rows` of them) and tests on the 10,000 test records, without test-time
augmentation. The first model on a GPU compiles; its time is told apart. `--tries` are the numbers of epochs for which
the time to the target accuracy is looked for.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.torch.tensors import resolve_device
from mlflow_privacy.types import Records
from mlflow_privacy.zoo import build_model, load_dataset
from mlflow_privacy.zoo.data import image_statistics

PLAIN = {
    **{"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256},
    **{"schedule": "cosine", "augmentation": ["flip", {"crop": 4}]},
}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    module: Any, settings: dict[str, Any], data: Records, seeds: int, device: torch.device
) -> Iterator[tuple[Any, float]]:
    """Models of seeds 0, 1, ... on all of the data, and the seconds that each took."""
    recipe = make_recipe(module, settings, task="classification", data=data)
    rows = np.ones((seeds, len(data)), bool)
    started = time.perf_counter()
    for model in trainer_for(recipe).train(recipe, data, rows, range(seeds), device=str(device)):
        wait(device)
        yield model, time.perf_counter() - started
        started = time.perf_counter()


def accuracy(model: Any, data: Records, device: torch.device) -> float:
    correct = model_outputs(model, data, task="classification", device=str(device)).correct
    return float(np.mean(correct))


def line(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds CIFAR-10, as data_dir of a config")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.94)
    parser.add_argument("--rows", type=int, help="training records; default all")
    parser.add_argument("--epochs", type=int, help="default: the recipe's own")
    parser.add_argument("--tries", type=int, nargs="*", default=[], help="further numbers of epochs")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plain", action="store_true", help="also time one epoch of wrn28-2 by the plain trainer")
    options = parser.parse_args()
    device = resolve_device(options.device)
    data = load_dataset("cifar10", data_dir=options.data)
    if data.population is None:
        raise SystemExit("This copy of CIFAR-10 has no test part, which the accuracy is measured on.")
    train, test = data.records.take(slice(0, options.rows)), data.population
    shape, classes = train.x.shape[1:], len(np.unique(train.y))
    module = build_model("speedyresnet", shape, classes, {"width": options.width}, task="classification")
    mean, std = image_statistics(data)  # of x / 255
    module.set_scale(255 * mean, 255 * std)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{where}; torch {torch.__version__}, Python {platform.python_version()}; {len(train)} records trained on\n")
    line(
        "epochs",
        "accuracy, mean ± s.d. (n)",
        f"≥ {options.target:g}",
        "s a model",
        "s of the first",
        "ms / 1,000 / epoch",
    )
    line(*["---"] * 6)
    for epochs in [options.epochs, *options.tries]:
        settings = {} if epochs is None else {"epochs": epochs}
        passes = make_recipe(module, settings, task="classification").spec["settings"]["epochs"]
        found, seconds = [], []
        for model, taken in timed(module, settings, train, options.seeds, device):
            found.append(accuracy(model, test, device))
            seconds.append(taken)
        usual = statistics.median(seconds[1:] or seconds)
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        hits = f"{sum(value >= options.target for value in found)} of {len(found)}"
        cost = 1e6 * usual / passes / len(train)
        mean = f"{statistics.mean(found):.4f} ± {spread:.4f} ({len(found)})"
        line(passes, mean, hits, f"{usual:.2f}", f"{seconds[0]:.2f}", f"{cost:.1f}")
    if options.plain:
        plain = build_model("wrn28-2", shape, classes, {}, task="classification")
        ((_, seconds_plain),) = timed(plain, {**PLAIN, "epochs": 1}, train, 1, device)
        print(f"\nThe plain trainer, wrn28-2, one epoch: {1e6 * seconds_plain / len(train):.1f} ms / 1,000 images")


if __name__ == "__main__":
    main()
