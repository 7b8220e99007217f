"""What a torch module keeps beside its parameters, buffers and submodules."""

from __future__ import annotations

import types
from typing import Any

from mlflow_privacy.fingerprint import digest
from mlflow_privacy.trainers.identity.code import Walker, within

# Layers whose `extra_repr` names all that they were made with (their `__constants__`), as a test over their
# constructors shows: their form is the one that references of earlier audits are stored under.
_TOLD_IN_FULL = frozenset(
    {
        *("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm", "Embedding", "LSTM", "GRU"),
        *("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "Flatten", "Identity", "Sequential"),
        *("ModuleList", "ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Mish", "Sigmoid", "Tanh", "Softmax"),
        *("LogSoftmax",),
    }
)
_TRACERS = ("torch.fx.", "torch.export.")  # their modules keep Python's view of a graph, and checks of its inputs
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_BOOKKEEPING = frozenset(
    {
        *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training", *_HOOKS),
        *("_is_full_backward_hook", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
        *("_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks"),
        *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
        # What layers of torch derive from the rest.
        *("_flat_weights", "_flat_weight_refs", "_flat_weights_names", "_all_weights"),
        *("_reversed_padding_repeated_twice", "transposed"),
    }
)


def module_state(module: Any, walk: Walker, *, beside_repr: bool = False) -> dict[str, Any]:
    """Attributes and hooks of one torch module without its submodules.

    Args:
      beside_repr: what its `extra_repr` says is told beside this, and is left out.
    """
    cls = type(module)
    if cls.__module__.startswith(_TRACERS):
        return {"graph": _graph(module.graph, walk)} if hasattr(module, "graph") else {}
    told: frozenset[str] = frozenset()
    if beside_repr and cls.__module__.startswith("torch.nn.modules.") and cls.__name__ in _TOLD_IN_FULL:
        told = frozenset(getattr(cls, "__constants__", ()))
    state = {
        name: within(walk, f"{name!r} of a {cls.__qualname__}", value)
        for name, value in sorted(vars(module).items())
        if name not in _BOOKKEEPING and name not in told
    }
    hooks = {
        name: [within(walk, f"a hook of a {cls.__qualname__}", hook) for hook in vars(module)[name].values()]
        for name in _HOOKS
        if vars(module).get(name)
    }
    return {**({"state": state} if state else {}), **({"hooks": hooks} if hooks else {})}


def _graph(graph: Any, walk: Walker) -> str:
    """SHA-256 of a traced graph's operations, whatever mode it is in; a function of the caller's with its code."""
    from mlflow_privacy.trainers.torch.exported import operations

    functions = [walk(node.target) for node in graph.nodes if isinstance(node.target, types.FunctionType)]
    return digest([operations(graph), functions])


def names_of_parts(module: Any) -> dict[int, str]:
    """What attributes of a module may hold that is told under its own name: submodules, parameters, buffers, by id."""
    parts = [*module.named_modules(), *module.named_parameters(), *module.named_buffers()]
    return {id(part): name for name, part in reversed(parts)}


def own_modules(module: Any, walk: Walker) -> dict[str, Any]:
    """Submodules of the caller's own classes, by name; attributes of those that a configuration describes left out."""
    found = {}
    for name, sub in module.named_modules():
        cls = walk(type(sub))
        if set(cls) != {"class"}:
            found[name] = cls if hasattr(sub, "config") else {**cls, **module_state(sub, walk)}
    return found
