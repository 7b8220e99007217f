"""What a loader returns: records with their task and classes, and the forms in which a model can take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.types import Records, Task

Inputs = Literal["flat", "image", "any"]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """All records of one data set, in their order.

    Attributes:
      records: x is (n, d) float32 for tables, (n, channels, height, width) float32 for images; y is (n,) class
        indices (int64) or regression targets (float32).
      task: "classification" or "regression".
      classes: names of the classes by index; () for regression.
      name: as the config or a person calls it.
      source: where it came from, in words.
      feature_names: of a table's columns, () if they have none.
    """

    records: Records
    task: Task
    classes: tuple[str, ...]
    name: str
    source: str
    feature_names: tuple[str, ...] = ()

    @property
    def num_outputs(self) -> int:
        """Outputs of a model for it: one per class, or one for a regression."""
        return len(self.classes) if self.task == "classification" else 1


def infer_task(y: Any) -> Task:
    """Targets that are real numbers with a fractional part are a regression, everything else classes.

    >>> infer_task([0.5, 1.25]), infer_task([0.0, 1.0]), infer_task(["yes", "no"])
    ('regression', 'classification', 'classification')
    """
    y = np.asarray(y)
    return "regression" if y.dtype.kind == "f" and bool((y != np.round(y)).any()) else "classification"


def make_dataset(
    x: Any,
    y: Any,
    *,
    name: str,
    source: str = "",
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    feature_names: Sequence[str] = (),
) -> DataSet:
    """Makes a `DataSet` of plain arrays; labels become class indices.

    Args:
      x: (n, d) numbers, or (n, channels, height, width) images; uint8 images are scaled to [0, 1].
      y: (n,) class names, class indices or regression targets.
      name: of the data set; row ids are "name:0", "name:1", …
      source: where it came from, in words.
      task: inferred from `y` if None, see `infer_task`.
      classes: names by index where `y` already holds indices; otherwise the sorted labels are the names.
      feature_names: of the columns of a table.

    Raises:
      ConfigError: x and y do not fit, or x is not finite numbers.

    >>> data = make_dataset([[1.0], [2.0], [3.0]], ["b", "a", "b"], name="toy")
    >>> data.classes, data.records.y.tolist(), data.records.row_ids.tolist()
    (('a', 'b'), [1, 0, 1], ['toy:0', 'toy:1', 'toy:2'])
    """
    x, y = np.asarray(x), np.asarray(y)
    faults = []
    if x.ndim < 2:
        faults.append(f"features must be (n, d) or (n, channels, height, width), got shape {x.shape}")
    if y.ndim != 1 or len(x) != len(y):
        faults.append(f"there must be one target per record, got {len(x)} records and targets of shape {y.shape}")
    if len(x) < 2:
        faults.append(f"there must be at least 2 records, got {len(x)}")
    if x.dtype.kind not in "biuf":
        faults.append(f"features must be numbers, got {x.dtype}")
    elif x.dtype.kind == "f" and not np.isfinite(x).all():
        faults.append(f"features must be finite, {int((~np.isfinite(x)).sum())} values are not")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        faults.append(f"targets must be finite, {int((~np.isfinite(y)).sum())} are not")
    if faults:
        raise ConfigError(f"data set {name!r} cannot be used: " + "; ".join(faults) + ".")
    scale = 1 / 255 if x.dtype == np.uint8 and x.ndim == 4 else 1
    x = np.ascontiguousarray(x, np.float32) * np.float32(scale)
    task = task or infer_task(y)
    names: tuple[str, ...] = ()
    if task == "classification":
        y, names = _class_indices(y, classes, name)
    else:
        if y.dtype.kind not in "biuf":
            raise ConfigError(f"data set {name!r} is a regression, but its targets are {y.dtype}, not numbers.")
        y = y.astype(np.float32)
    row_ids = np.array([f"{name}:{i}" for i in range(len(y))])
    return DataSet(Records(x, y, row_ids), task, names, name, source, tuple(map(str, feature_names)))


def _class_indices(y: np.ndarray, classes: Sequence[str] | None, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if classes is not None:
        valid = y.dtype.kind in "biuf" and bool(((y >= 0) & (y < len(classes)) & (y == np.round(y))).all())
        if not valid:
            raise ConfigError(
                f"data set {name!r} names {len(classes)} classes, so its labels must be indices 0 to "
                f"{len(classes) - 1}."
            )
        return y.astype(np.int64), tuple(map(str, classes))
    values, indices = np.unique(y.astype(str) if y.dtype.kind == "O" else y, return_inverse=True)
    if len(values) < 2:
        raise ConfigError(f"data set {name!r} has {len(values)} class, and a classifier needs at least 2.")
    if len(values) > max(1000, len(y) // 2):
        raise ConfigError(
            f"data set {name!r} has {len(values)} distinct labels among {len(y)} records: that is not a class label. "
            "Set data.task: regression, or name another column in data.targets."
        )
    labels = [str(int(v)) if y.dtype.kind == "f" else str(v) for v in values]
    return indices.reshape(-1).astype(np.int64), tuple(labels)


def as_inputs(data: DataSet, inputs: Inputs, *, model_name: str) -> DataSet:
    """The same records in the form a model takes: flattened, or channel-first images.

    Raises:
      ConfigError: the model takes images and the records are none.
    """
    x = data.records.x
    if inputs == "flat" and x.ndim > 2:
        x = x.reshape(len(x), -1)
    elif inputs == "image" and x.ndim == 3:
        x = x[:, None]
    elif inputs == "image" and x.ndim != 4:
        raise ConfigError(
            f"train.model_name {model_name!r} takes images (channels, height, width), but each record of "
            f"{data.name!r} has shape {x.shape[1:]}. Use a model for tables, such as 'mlp'."
        )
    return dataclasses.replace(data, records=dataclasses.replace(data.records, x=x))


def standardised(data: DataSet) -> DataSet:
    """The same records with mean 0 and standard deviation 1 per feature; constant features become 0.

    Statistics are of all records, members or not: what a model sees must not depend on the split.

    >>> standardised(make_dataset([[1.0], [3.0]], [0, 1], name="toy")).records.x.ravel().tolist()
    [-1.0, 1.0]
    """
    x = data.records.x.astype(np.float64)
    axes = 0 if x.ndim == 2 else (0, *range(2, x.ndim))
    deviation = x.std(axis=axes, keepdims=True)
    x = (x - x.mean(axis=axes, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    return dataclasses.replace(data, records=dataclasses.replace(data.records, x=x.astype(np.float32)))
