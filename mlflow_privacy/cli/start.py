"""What every command does first, so that it starts quickly."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


def collect_less() -> None:
    """Looks for garbage less often, and not once more at exit: that goes through 650,000 objects of the libraries."""
    gc.set_threshold(200_000, 20, 10)
    atexit.register(gc.freeze)


@contextlib.contextmanager
def imports_ahead() -> Iterator[None]:
    """Heavy imports below make no garbage worth a search, and what they leave is not searched later.

    Going through it again and again takes a tenth of an import's time, and a quarter with Python's own thresholds.
    """
    enabled, loaded = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded + 500:  # else there was nothing to import, and a caller's garbage stays garbage
            gc.freeze()
        if enabled:
            gc.enable()
