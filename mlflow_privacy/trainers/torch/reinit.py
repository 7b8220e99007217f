"""A registered module with fresh parameters: nothing that it learned is left."""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import parametrize

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.fingerprint import array_digest
from mlflow_privacy.seeding import seeded
from mlflow_privacy.trainers.canonical import Walk
from mlflow_privacy.trainers.identity.modules import module_state, names_of_parts
from mlflow_privacy.trainers.torch.private import RESETS, inside_compiled

_REMEDY = (
    "Define reset_parameters(self) on it, which initialises what it owns, or say how it is trained with a function "
    'train_fn(x, y, seed) -> model: log_lineage(recipe={"train_fn": "my_package.train"}) and '
    'allow_code=["my_package.train"] in the audit, or evaluator_config={"privacy_meter": {"train_fn": ...}}.'
)


def plain_module(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if (inside := inside_compiled(module)) is not module:
            module = inside
        elif isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            module = module.module
        else:
            return module


def _join(name: str, own: str) -> str:
    return f"{name}.{own}" if name else own


def _children_first(module: torch.nn.Module) -> list[torch.nn.Module]:
    """All submodules, each once, children in the order of registration and before their parents."""
    order: dict[torch.nn.Module, None] = {}

    def visit(sub: torch.nn.Module) -> None:
        if sub not in order:
            for child in sub.children():
                visit(child)
            order.setdefault(sub)

    visit(module)
    return list(order)


def _reset_of(sub: torch.nn.Module) -> Callable[[], Any] | None:
    """Its reset method that can be called without arguments, if it has one."""
    for name in RESETS:
        reset = getattr(sub, name, None)
        if callable(reset):
            needed = [p for p in inspect.signature(reset).parameters.values() if p.default is p.empty]
            if all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in needed):
                return reset
    return None


def _is_frozen(sub: torch.nn.Module) -> bool:
    """Whether a submodule owns parameters and all of them are frozen."""
    own = list(sub.parameters(recurse=False))
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
    model = _copy(module)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise RecipeError(
            f"The module {type(model).__name__} has no trainable parameter ({len(list(model.parameters()))} are "
            "frozen). Call requires_grad_(True) on those that training changed before logging it."
        )
    kept: list[tuple[torch.Tensor, torch.Tensor]] = [(p, p.clone()) for p in model.parameters() if not p.requires_grad]
    for sub in filter(_is_frozen, model.modules()):
        kept += [(buffer, buffer.clone()) for buffer in sub.buffers(recurse=False)]
    for parameter in trainable:
        parameter.fill_(float("nan"))
    faults = _reset_all(model, seed)
    for tensor, value in kept:
        tensor.copy_(value)
    faults += _not_reset(model)
    if faults:
        raise RecipeError("\n  - ".join(["This module cannot be re-initialised:", *dict.fromkeys(faults)]))
    return model.train()


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    module = plain_module(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise RecipeError(f"A scripted module cannot be re-initialised: log the module it was made from. {_REMEDY}")
    try:
        return copy.deepcopy(module).cpu()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise RecipeError(
            f"The module {type(module).__name__} cannot be copied: {error}. Remove torch.nn.utils.weight_norm and "
            'other hooks that keep tensors, or pass evaluator_config={"privacy_meter": {"train_fn": ...}}.'
        ) from error


def _reset_all(model: torch.nn.Module, seed: int) -> list[str]:
    """Calls every reset; what a tied parameter got from its first owner stays."""
    names = {sub: name for name, sub in model.named_modules()}
    done: set[int] = set()
    faults = []
    with seeded(seed):
        for sub in _children_first(model):
            reset = _reset_of(sub)
            own = list(sub.parameters(recurse=False))
            if reset is not None:
                tied = [(p, p.clone()) for p in own if id(p) in done]
                try:
                    reset()
                except (RuntimeError, TypeError, AttributeError, ValueError) as error:
                    faults.append(f"reset_parameters of {_titled(names[sub], sub)} fails: {error}. {_REMEDY}")
                for parameter, value in tied:
                    parameter.copy_(value)
                done.update(map(id, own))
    return faults


def _titled(name: str, sub: torch.nn.Module) -> str:
    return f"submodule {name!r} ({type(sub).__name__})" if name else f"the module itself ({type(sub).__name__})"


def _not_reset(model: torch.nn.Module) -> list[str]:
    """A sentence per submodule with trainable parameters that no reset reached."""
    faults = []
    for name, sub in model.named_modules():
        left = [own for own, p in sub.named_parameters(recurse=False) if p.requires_grad and p.isnan().any()]
        if not left:
            continue
        title, listed = _titled(name, sub), ", ".join(left)
        if isinstance(sub, parametrize.ParametrizationList) or any(own.endswith(("_g", "_v", "_orig")) for own in left):
            faults.append(
                f"{title} holds {listed} of a parametrisation (weight_norm, spectral_norm, ...), which cannot be "
                'reset. Remove it before logging, or pass evaluator_config={"privacy_meter": {"train_fn": ...}}.'
            )
        elif _reset_of(sub) is None:
            faults.append(f"{title} owns {listed} but has no reset_parameters. {_REMEDY}")
        else:
            faults.append(f"reset_parameters of {title} does not initialise {listed}. {_REMEDY}")
    return faults


@torch.no_grad()
def kept_buffers(module: torch.nn.Module) -> list[str]:
    """Names of float buffers that no reset touches: constants, if training does not change them either."""
    model = _copy(module)
    frozen = _frozen_buffers(model)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.fill_(float("nan"))
    _reset_all(model, 0)
    return [n for n, b in model.named_buffers() if b.is_floating_point() and b.isnan().any() and n not in frozen]


@torch.no_grad()
def _kept_whole_numbers(module: torch.nn.Module) -> list[str]:
    """Names of the buffers of other types (masks, index tables) that no reset touches."""
    names = [name for name, buffer in module.named_buffers() if not buffer.is_floating_point()]
    left = {name for name in names if not name.endswith("num_batches_tracked")}
    for fill in (0, 1) if left else ():
        model = _copy(module)
        buffers = dict(model.named_buffers())
        for name in left:
            buffers[name].fill_(fill)
        _reset_all(model, 0)
        buffers = dict(model.named_buffers())
        left = {name for name in left if name in buffers and bool((buffers[name] == fill).all())}
    return sorted(left)


def _frozen_buffers(module: torch.nn.Module) -> set[str]:
    """Names of the buffers beside frozen parameters."""
    return {
        _join(name, own)
        for name, sub in module.named_modules()
        if _is_frozen(sub)
        for own, _ in sub.named_buffers(recurse=False)
    }


def describe(module: torch.nn.Module, walk: Walk | None = None) -> dict[str, Any]:
    """All of a module that decides what training makes of it, as plain JSON values; no trained value among them.

    Types, options and shapes of the whole tree, ties, attributes and hooks of every submodule, the code of classes that
    are no library's, and the values of frozen parameters and constant buffers.

    Args:
      walk: learns what the module's code rests on, and what of it cannot be told.
    """
    module = plain_module(module)
    walk = walk or Walk()
    walk.parts = names_of_parts(module)
    first: dict[int, str] = {}
    layers: list[Any] = []
    ties: list[list[str]] = []
    for name, sub in module.named_modules():
        tensors = {}
        own_tensors = (
            named(recurse=False, remove_duplicate=False) for named in (sub.named_parameters, sub.named_buffers)
        )
        for own, tensor in itertools.chain(*own_tensors):
            full = _join(name, own)
            if id(tensor) in first:
                ties.append([first[id(tensor)], full])
            first.setdefault(id(tensor), full)
            tensors[own] = [list(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.requires_grad]
        cls = walk(type(sub))
        more = {**({} if set(cls) == {"class"} else {"type": cls}), **module_state(sub, walk, beside_repr=True)}
        layers.append([name, cls["class"], _ADDRESS.sub("", sub.extra_repr()), tensors, more])
    kept = {*kept_buffers(module), *_kept_whole_numbers(module), *_frozen_buffers(module)}
    values: dict[str, torch.Tensor] = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    values.update({name: b for name, b in module.named_buffers() if name in kept})
    return {"layers": layers, "ties": ties, "values": {n: _tensor_digest(t) for n, t in sorted(values.items())}}


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _tensor_digest(tensor: torch.Tensor) -> str:
    tensor = tensor.detach().cpu()
    return array_digest((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())
