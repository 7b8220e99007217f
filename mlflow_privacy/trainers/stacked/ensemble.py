"""Reference models of one recipe trained together: parameters stacked, one batched operation a layer for all of them.

Every model keeps its own initialisation, minibatches, order, augmentation, dropout masks and running statistics: the
same as one by one, up to the rounding of sums. Which modules, and whether it pays: `stacked.way`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mlflow_privacy.trainers.settings import TorchSettings, learning_rates
from mlflow_privacy.trainers.stacked.dense import DenseStack, layers_of
from mlflow_privacy.trainers.stacked.modules import ModuleStack
from mlflow_privacy.trainers.stacked.stack import Stack
from mlflow_privacy.trainers.stacked.way import Way, choose, group_size
from mlflow_privacy.trainers.torch import augment
from mlflow_privacy.trainers.torch.tensors import Feeder

__all__ = ["Stack", "Way", "choose", "fit_together", "group_size", "layers_of", "stack"]
_PROGRESS_STEPS = 50


def stack(models: Sequence[torch.nn.Module], seeds: Sequence[int], device: torch.device) -> Stack:
    """k freshly initialised modules as one; a dense chain by hand, any other by `torch.func`."""
    dense = layers_of(models[0]) is not None
    return DenseStack(models, seeds, device) if dense else ModuleStack(models, seeds, device)


def fit_together(
    models: Sequence[torch.nn.Module],
    feeder: Feeder,
    targets: torch.Tensor,
    rows: Sequence[torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    settings: TorchSettings,
    *,
    seeds: Sequence[int],
    optimizer_of: Callable[[list[torch.nn.Parameter], TorchSettings], torch.optim.Optimizer],
    take: int,
    report: Callable[[int], None],
) -> Iterator[torch.nn.Module]:
    """Trains k fresh models on records of their own and yields them, in order.

    Args:
      models: k modules that can be stacked, freshly initialised; they stay as they are.
      feeder: the pool's features.
      targets: (n, ...) on the device.
      rows: k index tensors of equal length: the records each trains on.
      loss: of outputs and targets, the plain mean over the batch: that over k equally large batches is the mean of
        their means.
      seeds: of each model's minibatch order, augmentation and dropout.
      optimizer_of: makes the optimizer of stacked parameters, which treats each weight by itself.
      take: records an epoch takes of each (the last batch may be left out).
      report: called with the steps done.
    """
    device = targets.device
    together = stack(models, seeds, device)
    parameters = list(together.parameters.values())
    optimizer = optimizer_of(parameters, settings)
    size = settings.batch_size
    rates = learning_rates(settings, -(-take // size)).tolist()
    constant = len(set(rates)) == 1
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = tuple(feeder.slice(0, 1).shape[1:])
    k, step = len(models), 0
    for _ in range(settings.epochs):
        chosen, drawn = _epoch(rows, generators, settings, shape, device)
        order = chosen.to(device)  # once an epoch
        source = order if feeder.resident else chosen
        for start in range(0, take, size):
            flat = order[:, start : start + size].reshape(-1)  # (k * b,)
            batch = feeder.take(source[:, start : start + size].reshape(-1))
            if drawn:
                part = {name: value[:, start : start + size].flatten(0, 1) for name, value in drawn.items()}
                batch = augment.apply(batch, settings.augmentation, part)
            batch = feeder.cast(batch)
            if not constant:
                for group in optimizer.param_groups:
                    group["lr"] = rates[step]
            together.begin()
            output = together(batch.reshape(k, -1, *shape))
            (loss(output.flatten(0, 1), targets.index_select(0, flat)) * k).backward()
            if settings.grad_clip is not None:
                clip(parameters, settings.grad_clip)
            optimizer.step()
            step += 1
            if step % _PROGRESS_STEPS == 0:
                report(step)
    report(step)
    for i in range(k):
        yield together.model(i)


def _epoch(
    rows: Sequence[torch.Tensor],
    generators: Sequence[torch.Generator],
    settings: TorchSettings,
    shape: tuple[int, ...],
    device: torch.device,
) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """The records of one epoch (k, n) on the CPU, in each model's order, and what augmentation does, (k, n, ...).

    Each model draws as it would alone; the augmentation of all goes to the device at once.
    """
    orders: list[torch.Tensor] = []
    draws: list[dict[str, torch.Tensor]] = []
    cpu = torch.device("cpu")
    for own, generator in zip(rows, generators, strict=True):
        orders.append(own[torch.randperm(len(own), generator=generator)])
        draws.append(augment.draw(settings.augmentation, len(own), shape, generator, cpu))
    drawn: dict[str, Any] = {name: torch.stack([own[name] for own in draws]).to(device) for name in draws[0]}
    return torch.stack(orders), drawn


def clip(parameters: Sequence[torch.Tensor], limit: float) -> None:
    """`clip_grad_norm_` of each model by itself; parameters (k, ...)."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in grads]).norm(dim=0)  # (k,)
    scale = (limit / (norms + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.reshape(-1, *[1] * (g.ndim - 1)))
