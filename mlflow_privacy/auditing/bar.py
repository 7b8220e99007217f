"""The progress bar of reference models: log lines pass above it; the time left does not grow while nothing moves."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from mlflow_privacy.auditing.said import told_quiet

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_LOGGERS = ("", "mlflow", "mlflow_privacy")  # whose handlers may write to the console


class Pace:
    """How long is left, by what has moved so far.

    tqdm divides by all the time that has passed, so that its figure grows while workers start and nothing moves. This
    one is made anew at each move, and only runs down in between.

    Args:
      total: models in all.
      clock: seconds, rising.
      expected: seconds in all, by what is known before anything has moved; None if nothing is.
      most: gives the seconds that are left of a time budget, which ends sooner or later than the models do.
    """

    def __init__(
        self,
        total: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        expected: float | None = None,
        most: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._total, self._clock, self._most = total, clock, most
        self._start = self._last = clock()
        self._left = expected
        self._done = 0.0

    @property
    def done(self) -> float:
        """Models that are trained, parts of them included."""
        return self._done

    @property
    def spent(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._start

    def move(self, done: float) -> None:
        """`done` models are trained; as many as before is no move."""
        if done > self._done:
            self._done, self._last = done, self._clock()
            self._left = (self._last - self._start) / done * max(self._total - done, 0.0)

    @property
    def left(self) -> float | None:
        """Seconds, at most those of the budget; None before anything has moved, unless something was expected.

        >>> now = [0.0]
        >>> pace = Pace(8, clock=lambda: now[0])
        >>> now[0] = 2.0; pace.move(1); pace.left
        14.0
        >>> now[0] = 7.0; pace.left  # workers start
        9.0
        """
        return None if self.rest is None else min(self.rest, self.budget)

    @property
    def rest(self) -> float | None:
        """As `left`, whatever the budget."""
        return None if self._left is None else max(self._left - (self._clock() - self._last), 0.0)

    @property
    def budget(self) -> float:
        """Seconds that are left of the budget."""
        return self._most()


@contextlib.contextmanager
def model_bar(total: int, progress: bool | str, pace: Pace | None = None) -> Iterator[Callable[[float], None]]:
    """A bar over `total` reference models; gives what moves it, to a number of models that may be a fraction.

    Args:
      progress: True or False, or "auto" for a bar on a terminal only, and not where this package was told to log
        nothing but warnings.
      pace: what tells the time left; it is moved whether there is a bar or not.
    """
    from tqdm import tqdm

    disable = (told_quiet() or None) if progress == "auto" else not progress  # None: only on a terminal
    with tqdm(total=total, desc="reference models", unit="model", disable=disable, bar_format=_FORMAT) as bar:
        pace = pace or Pace(total)

        def move(models: float) -> None:
            pace.move(models)
            if bar.disable:
                return
            bar.n = max(bar.n, round(models, 1))
            left = pace.left
            if left is not None and bar.n < total:
                bar.set_postfix_str(f"about {tqdm.format_interval(left)} left", refresh=False)
            elif left is not None:
                bar.set_postfix_str("", refresh=False)
            bar.refresh()

        with contextlib.nullcontext() if bar.disable else lines_above_bars():
            move(0.0)
            yield move


@contextlib.contextmanager
def lines_above_bars() -> Iterator[None]:
    """Inside, a log line that goes to the console clears the bar first, and the bar is drawn again below it."""
    from tqdm import tqdm

    there: list[Any] = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    found = [handler for handler in [*there, logging.lastResort] if _to_console(handler)]
    for handler in found:
        handler.emit = _above(tqdm, handler.emit)
    try:
        yield
    finally:
        for handler in found:
            handler.__dict__.pop("emit", None)


def _to_console(handler: Any) -> bool:
    """Whether a handler writes to the console; MLflow's own writes through a stream of MLflow's."""
    stream = getattr(handler, "stream", None)
    return stream is not None and (
        stream in (sys.stdout, sys.stderr) or type(stream).__module__.startswith("mlflow.utils.logging")
    )


def _above(tqdm: Any, emit: Callable[[logging.LogRecord], None]) -> Callable[[logging.LogRecord], None]:
    def emit_above(record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():
            emit(record)

    return emit_above
