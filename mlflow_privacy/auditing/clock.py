"""How long each stage of an audit takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

_logger = logging.getLogger(__name__)


class Clock:
    """Seconds by stage, in order.

    Args:
      laps: of stages that ran before.
    """

    def __init__(self, laps: Mapping[str, float] | None = None) -> None:
        self.laps, self._last = dict(laps or {}), time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends a stage: the time since the last one ended is its."""
        now = time.perf_counter()
        self.laps[stage], self._last = round(now - self._last, 4), now
        _logger.info("%s: %.2f s", stage, self.laps[stage])
