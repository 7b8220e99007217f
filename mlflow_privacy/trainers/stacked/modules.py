"""k copies of a module of known layers as one network, by `torch.func`: convolutions become grouped ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from mlflow_privacy.trainers.stacked.dense import ACTIVATIONS
from mlflow_privacy.trainers.stacked.stack import Stack, masks
from mlflow_privacy.trainers.torch.private import BATCH_NORMALISATIONS, has_hooks

_NN = torch.nn
# Layers that treat each record, or each batch, of one model as they would in a stack, and draw nothing at random.
_KNOWN = (
    *ACTIVATIONS,
    *(_NN.Sequential, _NN.Identity, _NN.Flatten, _NN.Unflatten, _NN.Dropout, _NN.Softmax, _NN.LogSoftmax),
    *(_NN.Linear, _NN.Conv1d, _NN.Conv2d, _NN.LayerNorm, _NN.GroupNorm, _NN.BatchNorm1d, _NN.BatchNorm2d),
    *(_NN.MaxPool1d, _NN.MaxPool2d, _NN.AvgPool1d, _NN.AvgPool2d, _NN.AdaptiveAvgPool1d, _NN.AdaptiveAvgPool2d),
)
_ZOO = {
    "mlflow_privacy.zoo.layers": {"HeConv2d", "HeInConv2d", "NormalLinear", "Rescale"},
    "mlflow_privacy.zoo.wide_resnet": {"WideBlock", "WideResNet"},
}


def why_not(module: torch.nn.Module) -> str:
    """Why copies of a module cannot be stacked; "" if they can.

    >>> from torch import nn
    >>> why_not(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    ''
    >>> why_not(nn.LSTM(2, 2))
    'it has layers that are not known to give the same in a stack: LSTM'
    """
    foreign = {type(sub).__name__ for sub in module.modules() if not _is_known(sub)}
    if foreign:
        return f"it has layers that are not known to give the same in a stack: {', '.join(sorted(foreign))}"
    if len(list(module.named_modules(remove_duplicate=False))) > len(list(module.modules())):
        return "it uses a layer in several places"
    names = list(module.named_parameters(remove_duplicate=False))
    if len(names) > len({id(p) for _, p in names}):
        return "layers share parameters"
    if any(not p.requires_grad for _, p in names):
        return "some parameters are frozen"
    if has_hooks(module):
        return "layers have hooks"
    if any(isinstance(sub, BATCH_NORMALISATIONS) and not _is_usual(sub) for sub in module.modules()):
        return "batch normalisation has no running statistics, or averages them over all batches"
    return ""


def _is_known(sub: torch.nn.Module) -> bool:
    kind = type(sub)
    return kind in _KNOWN or kind.__qualname__ in _ZOO.get(kind.__module__, ())


def _is_usual(norm: Any) -> bool:
    """An average over all batches needs the number of batches as a plain number."""
    return norm.track_running_stats and norm.momentum is not None


class _Masked(torch.nn.Module):
    """Dropout by a mask that was drawn beforehand; it is a buffer, so that `functional_call` can give it."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


class ModuleStack(Stack):
    """k copies of a module for which `why_not` is ""."""

    def __init__(self, models: Sequence[torch.nn.Module], seeds: Sequence[int], device: torch.device) -> None:
        super().__init__(models, seeds, device)
        named = [dict(model.named_buffers()) for model in models]
        self._buffers = {name: torch.stack([own[name] for own in named]).to(device) for name in named[0]}
        self._dropout: dict[str, float] = {}
        self._template = self._without_dropout(copy.deepcopy(models[0]).to(device).train())
        self._shapes: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
        self._call = torch.func.vmap(lambda state, x: torch.func.functional_call(self._template, state, (x,)))

    def _without_dropout(self, template: torch.nn.Module) -> torch.nn.Module:
        for name, sub in list(template.named_modules()):
            if type(sub) is torch.nn.Dropout:
                self._dropout[name] = sub.p
                if not name:
                    return _Masked()
                parent, _, own = name.rpartition(".")
                setattr(template.get_submodule(parent), own, _Masked())
        return template

    def begin(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        state = {**self.parameters, **self._buffers}
        for name, shape in self._masks(x):
            kind = next(iter(self.parameters.values()))
            state[f"{name}.mask" if name else "mask"] = masks(shape, self._dropout[name], self._generators, kind)
        return self._call(state, x)

    def _masks(self, x: torch.Tensor) -> list[tuple[str, tuple[int, ...]]]:
        """Name and shape (b, ...) of each dropout's mask, in the order in which the module comes to them."""
        if not self._dropout:
            return []
        size = x.shape[1]
        if size not in self._shapes:
            found: list[tuple[str, tuple[int, ...]]] = []

            def note(name: str) -> Any:
                return lambda sub, given, output: found.append((name, tuple(output.shape)))

            probe = copy.deepcopy(self._template)  # its running statistics move
            for name, sub in probe.named_modules():
                if isinstance(sub, _Masked):
                    sub.register_forward_hook(note(name))
            with torch.no_grad():
                probe(x[0])
            # Dropout of probability 0 draws nothing when it is alone.
            self._shapes[size] = [(name, shape) for name, shape in found if self._dropout[name] > 0]
        return self._shapes[size]
