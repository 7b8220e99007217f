"""The error tree. Every message names the thing, the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class PrivacyAuditError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigError(PrivacyAuditError, ValueError):
    """A config file or an option is wrong. All faults are reported at once."""


class LineageError(PrivacyAuditError):
    """The members or non-members of a model cannot be found, loaded or verified."""


class RecipeError(PrivacyAuditError):
    """No reference model like the target can be trained: a key is missing, a module cannot be re-initialised."""


class SignalError(PrivacyAuditError):
    """A model gives nothing that an attack can use, or something of the wrong shape."""


class DesignError(PrivacyAuditError, ValueError):
    """Arrays or a reference design do not fit an attack: shapes, missing IN or OUT references."""


class StoreError(PrivacyAuditError):
    """A stored reference run or signal is incomplete or does not match its key."""


class UnsafeError(PrivacyAuditError):
    """Something would have to be unpickled, imported or executed that the caller did not explicitly allow."""


_LISTED = 20


def nearest(
    name: object,
    valid: Iterable[str],
    *,
    cutoff: float = 0.6,
    shown: Callable[[str], str] = repr,
    listed: bool = False,
) -> str:
    """ ", did you mean ...?" for the valid name that is nearest, to follow what was given; "" if none is near.

    Upper and lower case count as the same.

    Args:
      cutoff: how alike the names must be, from 0 to 1 (the same).
      shown: how the valid name is written; in quotes by default.
      listed: where none is near, the first valid names instead of "".

    >>> nearest("Lirra", ["rmia", "lira"]), nearest("x", ["rmia", "lira"])
    (", did you mean 'lira'?", '')
    >>> nearest("x", ["rmia", "lira"], listed=True), nearest("rmai", ["rmia"], shown="attack.{}".format)
    ('; valid are rmia, lira.', ', did you mean attack.rmia?')
    """
    import difflib

    names = list(valid)
    lower = {word.lower(): word for word in reversed(names)}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=cutoff)
    if near:
        return f", did you mean {shown(lower[near[0]])}?"
    if not listed:
        return ""
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; valid are {', '.join(names[:_LISTED]) or 'none'}{rest}."
