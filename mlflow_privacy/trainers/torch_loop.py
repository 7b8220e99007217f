"""The training loop of one PyTorch module: minibatches, schedule, optimizer, threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from mlflow_privacy.trainers import torch_augment as augment
from mlflow_privacy.trainers.dp import make_private, plan_privacy
from mlflow_privacy.trainers.settings import TorchSettings, learning_rates, optimizer_class
from mlflow_privacy.trainers.torch_tensors import Feeder, first_tensor

_PROGRESS_STEPS = 50  # a call every so many steps costs nothing and still looks alive
# Multiplications a forward step, about a millisecond on one core. Below it threads gain little, and where cores are
# shared with other processes they wait for each other: 600-128-100 in batches of 128 took 39 s with two, 3 s with one.
_WORK_FOR_THREADS = 2**24
_SPATIAL = (torch.nn.modules.conv._ConvNd, torch.nn.RNNBase, torch.nn.MultiheadAttention)  # more work than parameters


def last_batch(n: int, settings: TorchSettings, module: torch.nn.Module) -> int:
    """How many records an epoch takes: batch normalisation cannot train on a single one left over."""
    rest = n % settings.batch_size
    normalised = any(isinstance(sub, torch.nn.modules.batchnorm._BatchNorm) for sub in module.modules())
    if n > settings.batch_size and (settings.drop_last or (rest == 1 and normalised)):
        return n - rest
    return n


def steps_an_epoch(n: int, settings: TorchSettings, module: torch.nn.Module) -> int:
    return -(-last_batch(n, settings, module) // settings.batch_size)


def fit(
    model: torch.nn.Module,
    feeder: Feeder,
    targets: torch.Tensor,
    rows: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: TorchSettings,
    *,
    seed: int,
    report: Callable[[int], None],
) -> None:
    """Trains `model` on the records at `rows` (n,) in place; nothing in the loop waits for the device."""
    device = targets.device
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: Any = make_optimizer(parameters, settings)
    n, size = last_batch(len(rows), settings, model), settings.batch_size
    if settings.dp is not None:
        plan = plan_privacy(settings.dp, n=len(rows), batch_size=size, epochs=settings.epochs)
        rates = learning_rates(settings, round(1 / plan.sample_rate)).tolist()
        with make_private(model, optimizer, plan, n=len(rows), generator=generator, device=device) as own:
            parts = (own.model, own.optimizer, own.draw)
            _loop(*parts, feeder, targets, rows, loss, settings, rates, generator, report)
        return

    def shuffled() -> tuple[torch.Tensor, list[tuple[int, int]]]:
        order = torch.randperm(len(rows), generator=generator)
        return order, [(start, min(start + size, len(rows))) for start in range(0, n, size)]

    rates = learning_rates(settings, -(-n // size)).tolist()
    _loop(model, optimizer, shuffled, feeder, targets, rows, loss, settings, rates, generator, report)


def _loop(
    model: torch.nn.Module,
    optimizer: Any,
    batches: Callable[[], tuple[torch.Tensor, list[tuple[int, int]]]],
    feeder: Feeder,
    targets: torch.Tensor,
    rows: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: TorchSettings,
    rates: list[float],
    generator: torch.Generator,
    report: Callable[[int], None],
) -> None:
    """The training loop: `batches` draws one epoch, (k,) places in `rows` and where each batch lies among them."""
    device = targets.device
    parameters = [p for p in model.parameters() if p.requires_grad]
    constant = len(set(rates)) == 1
    shape = tuple(feeder.slice(0, 1).shape[1:])
    step = 0
    for _ in range(settings.epochs):
        places, bounds = batches()
        order = rows[places].to(device)
        drawn = augment.draw(settings.augmentation, len(order), shape, generator, device)
        for start, stop in bounds:
            index = order[start:stop]
            batch = feeder.take(index)
            if drawn:
                part = {name: value[start:stop] for name, value in drawn.items()}
                batch = augment.apply(batch, settings.augmentation, part)
            if not constant:
                for group in optimizer.param_groups:
                    group["lr"] = rates[step]
            optimizer.zero_grad(set_to_none=True)
            loss(first_tensor(model(feeder.cast(batch))), targets.index_select(0, index)).backward()
            if settings.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
            optimizer.step()
            step += 1
            if step % _PROGRESS_STEPS == 0:
                report(step)
    report(step)
    optimizer.zero_grad(set_to_none=True)


def make_optimizer(parameters: list[torch.nn.Parameter], settings: TorchSettings) -> torch.optim.Optimizer:
    """The optimizer, fused where torch has it so."""
    cls = optimizer_class(settings.optimizer)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.optimizer_options.items()}
    try:
        return cls(parameters, lr=settings.learning_rate, **options, fused=True)
    except (RuntimeError, TypeError):  # not for this optimizer, type or device
        return cls(parameters, lr=settings.learning_rate, **options)


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Convolutions that give the same sums each time."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


@contextlib.contextmanager
def few_threads(model: torch.nn.Module, batch_size: int, device: torch.device) -> Iterator[None]:
    """One CPU thread for a module whose step is so short that threads would wait for each other most of it."""
    before = torch.get_num_threads()
    dense = not any(isinstance(sub, _SPATIAL) for sub in model.modules())
    work = batch_size * sum(p.numel() for p in model.parameters())
    try:
        if device.type == "cpu" and dense and work < _WORK_FOR_THREADS:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
