"""Members and non-members → pool, in which records that occur more than once are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.fingerprint import record_keys
from mlflow_privacy.lineage.copies import choose_records
from mlflow_privacy.lineage.records import same_form
from mlflow_privacy.types import AuditTarget, Copies, Records


def load_pool_frame(target: AuditTarget) -> tuple[Any, np.ndarray]:
    """Features and labels of the pool, members and non-members together, as `target.membership` tells them apart."""
    return target.pool.x, target.pool.y


def without(records: Records, others: Sequence[Records]) -> tuple[Records, int]:
    """`records` without those that equal, in features and label, a record of `others`; and how many those were.

    The same features under another label are another record: a model may have memorised either.
    """
    keep = np.ones(len(records), bool)
    for other in others:
        left, right = _promoted(records, other)
        keep &= ~np.isin(record_keys(left), record_keys(right))
    return (records if keep.all() else records.take(np.flatnonzero(keep))), int((~keep).sum())


def _promoted(a: Records, b: Records) -> tuple[Records, Records]:
    """Two sets of records with common dtypes, so that equal values have equal bytes."""
    x, y = _promote(a.y, b.y)
    if hasattr(a.x, "iloc"):
        left, right = a.x, b.x
        for name in left.columns:
            if left[name].dtype != right[name].dtype:
                one, two = _promote(left[name].to_numpy(), right[name].to_numpy())
                left, right = left.assign(**{str(name): one}), right.assign(**{str(name): two})
    else:
        left, right = _promote(a.x, b.x)
    return Records(left, x, a.row_ids), Records(right, y, b.row_ids)


def _promote(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.dtype == b.dtype or not (a.dtype.kind in "biuf" and b.dtype.kind in "biuf"):
        return a, b
    common = np.result_type(a, b)
    return a.astype(common), b.astype(common)


class Pool(NamedTuple):
    """Members and non-members of one model, all of their copies among them.

    Attributes:
      records, membership: members first.
      n_duplicates: held-out records that are copies of members.
      scored, repeated: bool, as in `copies.Choice`.
      copies: None if all records are different.
    """

    records: Records
    membership: np.ndarray
    n_duplicates: int
    scored: np.ndarray
    repeated: np.ndarray
    copies: Copies | None


def build_pool(members: Records, non_members: Records, fixed: np.ndarray | None = None) -> Pool:
    """Members and non-members, and which of them can be compared with each other.

    Args:
      fixed: bool over the members, those that every reference trains on; None where there are none.

    Raises:
      LineageError: all non-members are copies of members, no two records can be compared, or the two differ in form.
    """
    non_members = same_form(members, non_members, "non-members")
    inside, outside = (record_keys(part) for part in _promoted(members, non_members))
    n_duplicates = int(np.isin(outside, inside).sum())
    if n_duplicates == len(non_members):
        raise LineageError(
            f"all {n_duplicates} held-out records are exact copies of training records, so there are no non-members: "
            "log a holdout that the model was not trained on"
        )
    everyone, member = Records.concat([members, non_members]), np.arange(len(inside) + len(outside)) < len(inside)
    fixed = None if fixed is None else np.append(fixed, np.zeros(len(outside), bool))
    choice = choose_records(np.concatenate([inside, outside]), member, everyone.y, fixed)
    if choice.copies is not None and choice.copies.basis == "distinct":
        everyone, member = everyone.take(choice.rows), member[choice.rows]
    return Pool(everyone, member, n_duplicates, choice.scored, choice.repeated, choice.copies)


def subsample(records: Records, size: int | None, seed: int) -> Records:
    """At most `size` records at random, in their order; the same for the same seed."""
    if size is None or size >= len(records):
        return records
    chosen = np.random.default_rng(seed).choice(len(records), size, replace=False)
    return records.take(np.sort(chosen))
