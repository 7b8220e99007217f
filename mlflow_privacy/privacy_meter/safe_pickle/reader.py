"""Reads pickles of tensors, arrays and plain containers, and executes nothing.

A plain pickle is read by the machine of `pickle_machine`, a file of `torch.save` by torch's reader of weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_privacy.errors import StoreError, UnsafeError
from mlflow_privacy.privacy_meter.safe_pickle.machine import Machine, check_plain
from mlflow_privacy.privacy_meter.safe_pickle.torch_files import LEGACY_TORCH, load_torch

MAX_BYTES = 8 << 30


def read_pickle(path: Path, *, encoding: str = "ASCII", max_bytes: int = MAX_BYTES) -> Any:
    """Reads a pickle of containers, numbers, strings, NumPy arrays and torch tensors.

    Args:
      path: of the file.
      encoding: of the strings of a Python 2 pickle; "bytes" leaves them bytes.
      max_bytes: the largest file that is read.

    Returns:
      What was pickled. Tensors and parameters are plain tensors on the CPU.

    Raises:
      UnsafeError: it names anything else; the message says what. Nothing was executed.
      StoreError: there is no such file, or it is cut off or damaged.

    >>> import pickle, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "x.pkl")
    ...     _ = path.write_bytes(pickle.dumps({"a": np.arange(2), "b": [1, None]}))
    ...     read_pickle(path)
    {'a': array([0, 1]), 'b': [1, None]}
    """
    data = _read_bytes(path, max_bytes)
    try:
        return load_pickle(data, encoding=encoding)
    except (UnsafeError, StoreError) as error:
        raise type(error)(f"{path}: {error}") from error


def load_pickle(data: bytes, *, encoding: str = "ASCII") -> Any:
    """`read_pickle` of bytes."""
    try:
        value = Machine(encoding).run(data)
        check_plain(value)
        return value
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, (UnsafeError, StoreError)):
            raise
        raise StoreError(f"this is not a complete pickle: {error or type(error).__name__}.") from error


def read_torch(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a file of `torch.save`, both formats, by `torch.load(weights_only=True)` alone.

    Raises:
      UnsafeError: it holds more than tensors and containers.
      StoreError: there is no such file, or it is cut off or damaged.
    """
    data = _read_bytes(path, max_bytes)
    try:
        return load_torch(data)
    except (UnsafeError, StoreError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_weights(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """A state dict, tensors by name, from a safetensors file, a file of `torch.save` or a plain pickle.

    Raises:
      UnsafeError: the file holds more than tensors and containers.
      StoreError: there is no such file, it is damaged, or it is not a state dict.
    """
    import torch

    if path.suffix == ".safetensors":
        value = _read_safetensors(path, max_bytes)
    else:
        data = _read_bytes(path, max_bytes)
        is_torch = data.startswith((b"PK", LEGACY_TORCH))
        try:
            value = load_torch(data) if is_torch else load_pickle(data)
        except (UnsafeError, StoreError) as error:
            raise type(error)(f"{path}: {error}") from error
    if not isinstance(value, Mapping) or not value:
        raise StoreError(f"{path} holds a {type(value).__name__}, not a state dict of tensors by name.")
    wrong = [str(key) for key, item in value.items() if not (isinstance(key, str) and isinstance(item, torch.Tensor))]
    if wrong:
        raise StoreError(f"{path} is not a state dict: its entries {', '.join(wrong[:5])} are not tensors by name.")
    return dict(value)


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise StoreError(f"{path} has {size} bytes, more than the {max_bytes} that are read. Raise max_bytes.")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read_safetensors(path: Path, max_bytes: int) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(_read_bytes(path, max_bytes))
    except SafetensorError as error:
        raise StoreError(f"{path} is not a safetensors file: {error}.") from error
