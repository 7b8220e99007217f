"""Tensors by name, from a file or from a folder of transformers; nothing in them is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_privacy.errors import StoreError
from mlflow_privacy.privacy_meter.safe_pickle.reader import read_weights

_PATTERNS = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")
_CONFIG_BYTES = 4 << 20


def read_state(path: Path) -> dict[str, Any]:
    """The state dict of one model.

    Args:
      path: a file, see `safe_pickle.read_weights`, or a folder that `save_pretrained` wrote.

    Raises:
      UnsafeError: it holds more than tensors; nothing was executed.
      StoreError: there are no weights, they are damaged, or are adapters alone.
    """
    if not path.is_dir():
        return read_weights(path)
    state: dict[str, Any] = {}
    for file in _weight_files(path):
        part = read_weights(file)
        twice = sorted(part.keys() & state.keys())
        if twice:
            raise StoreError(f"{path}: {twice[0]} is in more than one of its files.")
        state.update(part)
    return state


def read_config(folder: Path) -> Mapping[str, Any]:
    """The `config.json` of a folder of transformers.

    Raises:
      StoreError: there is none, or it is no mapping.
    """
    path = folder / "config.json"
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise StoreError(f"{path} must hold a mapping, got {type(values).__name__}.")
    return values


def weights_digest(path: Path) -> str:
    """SHA-256 of a file, or of the weight files of a folder."""
    hasher = hashlib.sha256()
    for file in _weight_files(path) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    """Those of the safest form that is there: all shards of it."""
    for pattern in _PATTERNS:
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if files:
            return files
    if (folder / "adapter_config.json").is_file():
        raise StoreError(
            f"{folder} holds adapters of peft alone. Merge them into their base with merge_and_unload(), and save the "
            "whole model."
        )
    raise StoreError(f"{folder} holds no weights; {', '.join(_PATTERNS)} are looked for.")
