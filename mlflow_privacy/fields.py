"""Numbers as pydantic fields of options, config files and policies.

pydantic's strict types are too strict for them: they refuse `1e4` where a whole number is meant, and a number that a
command line gives as text.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_UNITS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}


def no_bool(what: str = "a number") -> BeforeValidator:
    """Refuses true and false: Python takes them for 1 and 0, which nobody who writes them means."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be {what}")
        return value

    return BeforeValidator(check)


Int = Annotated[int, no_bool()]
Float = Annotated[float, no_bool()]


def duration(value: Any) -> Any:
    """Seconds: a number of them, or a text with a unit; None stays.

    >>> duration("10 min"), duration("1.5h"), duration("90"), duration(90)
    (600.0, 5400.0, 90.0, 90.0)
    """
    if value is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(value).lower())
    try:
        seconds = float(found[1]) * _UNITS[found[2]] if found and not isinstance(value, bool) else math.nan
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError('must be more than 0 seconds, as a number or with a unit: 600, "90 s", "10 min", "2 h"')
    return seconds


Duration = Annotated[float | None, BeforeValidator(duration)]
