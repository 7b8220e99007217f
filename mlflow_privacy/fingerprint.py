"""Canonical JSON and data to SHA-256: the keys under which references and signals are found again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from mlflow_privacy.types import Recipe, Records, to_json


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
    """SHA-256 of a recipe's kind and spec; template, device and speed settings do not count."""
    return digest({"kind": recipe.kind, "spec": recipe.spec})


def record_keys(records: Records) -> np.ndarray:
    """(n,) 24-byte keys, equal where features and label are equal bit for bit (and, but for a collision, only there).

    >>> keys = record_keys(Records(np.array([[1.0], [1.0], [1.0]]), np.array([0, 1, 0]), np.arange(3)))
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
        try:
            out[:, 0] = hash_pandas_object(values, index=False).to_numpy()
        except TypeError:  # a column of lists
            out[:, 0] = hash_pandas_object(values.map(_plain), index=False).to_numpy()
        return out
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "biufSU":
        out[:, 0] = hash_array(array.astype(object) if array.dtype.kind in "SU" else array)
        return out
    if array.dtype.hasobject or array.dtype.kind == "U":
        rows: Any = [repr(_plain(v)).encode() for v in array]
    else:
        flat = np.ascontiguousarray(array).reshape(len(array), -1)
        size, data = flat.shape[1] * flat.itemsize, memoryview(flat.data).cast("B")
        rows = (data[i * size : (i + 1) * size] for i in range(len(flat)))
    digests = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in rows)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _plain(value: Any) -> Any:
    """A hashable equal of a cell: arrays and lists as tuples."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value
