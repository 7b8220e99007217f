"""References in the target's place: their membership is known, so whatever is chosen on them needs no look at it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlflow_privacy.types import Signals

_SAME_SUM = 0.95  # of records: a block of references of which nearly each record is in equally many is one group
_LOOKED_AT = 100_000  # records; their order is that of their digests
_CORRELATED = 5.0  # standard errors


def groups_of(member: np.ndarray) -> list[np.ndarray]:
    """The references whose memberships tell on each other, as arrays of columns; each column is in one of them.

    Blocks of consecutive references of which nearly every record is in equally many (complementary pairs, the windows
    of other shares), else references whose memberships are correlated.

    Args:
      member: (n, m) bool.

    Example:
      >>> half = np.random.default_rng(0).random((400, 2)) < 0.5
      >>> [g.tolist() for g in groups_of(np.stack([half, ~half], axis=2).reshape(400, 4))]
      [[0, 1], [2, 3]]
      >>> [g.tolist() for g in groups_of(np.concatenate([half, ~half], axis=1))]
      [[0, 2], [1, 3]]
    """
    member = member[:_LOOKED_AT]
    n, m = member.shape
    for size in range(2, m // 2 + 1):
        if m % size == 0 and _one_sum(member, size):
            return [np.arange(i, i + size) for i in range(0, m, size)]
    centred = member - member.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    correlated = np.abs(centred.T @ centred) > _CORRELATED / np.sqrt(max(n, 1)) * np.outer(norm, norm)
    of = np.arange(m)
    for i, j in zip(*np.nonzero(correlated)):
        of[of == of[j]] = of[i]
    if len(np.unique(of)) == m > 1 and _one_sum(member, m):
        return [np.arange(m)]
    return [np.flatnonzero(of == label) for label in np.unique(of)]


def some_of(groups: Sequence[np.ndarray], most: int) -> list[np.ndarray]:
    """At most so many of the groups, evenly picked from the first to the last.

    >>> [int(group[0]) for group in some_of([np.array([i]) for i in range(9)], 3)]
    [0, 4, 8]
    """
    last = len(groups) - 1
    return [groups[i] for i in np.unique(np.linspace(0, last, min(len(groups), most)).round().astype(int))]


def _one_sum(member: np.ndarray, size: int) -> bool:
    """Whether in each block of so many references nearly all records are in equally many, neither none nor all."""
    sums = (member[:, i : i + size].sum(axis=1) for i in range(0, member.shape[1], size))
    return all(np.bincount(s, minlength=size + 1)[1:size].max(initial=0) >= _SAME_SUM * len(member) for s in sums)


def stand_in(signals: Signals, j: int, group: np.ndarray) -> Signals | None:
    """Reference j as the target of the references outside its group; None if none is left, or no non-member.

    The others of its group are left out because the target has no such references: in a complementary pair one's
    membership is the other's.

    >>> member = np.array([[True, False, True], [False, True, True]])
    >>> rows = np.zeros((2, 3), np.float32)
    >>> signals = Signals(np.zeros(2), rows, member, np.zeros(2), rows, ~member)
    >>> stand_in(signals, 0, np.array([0, 1])).member.tolist()
    [[True], [True]]
    """
    member, others = np.asarray(signals.member, bool), np.setdiff1d(np.arange(signals.member.shape[1]), group)
    outside = ~np.asarray(signals.population_member, bool)[:, j]
    if not len(others) or not outside.any():
        return None
    return Signals(
        target=signals.reference[:, j],
        reference=signals.reference[:, others],
        member=member[:, others],
        population=signals.population_reference[outside, j],
        population_reference=signals.population_reference[outside][:, others],
        population_member=signals.population_member[outside][:, others],
        link=signals.link,
    )
