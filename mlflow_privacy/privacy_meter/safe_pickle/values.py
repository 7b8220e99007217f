"""What a pickle may be made of besides torch: containers, numbers and NumPy arrays, from arguments that are checked."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_privacy.errors import StoreError, UnsafeError

_SCALARS = (str, bytes, int, float, complex, bool, type(None), np.generic)


class Plain(OrderedDict):  # type: ignore[type-arg]
    """An ordered dict without attributes that a pickle could set."""

    __slots__ = ()


Plain.__name__ = Plain.__qualname__ = "OrderedDict"


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that a pickle may use: it can be called with arguments that `make` checks, and nothing else."""

    name: str
    make: Callable[..., Any] | None = None


@dataclasses.dataclass(eq=False)
class Unbuilt:
    """An array or data type between its construction and its state; no part of any result."""

    name: str
    build: Callable[[Any], Any]
    slots: list[int] = dataclasses.field(default_factory=list)


def described(value: Any) -> str:
    return value.name if isinstance(value, (Name, Unbuilt)) else f"a value of type {type(value).__name__}"


def checked_keys(items: list[Any]) -> list[Any]:
    """Keys of one level: hashing tuples of tuples of the same tuple takes exponential time."""
    for key in items:
        parts = key if type(key) is tuple else (key,)
        if not all(isinstance(part, _SCALARS) for part in parts):
            raise UnsafeError(f"the pickle has a key of type {type(key).__name__}; keys are strings and numbers.")
    return items


def checked_pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise StoreError("this is not a complete pickle: a key without a value.")
    return list(zip(checked_keys(items[::2]), items[1::2], strict=True))


def _ordered(pairs: Any = ()) -> Plain:
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(pair, (list, tuple)) for pair in pairs):
        raise TypeError("pairs of key and value are expected")
    flat = [item for pair in pairs for item in pair]
    return Plain(checked_pairs(flat))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("a string and latin1 are expected")
    return text.encode("latin-1")


def _collect(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple)):
            raise TypeError("a list is expected")
        return kind(checked_keys(list(items)))

    return make


def _bytearray(data: Any = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(_encode(data, encoding) if isinstance(data, str) else raw_bytes(data))


def _complex(real: float, imaginary: float) -> complex:
    if not all(isinstance(part, (int, float)) for part in (real, imaginary)):
        raise TypeError("two numbers are expected")
    return complex(real, imaginary)


def raw_bytes(data: Any) -> bytes:
    """Bytes, also those that an encoding of a Python 2 pickle turned into a string."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if not isinstance(data, (bytes, bytearray)):
        raise TypeError("bytes are expected")
    return bytes(data)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def checked_shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(part) is int and 0 <= part < 1 << 62 for part in value):
        raise TypeError("a shape is a tuple of numbers that are not negative")
    return value


def _dtype_of(value: Any) -> np.dtype[Any]:
    if not isinstance(value, np.dtype):
        raise TypeError("a complete data type is expected")
    return value


def _dtype(kind: Any, align: Any = False, copy: Any = False) -> Unbuilt:
    """`numpy.dtype`; its state is read for byte order and fields, never given to NumPy as it is."""
    if not isinstance(kind, (str, bytes)) or not _text(kind)[1:].isdigit() or _text(kind)[0] not in "biufcSUVO?":
        raise TypeError(f"{kind!r} is not a plain data type")
    plain = np.dtype(_text(kind))

    def build(state: Any) -> np.dtype[Any]:
        if not isinstance(state, tuple) or len(state) < 5:
            raise TypeError("a tuple of five or more is expected")
        order, subtype, names, fields = state[1:5]
        if subtype is not None:
            base, shape = subtype
            return np.dtype((_dtype_of(base), checked_shape(shape)))
        if names is not None:
            parts = [fields[name] for name in names]
            formats, offsets = [_dtype_of(part[0]) for part in parts], [part[1] for part in parts]
            if any(dtype.hasobject for dtype in formats):
                raise TypeError("fields that hold objects are not admitted")
            size = int(state[5])
            columns = {"names": [_text(name) for name in names], "formats": formats, "offsets": offsets}
            return np.dtype({**columns, "itemsize": size})  # type: ignore[call-overload,no-any-return]
        if plain.kind in "SUV":
            size = int(state[5]) // (4 if plain.kind == "U" else 1)
            if size > 0:
                return np.dtype(f"{plain.kind}{size}").newbyteorder(_text(order))  # type: ignore[arg-type]
        return plain.newbyteorder(_text(order))  # type: ignore[arg-type]

    return Unbuilt("numpy.dtype", build)


def _array_of(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> np.ndarray:
    """(shape) array of a copy of the data, whose size must be exactly that."""
    count = math.prod(shape)
    if dtype.hasobject:
        if dtype.kind != "O" or not isinstance(data, list) or len(data) != count:
            raise TypeError(f"an array of {count} objects is given by a list of as many")
        flat = np.empty(count, object)
        for index, item in enumerate(data):
            flat[index] = item
    else:
        raw = raw_bytes(data)
        if len(raw) != count * dtype.itemsize or dtype.itemsize == 0:
            raise TypeError(f"{len(raw)} bytes are not {count} values of {dtype}")
        flat = np.frombuffer(bytearray(raw), dtype) if raw else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> Unbuilt:
    """`numpy.core.multiarray._reconstruct`: an empty array of NumPy's own class, filled by its state."""
    if not isinstance(kind, Name) or kind.name != "numpy.ndarray":
        raise TypeError(f"an array of the class {described(kind)} is not admitted")

    def build(state: Any) -> np.ndarray:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise TypeError("a tuple of four or five is expected")
        of_shape, dtype, fortran, data = state[-4:]
        return _array_of(data, _dtype_of(dtype), checked_shape(of_shape), "F" if fortran else "C")

    return Unbuilt("numpy.ndarray", build)


def _scalar(dtype: Any, data: Any) -> Any:
    if _dtype_of(dtype).hasobject:
        raise TypeError("a scalar of objects is not admitted")
    return _array_of(data, dtype, (), "C")[()]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if _dtype_of(dtype).hasobject:
        raise TypeError("a buffer of objects is not admitted")
    return _array_of(data, dtype, checked_shape(shape), _text(order))


NAMES: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "builtins.set": _collect(set),
    "builtins.frozenset": _collect(frozenset),
    "builtins.bytes": lambda: b"",  # how protocol 2 writes an empty one
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
}
