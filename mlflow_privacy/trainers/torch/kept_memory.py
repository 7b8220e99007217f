"""Memory that the C library keeps from one training step to the next, instead of giving it back to the system.

glibc returns freed memory at the end of a step, and the next step pays for each of its pages again: a small
convolutional net takes 12 page faults an image, a quarter of its time on a virtual machine (docs/log.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Larger blocks are mapped anew each time: the most that glibc accepts, and what it comes to by itself after a block of
# that size was freed, with twice as much at the end of the heap.
_LARGEST = 32 << 20
_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")

_lock = threading.Lock()
_keeping = 0


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Freed memory stays with this process until the outermost such block ends, in whatever thread.

    Afterwards glibc behaves as in any process that once freed a large array. Nothing happens where the C library is
    another one, or where its limits were set by the user's environment (`MALLOC_TRIM_THRESHOLD_`, `GLIBC_TUNABLES`).
    """
    global _keeping
    libc = _libc()
    if libc is None:
        yield
        return
    with _lock:
        _keeping += 1
        if _keeping == 1:
            libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
            libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if not _keeping:
                libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
                libc.malloc_trim(ctypes.c_size_t(0))


def keeping_memory(generate: Callable[_P, Iterator[_T]]) -> Callable[_P, Iterator[_T]]:
    """A generator function whose memory is kept until it ends or is closed.

    >>> list(keeping_memory(range)(3))
    [0, 1, 2]
    """

    @functools.wraps(generate)
    def generating(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        with kept_memory():
            yield from generate(*args, **kwargs)

    return generating


@functools.cache
def _libc() -> Any:
    """glibc, None where there is another C library or the user has set its limits."""
    if not sys.platform.startswith("linux"):
        return None
    if any(name in os.environ for name in _USERS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    try:
        libc = ctypes.CDLL(None)
        _ = libc.gnu_get_libc_version, libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):
        return None
    return libc
