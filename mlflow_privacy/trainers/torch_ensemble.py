"""Reference models of one recipe trained together: parameters stacked, one batched matrix product a layer.

On two CPU cores k small multi-layer perceptrons train about twice as fast stacked as one by one (and no operation of
k small ones can fill a GPU alone). Every model keeps its own initialisation, minibatches, order and dropout masks: the
same as one by one, up to the rounding of sums.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch

from mlflow_privacy.trainers.settings import TorchSettings, learning_rates
from mlflow_privacy.trainers.torch_tensors import Feeder

# Optimizers that treat each weight by itself, so that stacking changes nothing.
ELEMENTWISE = frozenset({"sgd", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "asgd"})
_ACTIVATIONS = (torch.nn.ReLU, torch.nn.Tanh, torch.nn.GELU, torch.nn.Sigmoid, torch.nn.SiLU, torch.nn.LeakyReLU)
_PLAIN = (torch.nn.Linear, torch.nn.Dropout, torch.nn.Flatten, torch.nn.Identity, *_ACTIVATIONS)
_MAX_TOGETHER = 16  # beyond it a batched product gains nothing on a CPU: measured with 8 to 32
_MAX_BYTES = 2**31  # of stacked parameters, their gradients and optimizer state


def layers_of(module: torch.nn.Module) -> list[torch.nn.Module] | None:
    """The layers of a module that can be stacked, in order; None if it is anything but a chain of plain layers.

    >>> from torch import nn
    >>> [type(layer).__name__ for layer in layers_of(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU())))]
    ['Linear', 'ReLU']
    >>> layers_of(nn.Sequential(nn.BatchNorm1d(3))) is None
    True
    """
    if type(module) in _PLAIN:
        return [module]
    if type(module) is not torch.nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        return None
    chain: list[torch.nn.Module] = []
    for child in module:
        inner = layers_of(child)
        if inner is None:
            return None
        chain += inner
    return chain


def group_size(module: torch.nn.Module, settings: TorchSettings, device: torch.device) -> int:
    """How many models of this recipe train together at best; 1 if they cannot, or should not, be stacked."""
    layers = layers_of(module)
    if layers is None or settings.optimizer not in ELEMENTWISE or settings.augmentation or settings.dp:
        return 1
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    shared = len({id(layer) for layer in linear}) < len(linear)
    frozen = any(not p.requires_grad for p in module.parameters())
    hooked = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    flat = all(layer.start_dim == 1 and layer.end_dim == -1 for layer in layers if isinstance(layer, torch.nn.Flatten))
    dropout = any(isinstance(layer, torch.nn.Dropout) and layer.p > 0 for layer in layers)
    # The masks of a GPU's own generator depend on the shape of the whole batch.
    if not linear or shared or frozen or hooked or not flat or (dropout and device.type != "cpu"):
        return 1
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    return max(1, min(_MAX_TOGETHER, _MAX_BYTES // max(4 * size, 1)))


@dataclasses.dataclass(frozen=True)
class _Stack:
    """k copies of a chain: each parameter (k, ...) under its name in the module."""

    layers: Sequence[tuple[torch.nn.Module, torch.Tensor | None, torch.Tensor | None]]
    parameters: dict[str, torch.nn.Parameter]
    generators: Sequence[torch.Generator]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (k, b, ...) of inputs (k, b, ...)."""
        for layer, weight, bias in self.layers:
            if weight is not None:
                w = weight.transpose(1, 2)
                x = torch.bmm(x, w) if bias is None else torch.baddbmm(bias[:, None], x, w)
            elif isinstance(layer, torch.nn.Flatten):
                x = x.flatten(2)
            elif isinstance(layer, torch.nn.Dropout):
                x = self._dropout(x, layer.p)
            elif not isinstance(layer, torch.nn.Identity):
                x = layer(x)
        return x

    def _dropout(self, x: torch.Tensor, p: float) -> torch.Tensor:
        """Each model draws its masks from its own generator, as it would alone."""
        if p == 0:
            return x
        masks = [torch.empty(x.shape[1:]).bernoulli_(1 - p, generator=generator) for generator in self.generators]
        return x * (torch.stack(masks) / (1 - p))


def _stack(models: Sequence[torch.nn.Module], seeds: Sequence[int], device: torch.device) -> _Stack:
    named = [dict(model.named_parameters()) for model in models]
    parameters = {
        name: torch.nn.Parameter(torch.stack([own[name].detach() for own in named]).to(device)) for name in named[0]
    }
    first = models[0]
    names = {id(p): name for name, p in first.named_parameters()}
    layers: list[tuple[torch.nn.Module, torch.Tensor | None, torch.Tensor | None]] = []
    for layer in layers_of(first) or ():
        if isinstance(layer, torch.nn.Linear):
            bias = None if layer.bias is None else parameters[names[id(layer.bias)]]
            layers.append((layer, parameters[names[id(layer.weight)]], bias))
        else:
            layers.append((layer, None, None))
    return _Stack(layers, parameters, [torch.Generator().manual_seed(seed) for seed in seeds])


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
      models: k modules of `layers_of`'s kind, freshly initialised.
      feeder: the pool's features.
      targets: (n, ...) on the device.
      rows: k index tensors of equal length: the records each trains on.
      loss: of one model's outputs and targets, a mean over the batch.
      seeds: of each model's minibatch order and dropout.
      optimizer_of: makes the optimizer of stacked parameters.
      take: records an epoch takes of each (the last batch may be left out).
      report: called with the steps done.
    """
    device = targets.device
    stack = _stack(models, seeds, device)
    parameters = list(stack.parameters.values())
    optimizer = optimizer_of(parameters, settings)
    losses = torch.func.vmap(loss)
    size = settings.batch_size
    rates = learning_rates(settings, -(-take // size)).tolist()
    constant = len(set(rates)) == 1
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    k, step = len(models), 0
    for _ in range(settings.epochs):
        order = torch.stack(
            [own[torch.randperm(len(own), generator=generator)] for own, generator in zip(rows, orders, strict=True)]
        ).to(device)
        for start in range(0, take, size):
            index = order[:, start : start + size]  # (k, b)
            flat = index.reshape(-1)
            batch = feeder.cast(feeder.take(flat))
            y = targets.index_select(0, flat)
            if not constant:
                for group in optimizer.param_groups:
                    group["lr"] = rates[step]
            optimizer.zero_grad(set_to_none=True)
            output = stack(batch.reshape(k, -1, *batch.shape[1:]))
            losses(output, y.reshape(k, -1, *y.shape[1:])).sum().backward()
            if settings.grad_clip is not None:
                _clip(parameters, settings.grad_clip)
            optimizer.step()
            step += 1
            if step % 50 == 0:
                report(step)
    report(step)
    for i, model in enumerate(models):
        trained = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                parameter.copy_(stack.parameters[name][i])
        yield trained.to(device)


def _clip(parameters: Sequence[torch.nn.Parameter], limit: float) -> None:
    """`clip_grad_norm_` of each model by itself."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)  # (k,)
    scale = (limit / (norms + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale.reshape(-1, *[1] * (g.ndim - 1)))
