"""Modules that were logged as traced graphs (`torch.export`, MLflow's "pt2"), made trainable again.

A traced graph keeps parameters, operations and the names of the layers they came from, but neither the layers' reset
methods nor a training mode: dropout and batch normalisation are frozen as they were when it was traced. Both can be
restored: each layer is reset by its own type's rule, and the mode is an argument of those operations.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MODE_ARGUMENT = {"aten.dropout.default": 2, "aten.feature_dropout.default": 2, "aten.batch_norm.default": 5}


def restore_exported(module: nn.Module) -> nn.Module:
    """A traced graph as a module with training and evaluation mode and layers that can be reset; others as they are.

    Layers of types other than linear, convolution, embedding and normalisation stay without a reset: no reference
    model is trained from them, and the error names them.
    """
    if isinstance(module, torch.fx.GraphModule) and not isinstance(module, ExportedModule):
        return ExportedModule(module).eval()
    return module


def _uniform(layer: Any) -> None:
    """PyTorch's rule for linear and convolution layers: both in ± 1 / √fan_in."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    if getattr(layer, "bias", None) is not None:
        fan_in = layer.weight[0].numel()
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
        nn.init.uniform_(layer.bias, -bound, bound)


def _normalisation(layer: Any) -> None:
    """Scale one, shift zero, running statistics of a standard normal."""
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        tensor.fill_(1 if name in ("weight", "running_var") else 0)


def _embedding(layer: Any) -> None:
    nn.init.normal_(layer.weight)
    if layer.padding_idx >= 0:
        layer.weight[layer.padding_idx].fill_(0)


_RESETS: dict[str, Callable[[Any], None]] = {
    f"torch.nn.modules.{module}.{name}": reset
    for module, names, reset in (
        ("linear", ("Linear",), _uniform),
        ("conv", ("Conv1d", "Conv2d", "Conv3d"), _uniform),
        ("conv", ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _uniform),
        ("batchnorm", ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), _normalisation),
        ("normalization", ("LayerNorm", "GroupNorm"), _normalisation),
        ("sparse", ("Embedding",), _embedding),
    )
    for name in names
}


class RestoredLayer(nn.Module):
    """What is left of a layer in a traced graph: its tensors, and the rule of its type that resets them.

    kind: the type it had. padding_idx: of an embedding, -1 if it has none.
    """

    kind: str
    padding_idx: int

    @torch.no_grad()
    def reset_parameters(self) -> None:
        _RESETS[self.kind](self)

    def extra_repr(self) -> str:
        return f"{self.kind}, padding_idx={self.padding_idx}"


class ExportedModule(nn.Module):
    """A traced graph with modes. Call it as the module it was traced from."""

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__()
        self.traced = traced
        modules: dict[str, Any] = dict(traced.named_modules())
        for name, (kind, padding_idx) in _layers(traced.graph).items():
            layer = modules.get(name)  # layers without tensors have left nothing
            if type(layer) is nn.Module and kind in _RESETS:
                layer.__class__ = RestoredLayer
                vars(layer).update(kind=kind, padding_idx=padding_idx)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.traced(*args, **kwargs)

    def train(self, mode: bool = True) -> ExportedModule:
        """Sets dropout and batch normalisation to a mode; the graph itself has none to call."""
        for sub in self.modules():
            sub.training = mode
        changed = False
        for node in self.traced.graph.nodes:
            position = _MODE_ARGUMENT.get(str(node.target)) if node.op == "call_function" else None
            if position is not None and node.args[position] is not mode:
                node.update_arg(position, mode)
                changed = True
        if changed:
            self.traced.recompile()
        return self

    def extra_repr(self) -> str:
        """The graph, so that it is part of the fingerprint, whatever mode it is in."""
        return hashlib.sha256("\n".join(operations(self.traced.graph)).encode()).hexdigest()


def operations(graph: torch.fx.Graph) -> list[str]:
    """One line per operation of a graph, the same whatever mode it was traced in."""
    lines = []
    for node in graph.nodes:
        position = _MODE_ARGUMENT.get(str(node.target)) if node.op == "call_function" else None
        arguments = [None if i == position else a for i, a in enumerate(node.args)]
        if "num_batches_tracked" not in str(node.args):  # only traced in training mode
            lines.append(_ADDRESS.sub("", f"{node.op} {node.target} {arguments} {node.kwargs}"))
    return lines


def _layers(graph: torch.fx.Graph) -> dict[str, tuple[str, int]]:
    """Type of each layer by its name, as the operations that came from it tell; and an embedding's padding index."""
    layers: dict[str, tuple[str, int]] = {}
    for node in graph.nodes:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if node.op == "call_function" and stack:
            name, kind = stack[-1]
            kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
            padded = str(node.target) == "aten.embedding.default" and len(node.args) > 2
            layers[name] = (kind, int(node.args[2]) if padded else layers.get(name, ("", -1))[1])
    return layers
