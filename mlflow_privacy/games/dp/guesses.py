"""How many guesses an attacker makes of n canaries: candidates that depend on n alone, never on the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mlflow_privacy.errors import ConfigError, DesignError

Sides = Literal["in", "out", "both", "any"]
_SIDES = {"in": ((1, 0),), "out": ((0, 1),), "both": ((1, 1),), "any": ((1, 0), (1, 1))}
_FEWEST = 10  # guesses of one candidate; fewer prove at most ε = 2.9 even if all are right
_GRID = 10  # candidates a side
_ROOTS = (1.5, 5.0)  # × √n guesses a side: near the best of Gaussian scores from 500 to 100,000 canaries


def guess_grid(n: int, sides: Sides = "any") -> tuple[tuple[int, int], ...]:
    """Numbers of guesses (k₊, k₋) for a curve, geometric from 10 to n/2 a side; they depend on n alone.

    >>> guess_grid(40, "both")
    ((20, 20), (19, 19), (17, 17), (16, 16), (15, 15), (14, 14), (13, 13), (12, 12), (11, 11), (10, 10))
    """
    if sides not in _SIDES:
        raise ConfigError(f"sides must be one of {', '.join(_SIDES)}, got {sides!r}.")
    most = max(n // 2, 1)
    counts = np.unique(np.rint(np.geomspace(min(_FEWEST, most), most, _GRID)).astype(int))[::-1]
    return tuple((int(k) * a, int(k) * b) for a, b in _SIDES[sides] for k in counts)


def few_guesses(n: int, sides: Sides = "any") -> tuple[tuple[int, int], ...]:
    """Few candidates (k₊, k₋), so that choosing among them costs little: 1.5 √n, 5 √n, n/4 and n/2 a side.

    "any" has them on both sides, and the first two for "in" alone.

    >>> few_guesses(10_000)
    ((150, 150), (500, 500), (2500, 2500), (5000, 5000), (150, 0), (500, 0))
    """
    if sides not in _SIDES:
        raise ConfigError(f"sides must be one of {', '.join(_SIDES)}, got {sides!r}.")
    most = max(n // 2, 1)
    few = [min(most, max(_FEWEST, int(root * math.sqrt(n)))) for root in _ROOTS]
    many = (max(n // 4, 1), most)
    if sides == "any":
        found = [(k, k) for k in (*few, *many)] + [(k, 0) for k in few]
    else:
        ((a, b),) = _SIDES[sides]
        found = [(k * a, k * b) for k in (*few, *many)]
    return tuple(c for c in dict.fromkeys(found) if sum(c) <= n)


def scaled_guesses(guesses: Sequence[tuple[int, int]] | None, n: int, half: int) -> list[tuple[int, int]] | None:
    """Candidates for all canaries as candidates for half of them."""
    if guesses is None:
        return None
    scaled = [(a * half // n, b * half // n) for a, b in guesses]
    return [c for c in dict.fromkeys(scaled) if sum(c)] or [(1, 0)]


def check_guesses(
    n: int, default: tuple[tuple[int, int], ...], guesses: Sequence[tuple[int, int]] | None
) -> tuple[tuple[int, int], ...]:
    """The default, or the caller's candidates checked."""
    if guesses is None:
        return default
    candidates = tuple((int(a), int(b)) for a, b in guesses)
    wrong = [c for c in candidates if min(c) < 0 or not 1 <= sum(c) <= n]
    if wrong or not candidates:
        raise DesignError(
            f"guesses must be pairs (k_in, k_out) of 1 to n={n} guesses in all, got {wrong[:5] or 'none'}."
        )
    return candidates
