"""What `predict` gave, in whatever form: which of its columns are the probabilities of which label.

| predict gives | what counts |
|---|---|
| an array, a list, a Series | all of it |
| a frame or dict with columns named after the labels, or these with something around them (`prob_yes`) | these |
| a frame or dict of a label and the probability of it, or of the second of two classes | told apart by the labels |
| a mapping a record, from label to probability or with a label and a score | as of a frame |
| a dict of labels and of one mapping a record from label to probability, as ONNX classifiers have it | the mappings |
| a dict or frame of labels and one array of numbers (n, c) | the array |
| a tuple of labels and probabilities | as of a dict with the keys first, second, … |
| anything else | what `output` names |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlflow_privacy.errors import SignalError, nearest

_REMEDY = 'Name those that hold the probabilities (or amounts), in the order of the labels: output=["...", ...].'

_PLACES = ("first", "second", "third", "fourth")  # names of the parts of a tuple


class Table(NamedTuple):
    """Predictions of n records: an array (n, ...) without names, or one of each name."""

    columns: tuple[np.ndarray, ...]
    names: tuple[Any, ...] | None


def table_of(output: Any, n: int) -> Table:
    """One batch of predictions.

    Args:
      output: an array, list, tensor, Series, frame, or dict of them.
      n: records in it.

    Raises:
      SignalError: it holds no values a record.

    >>> table_of({"label": [1], "probabilities": [{0: 0.25, 1: 0.75}]}, 1).names
    ('label', 0, 1)
    """
    if hasattr(output, "columns") and hasattr(output, "iloc"):
        return _named({name: output.iloc[:, i].to_numpy() for i, name in enumerate(output.columns)}, n)
    if isinstance(output, Mapping):
        if not output:
            raise SignalError("The model's predict gives an empty dict.")
        return _named(output, n)
    if _is_tuple_of_columns(output, n):  # labels and probabilities
        return _named(dict(zip(_PLACES, output)), n)
    if isinstance(output, (list, tuple)) and output and all(isinstance(row, Mapping) for row in output):
        keys = dict.fromkeys(key for row in output for key in row)
        return _named({key: [row.get(key) for row in output] for key in keys}, n)
    return Table((_array(output, n),), None)


def joined(parts: Sequence[Table]) -> Table:
    """Batches as one.

    Raises:
      SignalError: they differ in their names.
    """
    names = parts[0].names
    if names is None and all(part.names is None for part in parts):
        return Table((np.concatenate([part.columns[0] for part in parts]),), None)
    known = list(dict.fromkeys(name for part in parts for name in part.names or ()))
    if any(set(part.names or ()) != set(known) for part in parts):
        raise SignalError(f"The model's predict gives other columns for other records: {_some(known)} in all.")
    columns = [[part.columns[(part.names or ()).index(name)] for part in parts] for name in known]
    return Table(tuple(np.concatenate(column) for column in columns), tuple(known))


def predictions(table: Table, said: Sequence[str], pool: np.ndarray | None) -> tuple[np.ndarray, list | None]:
    """The values that count, (n,) or (n, c), and the labels or names of their columns, None where these have none.

    Args:
      said: names of the columns that count, in the order of the labels; () if the caller names none.
      pool: labels in the order of the outputs; None where there are no classes.

    Raises:
      SignalError: which columns count is not clear, or those named are not there.

    >>> table = table_of({"label": ["b"], "prob_a": [0.25], "prob_b": [0.75]}, 1)
    >>> predictions(table, (), np.array(["a", "b"]))
    (array([[0.25, 0.75]]), ['a', 'b'])
    """
    if table.names is None:
        return _numbers(table.columns[0]), None
    names = {str(name): column for name, column in zip(table.names, table.columns)}
    if said:
        missing = [name for name in said if name not in names]
        if missing:
            hint = nearest(missing[0], list(names), listed=True)
            raise SignalError(f"output names {missing[0]!r}, which is none of the model's outputs{hint}")
        return _stacked([names[name] for name in said]), list(said)
    if len(names) == 1:
        return _numbers(table.columns[0]), None if table.columns[0].ndim > 1 else list(table.names)
    if pool is not None:
        labels = pool.tolist()
        found = _after_labels(names, labels)
        if found is not None:
            picked, known = found
            return _stacked([names[name] for name in picked]), known
        numbers = [column for column in names.values() if column.ndim == 2 and column.dtype.kind == "f"]
        if len(numbers) == 1:
            return numbers[0], None
        both = _label_and_score(list(names.values()), labels)
        if both is not None:
            return both, None
        plain = [column for column in names.values() if column.ndim == 1 and column.dtype.kind in "biuf"]
        if not len(names) == len(plain) == len(labels):
            raise SignalError(
                f"Which of the model's outputs {_some(names)} are the probabilities of the labels {_some(labels)} is "
                f"not clear. {_REMEDY}"
            )
        return _stacked(plain), None  # in the order of the labels
    return _stacked(list(names.values())), list(table.names)


def _named(values: Mapping[Any, Any], n: int) -> Table:
    """A column of each name; a list of mappings becomes the columns that it names."""
    single = [name for name, value in values.items() if isinstance(value, (str, int, float, np.generic))]
    if single:
        raise SignalError(
            f"The model's predict gives a dict with the keys {sorted(map(str, values))}, of which {single[0]!r} holds "
            f"one value for {n} records: it must hold one for each."
        )
    columns: dict[Any, np.ndarray] = {}
    for name, value in values.items():
        rows = list(value) if isinstance(value, (list, tuple)) or _of_objects(value) else []
        if rows and all(isinstance(row, Mapping) for row in rows):
            for key in dict.fromkeys(key for row in rows for key in row):
                columns[key] = np.array([float(row.get(key, 0.0)) for row in rows])
            continue
        if rows and all(isinstance(row, (list, tuple, np.ndarray)) for row in rows):
            value = rows  # a list of numbers in each cell
        columns[name] = _array(value, n)
    return Table(tuple(columns.values()), tuple(columns))


def _is_tuple_of_columns(output: Any, n: int) -> bool:
    several = isinstance(output, tuple) and 1 < len(output) <= len(_PLACES)
    return several and all(hasattr(part, "shape") and len(part) == n for part in output)


def _of_objects(value: Any) -> bool:
    return bool(getattr(getattr(value, "dtype", None), "hasobject", False)) and np.ndim(value) == 1


def _array(value: Any, n: int) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise SignalError(
            f"The model's predict gives a {type(value).__name__} of unequal rows: it must give as many numbers for "
            "each record."
        ) from error
    if array.ndim == 0:
        raise SignalError(
            f"The model's predict gives a {type(value).__name__} for {n} records: it must give one label, number or "
            "row of probabilities for each."
        )
    return _numbers(array)


def _numbers(values: np.ndarray) -> np.ndarray:
    """Numbers that came as Python objects as floats; all else as it is."""
    plain = values.dtype.hasobject and all(isinstance(v, (int, float, np.number)) for v in values.flat)
    return values.astype(np.float64) if plain else values


def _stacked(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(n, c) of columns (n,) or (n, 1), or the only one as it is."""
    if len(columns) == 1:
        return columns[0]
    flat = [column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column for column in columns]
    if any(column.ndim != 1 for column in flat):
        raise SignalError(f"The model's outputs have shapes {[column.shape for column in columns]}. {_REMEDY}")
    return _numbers(np.stack(flat, axis=1))


def _after_labels(names: Mapping[str, np.ndarray], labels: Sequence[Any]) -> tuple[list[str], list[Any]] | None:
    """The columns that are named after the labels, and these; None if there are none."""
    exact = [label for label in labels if str(label) in names]
    if len(exact) == len(labels) or (exact and len(exact) == len(names)):
        return [str(label) for label in exact], exact
    first = str(labels[0])
    for name in names:
        before, found, after = name.rpartition(first)
        if found and (before or after):
            spelt = [f"{before}{label}{after}" for label in labels]
            if all(one in names and names[one].dtype.kind == "f" for one in spelt):
                return spelt, list(labels)
    return None


def _label_and_score(columns: Sequence[np.ndarray], labels: Sequence[Any]) -> np.ndarray | None:
    """(n,) probability of the second of two classes, from predicted labels and one probability a record.

    Whether that is the probability of the label or of the second class is seen where the first one is predicted: at
    above one half it is the label's.
    """
    if len(labels) != 2 or len(columns) != 2 or any(column.ndim != 1 for column in columns):
        return None
    floats = [c for c in columns if c.dtype.kind == "f" and ((c >= 0) & (c <= 1)).all() and (c != np.round(c)).any()]
    rest = [c for c in columns if all(c is not score for score in floats)]
    if len(floats) != 1 or len(rest) != 1:
        return None
    known = {str(label): i for i, label in enumerate(labels)}
    place = np.array([known.get(str(label), -1) for label in rest[0].tolist()])
    if (place < 0).any():
        return None
    score, first = floats[0].astype(np.float64), place == 0
    of_label = bool((score >= 0.5).all())
    of_second = bool(((score >= 0.5) | first).all() and ((score <= 0.5) | ~first).all())
    if of_label and not of_second:
        return np.where(first, 1 - score, score)
    return score if of_second and (first.any() or not of_label) else None


def _some(names: Any) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (f", … ({len(shown)} in all)" if len(shown) > 8 else "")
