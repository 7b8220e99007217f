"""CSV, Parquet, JSONL and NPZ files as data sets. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlflow_privacy.errors import ConfigError, UnsafeError, nearest
from mlflow_privacy.types import Task
from mlflow_privacy.zoo.data import DataSet, make_dataset, make_text_dataset

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".npz")
FEATURE_KEYS = ("features", "x", "X", "data", "images")
LABEL_KEYS = ("labels", "y", "targets", "target", "label")
MAX_CATEGORIES = 200


def find_file(name: str | Path, folders: Sequence[str | Path]) -> Path:
    """The file itself, or the first of that relative path in `folders`.

    Raises:
      ConfigError: there is none; the message lists where it was looked for.
    """
    path = Path(name).expanduser()
    tried = [path] if path.is_absolute() else [Path(folder).expanduser() / path for folder in folders]
    for candidate in dict.fromkeys(tried):
        if candidate.is_file():
            return candidate.resolve()
    looked = ", ".join(str(candidate.absolute()) for candidate in dict.fromkeys(tried))
    raise ConfigError(
        f"data.dataset {str(name)!r} is no file; looked for {looked}. Give an absolute path, or set data.data_dir."
    )


def load_table(
    path: str | Path,
    *,
    targets: str | None = None,
    features: Sequence[str] | str | None = None,
    drop: Sequence[str] = (),
    task: Task | Literal["auto"] | None = None,
    missing: Literal["error", "drop"] = "error",
    text: Sequence[str] | str | None = None,
) -> DataSet:
    """Loads a table of numbers and categories, a table of texts, or an NPZ with two arrays.

    Categories become one 0/1 column a value; labels become class indices.

    Args:
      path: .csv, .tsv, .parquet, .jsonl (one JSON object a line) or .npz.
      targets: the label column (needed for tables of numbers), or the label array of an NPZ (default: the first of
        labels, y, targets, target, label).
      features: feature columns (default: all but the target and `drop`), or the feature array of an NPZ
        (default: the first of features, x, X, data, images).
      drop: columns to leave out, such as ids.
      task: inferred from the targets if None or "auto".
      missing: "error", or "drop" to leave out rows with missing values.
      text: column or columns of texts: the records are then these texts alone, in their order. Without `targets` they
        have no labels.

    Raises:
      ConfigError: a column or array is missing, not numeric, or incomplete.
      UnsafeError: an NPZ array holds pickled objects.
    """
    path = Path(path)
    source = f"file {path.name}"
    task = None if task == "auto" else task
    if path.suffix.lower() == ".npz":
        if text is not None:
            raise ConfigError(f"data.text {text!r}: {path.name} is an NPZ, which holds numbers. Save texts as .jsonl.")
        x, y = _read_npz(path, targets, features)
        return make_dataset(x, y, name=path.stem, source=source, task=task)
    frame = read_frame(path)
    if text is not None:
        return _text_table(frame, path, targets, features, text, task, missing)
    x, y, names, kept = _table_arrays(frame, path.name, targets, features, drop, missing)
    data = make_dataset(x, y, name=path.stem, source=source, task=task, feature_names=names)
    return _named_rows(data, kept)


def _read_npz(path: Path, targets: str | None, features: Any) -> tuple[np.ndarray, np.ndarray]:
    import zipfile

    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path.name} cannot be read as NPZ: it is not an archive of arrays as np.savez writes.")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = list(file.files)
            chosen = []
            for option, given, usual in (("features", features, FEATURE_KEYS), ("targets", targets, LABEL_KEYS)):
                if given is not None and not isinstance(given, str):
                    raise ConfigError(f"data.{option} of an NPZ must be the name of one array, got {given!r}.")
                key = given or next((k for k in usual if k in keys), None)
                if key not in keys:
                    asked = f"no array {key!r}" if key else f"none of {', '.join(usual)}"
                    raise ConfigError(f"{path.name} has {asked}. It holds {', '.join(keys)}: set data.{option}.")
                chosen.append(file[key])
    except ConfigError:
        raise
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        if "allow_pickle" in str(error):
            raise UnsafeError(
                f"{path.name} holds pickled objects, which could run code when loaded. Save plain numeric arrays."
            ) from error
        raise ConfigError(f"{path.name} cannot be read as NPZ: {error}") from error
    return chosen[0], chosen[1]


def _text_table(
    frame: pd.DataFrame,
    path: Path,
    targets: str | None,
    features: Any,
    text: Sequence[str] | str,
    task: Task | None,
    missing: str,
) -> DataSet:
    columns = [str(c) for c in frame.columns]
    frame = frame.set_axis(columns, axis=1)
    use = [text] if isinstance(text, str) else list(text)
    named = [*(("text", c) for c in use), *([("targets", targets)] if targets is not None else [])]
    faults = [
        f"data.{option}: {path.name} has no column {column!r}{nearest(column, columns, listed=True)}"
        for option, column in named
        if column not in columns
    ]
    if features:
        faults.append("data.features and data.text exclude each other: the records are texts or numbers. Remove one.")
    if targets in use:
        faults.append(f"data.targets {targets!r} is a column of data.text too. Name the label column.")
    if faults:
        raise ConfigError("\n".join(faults))
    frame, kept = _complete(frame, [column for _, column in named], path.name, missing)
    y = None if targets is None else _labels(frame[targets])
    data = make_text_dataset(frame[use], y, name=path.stem, source=f"file {path.name}", task=task)
    return _named_rows(data, kept)


def _named_rows(data: DataSet, kept: np.ndarray) -> DataSet:
    """Row ids that name rows of the file, of which some were left out."""
    row_ids = np.array([f"{data.name}:{i}" for i in kept])
    return dataclasses.replace(data, records=dataclasses.replace(data.records, row_ids=row_ids))


def _complete(frame: pd.DataFrame, columns: list[str], name: str, missing: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows without missing values, and their places in the file."""
    absent = frame[columns].isna()
    if not absent.to_numpy().any():
        return frame, np.arange(len(frame))
    if missing == "error":
        counts = ", ".join(f"{c!r} ({int(k)})" for c, k in absent.sum().items() if k)
        raise ConfigError(f"{name} has missing values in {counts}. Fill them, or set data.missing: drop.")
    keep = ~absent.any(axis=1).to_numpy()
    return frame[keep], np.flatnonzero(keep)


def _labels(column: pd.Series) -> np.ndarray:
    import pandas as pd

    return column.to_numpy() if pd.api.types.is_numeric_dtype(column) else column.astype(str).to_numpy().astype(str)


def read_frame(path: Path) -> pd.DataFrame:
    """The table in a .csv, .tsv, .parquet or .jsonl file.

    Raises:
      ConfigError: it is none.
    """
    import pandas as pd

    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        if suffix == ".jsonl":  # values as they are written: no guessing of dates and numbers in texts
            return pd.read_json(path, lines=True, dtype=False, convert_dates=False, precise_float=True)
        return pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",", float_precision="round_trip")
    except (ValueError, OSError) as error:  # pandas and pyarrow both raise ValueErrors on malformed files
        raise ConfigError(f"{path.name} cannot be read as {suffix[1:]}: {error}") from error


def _table_arrays(
    frame: pd.DataFrame, name: str, targets: str | None, features: Any, drop: Sequence[str], missing: str
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    import pandas as pd

    columns = [str(c) for c in frame.columns]
    frame = frame.set_axis(columns, axis=1)
    if targets is None:
        raise ConfigError(f"data.targets must name the label column of {name}; it has {', '.join(columns)}.")
    asked = [*([features] if isinstance(features, str) else features or ())]
    named = [("targets", targets), *(("drop", c) for c in drop), *(("features", c) for c in asked)]
    faults = [
        f"data.{option}: {name} has no column {column!r}{nearest(column, columns, listed=True)}"
        for option, column in named
        if column not in columns
    ]
    if columns.count(targets) > 1:
        faults.append(f"data.targets: {name} has {columns.count(targets)} columns named {targets!r}")
    if faults:
        raise ConfigError("\n".join(faults))
    use = asked or [c for c in columns if c != targets and c not in drop]
    use = [c for c in use if c != targets]
    if not use:
        raise ConfigError(f"{name} has no feature column left beside {targets!r}.")
    frame, kept = _complete(frame, [*use, targets], name, missing)
    parts, names = [], []
    for column in use:
        values = frame[column]
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            parts.append(values.to_numpy(np.float32)[:, None])
            names.append(column)
            continue
        categories, codes = np.unique(values.astype(str).to_numpy(dtype=object).astype(str), return_inverse=True)
        if len(categories) > MAX_CATEGORIES:
            raise ConfigError(
                f"column {column!r} of {name} has {len(categories)} distinct texts (e.g. {categories[0]!r}): that "
                f"looks like an id, date or free text. Leave it out with data.drop: [{column}]."
            )
        parts.append(np.eye(len(categories), dtype=np.float32)[codes.reshape(-1)])
        names += [f"{column}={value}" for value in categories]
    return np.concatenate(parts, axis=1), _labels(frame[targets]), names, kept
