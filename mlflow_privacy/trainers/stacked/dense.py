"""k copies of a chain of dense layers as one network: one batched matrix product a layer and direction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mlflow_privacy.trainers.stacked.stack import Stack, masks

ACTIVATIONS = (
    torch.nn.ReLU,
    torch.nn.Tanh,
    torch.nn.GELU,
    torch.nn.Sigmoid,
    torch.nn.SiLU,
    torch.nn.LeakyReLU,
    torch.nn.ELU,
    torch.nn.Softplus,
    torch.nn.Hardtanh,
    torch.nn.ReLU6,
)
# By name: importing the zoo would register all its models.
_ZOO_LINEAR = ("mlflow_privacy.zoo.layers", "NormalLinear")


def is_linear(layer: torch.nn.Module) -> bool:
    """Whether the layer is a linear one, or the zoo's, which differs by its initialisation only."""
    return type(layer) is torch.nn.Linear or (type(layer).__module__, type(layer).__qualname__) == _ZOO_LINEAR


def layers_of(module: torch.nn.Module) -> list[torch.nn.Module] | None:
    """The layers of a dense chain, in order; None if the module is anything else.

    >>> from torch import nn
    >>> [type(layer).__name__ for layer in layers_of(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU())))]
    ['Linear', 'ReLU']
    >>> layers_of(nn.Sequential(nn.BatchNorm1d(3))) is None
    True
    """
    kind = type(module)
    whole = kind is torch.nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    if is_linear(module) or kind in (*ACTIVATIONS, torch.nn.Dropout, torch.nn.Identity) or whole:
        return [module]
    if kind is not torch.nn.Sequential:
        return None
    inner = [layers_of(child) for child in module.children()]
    return None if None in inner else [layer for layers in inner for layer in layers or ()]


class _Linear(torch.autograd.Function):
    """k linear layers at once; gradients go straight into tensors that are made once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Outputs (k, b, o) of inputs (k, b, i), weights (k, o, i) and biases (k, o)."""
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias = weight, bias
        turned = weight.transpose(1, 2)
        return torch.bmm(x, turned) if bias is None else torch.baddbmm(bias[:, None], x, turned)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (x,), (grad,) = ctx.saved_tensors, grads
        torch.bmm(grad.transpose(1, 2), x, out=ctx.weight.grad)
        if ctx.bias is not None:
            torch.sum(grad, dim=1, out=ctx.bias.grad)
        return torch.bmm(grad, ctx.weight.detach()) if ctx.needs_input_grad[0] else None, None, None


class DenseStack(Stack):
    """k copies of a dense chain: modules that `layers_of` knows."""

    def __init__(self, models: Sequence[torch.nn.Module], seeds: Sequence[int], device: torch.device) -> None:
        super().__init__(models, seeds, device)
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        names = {id(p): name for name, p in models[0].named_parameters()}
        self._layers = [self._layer(layer, names) for layer in layers_of(models[0]) or ()]

    def _layer(self, layer: Any, names: dict[int, str]) -> Callable[[torch.Tensor], torch.Tensor]:
        if is_linear(layer):
            weight = self.parameters[names[id(layer.weight)]]
            bias = None if layer.bias is None else self.parameters[names[id(layer.bias)]]
            return lambda x: _linear(x, weight, bias)
        if isinstance(layer, torch.nn.Flatten):
            return lambda x: x.flatten(2)
        if isinstance(layer, torch.nn.Dropout):
            generators = self._generators
            return lambda x: x if layer.p == 0 else x * masks(x.shape[1:], layer.p, generators, x)
        return copy.deepcopy(layer)

    def begin(self) -> None:
        """Nothing: gradients are overwritten, not added to."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self._layers:
            x = layer(x)
        return x


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if x.ndim == 3:
        return _Linear.apply(x, weight, bias)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return _Linear.apply(flat, weight, bias).reshape(*x.shape[:-1], -1)
