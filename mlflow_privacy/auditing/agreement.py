"""A check that catches what no fingerprint can: a stored reference, trained again, must agree with itself.

A fingerprint covers code and values. It cannot see a file that the code reads, a variable of the environment, or what a
server answers. Where stored references are used for a recipe with code of the caller's, one of them is trained again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from mlflow_privacy.fingerprint import digest

_logger = logging.getLogger(__name__)

Verify = bool | Literal["auto"]
# Of the standard deviation of a reference's signals over the records. Trained again on one machine they differ by 0,
# with all inputs changed in their last bit by 4e-7 to 2e-4 (MLPs and a CNN on digits), with another seed by 0.2 to 1.1.
ROUNDING = 0.01
_AS_ANOTHER_SEED = 1.5  # times what another seed changes: training may be chaotic, and rounding then does as much
_ENOUGH = 4  # stored references, to know how far their means spread


def is_due(verify: Verify, has_own_code: bool) -> bool:
    """Whether stored references are to be checked.

    >>> is_due("auto", True), is_due("auto", False), is_due(True, False), is_due(False, True)
    (True, False, True, False)
    """
    return has_own_code if verify == "auto" else bool(verify)


def disagreement(
    stored: Mapping[int, np.ndarray],
    rows: Mapping[int, np.ndarray],
    retrain: Callable[[int, bool], np.ndarray],
    *,
    fingerprint: str,
    seed: int,
) -> str:
    """Trains one of the stored references again, chosen at random; "" if it agrees, else how it differs.

    It agrees if its signals differ by rounding (`ROUNDING` of their standard deviation, root mean square). Where they
    differ by more, the same records are trained on with another seed: training may be so sensitive that rounding on
    another machine does what a seed does. Then it agrees if it differs by no more than 1.5 times as much, and (from
    four stored ones on) if its mean over members and over others lies among those of the stored ones.

    Args:
      stored: by index, (n,) signals on the audited records; at least one.
      rows: by index, (n,) bool, which of these it trained on.
      retrain: from an index, and whether with another seed, to (n,) signals.
      fingerprint, seed: decide which one it is.

    Example:
      >>> old = {0: np.array([0.1, 2.0, -1.0, 0.5])}
      >>> rows = {0: np.array([True, True, False, False])}
      >>> disagreement(old, rows, lambda index, reseed: old[0] + 1e-7, fingerprint="ab", seed=0)
      ''
      >>> disagreement(old, rows, lambda index, reseed: old[0] * 3, fingerprint="ab", seed=0)
      'reference 0, trained again, differs by 2.1 of ... signals, where another seed changes 0'
    """
    rng = np.random.default_rng(int(digest([fingerprint, seed, sorted(stored)])[:16], 16))
    index = int(rng.choice(sorted(stored)))
    old, new = stored[index], retrain(index, False)
    spread = float(np.std(old[np.isfinite(old)], dtype=np.float64)) if np.isfinite(old).any() else 0.0
    apart = distance(new, old, spread)
    if apart <= ROUNDING:
        _logger.info("Reference %d, trained again, agrees with the stored one (%.1e of its spread).", index, apart)
        return ""
    noise = distance(retrain(index, True), new, spread)
    if apart <= _AS_ANOTHER_SEED * noise and _is_among(new, rows[index], stored, rows):
        _logger.info(
            "Reference %d, trained again, differs by %.2g of its spread, as by another seed (%.2g).",
            index,
            apart,
            noise,
        )
        return ""
    return (
        f"reference {index}, trained again, differs by {apart:.2g} of the standard deviation of its signals, where "
        f"another seed changes {noise:.2g}"
    )


def distance(one: np.ndarray, other: np.ndarray, unit: float) -> float:
    """Root mean square difference in units; ∞ where one alone is finite, or the shapes differ.

    >>> distance(np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0.5), distance(np.array([np.inf]), np.array([1.0]), 0.5)
    (0.0, inf)
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    finite = np.isfinite(one)
    if one.shape != other.shape or not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return math.inf
    with np.errstate(invalid="ignore"):
        difference = float(np.sqrt(np.mean((one[finite] - other[finite]) ** 2))) if finite.any() else 0.0
    if difference == 0.0:
        return 0.0
    return difference / unit if unit > 0 and math.isfinite(difference) else math.inf


def _is_among(
    new: np.ndarray, row: np.ndarray, stored: Mapping[int, np.ndarray], rows: Mapping[int, np.ndarray]
) -> bool:
    """Whether its means over members and over others lie in the range of the stored ones', made three times as wide.

    Of each record what all stored ones say on average is taken off first: which records a reference trained on would
    else move its means more than training does.
    """
    if len(stored) < _ENOUGH:
        return True
    usual = np.mean([stored[i] for i in stored], axis=0, dtype=np.float64)
    finite = np.isfinite(usual) & np.isfinite(new)

    def means(signal: np.ndarray, member: np.ndarray) -> list[float]:
        parts = ((signal - usual)[finite & mask] for mask in (member, ~member))
        return [float(part.mean()) if len(part) else 0.0 for part in parts]

    known = [means(stored[i], rows[i]) for i in stored]
    low, high, found = np.min(known, axis=0), np.max(known, axis=0), means(new, row)
    return bool(((found >= low - (high - low)) & (found <= high + (high - low))).all())
