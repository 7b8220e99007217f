"""Rows that code drew from a file: found by their content, or by the digest that MLflow gave them.

Autologging and `mlflow.log_input(from_pandas(train_df, source="all.csv"))` record the file and the digest of the rows
that were drawn from it, with their index. Splits that scripts commonly make are tried until one has that digest: the
first or last rows, `train_test_split` and `DataFrame.sample` with usual seeds. Nothing is taken that does not have it.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlflow_privacy.fingerprint import record_keys
from mlflow_privacy.lineage.tables import Table, Targets
from mlflow_privacy.types import Records

_HASHED = 10_000  # rows that MLflow's digest covers
_PATIENCE = 10.0  # seconds
_END = np.uint64(97531)  # of pandas' hash of a row
_SEEDS = tuple(
    dict.fromkeys(
        (
            *(42, 0, 1, 2, 3, 123, 7, 10, 1234, 2024, 2025, 2023, *range(101), 1337, 12345, 123456, *range(2015, 2027)),
            *(101, 111, 200, 222, 321, 333, 404, 420, 444, 500, 555, 666, 777, 888, 999, 1000, 1001, 1111, 4242, 31415),
        )
    )
)


class Drawn(NamedTuple):
    """Rows (n,) of a file in the order in which they were drawn, and how, in words."""

    rows: np.ndarray
    how: str


# --- by content --------------------------------------------------------------------------------------------------


def rows_of_part(part: Table, whole: Table) -> np.ndarray | None:
    """Where the records of a part stand in the data that they were drawn from; None if some are not there.

    A frame's index says it, where it holds the row numbers; else equal rows are taken in their order.

    >>> whole = Table(np.array([[1.0], [2.0], [1.0]]), np.array([0, 0, 0]))
    >>> rows_of_part(Table(np.array([[1.0], [1.0], [2.0]]), np.zeros(3, int)), whole).tolist()
    [0, 2, 1]
    >>> rows_of_part(Table(np.array([[3.0]]), np.array([0])), whole) is None
    True
    """
    pair = _alike(part, whole)
    if pair is None or len(part) > len(whole):
        return None
    own, there = (record_keys(records) for records in pair)
    index = part.x.index.to_numpy() if part.is_frame else np.zeros(0)
    if index.dtype.kind in "iu" and len(np.unique(index)) == len(index) and len(index):
        inside = index.min() >= 0 and index.max() < len(there)
        if inside and (there[index] == own).all():
            return index.astype(np.int64)
    places: dict[bytes, list[int]] = {}
    for place in range(len(there) - 1, -1, -1):
        places.setdefault(there[place], []).append(place)
    found = [places[key].pop() if places.get(key) else -1 for key in own]
    return None if -1 in found else np.array(found, np.int64)


def _alike(part: Table, whole: Table) -> tuple[Records, Records] | None:
    """Both as records of one form and types; None where they cannot be the same data."""
    if part.is_frame != whole.is_frame:
        return None
    if part.is_frame:
        names = list(part.x.columns)
        if set(map(str, names)) - set(map(str, whole.x.columns)):
            return None
        there = whole.x.copy(deep=False)
        there.columns = [str(name) for name in there.columns]
        there, own = there[[str(name) for name in names]], part.x.copy(deep=False)
        own.columns = there.columns
        if len(set(own.columns)) < len(names):
            return None
        columns = {str(name): _as_type(there[name], own[name].dtype) for name in own.columns}
        there = there.assign(**columns)
        return Records(own, np.zeros(len(own)), np.arange(len(own))), Records(
            there, np.zeros(len(there)), np.arange(len(there))
        )
    x, y = np.asarray(part.x), part.y
    if x.shape[1:] != np.shape(whole.x)[1:] or (y is None) != (whole.y is None):
        return None
    labels = (np.zeros(len(x)), np.zeros(len(whole))) if y is None else (y, np.asarray(whole.y).astype(y.dtype))
    own_records = Records(x, labels[0], np.arange(len(x)))
    return own_records, Records(np.asarray(whole.x).astype(x.dtype), labels[1], np.arange(len(whole)))


def _as_type(column: Any, dtype: Any) -> Any:
    """A file's column in the type that it has in memory, where it can have that."""
    if column.dtype == dtype:
        return column
    try:
        return column.astype(dtype)
    except (TypeError, ValueError):
        return column


# --- by digest ---------------------------------------------------------------------------------------------------


def rows_by_digest(frame: Any, digest: str, n: int, *, targets: Targets | None, whole: int | None) -> Drawn | None:
    """The n rows of a frame of a file that have MLflow's digest, with the index that they were drawn with.

    Args:
      frame: with the columns that were logged, in their order.
      targets: the label column, by which a split may be stratified.
      whole: rows of training and held-out data together. Where n is all rows of the file, they were drawn from a frame
        of so many, and the file has lost their index.
    """
    lost = n == len(frame)
    total = whole if lost else len(frame)
    if total is None or total <= n or n == 0:
        return None
    started, has = time.monotonic(), _digests_of(frame, total)
    every, numbers = np.arange(n), np.arange(total)
    labels = None if lost or targets not in frame.columns else frame[targets].to_numpy()
    for rows, how in _splits(numbers, n, labels):
        if time.monotonic() - started > _PATIENCE:
            return None
        for index in (rows, every) if not lost else (rows,):
            if has(every if lost else rows, index) == digest:
                return Drawn(every if lost else rows, how)
    return None


def _splits(numbers: np.ndarray, n: int, labels: np.ndarray | None) -> Iterator[Drawn]:
    """Ways in which scripts draw n of so many rows, the commonest first."""
    total = len(numbers)
    yield Drawn(numbers[:n], f"the first {n} rows")
    yield Drawn(numbers[total - n :], f"the last {n} rows")
    from sklearn.model_selection import train_test_split

    for seed, by in itertools.product(_SEEDS, (None,) if labels is None else (None, labels)):
        words = f"train_test_split(random_state={seed}{'' if by is None else ', stratify=...'})"
        for place, (first, second) in enumerate(((n, total - n), (total - n, n))):
            try:
                parts = train_test_split(numbers, train_size=first, test_size=second, random_state=seed, stratify=by)
            except ValueError:  # nothing can be stratified by amounts, or by a class of one record
                break
            yield Drawn(parts[place], words)
    import pandas as pd

    for seed in _SEEDS:
        frame = pd.Series(numbers)
        yield Drawn(frame.sample(n=n, random_state=seed).to_numpy(), f"DataFrame.sample(random_state={seed})")
        rest = frame.drop(frame.sample(n=total - n, random_state=seed).index).to_numpy()
        yield Drawn(rest, f"the rows beside DataFrame.sample(random_state={seed})")


def _digests_of(frame: Any, total: int) -> Callable[[np.ndarray, np.ndarray], str]:
    """A function of rows and their index that gives MLflow's digest of such a part.

    Hashes of columns and of row numbers are taken once: pandas' hash of a row is a sum over them. Where another version
    of pandas computes it in another way, each part is hashed by itself, which is slower.
    """
    import pandas as pd
    from pandas.util import hash_pandas_object

    strings = [name for name, kind in frame.dtypes.items() if getattr(kind, "kind", "O") not in "biufcmM"]
    texts = [name for name in strings if frame[name].map(type).eq(str).all()]
    hashed = frame[pd.Index(texts).union(frame.select_dtypes(include=[np.number]).columns)]
    names = b"".join(str(name).encode() for name in frame.columns)
    columns, last = _prefix([hash_pandas_object(hashed[name], index=False).to_numpy() for name in hashed], len(frame))
    numbers = hash_pandas_object(pd.Index(np.arange(total)), index=False).to_numpy()

    def quick(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        return ((columns[rows] ^ numbers[index]) * last) + _END

    def slow(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        return hash_pandas_object(hashed.iloc[rows].set_axis(pd.Index(index), axis=0)).to_numpy()

    few = np.arange(min(len(frame), 3))
    hash_of = quick if np.array_equal(quick(few, few), slow(few, few)) else slow

    def digest(rows: np.ndarray, index: np.ndarray) -> str:
        hasher = hashlib.md5(usedforsecurity=False)
        hasher.update(hash_of(rows[:_HASHED], index[:_HASHED]).tobytes())
        hasher.update(np.int64(len(rows)).tobytes())
        hasher.update(names)
        return hasher.hexdigest()[:8]

    return digest


def _prefix(columns: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.uint64]:
    """pandas' sum over the hashes of columns (n,) uint64, and by what the sum with the index is multiplied."""
    total, factor = np.full(n, 0x345678, np.uint64), 1000003
    for i, column in enumerate(columns):
        total = (total ^ column) * np.uint64(factor)
        factor = (factor + 82520 + 2 * (len(columns) + 1 - i)) % 2**64
    return total, np.uint64(factor)
