"""Numbers as pydantic fields of options, config files and policies.

pydantic's strict types are too strict for them: they refuse `1e4` where a whole number is meant, and a number that a
command line gives as text.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def no_bool(what: str = "a number") -> BeforeValidator:
    """Refuses true and false: Python takes them for 1 and 0, which nobody who writes them means."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"must be {what}")
        return value

    return BeforeValidator(check)


Int = Annotated[int, no_bool()]
Float = Annotated[float, no_bool()]
