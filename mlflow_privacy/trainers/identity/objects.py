"""Containers, instances and what else Python has, as plain values: by class, and by what a copy would be made of."""

from __future__ import annotations

import collections
import copyreg
import enum
import functools
import hashlib
import logging
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.fingerprint import canonical_json, digest
from mlflow_privacy.trainers.identity import Untold
from mlflow_privacy.trainers.identity.code import BUILTINS, Walker, builtin_form, class_form, function_form, within
from mlflow_privacy.trainers.identity.modules import module_state
from mlflow_privacy.trainers.identity.origins import qualified_name, root_of

_SILENT = (logging.Logger, logging.LoggerAdapter, logging.Handler, type(threading.Lock()), type(threading.RLock()))


def form_of(value: Any, walk: Walker) -> Any:
    """The form of anything but plain values and arrays.

    Raises:
      Untold: nothing says what it consists of.
    """
    if any(value is generator for generator in _global_generators()):
        return {"generator": qualified_name(type(value))}  # seeded before each training
    exact = _EXACT.get(type(value))
    if exact is not None:
        return exact(value, walk)
    for kinds, form in _KINDS:
        if isinstance(value, kinds):
            return form(value, walk)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.device):
        return {"device": True}  # where things are computed is in no key
    if torch is not None and isinstance(value, torch.nn.Module):
        return _module(value, walk)
    return _object(value, walk)


@functools.lru_cache(maxsize=1)
def _global_generators() -> tuple[Any, ...]:
    return random._inst, np.random.mtrand._rand  # type: ignore[attr-defined]


def _mapping(value: Mapping[Any, Any], walk: Walker) -> dict[str, Any]:
    """Keys with their type: 0 and "0" differ; their order does not count."""
    if all(type(key) is str for key in value):
        return {"dict": {key: walk(value[key]) for key in sorted(value)}}
    pairs = [[walk(key), walk(item)] for key, item in value.items()]
    return {"dict": sorted(pairs, key=canonical_json)}


def _set(value: Any, walk: Walker) -> dict[str, Any]:
    return {"set": sorted(digest(walk(item)) for item in value)}


def _module(value: Any, walk: Walker) -> dict[str, Any]:
    """A torch module that training code uses, with the weights that it starts from."""
    own = {name: walk(vars(value)[name]) for name in ("_parameters", "_buffers", "_modules")}
    return {**walk(type(value)), "training": value.training, **module_state(value, walk), **own}


def _object(value: Any, walk: Walker) -> dict[str, Any]:
    """An instance by its class and by what a copy of it would be made of."""
    reduced, form = _reduced(value), dict(walk(type(value)))
    if isinstance(reduced, str):
        where = str(getattr(value, "__module__", None) or type(value).__module__)
        walk.rests_on(where.partition(".")[0])
        return {**form, "named": f"{where}.{reduced}", **_state(value, getattr(value, "__dict__", None), walk)}
    maker, args, state, items, entries = (*reduced, None, None, None)[:5]
    if maker in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
        args = args[1:]
    elif maker is not type(value):
        form["maker"] = walk(maker)
    if args:
        form["args"] = walk(args)
    form |= _state(value, state, walk)
    if items is not None:
        form["items"] = [walk(item) for item in items]
    if entries is not None:
        pairs = list(entries)
        in_order = isinstance(value, collections.OrderedDict)
        form["entries"] = walk(pairs) if in_order else _mapping(dict(pairs), walk)
    return form


def _reduced(value: Any) -> Any:
    """What pickle would make of a value: a name, or a tuple of its maker, arguments, state, items and entries."""
    own = copyreg.dispatch_table.get(type(value))
    try:
        return own(value) if own is not None else value.__reduce_ex__(4)
    except Exception as error:  # whatever the object's own code raises: that it cannot be copied is all that counts
        raise Untold(f"what it consists of cannot be told: {(str(error) or repr(error)).splitlines()[0]}") from None


def _state(value: Any, state: Any, walk: Walker) -> dict[str, Any]:
    """Attributes by name, those of slots among them."""
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state = {**(state[0] or {}), **state[1]}
    if not state:
        return {}
    if type(state) is not dict or not all(isinstance(name, str) for name in state):
        return {"state": walk(state)}
    name = type(value).__qualname__
    return {"state": {key: within(walk, f"{key!r} of a {name}", state[key]) for key in sorted(state)}}


def _ufunc(value: Any, walk: Walker) -> dict[str, str]:
    """A function of NumPy's or SciPy's over arrays; one that was made from another function has no such name."""
    for place in ("numpy", "scipy.special"):
        name = str(value.__name__)
        if getattr(sys.modules.get(place), name, None) is value:
            return {"function": f"{place}.{name}"}
    raise Untold("it was made from a function that it does not show (np.vectorize shows it)")


_Form = Callable[[Any, Walker], Any]
_EXACT: dict[type, _Form] = {
    bytes: lambda value, walk: {"bytes": hashlib.sha256(value).hexdigest()},
    complex: lambda value, walk: {"complex": [walk(value.real), walk(value.imag)]},
    list: lambda value, walk: [walk(item) for item in value],
    tuple: lambda value, walk: {"tuple": [walk(item) for item in value]},
    dict: _mapping,
    types.MappingProxyType: _mapping,
    set: _set,
    frozenset: _set,
    type(...): lambda value, walk: {"constant": "..."},
    property: lambda value, walk: {"property": [walk(value.fget), walk(value.fset), walk(value.fdel)]},
    staticmethod: lambda value, walk: {"staticmethod": walk(value.__func__)},
    classmethod: lambda value, walk: {"classmethod": walk(value.__func__)},
    types.FunctionType: function_form,
    types.MethodType: lambda value, walk: {"method": walk(value.__func__), "of": walk(value.__self__)},
    functools.partial: lambda value, walk: {
        "partial": [walk(part) for part in (value.func, value.args, value.keywords, vars(value))]
    },
    functools._lru_cache_wrapper: lambda value, walk: {"cached": walk(value.__wrapped__)},
    np.ufunc: _ufunc,
}
_KINDS: tuple[tuple[Any, _Form], ...] = (
    (type, class_form),
    (types.ModuleType, lambda value, walk: {"module": value.__name__, "from": walk.rests_on(root_of(value))}),
    (BUILTINS, builtin_form),
    (enum.Enum, lambda value, walk: {**walk(type(value)), "member": value.name, "value": walk(value.value)}),
    (_SILENT, lambda value, walk: {"class": qualified_name(type(value))}),
    (weakref.ref, lambda value, walk: {"weakly": walk(value())}),
    ((set, frozenset), lambda value, walk: {**walk(type(value)), **_set(value, walk)}),
)
