"""What the training loop costs beside the bare network, and what memory format and recorded steps save.

    OMP_NUM_THREADS=1 python benchmarks/bench_loop.py
    python benchmarks/bench_loop.py --device cuda --batches 200 --precision bf16
    python benchmarks/bench_loop.py --models CNN --batches 2 --repeats 1 --markdown table.md

Microseconds an image on random images of 32×32 pixels. "Bare" is forward pass, backward pass and optimizer step of the
network on one minibatch that lies ready as floats; "loop" is our training of one epoch: picking bytes, casting,
augmentation if asked for, learning rate, progress. All ways take turns in one process; each figure is the least of the
repeats, in CPU seconds on a CPU, which other processes disturb less, and in seconds on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from mlflow_privacy.trainers.settings import TorchSettings
from mlflow_privacy.trainers.torch import loop as torch_loop
from mlflow_privacy.trainers.torch.reinit import reinitialise
from mlflow_privacy.trainers.torch.tensors import Feeder, resolve_device
from mlflow_privacy.zoo import build_model, rescaled

SHAPE, CLASSES = (3, 32, 32), 10
# Network: images a step, and minibatches an epoch by default.
MODELS = {"CNN": (256, 8), "cnn": (256, 3), "wrn28-2": (32, 6), "alexnet": (128, 6), "vgg11": (64, 2)}
COLUMNS = ("bare", "bare, channels_last", "loop, default format", "loop", "loop, recorded step")


def seconds_of(work: Callable[[], None], device: torch.device) -> float:
    """CPU seconds on a CPU, seconds until the device is done elsewhere."""
    if device.type == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def least(ways: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    """The least time of each way, after one turn that is not counted."""
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(repeats + 1):
        for name, work in ways.items():
            taken = seconds_of(work, device)
            if turn:
                best[name] = min(best[name], taken)
    return best


def measure(name: str, settings: TorchSettings, batches: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Microseconds an image of each way."""
    size = settings.batch_size
    n = size * batches
    module = rescaled(build_model(name, SHAPE, CLASSES, {}, task="classification"), 0.5, 0.25)
    pixels = torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8)
    feeder, rows = Feeder(pixels, device, torch.float32), torch.arange(n)
    targets = torch.randint(0, CLASSES, (n,)).to(device)

    def bare(memory_format: torch.memory_format) -> Callable[[], None]:
        model = reinitialise(module, 0).to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
        optimizer = torch_loop.make_optimizer(list(model.parameters()), settings)
        batch, wanted = feeder.slice(0, size), targets[:size]

        def work() -> None:
            for _ in range(batches):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                    output = model(batch)
                F.cross_entropy(output.float(), wanted).backward()
                optimizer.step()

        return work

    def loop(engine: Any = None, *, fast: bool = True) -> Callable[[], None]:
        model = reinitialise(module, 0).to(device)
        plain = mock.patch.object(torch_loop, "layout", return_value=contextlib.nullcontext())

        def work() -> None:
            with contextlib.nullcontext() if fast else plain:
                arguments = (feeder, targets, rows, F.cross_entropy, settings)
                torch_loop.fit(model, *arguments, seed=0, report=lambda step: None, engine=engine)

        return work

    ways = {
        "bare": bare(torch.contiguous_format),
        "bare, channels_last": bare(torch.channels_last),
        "loop, default format": loop(fast=False),
        "loop": loop(),
    }
    with torch_loop.reproducible(device, settings.precision):
        if device.type == "cuda":
            record = torch_loop.record_on_cuda
            engine = torch_loop.step_engine(module, feeder, targets, [rows], F.cross_entropy, settings, record=record)
            if engine is not None:
                ways["loop, recorded step"] = loop(engine)
        return {way: 1e6 * taken / n for way, taken in least(ways, repeats, device).items()}


def table(measured: dict[str, dict[str, float]]) -> str:
    """A Markdown table; the last column is our loop over the faster bare network.

    >>> print(table({"CNN": {"bare": 150.0, "bare, channels_last": 100.0, "loop": 104.0}}))
    | µs an image | bare | bare, channels_last | loop | loop / best bare |
    |---|---|---|---|---|
    | CNN | 150.0 | 100.0 | 104.0 | 1.04 |
    """
    shown = [column for column in COLUMNS if any(column in row for row in measured.values())]
    lines = [f"| µs an image | {' | '.join(shown)} | loop / best bare |", f"|{'---|' * (len(shown) + 2)}"]
    for name, row in measured.items():
        cells = [f"{row[column]:.1f}" if column in row else "–" for column in shown]
        ours = min(row[column] for column in ("loop", "loop, recorded step") if column in row)
        best = min(value for column, value in row.items() if column.startswith("bare"))
        lines.append(f"| {name} | {' | '.join(cells)} | {ours / best:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["CNN", "cnn", "wrn28-2", "alexnet"], help="names of the zoo")
    parser.add_argument("--batch-size", type=int, help="images a step; default: by network, 64 for others")
    parser.add_argument("--batches", type=int, help="minibatches an epoch; default: by network")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--augment", action="store_true", help="flips and crops")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    options = parser.parse_args()
    device = resolve_device(options.device)
    measured = {}
    for name in options.models:
        size, batches = MODELS.get(name, (64, 2))
        settings = TorchSettings(
            "adam",
            1e-3,
            epochs=1,
            batch_size=options.batch_size or size,
            augmentation={"flip": 0.5, "crop": 4} if options.augment else {},
            precision=options.precision,
        )
        row = measure(name, settings, options.batches or batches, options.repeats, device)
        measured[f"{name}, batches of {settings.batch_size}"] = row
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    text = table(measured)
    print(f"{where}; torch {torch.__version__}, Python {platform.python_version()}; {options.precision}\n\n{text}")
    if options.markdown:
        options.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
