"""What a stack is: k networks of one form whose tensors lie side by side, trained as one."""

from __future__ import annotations

import abc
import copy
from collections.abc import Sequence

import torch


class Stack(abc.ABC):
    """k modules as one.

    Args:
      models: k modules of one form, freshly initialised and in training mode; they stay as they are.
      seeds: of each model's dropout masks.

    Attributes:
      parameters: each (k, ...), under its name in the module.
    """

    def __init__(self, models: Sequence[torch.nn.Module], seeds: Sequence[int], device: torch.device) -> None:
        self._models, self._device = models, device
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        named = [dict(model.named_parameters()) for model in models]
        self.parameters = {
            name: torch.nn.Parameter(torch.stack([own[name].detach() for own in named]).to(device)) for name in named[0]
        }
        self._buffers: dict[str, torch.Tensor] = {}  # those that training changes, each (k, ...)

    @abc.abstractmethod
    def begin(self) -> None:
        """Before each step."""

    @abc.abstractmethod
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (k, b, ...) of inputs (k, b, ...)."""

    @torch.no_grad()
    def model(self, i: int) -> torch.nn.Module:
        """A module of its own with what model i has learned, running statistics included."""
        trained = copy.deepcopy(self._models[i])
        for name, parameter in trained.named_parameters():
            parameter.copy_(self.parameters[name][i])
        for name, buffer in trained.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name][i])
        return trained.to(self._device)


def masks(shape: Sequence[int], p: float, generators: Sequence[torch.Generator], like: torch.Tensor) -> torch.Tensor:
    """(k, *shape) dropout factors, 0 or 1 / (1 - p): each model's own, drawn as it would alone on a CPU."""
    drawn = [torch.empty(tuple(shape), dtype=like.dtype).bernoulli_(1 - p, generator=g) for g in generators]
    return torch.stack(drawn).div_(1 - p).to(like.device)
