"""Records that occur more than once: which of them figures can be about, and how often references train on each.

Members and non-members can be compared where nothing but chance decided which is which. A record that occurs c times in
data of which a share p became members has a copy among the members with probability 1 − (1 − p)^c: the more often it
occurs the more surely, so that records of the two sides differ, also of a model that saw neither. Three sets are
exchangeable:

- `unique`: records that occur once. So they are at any split of the data.
- `balanced`: records all of whose copies lie on one side, in one ratio of members to non-members for each number of
  copies. Where hardly any record occurs once, as in tables of few columns.
- `distinct`: all records, each once. So they are where copies were made after the split, as oversampling does: then
  copies of one record never lie on both sides. References repeat records like the training did, on either side.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from mlflow_privacy.errors import LineageError
from mlflow_privacy.types import Copies

FEW = 10  # records of a side, below which another set is looked for; the blind baseline needs as many
# Copies are taken to be made after the split where fewer than half as many records as a random split would leave on
# both sides are there, and so few by chance in one of 30,000 data sets.
_SHARE, _SURE = 0.5, 4.0
_LABELS = 100  # more than that are no classes


@dataclasses.dataclass(frozen=True)
class Choice:
    """What becomes of n records that are given, members and non-members.

    Attributes:
      rows: (k,) indices of the records that make the pool: each once, but where copies were made after the split each
        held-out record as often as references are to train on it.
      scored: (k,) bool, figures are about it; no two of these are equal.
      repeated: (k,) bool, one copy each of records that are trained on more than once: as exchangeable as the scored.
      copies: for the report; None if all records are different.
    """

    rows: np.ndarray
    scored: np.ndarray
    repeated: np.ndarray
    copies: Copies | None = None


def choose_records(keys: np.ndarray, member: np.ndarray, y: np.ndarray, fixed: np.ndarray | None = None) -> Choice:
    """Which of n records figures are about; by keys, sides and labels alone, before any model is asked.

    Args:
      keys: (n,) equal for copies, as `fingerprint.record_keys` gives them.
      member: (n,) bool.
      y: (n,) labels.
      fixed: (n,) bool, members that every reference trains on. The others are canaries, of which only those are
        compared that equal no other record at all, since no coin had a say in that. None: there are none.

    Raises:
      LineageError: no set with members and non-members can be compared.

    Example:
      >>> keys, member = np.array([1, 2, 3, 3, 2, 4]), np.array([True, True, True, True, False, False])
      >>> choice = choose_records(keys, member, np.zeros(6))  # record 2 is on both sides, 3 twice among the members
      >>> choice.rows[choice.scored].tolist(), choice.copies
      ([0, 5], Copies(basis='unique', members=3, nonmembers=1, on_both=1))
    """
    member, n = np.asarray(member, bool), len(member)
    _, first, index, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    if len(counts) == n:
        return Choice(np.arange(n), np.ones(n, bool), np.zeros(n, bool))
    inside = np.bincount(index, member, len(counts)).astype(np.int64)
    record = _Distinct(counts, inside > 0, (inside > 0) & (inside < counts))
    copies = Copies(
        basis="unique",
        members=int(member[counts[index] > 1].sum()),
        nonmembers=int((~member)[counts[index] > 1].sum()),
        on_both=int(record.both.sum()),
    )
    if fixed is not None:
        scored = counts == 1
        scored[index[np.asarray(fixed, bool)]] = False
        repeated, rows = np.zeros(len(counts), bool), np.arange(n)
    else:
        basis, scored = _basis(record, inside)
        copies = dataclasses.replace(copies, basis=basis)
        rows, times = np.arange(n), counts
        if basis == "distinct":
            times = _repeated_alike(record, y[first])
            apart = ~record.inside[index]
            rows = np.concatenate([rows[~apart], np.repeat(first[~record.inside], times[~record.inside])])
        repeated = _balanced(record, times, ~record.both & (times > 1))
    place = index[rows]
    leads = np.zeros(len(rows), bool)  # the first copy of each record stands for it
    leads[np.unique(place, return_index=True)[1]] = True
    _check(member[rows[leads & scored[place]]], member, copies)
    return Choice(rows, leads & scored[place], leads & repeated[place], copies)


@dataclasses.dataclass(frozen=True)
class _Distinct:
    """Per distinct record: how often it occurs, whether it does among the members, and whether on both sides."""

    counts: np.ndarray
    inside: np.ndarray
    both: np.ndarray

    def smaller_side(self, chosen: np.ndarray) -> int:
        """How many of the chosen are members, or non-members, whichever are fewer."""
        return min(int((chosen & self.inside).sum()), int((chosen & ~self.inside).sum()))


def _basis(record: _Distinct, inside: np.ndarray) -> tuple[str, np.ndarray]:
    """The name of the set that figures are about, and (distinct,) bool of the records in it."""
    one_sided = ~record.both
    unique = record.counts == 1
    if _after_split(record, inside):
        return "distinct", one_sided
    if record.smaller_side(unique) >= FEW:
        return "unique", unique
    balanced = _balanced(record, record.counts, one_sided)
    if record.smaller_side(balanced) > record.smaller_side(unique):
        return "balanced", balanced
    return ("unique", unique) if record.smaller_side(unique) else ("distinct", one_sided)


def _after_split(record: _Distinct, inside: np.ndarray) -> bool:
    """Whether copies lie on both sides far more seldom than a random split of all rows would leave them."""
    share = inside.sum() / record.counts.sum()
    expected = 1 - share**record.counts - (1 - share) ** record.counts  # 0 of a record that occurs once
    found, spread = record.both.sum(), np.sqrt((expected * (1 - expected)).sum())
    return bool(found < _SHARE * expected.sum() and expected.sum() - found > _SURE * spread)


def _balanced(record: _Distinct, times: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(distinct,) bool: of `among` as many as can be, members to non-members in one ratio at each number of copies."""
    groups = []
    for number in np.unique(times[among]):
        here = among & (times == number)
        groups.append((np.flatnonzero(here & record.inside), np.flatnonzero(here & ~record.inside)))
    groups = [(inside, outside) for inside, outside in groups if len(inside) and len(outside)]
    chosen = np.zeros(len(times), bool)
    if not groups:
        return chosen
    ratio = sum(len(inside) for inside, _ in groups) / sum(len(outside) for _, outside in groups)
    for inside, outside in groups:  # in the order of the keys, which is as good as random
        chosen[inside[: int(min(len(inside), ratio * len(outside)) + 1e-9)]] = True
        chosen[outside[: int(min(len(outside), len(inside) / ratio) + 1e-9)]] = True
    return chosen


def _repeated_alike(record: _Distinct, y: np.ndarray) -> np.ndarray:
    """(distinct,) how often a reference that trains on a record does so: held-out ones like members of their label.

    Were members alone repeated, references would know each member better than each non-member, and a model that saw
    neither would seem to have seen fewer of the members.
    """
    times = record.counts.copy()
    label, names = pd.factorize(y) if y.ndim == 1 else (np.zeros(len(y), np.int64), ())
    if len(names) > _LABELS:
        label = np.zeros(len(y), np.int64)
    givers = np.flatnonzero(record.inside & ~record.both)
    for value in np.unique(label[~record.inside]):
        takers = np.flatnonzero(~record.inside & (label == value))
        alike = givers[label[givers] == value]
        alike = alike if len(alike) else givers
        if len(alike):  # in the order of the keys, each giver as often as the others
            times[takers] = record.counts[alike[np.arange(len(takers)) * len(alike) // len(takers)]]
    return times


def _check(scored: np.ndarray, member: np.ndarray, copies: Copies) -> None:
    """Raises `LineageError` if the scored records (bool, whether members) are none, or of one side alone."""
    if scored.any() and not scored.all():
        return
    n_in, n_out = int(member.sum()), int((~member).sum())
    which = "training" if not scored.any() else "held-out"
    raise LineageError(
        f"no {which} record can be compared with any other: {copies.members} of {n_in} training records and "
        f"{copies.nonmembers} of {n_out} held-out ones occur more than once, {copies.on_both} of them on both sides, "
        "where a record is neither a member nor a non-member. Split the data so that all copies of a record fall on "
        "one side, or log a holdout of other records"
    )
