"""What a module's outputs are by the last operation that made them: logits, probabilities, or not known."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mlflow_privacy.errors import SignalError
from mlflow_privacy.trainers.torch.private import inside_compiled
from mlflow_privacy.trainers.torch.tensors import first_tensor
from mlflow_privacy.types import Reading

# By the names that torch gives functions, methods and the operators of exported graphs, without "_" and overload.
_PROBABILITIES = {"sigmoid", "expit", "special_expit", "hardsigmoid", "softmax", "softmin"}
_LOGITS = {
    *("linear", "addmm", "mm", "mv", "matmul", "bmm", "baddbmm", "bilinear", "einsum", "conv1d", "conv2d", "conv3d"),
    *("convolution", "log_softmax", "logsigmoid", "log_sigmoid", "logit", "batch_norm", "layer_norm"),
}
_SAME = {  # the kind of all operands that are known
    *("getitem", "select", "slice", "squeeze", "unsqueeze", "reshape", "view", "view_as", "flatten", "unflatten"),
    *(
        "ravel",
        "transpose",
        "permute",
        "t",
        "contiguous",
        "clone",
        "detach",
        "alias",
        "expand",
        "to",
        "to_copy",
        "type",
    ),
    *("float", "double", "half", "bfloat16", "cpu", "dropout", "stack", "cat", "concat", "mean"),
}
_ARITHMETIC = {
    "add",
    "radd",
    "iadd",
    "sub",
    "mul",
    "rmul",
    "imul",
    "div",
    "truediv",
    "itruediv",
    "neg",
    "sum",
}  # of logits
_WITHIN = {"clamp", "clip"}  # of probabilities


class Watched:
    """A module whose first successful call is watched; afterwards `reading` says what its outputs are, if known.

    >>> watched = Watched(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid()))
    >>> watched(torch.zeros(3, 2)).shape, watched.reading
    (torch.Size([3, 1]), 'probabilities')
    """

    def __init__(self, module: Callable[[torch.Tensor], Any]) -> None:
        self._module = module
        self._watching = inside_compiled(module) is module  # a compiled one would be compiled again
        self.reading: Reading | None = None

    def __call__(self, batch: torch.Tensor) -> Any:
        """The module's output."""
        if not self._watching:
            return self._module(batch)
        with _Operations() as operations:
            output = self._module(batch)
        self._watching = False
        self.reading = operations.reading(first_tensor(output, error=SignalError))
        return output


class _Operations(TorchFunctionMode):
    """Notes for each living tensor what the operation that made it gives."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], Reading | None]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {self.reading(tensor) for tensor in _tensors((args, kwargs or {}))}  # before an operation in place
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            name = getattr(func, "__name__", "").partition(".")[0].strip("_")
            self._made[id(output)] = (weakref.ref(output), _given(name, given))
        return output

    def reading(self, tensor: torch.Tensor) -> Reading | None:
        """What a tensor is, None if it is not known."""
        reference, kind = self._made.get(id(tensor), (None, None))
        return kind if reference is not None and reference() is tensor else None  # ids are given again


def _given(name: str, operands: set[Reading | None]) -> Reading | None:
    """What an operation gives, from what its tensors are."""
    if name in _PROBABILITIES:
        return "probabilities"
    if name in _LOGITS:
        return "logits"
    known = operands - {None}
    if len(known) != 1:
        return None
    kind = next(iter(known))
    passed = name in _SAME or name in (_ARITHMETIC if kind == "logits" else _WITHIN)
    return kind if passed else None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
