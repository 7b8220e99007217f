"""What a report may show of records: a column to slice by, and their content in a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.types import Records

_LONGEST = 400  # characters of a record's content
_MOST_COLUMNS = 12


def columns_of(records: Records) -> list[str]:
    """Names of the columns of a table: of a frame its own, of an array "0", "1", …; [] of anything else."""
    if hasattr(records.x, "columns"):
        return [str(name) for name in records.x.columns]
    return [str(i) for i in range(records.x.shape[1])] if np.ndim(records.x) == 2 else []


def check_slices(records: Records, names: Sequence[str]) -> None:
    """Raises `ConfigError` with every slice that is no column, and the nearest one.

    >>> check_slices(Records(np.zeros((2, 3)), np.zeros(2), np.arange(2)), ["1"])
    """
    known = columns_of(records)
    faults = []
    for name in names:
        if name not in known:
            hint = nearest(name, known, listed=True)
            faults.append(f"slices names {name!r}, which is no column of the records{hint}")
    if faults:
        raise ConfigError("\n".join(faults))


def column(records: Records, name: str) -> np.ndarray:
    """(n,) values of a column."""
    if hasattr(records.x, "columns"):
        place = columns_of(records).index(name)
        return records.x.iloc[:, place].to_numpy()
    return records.x[:, int(name)]


def shown_labels(y: np.ndarray) -> np.ndarray:
    """(n,) labels; of several values a record (n, ...) a text of the first of them.

    >>> shown_labels(np.array([[1, 0], [1, 1]])).tolist(), shown_labels(np.array([3])).tolist()
    (['1 0', '1 1'], [3])
    """
    if y.ndim == 1:
        return y
    rows = y.reshape(len(y), -1)
    more = f" … ({rows.shape[1]} values)" if rows.shape[1] > _MOST_COLUMNS else ""
    return np.array([" ".join(map(_short, row[:_MOST_COLUMNS].tolist())) + more for row in rows])


def record_texts(records: Records) -> dict[str, str]:
    """The content of each table row or text in a line, by row id; images and other arrays show their shape alone.

    >>> record_texts(Records(np.array([[1.0, 2.5]]), np.array([1]), np.array(["train:0"])))
    {'train:0': '0=1, 1=2.5, y=1'}
    """
    names, labels = columns_of(records), shown_labels(records.y)
    if not names:
        shape = " × ".join(map(str, np.shape(records.x)[1:]))
        return {str(row): f"{shape} values, y={label}" for row, label in zip(records.row_ids, labels)}
    shown = names[:_MOST_COLUMNS]
    columns = [column(records, name) for name in shown]
    more = f", … {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    texts = {}
    for i, row in enumerate(records.row_ids):
        cells = [f"{name}={_short(values[i])}" for name, values in zip(shown, columns)]
        texts[str(row)] = f"{', '.join(cells)}{more}, y={labels[i]}"[:_LONGEST]
    return texts


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
