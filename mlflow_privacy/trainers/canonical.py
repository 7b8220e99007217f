"""What a live object (an estimator's parameter, a training function) is, as plain JSON values to fingerprint.

The rule: what is not known to leave the training unchanged counts. Values count with their type, code with all that it
uses, objects with their state. What cannot be told (an open connection, a compiled object without state) gets a random
number: references of such a recipe are found by no other audit.
"""

from __future__ import annotations

import collections
import contextlib
import math
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.fingerprint import digest
from mlflow_privacy.trainers.identity import Untold
from mlflow_privacy.trainers.identity.arrays import array_form
from mlflow_privacy.trainers.identity.loaded import changed_since_loaded
from mlflow_privacy.trainers.identity.objects import form_of
from mlflow_privacy.trainers.identity.origins import (
    FRAMEWORKS,
    SCRIPTS,
    Origin,
    library_version,
    origin,
    own_packages,
    qualified_name,
)
from mlflow_privacy.types import Recipe

__all__ = ["Walk", "canonical", "own_code", "qualified_name", "untold"]

# Of this rule. What the one before it could not tell apart has other forms here than there, so that references that
# were stored under it are found again where it could (estimators of libraries with plain parameters, most layers of
# torch), and nowhere else.
RULE = 2
_MOST, _DEEPEST = 200_000, 100  # objects of one recipe, and how many may lie inside one another
_KNOWN_NOT_TO_TRAIN = frozenset({"mlflow"})
_PLAIN = frozenset({bool, int, str})
_NUMPY_PLAIN = frozenset({np.bool_, np.int64, np.str_})


def canonical(value: Any) -> Any:
    """Plain JSON values of `value`: equal for what trains equally as far as that is known, stable between processes.

    Arrays become the digest of their values; functions and classes their name and, unless a library's version says
    what they do, a number, with one digest of all code at the end; other objects their class and state.

    >>> canonical({"b": (1, float("nan")), "a": len})
    {'dict': {'a': {'function': 'builtins.len'}, 'b': {'tuple': [1, {'float': 'nan'}]}}}
    """
    walk = Walk()
    form = walk(value)
    code = walk.told()
    return {"value": form, "code": digest(code)} if code else form


def own_code(recipe: Recipe) -> tuple[str, ...]:
    """Names of the caller's functions and classes that a recipe runs."""
    return tuple(recipe.rests_on.get("own", ()))


def untold(recipe: Recipe) -> tuple[str, ...]:
    """Why references of a recipe are of no use to another audit: each thing that its fingerprint cannot tell."""
    return tuple(recipe.rests_on.get("untold", ()))


class Walk:
    """One walk over all that a recipe consists of: call it with each value; `code` is what it found beside them.

    Args:
      parts: what stands for objects that are told elsewhere (a module's own parameters), by id.
    """

    def __init__(self, parts: Mapping[int, str] | None = None) -> None:
        self.parts = dict(parts or {})
        self._left = _MOST
        self._around: list[int] = []  # ids of the objects that it is inside of
        self._places: list[str] = []
        self._numbers: dict[int, tuple[int, Any]] = {}  # of functions and classes; kept, so that ids stay theirs
        self._waiting: collections.deque[Callable[[], Any]] = collections.deque()
        self._told: list[str] = []
        self._arrays: dict[int, tuple[Any, Any]] = {}
        self._own: set[str] = set()
        self._roots: set[str] = set()
        self._libraries: set[str] = set()
        self._untold: dict[str, None] = {}

    def code(self) -> dict[str, Any]:
        """What a recipe rests on beside its values: its code, and what cannot be told; {} if there is none."""
        code = self.told()
        packages = own_packages(self._roots)
        untold = list(self._untold)
        untold += [
            f"{name} is another in its file than the one that is loaded (restart, or reload the module)"
            for name in changed_since_loaded(packages)
        ]
        own = bool(self._own)
        libraries = {root for root in self._libraries if own or root not in FRAMEWORKS}
        found: dict[str, Any] = {
            "own": sorted(name for name in self._own if name.rpartition(".")[0] not in self._own),
            "digest": digest(code) if code else "",
            "python": ".".join(map(str, sys.version_info[:2])) if own else "",
            "packages": packages,
            "libraries": {root: library_version(root) for root in sorted(libraries)},
            "untold": untold,
            "nonce": secrets.token_hex(16) if untold else "",
        }
        found = {key: value for key, value in found.items() if value}
        return {"rule": RULE, **found} if found else {}

    # What `identity` asks of a walk.

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
        if where == "own" and root not in SCRIPTS:  # a script is told by what is used of it, not by its file
            self._roots.add(root)
        elif where == "library" and root not in _KNOWN_NOT_TO_TRAIN:
            self._libraries.add(root)
        return where

    def own_code(self, thing: Any) -> None:
        """Remembers a function or class of the caller's."""
        self._own.add(qualified_name(thing))

    def number(self, thing: Any, told: Callable[[], Any]) -> int:
        """The number of a function or class. It is told later: code may use code to any depth."""
        if id(thing) not in self._numbers:
            self._numbers[id(thing)] = len(self._numbers), thing
            self._waiting.append(told)
        return self._numbers[id(thing)][0]

    def told(self) -> list[str]:
        """Digests of all functions and classes that were met, in the order of their numbers."""
        while self._waiting:
            self._told.append(digest(self._waiting.popleft()()))
        return self._told

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
            return self._cannot_tell(value, f"it holds more than {_MOST:,} objects, or too many inside one another")
        self._around.append(id(value))
        try:
            known = self._arrays.get(id(value))
            form = known[1] if known else array_form(value, self)
            if form is None:
                return form_of(value, self)
            self._arrays[id(value)] = value, form
            return form
        except Untold as error:
            return self._cannot_tell(value, str(error))
        finally:
            self._around.pop()

    def _cannot_tell(self, thing: Any, why: str) -> dict[str, str]:
        """Makes the references of the recipe unsharable."""
        where = f"{self._places[-1]}: " if self._places else ""
        self._untold[f"{where}a {qualified_name(type(thing))}; {why}"] = None
        return {"untold": qualified_name(type(thing))}
