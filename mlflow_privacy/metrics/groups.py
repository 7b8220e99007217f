"""Groups of records, each by itself: its members against its own non-members, by a threshold of its own.

An average hides the few for whom the risk is high. An attacker who knows the class of a record (he does: it is part of
the record) need not use one threshold for all of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mlflow_privacy.metrics.roc import Tally

MIN_RECORDS = 10  # of members, and of non-members: DeLong's variance of fewer means little
_MAX_DISTINCT = 20  # distinct numbers; more are cut into quartiles


@dataclasses.dataclass(frozen=True)
class Groups:
    """A slicing of n records: names (g,) and each record's group code (n,)."""

    names: tuple[str, ...]
    code: np.ndarray


def groups_of(values: np.ndarray | Sequence[object]) -> Groups:
    """Groups of equal values; a number with more than 20 distinct values is cut at its quartiles.

    Args:
      values: (n,) labels, strings or numbers.

    Example:
      >>> groups_of(np.array(["b", "a", "b"])).names
      ('a', 'b')
      >>> groups_of(np.linspace(0, 1, 100)).names[0]
      '0 to 0.25'
    """
    values = np.asarray(values)
    if values.dtype.kind in "OSU":
        values = values.astype(str)
    distinct, code = np.unique(values, return_inverse=True)
    code = code.reshape(-1)
    if values.dtype.kind == "f" and len(distinct) > _MAX_DISTINCT:
        finite = values[np.isfinite(values)]
        edges = np.unique(np.quantile(finite, [0, 0.25, 0.5, 0.75, 1]))
        code = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
        names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)] or ["all"]
        if len(finite) < len(values):
            code = np.where(np.isfinite(values), code, len(names))
            names.append("not finite")
        return Groups(tuple(names), code)
    return Groups(tuple(str(name) for name in distinct.tolist()), code)


def slicings_of(task: str, y: np.ndarray, slices: Mapping[str, np.ndarray]) -> dict[str, Groups]:
    """The groups of an audit: its classes (or quartiles of the target value), then what the caller named.

    Args:
      task: of `types.Task`; a language model has no classes.
      y: (n,) labels or target values.
      slices: (n,) values by name.

    Example:
      >>> list(slicings_of("classification", np.array([0, 1]), {"region": np.array(["n", "s"])}))
      ['class', 'region']
    """
    own = {"classification": "class", "regression": "target value"}.get(task)
    out = {own: groups_of(y)} if own else {}
    for name, values in slices.items():
        out[name if name not in out else f"{name} (given)"] = groups_of(values)
    return out


@dataclasses.dataclass(frozen=True)
class Whole:
    """All records at once, ready to be cut: each record's index among the distinct scores, and their tally."""

    place: np.ndarray
    member: np.ndarray
    tally: Tally

    @staticmethod
    def of(ranks: np.ndarray, member: np.ndarray) -> Whole:
        """From (n,) ranks, higher = more likely a member, and (n,) bool."""
        values, place = np.unique(np.asarray(ranks, np.float64), return_inverse=True)
        place, member = place.reshape(-1), np.asarray(member, bool)
        return Whole(place, member, _tally_at(values, place, member))

    def cut(self, rows: np.ndarray) -> tuple[Tally, Tally]:
        """Tallies of the records `rows` and of all others."""
        distinct, inside = np.unique(self.place[rows], return_inverse=True)
        own = _tally_at(self.tally.values[distinct], inside.reshape(-1), self.member[rows])
        members, nonmembers = self.tally.members.copy(), self.tally.nonmembers.copy()
        members[distinct] -= own.members
        nonmembers[distinct] -= own.nonmembers
        return own, Tally(self.tally.values, members, nonmembers)


def measurable(slicings: Mapping[str, Groups], member: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Slicing, label and rows of each group that has enough members and non-members.

    A slicing with one group compares nothing, and has none.
    """
    member = np.asarray(member, bool)
    return [
        (name, label, rows)
        for name, groups in slicings.items()
        if len(groups.names) > 1
        for label, rows in _large(groups, member)
    ]


def _large(groups: Groups, member: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    size = len(groups.names)
    n_members = np.bincount(groups.code[member], minlength=size)
    n_others = np.bincount(groups.code[~member], minlength=size)
    order = np.argsort(groups.code, kind="stable")
    ends = np.cumsum(n_members + n_others)
    for i, label in enumerate(groups.names):
        if min(n_members[i], n_others[i]) >= MIN_RECORDS:
            yield label, order[ends[i] - n_members[i] - n_others[i] : ends[i]]


def _tally_at(values: np.ndarray, place: np.ndarray, member: np.ndarray) -> Tally:
    """Counts of members and non-members at each of the (k,) values, `place` (n,) being their index."""
    size = len(values)
    return Tally(values, np.bincount(place[member], minlength=size), np.bincount(place[~member], minlength=size))
