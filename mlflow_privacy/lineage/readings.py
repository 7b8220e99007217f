"""The ways in which a source may be the logged dataset, each with the digest that mlflow.data gives it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.tables import PAIRS, Table, Targets, as_table

_MAX_DIGEST_ROWS = 10_000  # mlflow.data hashes no more
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way to read a source: as a frame, as a Hugging Face dataset, or as arrays.

    kind: how mlflow.data hashes it: "numpy" | "pandas" | "hugging_face" | "polars".
    """

    kind: str
    data: Any
    y: np.ndarray | None = None
    targets: Targets | None = None
    whole: Any = None

    def __len__(self) -> int:
        return len(next(iter(self.data.values())) if isinstance(self.data, dict) else self.data)

    def digest(self) -> str:
        """As mlflow.data computes it."""
        import mlflow
        from mlflow.data.code_dataset_source import CodeDatasetSource

        source = CodeDatasetSource(tags={})  # no part of the digest
        if self.kind == "numpy":
            return mlflow.data.from_numpy(self.data, source=source, targets=self.y).digest
        if self.kind == "polars":
            return mlflow.data.from_polars(self.data, source=source).digest
        frame = self.data
        if self.kind == "hugging_face":
            frame = frame.head(_MAX_DIGEST_ROWS) if hasattr(frame, "iloc") else _first_rows(frame)
        elif not hasattr(frame, "iloc"):
            frame = frame.to_pandas()
        return mlflow.data.from_pandas(frame, source=source).digest

    def covered(self) -> tuple[str, bool]:
        """What its digest says something about, in words, and whether that is every value."""
        if self.kind == "numpy":
            inputs = list(self.data.values()) if isinstance(self.data, dict) else [self.data]
            arrays = [array for array in (*inputs, self.y) if array is not None]
            whole = all(array.size <= _MAX_DIGEST_ROWS and not array.dtype.hasobject for array in arrays)
            text = "all numbers" if whole else f"the shapes and the first {_MAX_DIGEST_ROWS:,} numbers of each array"
            return text, whole
        if self.kind == "polars":
            return "all values", True
        n, frame = len(self), self.data
        head = frame.head(_MAX_DIGEST_ROWS) if hasattr(frame, "iloc") else _first_rows(frame)
        hashed = set(head.select_dtypes(include=[np.number]).columns)
        blind = [
            str(name)
            for name in head.columns
            if name not in hashed and not all(isinstance(value, str) for value in head[name])
        ]
        text = "all rows" if n <= _MAX_DIGEST_ROWS else f"the first {_MAX_DIGEST_ROWS:,} of {n:,} rows"
        if blind:
            more = f" and {len(blind) - _SHOWN} more" if len(blind) > _SHOWN else ""
            text += f" without the columns {', '.join(blind[:_SHOWN])}{more}, which are neither numbers nor strings"
        return text, not blind and n <= _MAX_DIGEST_ROWS

    def misfits(self, profile: Mapping[str, Any]) -> list[str]:
        """What the logged profile says otherwise: the digest need not cover it."""
        found = {"num_rows": len(self)}
        if hasattr(self.data, "iloc") and self.kind != "numpy":
            found["num_elements"] = int(self.data.size)
        words = {"num_rows": "rows", "num_elements": "values"}
        return [
            f"{found[key]:,} {words[key]}, {int(profile[key]):,} were logged"
            for key in found
            if isinstance(profile.get(key), int) and profile[key] != found[key]
        ]

    def table(self) -> Table:
        if self.kind == "numpy":
            y = self.y
            if isinstance(self.data, dict):
                if y is None:
                    raise LineageError("it has features but no labels: log (features, targets) together")
                return as_table((self.data, y))
            if y is None and isinstance(self.whole, Mapping):  # logged without targets, but the file has them
                return as_table(self.whole, targets=self.targets)
            return Table(self.data, y) if y is None else as_table((self.data, y))
        return as_table(self.data, targets=self.targets)


def _first_rows(data: Any) -> Any:
    """The frame of a Hugging Face dataset that mlflow.data hashes."""
    return next(data.to_pandas(batch_size=_MAX_DIGEST_ROWS, batched=True))


def readings(
    raw: Any,
    kind: str | None,
    profile: Mapping[str, Any],
    columns: Mapping[str, str],
    targets: Targets | None,
    split: Any,
) -> Iterator[Reading]:
    """The ways in which `raw` may be the logged dataset, the likeliest first; at least one."""
    if isinstance(raw, Mapping) and not all(isinstance(v, np.ndarray) for v in raw.values()):
        yield from _split_readings(raw, kind, profile, columns, targets, split)
        return
    if hasattr(raw, "toPandas"):  # Spark
        raw = raw.toPandas()
    if kind == "numpy":
        yield from _array_readings(raw, profile, targets)
        return
    if isinstance(raw, Mapping):
        raw = as_table(raw, targets=targets)
        raw = raw.x if raw.y is None else np.column_stack([raw.x.reshape(len(raw), -1), raw.y])
    if isinstance(raw, np.ndarray):
        import pandas as pd

        flat = raw.reshape(len(raw), -1)
        names = list(columns) if len(columns) == flat.shape[1] else None
        raw = pd.DataFrame(flat, columns=names)
    yield Reading(kind or "pandas", raw, targets=targets)
    if kind == "pandas" and not hasattr(raw, "iloc"):
        return
    if kind == "pandas":
        try:
            import polars
            from mlflow.data import polars_dataset  # noqa: F401
        except ImportError:
            return
        yield _PolarsReading("polars", polars.from_pandas(raw), targets=targets, whole=raw)


class _PolarsReading(Reading):
    """A Polars data set, whose profile looks like that of pandas, but whose digest differs."""

    def table(self) -> Table:
        return as_table(self.whole, targets=self.targets)


def _split_readings(
    splits: Mapping[str, Any],
    kind: str | None,
    profile: Mapping[str, Any],
    columns: Mapping[str, str],
    targets: Targets | None,
    split: str | None,
) -> Iterator[Reading]:
    """One reading per split of a DatasetDict; without a digest the split must be the only one, or have the context's
    name."""
    names = list(splits)
    named = [n for n in names if split is not None and n == {"training": "train", "testing": "test"}.get(split, split)]
    if kind is None and len(names) > 1 and not named:
        raise LineageError(
            f"its source holds the splits {', '.join(map(repr, names))}, and which one was used is not recorded"
        )
    for name in [*named, *(n for n in names if n not in named)]:
        yield from readings(splits[name], kind, profile, columns, targets, split)


def _array_readings(raw: Any, profile: Mapping[str, Any], targets: Targets | None) -> Iterator[Reading]:
    """Pairs of features and labels with the logged shapes; the digest chooses among them."""
    shape_x, shape_y = profile.get("features_shape"), profile.get("targets_shape")
    if isinstance(shape_x, dict) and not isinstance(shape_y, dict):
        yield from _readings_of_several(raw, shape_x, shape_y, targets)
        return
    if not isinstance(shape_x, list) or isinstance(shape_y, dict):
        raise LineageError("it has a dictionary of target arrays; an audit reads one array of labels")
    pairs: list[tuple[np.ndarray, np.ndarray | None]] = []
    if isinstance(raw, np.ndarray):
        pairs.append((raw, None))
    elif isinstance(raw, Mapping):
        usual = [(a, b) for a, b in PAIRS if a in raw and b in raw]
        other = [(a, b) for a in raw for b in raw if a != b and (a, b) not in usual]
        order = [(a, b) for a, b in [*usual, *other] if targets not in raw or b == targets]
        pairs.extend((raw[a], raw[b] if shape_y else None) for a, b in order or [(a, None) for a in raw])
        if not order:
            pairs = [(raw[a], None) for a in raw]
    else:
        frame = raw if hasattr(raw, "iloc") else raw.to_pandas()
        names = [targets] if targets in frame.columns else list(frame.columns)[::-1]
        for name in names if shape_y else []:
            x = frame.drop(columns=[name])
            if all(dtype.kind in "biuf" for dtype in x.dtypes):
                pairs.append(
                    (_cast(x, profile.get("features_dtype")), _cast(frame[name], profile.get("targets_dtype")))
                )
        if not shape_y:
            pairs.append((_cast(frame, profile.get("features_dtype")), None))
    fitting = [
        (x, y)
        for x, y in pairs
        if list(x.shape) == shape_x and (y is None) == (shape_y is None) and (y is None or list(y.shape) == shape_y)
    ]
    whole = raw if isinstance(raw, Mapping) else None
    for x, y in fitting or pairs[:1]:
        yield Reading("numpy", x, y, targets=targets, whole=whole)
    if not pairs:
        raise LineageError("it holds no two arrays or columns that could be the logged features and labels")


def _readings_of_several(raw: Any, shapes: Mapping[str, Any], shape_y: Any, targets: Any) -> Iterator[Reading]:
    """Features that were logged as a dictionary of arrays, which the file must name alike, and each array as labels."""
    missing = [name for name in shapes if not isinstance(raw, Mapping) or name not in raw]
    if missing:
        raise LineageError(
            f"it was logged as a dictionary of the arrays {', '.join(map(repr, shapes))}, and its source names no "
            f"{', '.join(map(repr, missing))}: save them under these names, np.savez(path, {missing[0]}=...), or log "
            "them with log_lineage(train=({...}, y))"
        )
    features = {name: np.asarray(raw[name]) for name in shapes}
    others = [name for name in raw if name not in shapes and list(raw[name].shape) == shape_y]
    order = [targets] if targets in others else others
    for name in order:
        yield Reading("numpy", features, np.asarray(raw[name]), targets=targets)
    if not order:
        yield Reading("numpy", features, None, targets=targets)


def _cast(column: Any, dtype: str | None) -> np.ndarray:
    """Values of a text file in the logged dtype."""
    array = column.to_numpy()
    if dtype is None or array.dtype.kind not in "biuf" or np.dtype(dtype).kind not in "biuf":
        return array
    return array.astype(dtype)


def digest_kind(profile: Mapping[str, Any]) -> str | None:
    """How mlflow.data computed the digest, told from the profile; None if it cannot be computed again."""
    if "features_shape" in profile:
        return "numpy"
    if "dataset_size" in profile:
        return "hugging_face"
    return "pandas" if "num_elements" in profile else None
