"""Canonical JSON and data to SHA-256: the keys under which references and signals are found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlflow_privacy.types import Recipe, Records, to_json

_BLOCK = 4096  # rows whose bytes are made ready at a time


def canonical_json(value: Any) -> str:
    """One string per value: sorted keys, no blanks, NaN as null.

    >>> canonical_json({"b": 1, "a": (1.0, None)})
    '{"a":[1.0,null],"b":1}'
    """
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _update(hasher: Any, array: Any) -> None:
    """Feeds an array with its kind and shape; strings and objects as canonical JSON."""
    array = np.asarray(array)
    if array.dtype.hasobject or array.dtype.kind in "USMm":
        hasher.update(f"object{array.shape}".encode())
        plain = array.astype(str).tolist() if array.dtype.kind in "USMm" else array.tolist()
        hasher.update(canonical_json(plain).encode())
    else:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        hasher.update(f"{little.dtype.str}{little.shape}".encode())
        hasher.update(np.ascontiguousarray(little).data)


def array_digest(array: Any) -> str:
    """SHA-256 of one array: its dtype, shape and values."""
    hasher = hashlib.sha256()
    _update(hasher, array)
    return hasher.hexdigest()


def data_digest(records: Records) -> str:
    """SHA-256 of features and labels in their order; row ids do not count.

    Columns of a DataFrame are hashed one by one with their names, so that mixed types need no conversion.
    """
    hasher = hashlib.sha256()
    if hasattr(records.x, "iloc"):
        for name in records.x.columns:
            hasher.update(f"column{name!r}".encode())
            _update(hasher, records.x[name].to_numpy())
    else:
        _update(hasher, records.x)
    _update(hasher, records.y)
    return hasher.hexdigest()


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of a recipe's kind and spec and what it rests on; template, device and speed settings do not count."""
    more = {"rests_on": recipe.rests_on} if recipe.rests_on else {}  # without it, keys are those of ever
    return digest({"kind": recipe.kind, "spec": recipe.spec, **more})


def record_keys(records: Records) -> np.ndarray:
    """(n,) 24-byte keys, equal where features and label are equal (and, but for a collision, only there).

    Numbers of another type are other records. −0.0 equals 0.0, and one missing number (NaN) another: no model tells
    them apart. (`data_digest` does count their bits: it says whether data is the same file's.)

    >>> keys = record_keys(Records(np.array([[0.0], [0.0], [-0.0]]), np.array([0, 1, 0]), np.arange(3)))
    >>> bool(keys[0] == keys[1]), bool(keys[0] == keys[2])
    (False, True)
    """
    n = len(records)
    keys = np.zeros((n, 3), np.uint64)
    keys[:, :2] = _row_hashes(records.x)
    keys[:, 2] = _row_hashes(records.y)[:, 0]
    return keys.view("S24").ravel()


def _row_hashes(values: Any) -> np.ndarray:
    """(n, 2) uint64 hash of each row of a frame or array."""
    from pandas.util import hash_array, hash_pandas_object

    out = np.zeros((len(values), 2), np.uint64)
    if hasattr(values, "iloc"):
        values = _frame_of_one_pattern(values)
        try:
            out[:, 0] = hash_pandas_object(values, index=False).to_numpy()
        except TypeError:  # a column of lists
            out[:, 0] = hash_pandas_object(values.map(_plain), index=False).to_numpy()
        return out
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "biufSU":
        out[:, 0] = hash_array(array.astype(object) if array.dtype.kind in "SU" else _one_pattern(array))
        return out
    if array.dtype.hasobject or array.dtype.kind == "U":
        rows: Any = (repr(_plain(v)).encode() for v in array)
    else:
        rows = _row_bytes(array)
    digests = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in rows)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _row_bytes(array: np.ndarray) -> Iterator[bytes]:
    """The bytes of each row, made ready a block of rows at a time."""
    for start in range(0, len(array), _BLOCK):
        block = _one_pattern(array[start : start + _BLOCK])
        data, size = block.tobytes(), block.nbytes // len(block)
        yield from (data[i * size : (i + 1) * size] for i in range(len(block)))


def _one_pattern(array: np.ndarray) -> np.ndarray:
    """The same numbers with one bit pattern each: floats have two zeros and many NaNs."""
    if array.dtype.kind not in "fc":
        return array
    array = array + array.dtype.type(0)  # −0.0 + 0.0 is 0.0
    missing = np.isnan(array)
    if missing.any():
        array[missing] = np.nan
    return array


def _frame_of_one_pattern(frame: Any) -> Any:
    """`_one_pattern` of the columns that need it: early releases of pandas hash the bits of a float."""
    import pandas as pd

    floats = [isinstance(dtype, np.dtype) and dtype.kind == "f" for dtype in getattr(frame, "dtypes", [])]
    if not any(floats):
        return frame
    columns = {j: frame.iloc[:, j] for j in range(len(floats))}  # by place, since names may repeat
    columns |= {j: _one_pattern(columns[j].to_numpy()) for j in np.flatnonzero(floats)}
    return pd.DataFrame(columns, index=frame.index)


def _plain(value: Any) -> Any:
    """A hashable equal of a cell: arrays and lists as tuples, −0.0 as 0.0."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and value == 0:
        return 0.0
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value
