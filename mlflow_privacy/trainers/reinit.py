"""A registered module with fresh parameters: nothing that it learned is left."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import torch

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.trainers.canonical import class_digest, is_library, qualified_name
from mlflow_privacy.trainers.seeding import seeded

_RESETS = ("reset_parameters", "_reset_parameters")
_REMEDY = (
    "Define reset_parameters(self) on it, which initialises what it owns, or pass "
    'evaluator_config={"privacy_meter": {"train_fn": ...}}.'
)


def plain_module(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            module = module.module
        else:
            return module


@dataclasses.dataclass(frozen=True)
class _Owned:
    """Where tensors of a module live: (name of the owner, owner, own name, tensor), shared ones once."""

    trainable: list[tuple[str, torch.nn.Module, str, torch.Tensor]]
    frozen: list[tuple[str, torch.Tensor]]
    buffers: list[tuple[str, torch.nn.Module, str, torch.Tensor]]


def _owned(module: torch.nn.Module) -> _Owned:
    seen: set[int] = set()
    found = _Owned([], [], [])
    for name, sub in module.named_modules():
        for own, tensor in sub._parameters.items():
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if tensor.requires_grad:
                found.trainable.append((name, sub, own, tensor))
            else:
                found.frozen.append((_join(name, own), tensor))
        for own, tensor in sub._buffers.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found.buffers.append((name, sub, own, tensor))
    return found


def _join(name: str, own: str) -> str:
    return f"{name}.{own}" if name else own


def _reset_of(sub: torch.nn.Module):  # type: ignore[no-untyped-def]
    return next((getattr(sub, name) for name in _RESETS if callable(getattr(sub, name, None))), None)


def _is_frozen(sub: torch.nn.Module) -> bool:
    """Whether a submodule owns parameters and all of them are frozen."""
    own = [p for p in sub.parameters(recurse=False)]
    return bool(own) and not any(p.requires_grad for p in own)


@torch.no_grad()
def reinitialise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A copy of `module` on the CPU, in training mode, whose trainable parameters and running statistics are fresh.

    Children are reset before their parents, as their constructors ran. Every trainable parameter is first filled
    with NaN, so that one no `reset_parameters` reaches cannot pass for fresh. A tied parameter takes the
    initialisation of the submodule that owns it first. Frozen parameters (`requires_grad=False`) keep their values,
    and so do the buffers beside them and buffers that no reset touches (position encodings, masks).

    Args:
      module: stays as it is.
      seed: of the initialisation; the CPU's generator is used whatever the device, and restored.

    Raises:
      RecipeError: naming every submodule that cannot be re-initialised, and the remedy.

    Example:
      >>> layer = torch.nn.Linear(2, 1)
      >>> fresh = reinitialise(layer, seed=3)
      >>> bool((fresh.weight == reinitialise(layer, seed=3).weight).all()), bool((fresh.weight == layer.weight).any())
      (True, False)
    """
    module = plain_module(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise RecipeError(f"A scripted module cannot be re-initialised. Log the module it was made from. {_REMEDY}")
    try:
        model = copy.deepcopy(module).cpu()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise RecipeError(
            f"The module {type(module).__name__} cannot be copied: {error}. Remove torch.nn.utils.weight_norm and other "
            'hooks that keep tensors, or pass evaluator_config={"privacy_meter": {"train_fn": ...}}.'
        ) from error
    owned = _owned(model)
    if not owned.trainable:
        raise RecipeError(
            f"The module {type(module).__name__} has no trainable parameter: {len(owned.frozen)} are frozen. Call "
            "requires_grad_(True) on those that training changed before logging it."
        )
    kept = [(tensor, tensor.clone()) for _, tensor in owned.frozen]
    for _, sub, _, tensor in owned.buffers:
        if _is_frozen(sub):
            kept.append((tensor, tensor.clone()))
    stale = [(tensor, tensor.clone()) for *_, tensor in owned.buffers if tensor.is_floating_point()]
    for tensor, _ in stale:
        tensor.fill_(float("nan"))
    faults = _reset_all(model, owned, seed)
    for tensor, value in stale:  # nobody reset it: it is a constant, not a running statistic
        if tensor.isnan().any():
            tensor.copy_(value)
    for tensor, value in kept:
        tensor.copy_(value)
    faults += _not_reset(owned)
    if faults:
        raise RecipeError("\n  - ".join(["This module cannot be re-initialised:", *dict.fromkeys(faults)]))
    return model.train()


def _reset_all(model: torch.nn.Module, owned: _Owned, seed: int) -> list[str]:
    """Calls every reset, children first; what a tied parameter got from its first owner stays."""
    for *_, tensor in owned.trainable:
        tensor.fill_(float("nan"))
    owner = {id(tensor): sub for _, sub, _, tensor in owned.trainable}
    faults = []
    with seeded(seed):
        for name, sub in reversed(_post_order(model)):
            reset = _reset_of(sub)
            own = list(sub.parameters(recurse=False))
            if reset is None or _is_frozen(sub) or not (own or any(True for _ in sub.buffers(recurse=False))):
                if reset is None or own or sub is not model and not _takes_nothing(reset):
                    continue
            tied = [(p, p.clone()) for p in own if owner.get(id(p), sub) is not sub]
            try:
                reset()
            except (RuntimeError, TypeError, AttributeError, ValueError) as error:
                faults.append(f"{_call(name, sub)} fails: {error}. {_REMEDY}")
                continue
            for parameter, value in tied:
                if not value.isnan().any():
                    parameter.copy_(value)
    return faults
