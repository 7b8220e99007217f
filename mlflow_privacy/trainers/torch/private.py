"""What we need of torch that torch does not document, so that it may change without notice.

No other module uses such a name (`tests/test_privates.py`). Every one was seen in torch 2.14.1; where a version lacks
it, the documented way is taken. `tests/trainers/test_torch_private.py` names the one that has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Base classes of the convolutions and of the batch normalisations; the documented way is to name the classes.
CONVOLUTIONS: tuple[type, ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *filter(None, [getattr(nn.modules.conv, "_ConvNd", None)]),
)
BATCH_NORMALISATIONS: tuple[type, ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *filter(None, [getattr(nn.modules.batchnorm, "_BatchNorm", None)]),
)

# By which a layer initialises its parameters. Attention and transformers have the second alone.
RESETS = ("reset_parameters", "_reset_parameters")

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# Wrappers around methods of an optimizer, by module and name of their code: those that hide a method from the compiler
# or set the gradient mode, and the one that calls hooks.
_WRAPPERS = frozenset(
    {
        ("torch._compile", "inner"),
        ("torch.optim.optimizer", "_use_grad"),
        ("torch.optim.optimizer", "wrapper"),
        ("torch.utils._contextlib", "decorate_context"),
    }
)


def has_hooks(module: nn.Module) -> bool:
    """Whether code of the caller's runs before or after a layer's own; assumed where a layer does not tell.

    >>> layer = nn.Linear(1, 1)
    >>> before, _ = has_hooks(layer), layer.register_forward_hook(print)
    >>> before, has_hooks(nn.Sequential(layer))
    (False, True)
    """
    return any(getattr(sub, name, True) for sub in module.modules() for name in _HOOKS)


def inside_compiled(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` was given; any other module as it is."""
    return getattr(module, "_orig_mod", module)


def unwrapped(method: Any) -> Callable[..., Any] | None:
    """The function below all known wrappers of a method; None if there is an unknown one."""
    while hasattr(method, "__wrapped__"):
        # `functools.wraps` copies name and module of what is wrapped; code and globals are the wrapper's own.
        if (method.__globals__.get("__name__"), method.__code__.co_name) not in _WRAPPERS:
            return None
        method = method.__wrapped__
    return method if callable(method) else None


def lerp_all(tensors: list[torch.Tensor], ends: list[torch.Tensor], weight: float) -> None:
    """Each tensor moves to its end by a share of the way, in a few kernels for all together."""
    if hasattr(torch, "_foreach_lerp_"):
        torch._foreach_lerp_(tensors, ends, weight)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, weight)


def copy_all(tensors: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Each tensor takes its source's values, in a few kernels for all together."""
    if hasattr(torch, "_foreach_copy_"):
        torch._foreach_copy_(tensors, sources)
        return
    for tensor, source in zip(tensors, sources, strict=True):
        tensor.copy_(source)
