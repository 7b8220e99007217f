"""What a loader returns: records with their task and classes, and the forms in which a model can take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.types import Records, Task

Inputs = Literal["flat", "image", "text", "any"]
Modality = Literal["table", "image", "text"]
_CHUNK_BYTES = 64 * 2**20  # of float64, while statistics are summed


@dataclasses.dataclass(frozen=True)
class DataSet:
    """All records of one data set, in their order.

    Attributes:
      records: the pool. x is (n, d) float32 for tables; (n, channels, height, width) for images, uint8 in 0..255 or
        float32; a DataFrame of text columns for texts. y is (n,) class indices (int64) or regression targets
        (float32); zeros where texts have no labels.
      task: "classification" or "regression".
      classes: names of the classes by index; () for regression and for texts without labels.
      name: as the config or a person calls it.
      source: where it came from, in words.
      feature_names: of a table's columns, () if they have none.
      population: records of the data set's own test part, which nobody trains on; None if it has none.
    """

    records: Records
    task: Task
    classes: tuple[str, ...]
    name: str
    source: str
    feature_names: tuple[str, ...] = ()
    population: Records | None = None

    @property
    def num_outputs(self) -> int:
        """Outputs of a model for it: one per class, or one for a regression."""
        return len(self.classes) if self.task == "classification" else 1

    @property
    def modality(self) -> Modality:
        """What one record is: a row of numbers, an image, or text."""
        x = self.records.x
        if hasattr(x, "iloc"):
            return "table" if all(getattr(t, "kind", "O") in "biuf" for t in x.dtypes) else "text"
        return "image" if x.ndim > 2 else "table"


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
    population: tuple[Any, Any] | None = None,
) -> DataSet:
    """Makes a `DataSet` of plain arrays; labels become class indices.

    Args:
      x: (n, d) numbers, or (n, channels, height, width) images; uint8 images stay uint8 and mean x / 255.
      y: (n,) class names, class indices or regression targets.
      name: of the data set; row ids are "name:0", "name:1", …, and "name:test:0", … in the population.
      source: where it came from, in words.
      task: inferred from `y` if None, see `infer_task`.
      classes: names by index where `y` already holds indices; otherwise the sorted labels are the names.
      feature_names: of the columns of a table.
      population: (x, y) of the data set's own test part.

    Raises:
      ConfigError: x and y do not fit, or x is not finite numbers.

    >>> data = make_dataset([[1.0], [2.0], [3.0]], ["b", "a", "b"], name="toy", population=([[4.0]], ["a"]))
    >>> data.classes, data.records.y.tolist(), data.records.row_ids.tolist()
    (('a', 'b'), [1, 0, 1], ['toy:0', 'toy:1', 'toy:2'])
    >>> data.population.y.tolist(), data.population.row_ids.tolist(), data.modality
    ([0], ['toy:test:0'], 'table')
    """
    x, y = np.asarray(x), np.asarray(y)
    other = None if population is None else (np.asarray(population[0]), np.asarray(population[1]))
    faults = _faults(x, y, "", at_least=2)
    if other is not None:
        faults += _faults(*other, " of the population", at_least=1)
        if x.shape[1:] != other[0].shape[1:]:
            faults.append(f"a record has shape {x.shape[1:]}, one of the population {other[0].shape[1:]}")
    if faults:
        raise ConfigError(f"data set {name!r} cannot be used: " + "; ".join(faults) + ".")
    task = task or infer_task(y)
    targets, names = _targets(y if other is None else _join(y, other[1]), task, classes, name)
    records = Records(_numbers(x), targets[: len(y)], _row_ids(name, len(y)))
    apart = (
        None
        if other is None
        else Records(_numbers(other[0]), targets[len(y) :], _row_ids(f"{name}:test", len(other[1])))
    )
    return DataSet(records, task, names, name, source, tuple(map(str, feature_names)), apart)


def make_text_dataset(
    x: Any,
    y: Any = None,
    *,
    name: str,
    source: str = "",
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    population: tuple[Any, Any] | None = None,
) -> DataSet:
    """Makes a `DataSet` of texts, with labels or without.

    Args:
      x: n strings, or a DataFrame whose columns are texts.
      y: (n,) labels as for `make_dataset`; None for texts without labels: zeros, and no classes.
      name, source, task, classes: as for `make_dataset`.
      population: (x, y) of the data set's own test part, its y None where `y` is.

    Raises:
      ConfigError: a text is no string, or x and y do not fit.

    >>> data = make_text_dataset(["good", "bad"], ["pos", "neg"], name="toy")
    >>> data.modality, list(data.records.x.columns), data.classes, data.records.y.tolist()
    ('text', ['text'], ('neg', 'pos'), [1, 0])
    """
    frame, other = _texts(x, name), None if population is None else _texts(population[0], name)
    faults = []
    if len(frame) < 2:
        faults.append(f"there must be at least 2 records, got {len(frame)}")
    if other is not None and list(other.columns) != list(frame.columns):
        faults.append(f"its columns are {list(frame.columns)}, those of the population {list(other.columns)}")
    parts = [(frame, y, ""), *([(other, population[1], " of the population")] if other is not None else [])]  # type: ignore[index]
    if len({part[1] is None for part in parts}) > 1:
        faults.append("only one of records and population has labels")
    for part, labels, where in parts:
        if labels is not None and np.shape(labels) != (len(part),):
            faults.append(
                f"there must be one target per record{where}, got {len(part)} records and targets of shape "
                f"{np.shape(labels)}"
            )
    if faults:
        raise ConfigError(f"data set {name!r} cannot be used: " + "; ".join(faults) + ".")
    n, names = len(frame), tuple(classes or ())
    if y is None:
        task, targets = "classification", np.zeros(n + (0 if other is None else len(other)), np.int64)
    else:
        y = np.asarray(y)
        task = task or infer_task(y)
        targets, names = _targets(y if other is None else _join(y, np.asarray(population[1])), task, classes, name)  # type: ignore[index]
    records = Records(frame, targets[:n], _row_ids(name, n))
    apart = None if other is None else Records(other, targets[n:], _row_ids(f"{name}:test", len(other)))
    return DataSet(records, task, names, name, source, (), apart)


def _texts(x: Any, name: str) -> Any:
    """A DataFrame of strings with rows 0..n-1."""
    import pandas as pd

    frame = (
        x.reset_index(drop=True)
        if hasattr(x, "iloc") and x.ndim == 2
        else pd.DataFrame({"text": list(x)}, dtype=object)
    )
    if not len(frame.columns):
        raise ConfigError(f"data set {name!r} has no text column.")
    for column in frame.columns:
        wrong = [i for i, value in enumerate(frame[column]) if not isinstance(value, str)]
        if wrong:
            raise ConfigError(
                f"data set {name!r}: {len(wrong)} values of {column!r} are no text, first record {wrong[0]}: "
                f"{frame[column].iloc[wrong[0]]!r}. Name a column of texts, and fill or leave out missing ones."
            )
    return frame


def _faults(x: np.ndarray, y: np.ndarray, where: str, *, at_least: int) -> list[str]:
    faults = []
    if x.ndim < 2:
        faults.append(f"features{where} must be (n, d) or (n, channels, height, width), got shape {x.shape}")
    if y.ndim != 1 or len(x) != len(y):
        n = len(x) if x.ndim else 0
        faults.append(f"there must be one target per record{where}, got {n} records and targets of shape {y.shape}")
    if x.ndim and len(x) < at_least:
        faults.append(f"there must be at least {at_least} records{where}, got {len(x)}")
    if x.dtype.kind not in "biuf":
        faults.append(f"features{where} must be numbers, got {x.dtype}")
    elif x.dtype.kind == "f" and not np.isfinite(x).all():
        faults.append(f"features{where} must be finite, {int((~np.isfinite(x)).sum())} values are not")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        faults.append(f"targets{where} must be finite, {int((~np.isfinite(y)).sum())} are not")
    return faults


def _numbers(x: np.ndarray) -> np.ndarray:
    """Images of bytes stay bytes, a quarter of the memory; everything else is float32."""
    if x.dtype == np.uint8 and x.ndim > 2:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(x, np.float32)


def _row_ids(name: str, n: int) -> np.ndarray:
    return np.array([f"{name}:{i}" for i in range(n)])


def _join(y: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Targets of both parts; numbers and texts do not mix silently."""
    kinds = ["number" if part.dtype.kind in "biuf" else "text" for part in (y, other)]
    return np.concatenate([y, other] if kinds[0] == kinds[1] else [y.astype(str), other.astype(str)])


def _targets(y: np.ndarray, task: Task, classes: Sequence[str] | None, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if task == "classification":
        return _class_indices(y, classes, name)
    if y.dtype.kind not in "biuf":
        raise ConfigError(f"data set {name!r} is a regression, but its targets are {y.dtype}, not numbers.")
    return y.astype(np.float32), ()


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
    """The same records, and population, in the form a model takes: flattened, or channel-first images.

    Flattened images of bytes become float32 in [0, 1].

    Raises:
      ConfigError: the model takes images, numbers or texts and the records are something else.

    >>> images = make_dataset(np.full((2, 1, 2, 2), 255, np.uint8), [0, 1], name="white")
    >>> as_inputs(images, "flat", model_name="mlp").records.x[0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    form = {"flat": "numbers", "image": "images (channels, height, width)", "text": "texts", "any": "any"}[inputs]
    remedy = {
        "text": "a model for texts",
        "table": "a model for tables, such as 'mlp'",
        "image": "a model for images, such as 'cnn'",
    }[data.modality]
    fits = {"flat": data.modality != "text", "text": data.modality == "text", "any": True}
    fits["image"] = data.modality == "image" and data.records.x.ndim in (3, 4)
    if not fits[inputs]:
        what = "is text" if data.modality == "text" else f"has shape {data.records.x.shape[1:]}"
        raise ConfigError(
            f"train.model_name {model_name!r} takes {form}, but each record of {data.name!r} {what}. Use {remedy}."
        )

    def convert(records: Records) -> Records:
        x = records.x
        if inputs == "flat" and x.ndim > 2:
            x = unit_floats(x).reshape(len(x), -1)
        elif inputs == "image" and x.ndim == 3:
            x = x[:, None]
        return dataclasses.replace(records, x=x)

    return _convert(data, convert)


def unit_floats(x: np.ndarray) -> np.ndarray:
    """(n, …) float32 of the same shape; bytes are divided by 255.

    >>> unit_floats(np.array([[[0, 255]]], np.uint8)).ravel().tolist()
    [0.0, 1.0]
    """
    if x.dtype != np.uint8:
        return np.asarray(x, np.float32)
    out = x.astype(np.float32)
    out /= np.float32(255)
    return out


def image_statistics(data: DataSet) -> tuple[np.ndarray, np.ndarray]:
    """Mean (c,) and standard deviation (c,), float64, of the pixels of each channel, bytes taken as x / 255.

    Over all records, members or not, without the population. Bytes are summed exactly, in integers.

    Raises:
      ConfigError: the records are no images.

    >>> mean, deviation = image_statistics(make_dataset(np.uint8([[[[0]]], [[[255]]]]), [0, 1], name="two"))
    >>> mean.tolist(), deviation.tolist()
    ([0.5], [0.5])
    """
    if data.modality != "image":
        raise ConfigError(f"data set {data.name!r} holds {data.modality} records, no images.")
    x = data.records.x
    mean, deviation = _moments(x[:, None] if x.ndim == 3 else x)
    return mean, deviation


def standardised(data: DataSet) -> DataSet:
    """The same records with mean 0 and standard deviation 1 per feature, or per channel of images; float32.

    Constant features become 0. Statistics are of all records, members or not: what a model sees must not depend on
    the split. The population is moved and scaled by the same numbers.

    Raises:
      ConfigError: the records are texts.

    >>> standardised(make_dataset([[1.0], [3.0]], [0, 1], name="toy")).records.x.ravel().tolist()
    [-1.0, 1.0]
    """
    if data.modality == "text":
        raise ConfigError(f"data set {data.name!r} is text, which cannot be standardised. Leave data.normalize out.")
    data = _convert(data, lambda r: dataclasses.replace(r, x=np.asarray(r.x)))
    axes = (1, -1) + (1,) * (data.records.x.ndim - 2)
    mean, deviation = _moments(data.records.x)
    mean, deviation = mean.reshape(axes), np.where(deviation > 0, deviation, 1).reshape(axes)

    def convert(records: Records) -> Records:
        x = np.empty(records.x.shape, np.float32)
        for part in _parts(x):
            values = records.x[part].astype(np.float64) / (255 if _is_bytes(records.x) else 1)
            x[part] = (values - mean) / deviation
        return dataclasses.replace(records, x=x)

    return _convert(data, convert)


def _convert(data: DataSet, convert: Any) -> DataSet:
    population = None if data.population is None else convert(data.population)
    return dataclasses.replace(data, records=convert(data.records), population=population)


def _is_bytes(x: np.ndarray) -> bool:
    return x.dtype == np.uint8 and x.ndim > 2


def _parts(x: np.ndarray) -> Iterator[slice]:
    """Slices of rows whose float64 copy stays small."""
    rows = max(1, _CHUNK_BYTES // max(1, 8 * x[:1].size))
    yield from (slice(start, start + rows) for start in range(0, len(x), rows))


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (c,) of axis 1; exactly 0 where a feature is constant."""
    axes = (0, *range(2, x.ndim))
    count = x.size // x.shape[1]
    if _is_bytes(x):
        first, second = np.zeros(x.shape[1], np.uint64), np.zeros(x.shape[1], np.uint64)
        for part in _parts(x):
            values = x[part].astype(np.uint16)
            first += values.sum(axis=axes, dtype=np.uint64)
            second += np.square(values).sum(axis=axes, dtype=np.uint64)  # 255² fits in 16 bits
        sums = list(zip(first.tolist(), second.tolist()))
        variance = [(count * b - a * a) / (count * 255) ** 2 for a, b in sums]  # Python's integers do not overflow
        return np.array([a / (count * 255) for a, _ in sums]), np.sqrt(variance)
    mean = sum(x[part].sum(axis=axes, dtype=np.float64) for part in _parts(x)) / count
    centre = mean.reshape(1, -1, *(1,) * (x.ndim - 2))
    squares = sum(np.square(x[part] - centre).sum(axis=axes) for part in _parts(x))
    constant = x.max(axis=axes) == x.min(axis=axes)  # rounding of the mean must not look like a spread
    return np.where(constant, x.reshape(len(x), x.shape[1], -1)[0, :, 0], mean), np.where(
        constant, 0, np.sqrt(squares / count)
    )
