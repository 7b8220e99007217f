"""Decoded arrays kept on disk, so that images are decoded and tables parsed once. Plain NPZ files, never pickles."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

_logger = logging.getLogger(__name__)
CACHE_VARIABLE = "MLFLOW_PRIVACY_CACHE"
Arrays = Mapping[str, np.ndarray]


def user_cache() -> Path:
    """MLFLOW_PRIVACY_CACHE if it is set, else mlflow-privacy in the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlflow-privacy"


def cache_folder(beside: Path) -> Path:
    """Where arrays decoded from files in the folder `beside` are kept: there if it is writable, else the user's cache.

    MLFLOW_PRIVACY_CACHE overrides both.
    """
    if os.environ.get(CACHE_VARIABLE) or not os.access(beside, os.W_OK):
        return user_cache()
    return beside / ".mlflow-privacy-cache"


def cached_arrays(name: str, files: Sequence[Path], build: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """The arrays that `build` makes of `files`, from disk if they were made before of the same files.

    The files are the same if their names, sizes and times of change are. A damaged cache is built again. Where nothing
    can be written the arrays are built every time.

    Args:
      name: of the data set, for the cache's file name.
      files: all that `build` reads; there is at least one.
      build: returns arrays by name, without objects.
    """
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(repr((name, stamps)).encode()).hexdigest()[:16]
    path = cache_folder(files[0].parent) / f"{name}-{key}.npz"
    stored = _read(path)
    if stored is not None:
        return stored
    arrays = dict(build())
    try:
        _write(path, arrays)
    except OSError as error:
        _logger.warning("Decoded arrays of %s are not kept: %s cannot be written: %s", name, path, error)
    return arrays


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an NPZ, whose checksums zip verifies; None if it is absent or damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise ValueError("a single array")
            return {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        _logger.warning("%s is damaged (%s) and is made again.", path, error)
        return None


def _write(path: Path, arrays: Arrays) -> None:
    """Writes all or nothing: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
