"""What every command does first, so that it starts quickly."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click


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


def set_logs(level: int) -> None:
    """Our own log lines from `level` on, and from others warnings only: a database migration is nobody's news."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mlflow_privacy").setLevel(level)
    if level > logging.DEBUG:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
            logging.getLogger(name).setLevel(logging.WARNING)


def verbosity(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -v and -q, which may stand before a command and after it; the last one counts."""

    def told(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
        return lambda ctx, param, given: set_logs(level) if given else None

    def flag(short: str, name: str, level: int, text: str) -> Callable[..., Any]:
        return click.option(short, name, is_flag=True, expose_value=False, callback=told(level), help=text)

    verbose = flag("-v", "--verbose", logging.DEBUG, "Debug messages, too.")
    return verbose(flag("-q", "--quiet", logging.WARNING, "No progress: warnings and the result alone.")(command))
