"""What a live object (an estimator's parameter, a training function) is, as plain JSON values to fingerprint."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
import sys
import sysconfig
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.fingerprint import array_digest, digest

_FRAMEWORKS = {
    *("numpy", "scipy", "sklearn", "pandas", "torch", "torchvision", "transformers"),
    *("xgboost", "lightgbm", "catboost", "skops", "mlflow", "builtins"),
}
_LIBRARY_FOLDERS = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def qualified_name(thing: Any) -> str:
    """The module and qualified name of a class or function, without private submodules.

    >>> import collections
    >>> qualified_name(collections.OrderedDict)
    'collections.OrderedDict'
    """
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{getattr(thing, '__qualname__', repr(thing))}"


def is_library(thing: Any) -> bool:
    """Whether a class or function belongs to Python or an installed package."""
    root = (getattr(thing, "__module__", None) or "builtins").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    return file is not None and str(Path(file).resolve()).startswith(_LIBRARY_FOLDERS)


def is_framework(thing: Any) -> bool:
    """Whether a class or function is Python's own or a framework's, whose name says what it does.

    >>> is_framework(np.log1p), is_framework(canonical)
    (True, False)
    """
    root = (getattr(thing, "__module__", None) or "numpy").partition(".")[0]
    return root in _FRAMEWORKS or (root in sys.stdlib_module_names and root != "__main__")


def canonical(value: Any) -> Any:
    """Plain JSON values of `value`: equal for equal behaviour as far as that can be told, stable between processes.

    Arrays become their digest, functions and classes their name and (unless of a framework) the digest of their code,
    with what a function of the caller's own project uses; estimators become their parameters, other objects their
    class and attributes.

    >>> canonical({"b": (1, float("nan")), "a": len})
    {'a': {'function': 'builtins.len'}, 'b': [1, {'float': 'nan'}]}
    """
    return _Walk()(value)


class _Walk:
    """One walk over a value: `around` holds the ids of the objects it is inside of, `functions` those it has met."""

    def __init__(self) -> None:
        self.around: list[int] = []
        self.functions: set[types.FunctionType] = set()

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, bytes):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, np.generic) and not value.dtype.hasobject and value.dtype.kind in "biufSU":
            return self(value.item())
        if id(value) in self.around:
            return {"cycle": qualified_name(type(value))}
        self.around.append(id(value))
        try:
            return self._inside(value)
        finally:
            self.around.pop()

    def _inside(self, value: Any) -> Any:
        array = _as_array(value)
        if array is not None:
            return {"array": array_digest(array)}
        if isinstance(value, Mapping):
            return {str(key): self(value[key]) for key in sorted(value, key=str)}
        if isinstance(value, (list, tuple)):
            return [self(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return {"set": sorted(digest(self(item)) for item in value)}
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if isinstance(value, type):
            code = {} if is_framework(value) else {"code": class_digest(value)}
            return {"class": qualified_name(value), **code}
        if isinstance(value, functools.partial):
            return {"partial": self(value.func), "args": self(value.args), "keywords": self(value.keywords)}
        if isinstance(value, types.MethodType):
            return {"method": value.__name__, "of": self(value.__self__)}
        if isinstance(value, types.FunctionType):
            met, name = value in self.functions, qualified_name(value)
            self.functions.add(value)
            if met or is_framework(value):
                return {"function": name}
            return {"function": name, "code": digest(_source(value)) if is_library(value) else self._code(value)}
        if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
            return {"function": f"{getattr(value, '__module__', None) or 'numpy'}.{value.__name__}"}
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """An instance: its class, and its parameters if it is an estimator, else its attributes."""
        form = dict(self(type(value)))
        if callable(getattr(value, "get_params", None)):
            return {**form, "params": self(value.get_params(deep=False))}
        try:
            state = vars(value)
        except TypeError:  # slots or C types: nothing more can be told without running their code
            return form
        return {**form, "state": self(state)} if state else form

    def _code(self, function: types.FunctionType) -> str:
        """SHA-256 of a function, with the closure and the globals that it uses."""
        # A lambda shares its line with other code, so that only its byte code is its own.
        source = None if function.__name__ == "<lambda>" else _source(function)
        names = sorted(name for name in _names(function.__code__) if name in function.__globals__)
        return digest(
            {
                "source": source,
                "code": None if source is not None else _byte_code(function.__code__),
                "defaults": self([function.__defaults__, function.__kwdefaults__]),
                "closure": self(dict(zip(function.__code__.co_freevars, map(_cell, function.__closure__ or ())))),
                "globals": {name: self._global(function.__globals__[name]) for name in names},
            }
        )

    def _global(self, value: Any) -> Any:
        """What a function finds in its module; of a library's objects (loggers, clients) only the class is stable."""
        plain = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, np.ufunc, functools.partial)
        containers = (str, bytes, int, float, tuple, list, set, frozenset, Mapping, np.generic, type(None))
        known = isinstance(value, (*plain, *containers)) or _as_array(value) is not None
        if known or hasattr(value, "get_params") or not is_library(type(value)):
            return self(value)
        return {"class": qualified_name(type(value))}


def _as_array(value: Any) -> np.ndarray | None:
    """Arrays, tensors, series and data frames as one array; None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach") and hasattr(value, "cpu") and hasattr(value, "numpy"):
        return value.detach().cpu().numpy()
    if hasattr(value, "iloc") and callable(getattr(value, "to_numpy", None)):
        return value.to_numpy()
    return None


def class_digest(cls: type) -> str | None:
    """SHA-256 of a class's source, None where there is none (a class made in a session, or loaded by value)."""
    source = _source(cls)
    return None if source is None else hashlib.sha256(source.encode()).hexdigest()


def function_digest(function: Any) -> str:
    """SHA-256 of a function: its source or byte code, defaults, closure, and the globals of its own project it uses.

    >>> function_digest(lambda x: x + 1) == function_digest(lambda x: x + 2)
    False
    """
    return digest(canonical(function))


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _source(thing: Any) -> str | None:
    try:
        return textwrap.dedent(inspect.getsource(thing)).strip()
    except (OSError, TypeError, IndentationError):
        return None


def _names(code: types.CodeType) -> set[str]:
    """Global names that a code object and the functions inside it use."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _byte_code(code: types.CodeType) -> Any:
    constants = [_byte_code(c) if isinstance(c, types.CodeType) else canonical(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]
