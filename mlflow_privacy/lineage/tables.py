"""Data in memory, in any form that a training script holds → Table."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.trainers.torch.columns import MOST_COLUMNS, flattened, width
from mlflow_privacy.types import Records

_MAX_DENSE = 2_000_000_000  # bytes of a sparse matrix made dense


# Names under which x and y of one npz file are commonly saved, besides any pair that fits the logged shapes.
PAIRS = (
    ("x", "y"), ("X", "y"), ("X", "Y"), ("features", "targets"), ("features", "labels"), ("data", "target"),
    ("data", "labels"), ("images", "labels"), ("inputs", "targets"), ("x_train", "y_train"), ("X_train", "y_train"),
    ("x_test", "y_test"), ("X_test", "y_test"), ("arr_0", "arr_1"),
)  # fmt: skip


Targets = str | tuple[str, ...]  # the label column, or several


@dataclasses.dataclass(frozen=True)
class Table:
    """Features and labels as they were found, before the label column is known.

    Attributes:
      x: (n, ...) array, or a DataFrame of n rows which still holds the label column while `y` is None.
      y: (n,) labels, or None.
      targets: the label column (or columns) of `x` if the data itself declares it.
    """

    x: Any
    y: np.ndarray | None = None
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def is_frame(self) -> bool:
        return hasattr(self.x, "iloc")


def table_digest(table: Table) -> str:
    """Full SHA-256 of all values of a table in their order: features, labels, column names, dtypes.

    >>> table_digest(Table(np.eye(2), np.array([0, 1]))) == table_digest(Table(np.eye(2), np.array([0, 1])))
    True
    >>> table_digest(Table(np.eye(2), np.array([0, 1]))) == table_digest(Table(np.eye(2), np.array([1, 0])))
    False
    """
    n, x = len(table), table.x
    y = np.zeros(n, np.int8) if table.y is None else table.y
    if table.is_frame:
        for name in [c for c, dtype in x.dtypes.items() if getattr(dtype, "kind", "") == "O"]:
            if any(isinstance(v, list) for v in x[name]):
                x = x.assign(**{str(name): [str(v) for v in x[name]]})
    return data_digest(Records(x, y, np.arange(n)))


def one_or_many(targets: Any) -> Targets | None:
    """The name of the label column, or the names of several.

    >>> one_or_many(["u", "v"]), one_or_many(["u"]), one_or_many("u"), one_or_many(None)
    (('u', 'v'), 'u', 'u', None)
    """
    if targets is None or isinstance(targets, str):
        return targets
    names = tuple(str(name) for name in targets)
    return names[0] if len(names) == 1 else names or None


def names_of(targets: Targets | None) -> tuple[str, ...]:
    """The label columns by name, () for none."""
    return () if targets is None else (targets,) if isinstance(targets, str) else targets


def _known(targets: Targets | None, columns: Any) -> Targets | None:
    """The label columns if all of them are there, else None."""
    return targets if targets is not None and all(name in columns for name in names_of(targets)) else None


def as_table(data: Any, *, targets: Targets | None = None, what: str = "data") -> Table:
    """A table from anything a training script holds.

    Args:
      data: DataFrame, (x, y), `Records`, torch dataset of (x, y) pairs, Hugging Face dataset, dict of arrays, array,
        or an MLflow dataset. In a pair x may be several arrays, a dict or a tuple of them: they become the columns of a
        frame (`trainers.torch.columns`).
      targets: the label column (or columns) of a frame, or the label array of a dict.
      what: how to call it in an error.

    Raises:
      LineageError: the form is not known, or features and labels differ in number.

    >>> as_table(([[1.0], [2.0]], [0, 1])).x.shape
    (2, 1)
    """
    if isinstance(data, Table):
        return data
    if isinstance(data, Records):
        return _pair(data.x, data.y, targets, what)
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return Table(_plain_cells(data), None, _known(targets, data.columns))
    package = type(data).__module__.split(".")[0]
    if package == "polars" and hasattr(data, "to_pandas"):
        return as_table(data.to_pandas(), targets=targets, what=what)
    if package == "pyspark" and hasattr(data, "toPandas"):
        return as_table(data.toPandas(), targets=targets, what=what)
    if package == "datasets":
        return _from_hugging_face(data, targets, what)
    if package == "mlflow" or (hasattr(data, "source") and hasattr(data, "digest")):
        return _from_mlflow(data, targets, what)
    if _is_torch_dataset(data):
        return _from_torch(data, what)
    if isinstance(data, (tuple, list)) and len(data) == 2 and not np.isscalar(data[0]):
        return _pair(data[0], data[1], targets, what)
    if isinstance(data, Mapping):
        return _from_arrays(data, targets, what)
    if isinstance(data, np.ndarray) or (package == "torch" and hasattr(data, "detach")):
        return Table(_array(data))
    raise LineageError(
        f"{what} is a {type(data).__module__}.{type(data).__name__}, which is no form of data that can be read: pass "
        "a DataFrame, (x, y), a torch dataset of (x, y) pairs (not a DataLoader), a Hugging Face dataset, an MLflow "
        "dataset, or a path or URI of a CSV, Parquet, NPZ or Arrow file."
    )


def _pair(x: Any, y: Any, targets: Targets | None, what: str) -> Table:
    """Features and labels given apart; a frame takes the labels as one more column."""
    x = _one_table(x, y, what)
    if hasattr(x, "iloc") and hasattr(x, "columns"):
        labels = _array(y)
        labels = labels.ravel() if labels.ndim == 2 and labels.shape[1] == 1 else labels
        _same_length(x, labels, what)
        if labels.ndim > 2:
            return Table(x.to_numpy(), labels)
        if labels.ndim == 2:
            wanted = list(getattr(y, "columns", [f"target_{i}" for i in range(labels.shape[1])]))
        else:
            wanted = [names_of(targets)[0] if targets else getattr(y, "name", None) or "target"]
        names: list[str] = []
        for name in map(str, wanted):
            while name in x.columns or name in names:
                name = f"{name}_"
            names.append(name)
        columns = dict(zip(names, labels.reshape(len(labels), -1).T))
        return Table(x.assign(**columns), None, one_or_many(names))
    if hasattr(x, "toarray"):  # scipy.sparse
        if x.shape[0] * x.shape[1] * x.dtype.itemsize > _MAX_DENSE:
            raise LineageError(
                f"{what} is a sparse matrix of {x.shape}, too large to be made dense. Log the records before they are "
                "vectorised, and the vectoriser as a part of the model."
            )
        x = x.toarray()
    x, y = _array(x), _array(y)
    _same_length(x, y, what)
    return Table(x, y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y)


def _one_table(x: Any, y: Any, what: str) -> Any:
    """A dict or tuple of arrays as a frame of all their columns; anything else as it is."""
    several: dict[str, Any] = {}
    if isinstance(x, Mapping) and not hasattr(x, "iloc"):
        several = {str(name): value for name, value in x.items()}
    elif isinstance(x, tuple) and len(x) > 1 and all(len(getattr(v, "shape", ())) and len(v) == len(y) for v in x):
        several = {str(i): value for i, value in enumerate(x)}
    if not several:
        return x
    import pandas as pd

    arrays = {name: _array(value) for name, value in several.items()}
    ragged = [name for name, value in arrays.items() if value.ndim == 0 or len(value) != len(y)]
    if ragged:
        shown = ", ".join(f"{name!r} of shape {arrays[name].shape}" for name in ragged[:5])
        raise LineageError(f"{what} has {len(y)} labels, but its inputs hold {shown}: give one value per record.")
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if width(arrays) > MOST_COLUMNS:
        raise LineageError(
            f"{what} has several inputs with {width(arrays):,} values a record, which are kept as columns of a table; "
            f"{MOST_COLUMNS:,} are the most. Log one array, (x, y), and a module whose forward takes it apart."
        )
    return pd.DataFrame(flattened(arrays))


def _same_length(x: Any, y: Any, what: str) -> None:
    if np.ndim(y) == 0 or len(x) != len(y):
        raise LineageError(
            f"{what} has {len(x)} records but {'one label' if np.ndim(y) == 0 else f'{len(y)} labels'}: "
            "pass one label per record."
        )


def _array(value: Any) -> np.ndarray:
    """NumPy array of a tensor, a Series, a list or an array."""
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    if hasattr(value, "to_numpy"):
        return value.to_numpy()
    return np.asarray(value)


def _is_torch_dataset(data: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.utils.data.Dataset)


def _from_torch(data: Any, what: str) -> Table:
    """A map-style dataset of (x, y) pairs, read once in order."""
    import torch

    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) > 1:
        return _pair(_inputs(data.tensors), data.tensors[-1], None, what)
    if isinstance(data, torch.utils.data.Subset):
        inner = data.dataset
        if isinstance(inner, torch.utils.data.TensorDataset) and len(inner.tensors) > 1:
            index = torch.as_tensor(list(data.indices), dtype=torch.long)
            tensors = [tensor[index] for tensor in inner.tensors]
            return _pair(_inputs(tensors), tensors[-1], None, what)
    if not hasattr(data, "__len__"):
        raise LineageError(
            f"{what} is a {type(data).__name__} without a length (an iterable dataset): collect it into tensors first."
        )
    if not len(data):
        raise LineageError(f"{what} is a {type(data).__name__} without records.")
    first = data[0]
    if not isinstance(first, (tuple, list)) or len(first) < 2:
        raise LineageError(
            f"{what} is a {type(data).__name__} whose records are {type(first).__name__}, not (x, y) pairs: wrap it so "
            "that dataset[i] gives (features, label)."
        )
    pairs = [(_inputs(record), record[-1]) for record in (first, *(data[i] for i in range(1, len(data))))]
    one = pairs[0][0]
    if isinstance(one, Mapping):
        x: Any = {name: _stacked([pair[0][name] for pair in pairs], what) for name in one}
    elif isinstance(one, tuple) and (len(first) > 2 or all(getattr(part, "shape", ()) for part in one)):
        x = tuple(_stacked(part, what) for part in zip(*(pair[0] for pair in pairs), strict=True))
    else:
        x = _stacked([pair[0] for pair in pairs], what)
    return _pair(x, np.stack([_array(pair[1]) for pair in pairs]), None, what)


def _stacked(values: Sequence[Any], what: str) -> np.ndarray:
    """Arrays of equal shape as one."""
    try:
        return np.stack([_array(value) for value in values])
    except ValueError:
        shapes = {_array(value).shape for value in values}
        raise LineageError(
            f"{what} has features of {len(shapes)} different shapes, such as {sorted(shapes)[:2]}: resize or pad them "
            "to one shape in the dataset."
        ) from None


def _inputs(record: Sequence[Any]) -> Any:
    """What stands before the label: one array, or a tuple of several."""
    return record[0] if len(record) == 2 else tuple(record[:-1])


def _from_hugging_face(data: Any, targets: Targets | None, what: str) -> Table:
    """A Hugging Face dataset; a single ClassLabel column is the label it declares itself."""
    if isinstance(data, Mapping):
        raise LineageError(
            f"{what} is a DatasetDict with the splits {', '.join(map(repr, data))}: pass one split, such as "
            f"dataset[{next(iter(data), 'train')!r}]."
        )
    if not hasattr(data, "to_pandas"):
        raise LineageError(f"{what} is a streamed {type(data).__name__}: load it without streaming.")
    labels = [name for name, feature in data.features.items() if type(feature).__name__ == "ClassLabel"]
    if targets is None and len(labels) == 1:
        targets = labels[0]
    rest = [name for name in data.column_names if name != targets]
    if targets in data.column_names and len(rest) == 1 and type(data.features[rest[0]]).__name__ != "Value":
        arrays = data.with_format("numpy")[:]
        x = np.asarray(arrays[rest[0]])
        if not x.dtype.hasobject:
            return Table(x, np.asarray(arrays[targets]))
    frame = _plain_cells(data.with_format(None).to_pandas())
    return Table(frame, None, _known(targets, frame.columns))


def _plain_cells(frame: Any) -> Any:
    """Arrays in cells, as Parquet returns lists, as lists: only these have a digest."""
    for position, dtype in enumerate(frame.dtypes):
        if getattr(dtype, "kind", "") == "O" and any(isinstance(v, np.ndarray) for v in frame.iloc[:, position]):
            frame = frame.assign(**{str(frame.columns[position]): [_as_list(v) for v in frame.iloc[:, position]]})
    return frame


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _as_list(item) for key, item in value.items()}
    return [_as_list(v) for v in value] if isinstance(value, list) else value


def _from_mlflow(data: Any, targets: Targets | None, what: str) -> Table:
    """An MLflow dataset that still holds its data."""
    targets = targets or (data.targets if isinstance(getattr(data, "targets", None), str) else None)
    if hasattr(data, "ds"):
        return as_table(data.ds, targets=targets, what=what)
    if hasattr(data, "df"):
        return as_table(data.df, targets=targets, what=what)
    if isinstance(getattr(data, "features", None), Mapping) and isinstance(data.targets, np.ndarray):
        return _pair(data.features, data.targets, None, what)
    if isinstance(getattr(data, "features", None), np.ndarray):
        if isinstance(data.targets, np.ndarray):
            return _pair(data.features, data.targets, None, what)
        return Table(data.features)
    raise LineageError(
        f"{what} is a {type(data).__name__}, which holds no data in memory: pass the data itself, or its path or URI."
    )


def _from_arrays(data: Mapping[str, Any], targets: Targets | None, what: str) -> Table:
    """Named arrays, as in an npz file: the label array is named, or one of the usual pairs is there alone."""
    arrays = {str(k): _array(v) for k, v in data.items()}
    if len(arrays) == 1 and targets not in arrays:
        return Table(next(iter(arrays.values())))
    if targets in arrays:
        rest = [k for k in arrays if k != targets]
        usual = [x for x, y in PAIRS if y == targets and x in rest]
        keys = rest if len(rest) == 1 else usual
        if len(keys) == 1:
            return _pair(arrays[keys[0]], arrays[targets], None, what)
    else:
        usual_pairs = [(x, y) for x, y in PAIRS if x in arrays and y in arrays]
        if len(usual_pairs) == 1:
            return _pair(arrays[usual_pairs[0][0]], arrays[usual_pairs[0][1]], None, what)
    raise LineageError(
        f"{what} holds the arrays {', '.join(map(repr, arrays))}, and which of them are features and labels is not "
        'known: name them "x" and "y", or name the label array with targets=.'
    )
