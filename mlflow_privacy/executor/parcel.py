"""Live objects of the caller on their way to his own workers: cloudpickle, with big arrays mapped from a file.

The one place of this package that unpickles. It reads nothing but what this very run has written a moment before: the
stream's SHA-256 travels to the worker beside it, through the pipe that the worker was started with, and a file in the
job's private folder that does not fit it is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
from pathlib import Path
from typing import Any

import cloudpickle

from mlflow_privacy.errors import RecipeError, UnsafeError

_ALIGNED = 64
_KEPT: dict[str, Any] = {}  # the last parcel that this worker has opened: a job has many groups


class Unsendable(RecipeError):
    """A job cannot be packed here, or not be opened by a worker."""


@dataclasses.dataclass(frozen=True)
class Parcel:
    """A packed object.

    Attributes:
      digest: SHA-256 of the stream.
      stream: the object without its arrays; b"" if it lies in `folder`.
      folder: of the stream and the arrays; None if all is in `stream`.
      parts: (offset, size) of each array in the file of arrays.
    """

    digest: str
    stream: bytes = b""
    folder: Path | None = None
    parts: tuple[tuple[int, int], ...] = ()


def pack(value: Any, folder: Path | None = None) -> Parcel:
    """Packs an object for other processes.

    Args:
      value: anything that cloudpickle takes; functions and classes of a script go along by value.
      folder: a private folder of this machine that gets the arrays, to be mapped by all workers; None packs everything
        into the parcel.

    Raises:
      Unsendable: something in it cannot be sent.

    Example:
      >>> unpack(pack({"a": lambda x: x + 1}))["a"](1)
      2
    """
    try:
        if folder is None:
            stream = cloudpickle.dumps(value)
            return Parcel(hashlib.sha256(stream).hexdigest(), stream)
        parts: list[tuple[int, int]] = []
        with open(folder / "arrays", "wb") as file:

            def aside(buffer: Any) -> None:
                start = -(-file.tell() // _ALIGNED) * _ALIGNED
                file.seek(start)
                raw = buffer.raw()
                file.write(raw)
                parts.append((start, raw.nbytes))

            stream = cloudpickle.dumps(value, protocol=5, buffer_callback=aside)
    except Exception as error:  # whatever an object's own __reduce__ raises
        raise unsendable("cannot be sent to another process", error) from error
    (folder / "stream").write_bytes(stream)
    return Parcel(hashlib.sha256(stream).hexdigest(), b"", folder, tuple(parts))


def unpack(parcel: Parcel, *, remember: bool = True) -> Any:
    """The object; its arrays are mapped copy-on-write, so that workers share their memory until one writes.

    Args:
      remember: keep it for the next call with the same parcel.

    Raises:
      UnsafeError: the stream is not the one that was packed; nothing was unpickled.
      Unsendable: something in it cannot be made here.
    """
    if remember and parcel.digest in _KEPT:
        return _KEPT[parcel.digest]
    stream = parcel.stream if parcel.folder is None else (parcel.folder / "stream").read_bytes()
    if hashlib.sha256(stream).hexdigest() != parcel.digest:
        raise UnsafeError(f"{parcel.folder}/stream was changed by somebody else; nothing of it was loaded.")
    try:
        value = cloudpickle.loads(stream, buffers=_mapped(parcel))
    except Exception as error:  # a module that is not there, or whatever an object's own __setstate__ raises
        raise unsendable("cannot be opened by a worker", error) from error
    if remember:
        _KEPT.clear()
        _KEPT[parcel.digest] = value
    return value


def unsendable(what: str, error: BaseException) -> Unsendable:
    """The error of a job that does not travel."""
    return Unsendable(
        f"The recipe {what}: {type(error).__name__}: {error} "
        "Use executor='local', or define what it uses at the top of a module that workers can import."
    )


def _mapped(parcel: Parcel) -> list[memoryview]:
    if parcel.folder is None or not any(size for _, size in parcel.parts):
        return [memoryview(bytearray()) for _ in parcel.parts]
    with open(parcel.folder / "arrays", "rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return [view[start : start + size] for start, size in parcel.parts]
