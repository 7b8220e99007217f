"""What a live object (an estimator's parameter, a training function) is, as plain JSON values to fingerprint.

The rule: what is not known to leave the training unchanged counts. Values count with their type, code with all that it
uses, objects with their state. What cannot be told (an open connection, a compiled object without state) gets a random
number: references of such a recipe are found by no other audit.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import enum
import functools
import hashlib
import logging
import math
import random
import secrets
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.fingerprint import canonical_json, digest
from mlflow_privacy.trainers.identity import Untold
from mlflow_privacy.trainers.identity.arrays import array_form
from mlflow_privacy.trainers.identity.code import BUILTINS, builtin_form, class_form, function_form, within
from mlflow_privacy.trainers.identity.loaded import changed_since_loaded
from mlflow_privacy.trainers.identity.modules import module_state
from mlflow_privacy.trainers.identity.origins import (
    FRAMEWORKS,
    Origin,
    library_version,
    origin,
    own_packages,
    qualified_name,
    root_of,
)
from mlflow_privacy.types import Recipe

__all__ = ["Walk", "canonical", "own_code", "qualified_name", "untold"]

# Of this rule. Forms that the one before it could not tell apart look otherwise than its own, so that references which
# were stored under it are found again where it could tell (estimators of libraries with plain parameters, most layers
# of torch), and nowhere else.
RULE = 2
_MOST, _DEEPEST = 200_000, 200  # objects of one recipe, and how far they may lie inside one another
_KNOWN_NOT_TO_TRAIN = frozenset({"mlflow"})
_SILENT = (logging.Logger, logging.LoggerAdapter, logging.Handler, type(threading.Lock()), type(threading.RLock()))
_PLAIN = frozenset({bool, int, str})
_NUMPY_PLAIN = frozenset({np.bool_, np.int64, np.str_})


def canonical(value: Any) -> Any:
    """Plain JSON values of `value`: equal for what trains equally as far as that is known, stable between processes.

    Arrays become the digest of their values, functions and classes their name and, unless a library's version says
    what they do, the digest of their code with all that it uses; other objects their class and state.

    >>> canonical({"b": (1, float("nan")), "a": len})
    {'dict': {'a': {'function': 'builtins.len'}, 'b': {'tuple': [1, {'float': 'nan'}]}}}
    """
    return Walk()(value)


class Walk:
    """One walk over all that a recipe consists of; what it found beside the values is in `code`.

    Args:
      harmless: parameters of an estimator that do not change what it learns.
      parts: what stands for objects that are told elsewhere (a module's own parameters), by id.
    """

    def __init__(
        self, harmless: Callable[[Any], frozenset[str]] = lambda _: frozenset(), parts: Mapping[int, str] | None = None
    ) -> None:
        self.parts = dict(parts or {})
        self._harmless, self._left = harmless, _MOST
        self._around: list[int] = []  # ids of the objects that it is inside of
        self._places: list[str] = []
        self._met: dict[int, tuple[int, Any]] = {}  # functions and classes, which are kept so that ids stay theirs
        self._arrays: dict[int, tuple[Any, Any]] = {}
        self._own: set[str] = set()
        self._roots: set[str] = set()
        self._libraries: set[str] = set()
        self._untold: dict[str, None] = {}

    def code(self) -> dict[str, Any]:
        """{"code": ...} for a recipe's spec: what its code rests on, and what of it cannot be told; {} if nothing."""
        packages = own_packages(self._roots)
        untold = list(self._untold)
        untold += [
            f"{name} is another in its file than the one that is loaded (restart, or reload the module)"
            for name in changed_since_loaded(packages)
        ]
        own = bool(self._own)
        libraries = {root for root in self._libraries if own or root not in FRAMEWORKS}
        found: dict[str, Any] = {
            "own": sorted(self._own),
            "python": ".".join(map(str, sys.version_info[:2])) if own else "",
            "packages": packages,
            "libraries": {root: library_version(root) for root in sorted(libraries)},
            "untold": untold,
            "nonce": secrets.token_hex(16) if untold else "",
        }
        found = {key: value for key, value in found.items() if value}
        return {"code": {"rule": RULE, **found}} if found else {}

    # What `identity.code` asks of a walk.

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Names where the walk is, for what it cannot tell there."""
        self._places.append(place)
        try:
            yield
        finally:
            self._places.pop()

    def rests_on(self, root: str) -> Origin:
        """Where a package is from; from now on it belongs to what the recipe rests on."""
        where = origin(root)
        if where == "own":
            self._roots.add(root)
        elif where == "library" and root not in _KNOWN_NOT_TO_TRAIN:
            self._libraries.add(root)
        return where

    def own_code(self, thing: Any) -> None:
        """Remembers a function or class of the caller's."""
        self._own.add(qualified_name(thing))

    def again(self, thing: Any) -> int | None:
        """The number of a function or class that was met before; else it gets the next one."""
        before = self._met.get(id(thing))
        if before is None:
            self._met[id(thing)] = len(self._met), thing
        return None if before is None else before[0]

    def cannot_tell(self, thing: Any, why: str) -> dict[str, str]:
        """Makes the references of the recipe unsharable."""
        where = f"{self._places[-1]}: " if self._places else ""
        self._untold[f"{where}a {qualified_name(type(thing))}; {why}"] = None
        return {"untold": qualified_name(type(thing))}

    # Values.

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in _PLAIN:
            return value
        if kind in (float, np.float64):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if kind in _NUMPY_PLAIN:
            return value.item()
        if id(value) in self.parts:
            return {"part": self.parts[id(value)]}
        if id(value) in self._around:
            up = len(self._around) - self._around.index(id(value))
            return {"cycle": qualified_name(kind), **({"up": up} if up > 1 else {})}
        self._left -= 1
        if self._left < 0 or len(self._around) >= _DEEPEST:
            return self.cannot_tell(value, f"it holds more than {_MOST:,} objects, or too many inside one another")
        self._around.append(id(value))
        try:
            return self._inside(value)
        except Untold as error:
            return self.cannot_tell(value, str(error))
        finally:
            self._around.pop()

    def _inside(self, value: Any) -> Any:
        known = self._arrays.get(id(value))
        form = known[1] if known else array_form(value, self)
        if form is not None:
            self._arrays[id(value)] = value, form
            return form
        if any(value is generator for generator in _global_generators()):
            return {"generator": qualified_name(type(value))}  # seeded before each training
        exact = _EXACT.get(type(value))
        if exact is not None:
            return exact(self, value)
        for kinds, kind_form in _KINDS:
            if isinstance(value, kinds):
                return kind_form(self, value)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.device):
            return {"device": True}  # where things are computed is in no key
        if torch is not None and isinstance(value, torch.nn.Module):
            return self._module(value)
        return self._object(value)

    def _mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        """Keys with their type: 0 and "0" differ, their order does not count."""
        if all(type(key) is str for key in value):
            return {"dict": {key: self(value[key]) for key in sorted(value)}}
        pairs = [[self(key), self(item)] for key, item in value.items()]
        return {"dict": sorted(pairs, key=canonical_json)}

    def _set(self, value: Any) -> dict[str, Any]:
        return {"set": sorted(digest(self(item)) for item in value)}

    def _module(self, value: Any) -> dict[str, Any]:
        """A torch module that training code uses, with the weights that it starts from."""
        own = {name: self(vars(value)[name]) for name in ("_parameters", "_buffers", "_modules")}
        return {**self(type(value)), "training": value.training, **module_state(value, self), **own}

    def _object(self, value: Any) -> dict[str, Any]:
        """An instance by its class and by what a copy of it would be made of."""
        reduced = _reduced(value)
        form = dict(self(type(value)))
        if isinstance(reduced, str):
            where = str(getattr(value, "__module__", None) or type(value).__module__)
            self.rests_on(where.partition(".")[0])
            return {**form, "named": f"{where}.{reduced}", **self._state(value, getattr(value, "__dict__", None))}
        maker, args, state, items, entries = (*reduced, None, None, None)[:5]
        if maker in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
            args = args[1:]
        elif maker is not type(value):
            form["maker"] = self(maker)
        if args:
            form["args"] = self(args)
        form |= self._state(value, state)
        if items is not None:
            form["items"] = [self(item) for item in items]
        if entries is not None:
            pairs = list(entries)
            in_order = isinstance(value, collections.OrderedDict)
            form["entries"] = self(pairs) if in_order else self._mapping(dict(pairs))
        return form

    def _state(self, value: Any, state: Any) -> dict[str, Any]:
        """Attributes by name, those of slots among them."""
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        if not state:
            return {}
        if type(state) is not dict or not all(isinstance(name, str) for name in state):
            return {"state": self(state)}
        name = type(value).__qualname__
        return {"state": {key: within(self, f"{key!r} of a {name}", state[key]) for key in sorted(state)}}

    # Estimators.

    def estimator(self, value: Any) -> dict[str, Any]:
        """An estimator that is cloned before it is trained: its class and parameters, not what it has learned."""
        form = dict(self(type(value)))
        drop = self._harmless(value)
        params = {str(key): item for key, item in value.get_params(deep=False).items() if key not in drop}
        name = type(value).__qualname__
        form["params"] = {}
        for key in sorted(params):
            with self.at(f"the parameter {key!r} of a {name}"):
                form["params"][key] = self._parameter(params[key])
        # What scikit-learn's clone takes along besides; a class with a way of its own may take anything.
        kept = {key: vars(value)[key] for key in _CLONED if vars(value).get(key)} if hasattr(value, "__dict__") else {}
        if origin(root_of(getattr(type(value), "__sklearn_clone__", None))) == "own":
            kept = vars(value)
        return {**form, **({"kept": self(kept)} if kept else {})}

    def _parameter(self, value: Any) -> Any:
        """Lists and tuples are one to a library's estimators; estimators inside are cloned too."""
        if type(value) in (list, tuple):
            return [self._parameter(item) for item in value]
        is_estimator = callable(getattr(value, "get_params", None)) and not isinstance(value, type)
        return self.estimator(value) if is_estimator else self(value)


def _reduced(value: Any) -> Any:
    """What pickle would make of a value: a name, or a tuple of its maker, arguments, state, items and entries."""
    own = copyreg.dispatch_table.get(type(value))
    try:
        return own(value) if own is not None else value.__reduce_ex__(4)
    except Exception as error:  # whatever the object's own code raises: that it cannot be copied is all that counts
        raise Untold(
            f"what it consists of cannot be told: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None


@functools.lru_cache(maxsize=1)
def _global_generators() -> tuple[Any, ...]:
    return random._inst, np.random.mtrand._rand  # type: ignore[attr-defined]


_CLONED = ("_metadata_request", "_sklearn_output_config")
_Form = Callable[[Walk, Any], Any]
_EXACT: dict[type, _Form] = {
    bytes: lambda walk, value: {"bytes": hashlib.sha256(value).hexdigest()},
    complex: lambda walk, value: {"complex": [walk(value.real), walk(value.imag)]},
    list: lambda walk, value: [walk(item) for item in value],
    tuple: lambda walk, value: {"tuple": [walk(item) for item in value]},
    dict: Walk._mapping,
    types.MappingProxyType: Walk._mapping,
    set: Walk._set,
    frozenset: Walk._set,
    type(...): lambda walk, value: {"constant": "..."},
    property: lambda walk, value: {"property": [walk(value.fget), walk(value.fset), walk(value.fdel)]},
    staticmethod: lambda walk, value: {"staticmethod": walk(value.__func__)},
    classmethod: lambda walk, value: {"classmethod": walk(value.__func__)},
    types.FunctionType: lambda walk, value: function_form(value, walk),
    types.MethodType: lambda walk, value: {"method": walk(value.__func__), "of": walk(value.__self__)},
    functools.partial: lambda walk, value: {
        "partial": [walk(part) for part in (value.func, value.args, value.keywords, vars(value))]
    },
    functools._lru_cache_wrapper: lambda walk, value: {"cached": walk(value.__wrapped__)},
    np.ufunc: lambda walk, value: _ufunc(value),
}
_KINDS: tuple[tuple[Any, _Form], ...] = (
    (type, lambda walk, value: class_form(value, walk)),
    (types.ModuleType, lambda walk, value: {"module": value.__name__, "from": walk.rests_on(root_of(value))}),
    (BUILTINS, lambda walk, value: builtin_form(value, walk)),
    (enum.Enum, lambda walk, value: {**walk(type(value)), "member": value.name, "value": walk(value.value)}),
    (_SILENT, lambda walk, value: {"class": qualified_name(type(value))}),
    (weakref.ref, lambda walk, value: {"weakly": walk(value())}),
    ((set, frozenset), lambda walk, value: {**walk(type(value)), **walk._set(value)}),
)


def _ufunc(value: Any) -> dict[str, str]:
    """A function of NumPy's or SciPy's over arrays; one that was made from another function has no such name."""
    for place in ("numpy", "scipy.special"):
        if getattr(sys.modules.get(place), value.__name__, None) is value:
            return {"function": f"{place}.{value.__name__}"}
    raise Untold("it was made from a function that it does not show (np.vectorize shows it)")


def own_code(recipe: Recipe) -> tuple[str, ...]:
    """Names of the caller's functions and classes that a recipe runs."""
    return tuple(recipe.spec.get("code", {}).get("own", ()))


def untold(recipe: Recipe) -> tuple[str, ...]:
    """Why references of a recipe are of no use to another audit: each thing that its fingerprint cannot tell."""
    return tuple(recipe.spec.get("code", {}).get("untold", ()))
