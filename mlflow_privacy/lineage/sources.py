"""An MLflow dataset input, or a path or URI → Table, verified against the digest that was logged with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from mlflow_privacy.errors import LineageError, UnsafeError
from mlflow_privacy.lineage.tables import PAIRS, Table, as_table, read_path

_logger = logging.getLogger(__name__)
_MLFLOW_DIGEST = re.compile(r"[0-9a-f]{8}")
_MAX_DIGEST_ROWS = 10_000  # mlflow.data hashes no more


@dataclasses.dataclass(frozen=True)
class Found:
    """A dataset that was loaded.

    Attributes:
      status: "verified" | "no digest" | "overridden" (it does not match its digest, and the caller allowed that).
    """

    table: Table
    source: str
    digest: str | None
    status: str


class DigestMismatch(LineageError):
    """The data that was loaded is not the data that was logged."""


def mismatch(where: str, expected: str, found: str, *, logged_rows: int | None = None, rows: int | None = None) -> str:
    """The sentence about data that has changed, with what to do."""
    text = f"the data at {where} is not the data this model was trained on: digest {found}, expected {expected}"
    if logged_rows is not None and rows is not None and logged_rows != rows:
        text += (
            f" ({rows} rows, {logged_rows} were logged; if the model trained on a part of this data, log "
            "which: log_lineage(row_indices=...) or mask=...)"
        )
    return (
        f"{text}. Restore the data, or log a copy in the training run with mlflow_privacy.log_lineage(...). To audit with "
        'this data all the same, pass evaluator_config={"privacy_meter": {"allow_digest_mismatch": True}}'
    )


def describe_source(dataset: Any) -> str:
    """Where a logged dataset came from, in a few words: its URI, URL, path or table."""
    fields = _fields(dataset)
    for key in ("uri", "url", "path", "table_name", "delta_table_name", "sql"):
        if fields.get(key):
            return str(fields[key])
    if dataset.source_type == "code":
        return "code"
    return f"{dataset.source_type} {dataset.source}"[:200]


def load_dataset(dataset: Any, *, targets: str | None, split: str | None, allow_mismatch: bool) -> Found:
    """Loads and verifies a logged dataset.

    Args:
      dataset: `mlflow.entities.Dataset`, as it hangs on a run.
      targets: the label column or array if the caller knows it.
      split: the context it was logged in, which chooses among the splits of a DatasetDict.
      allow_mismatch: return data that does not match its digest, with the status "overridden".

    Raises:
      LineageError: the source holds no data or does not load.
      DigestMismatch: the data has changed.
      UnsafeError: the source is a pickle.
    """
    where = describe_source(dataset)
    if dataset.source_type == "code":
        raise LineageError("was logged with a code source, which holds no data")
    columns = _columns(dataset)
    with loadable(where), _raw(dataset, columns) as raw:
        return _verified(raw, dataset, columns, where, targets=targets, split=split, allow_mismatch=allow_mismatch)


@contextlib.contextmanager
def loadable(where: str) -> Iterator[None]:
    """Turns what reading a source may raise into a `LineageError` that names the source."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (LineageError, UnsafeError):
        raise
    except NotImplementedError:
        raise LineageError(f"its source {where} holds no data that can be loaded") from None
    except (OSError, MlflowException, ValueError, ImportError, TypeError, RuntimeError, EOFError, KeyError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise LineageError(f"its source {where} does not load ({type(error).__name__}: {text[:300]})") from error


def read_uri(uri: str | Path, columns: Mapping[str, str] | None = None) -> Any:
    """Reads a data file or folder at a local path (relative ones from this process's directory) or any URI.

    Raises: as `load_dataset`.
    """
    with loadable(str(uri)), local_copy(str(uri)) as path:
        return read_path(path, columns)


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """The local path of a URI; what had to be downloaded is deleted afterwards."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    scheme = urlparse(uri).scheme
    if scheme in ("", "file") or len(scheme) == 1:  # one letter: a Windows drive
        path = Path(local_file_uri_to_path(uri))
        if not path.exists():
            hint = "" if path.is_absolute() else f" (a relative path, looked up in {Path.cwd()})"
            raise LineageError(f"its source {uri} does not exist{hint}")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as folder:
        if scheme in ("http", "https"):
            from mlflow.data.http_dataset_source import HTTPDatasetSource

            yield Path(HTTPDatasetSource(uri).load(dst_path=folder))
        else:
            from mlflow.artifacts import download_artifacts

            yield Path(download_artifacts(artifact_uri=uri, dst_path=folder))


@contextlib.contextmanager
def _raw(dataset: Any, columns: Mapping[str, str]) -> Iterator[Any]:
    """What the source of a logged dataset holds, before it is verified."""
    fields = _fields(dataset)
    uri = fields.get("uri") or fields.get("url") or (fields.get("path") if dataset.source_type == "spark" else None)
    if uri and dataset.source_type not in ("hugging_face", "delta_table"):
        with local_copy(str(uri)) as path:
            yield read_path(path, columns)
        return
    if dataset.source_type == "hugging_face":
        yield _load_hub(fields)
        return
    from mlflow.data.dataset_source_registry import get_dataset_source_from_json

    loaded = get_dataset_source_from_json(dataset.source, dataset.source_type).load()
    yield read_path(loaded, columns) if isinstance(loaded, (str, Path)) else loaded


def _load_hub(fields: Mapping[str, Any]) -> Any:
    """A Hugging Face dataset. Its loading script, if it has one, is never run."""
    import inspect

    import datasets

    split = fields.get("split")
    arguments = {
        "name": fields.get("config_name"),
        "data_dir": fields.get("data_dir"),
        "data_files": fields.get("data_files"),
        "revision": fields.get("revision"),
        "split": None if split in (None, "None") else split,  # MLflow writes str(None)
    }
    if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:
        arguments["trust_remote_code"] = False
    path = str(fields["path"])
    if Path(path).is_dir() and ((Path(path) / "state.json").exists() or (Path(path) / "dataset_dict.json").exists()):
        return datasets.load_from_disk(path)
    return datasets.load_dataset(path, **arguments)


def _verified(
    raw: Any,
    dataset: Any,
    columns: Mapping[str, str],
    where: str,
    *,
    targets: str | None,
    split: str | None,
    allow_mismatch: bool,
) -> Found:
    """The reading of `raw` that has the logged digest; there may be several readings, such as the arrays of an npz."""
    profile = _json(dataset.profile)
    expected = dataset.digest
    kind = _kind(profile)
    readings = _readings(raw, kind, profile, columns, targets, split)
    first = next(readings)
    if kind is None or not _MLFLOW_DIGEST.fullmatch(expected or ""):
        return Found(first.table(), where, expected, "no digest")
    found = None
    for reading in [first, *readings]:
        digest = reading.digest()
        if digest == expected:
            return Found(reading.table(), where, expected, "verified")
        found = found or digest
    if allow_mismatch:
        return Found(first.table(), where, expected, "overridden")
    rows = profile.get("num_rows") or (profile.get("features_shape") or [None])[0]
    raise DigestMismatch(mismatch(where, expected, str(found), logged_rows=rows, rows=len(first)))


@dataclasses.dataclass(frozen=True)
class _Reading:
    """One way to read a source: as a frame, as a Hugging Face dataset, or as arrays.

    kind: how mlflow.data hashes it: "numpy" | "pandas" | "hugging_face" | "polars".
    """

    kind: str
    data: Any
    y: np.ndarray | None = None
    targets: str | None = None
    whole: Any = None

    def __len__(self) -> int:
        return len(self.data)

    def digest(self) -> str:
        """As mlflow.data computes it."""
        from mlflow.data.digest_utils import compute_numpy_digest, compute_pandas_digest

        if self.kind == "numpy":
            return compute_numpy_digest(self.data, self.y)
        if self.kind == "polars":
            from mlflow.data.polars_dataset import hash_polars_df

            return hash_polars_df(self.data)
        frame = self.data
        if self.kind == "hugging_face":
            if hasattr(frame, "iloc"):
                frame = frame.head(_MAX_DIGEST_ROWS)
            else:
                frame = next(frame.to_pandas(batch_size=_MAX_DIGEST_ROWS, batched=True))
        elif not hasattr(frame, "iloc"):
            frame = frame.to_pandas()
        return compute_pandas_digest(frame)

    def table(self) -> Table:
        if self.kind == "numpy":
            y = self.y
            if y is None and isinstance(self.whole, Mapping):  # logged without targets, but the file has them
                return as_table(self.whole, targets=self.targets)
            return Table(self.data, y) if y is None else as_table((self.data, y))
        return as_table(self.data, targets=self.targets)


def _readings(
    raw: Any, kind: str | None, profile: Mapping[str, Any], columns: Mapping[str, str], targets: str | None, split: Any
) -> Iterator[_Reading]:
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
    yield _Reading(kind or "pandas", raw, targets=targets)
    if kind == "pandas" and not hasattr(raw, "iloc"):
        return
    if kind == "pandas":
        try:
            import polars
            from mlflow.data import polars_dataset  # noqa: F401
        except ImportError:
            return
        yield _PolarsReading("polars", polars.from_pandas(raw), targets=targets, whole=raw)


class _PolarsReading(_Reading):
    """Polars data sets have the profile of pandas' but another digest."""

    def table(self) -> Table:
        return as_table(self.whole, targets=self.targets)


def _split_readings(
    splits: Mapping[str, Any],
    kind: str | None,
    profile: Mapping[str, Any],
    columns: Mapping[str, str],
    targets: str | None,
    split: str | None,
) -> Iterator[_Reading]:
    """One reading per split of a DatasetDict; without a digest the split must be the only one, or have the context's
    name."""
    names = list(splits)
    named = [n for n in names if split is not None and n == {"training": "train", "testing": "test"}.get(split, split)]
    if kind is None and len(names) > 1 and not named:
        raise LineageError(
            f"its source holds the splits {', '.join(map(repr, names))}, and which one was used is not recorded"
        )
    for name in [*named, *(n for n in names if n not in named)]:
        yield from _readings(splits[name], kind, profile, columns, targets, split)


def _array_readings(raw: Any, profile: Mapping[str, Any], targets: str | None) -> Iterator[_Reading]:
    """Pairs of features and labels with the logged shapes; the digest chooses among them."""
    shape_x, shape_y = profile.get("features_shape"), profile.get("targets_shape")
    if not isinstance(shape_x, list) or isinstance(shape_y, dict):
        raise LineageError("it is a dictionary of feature arrays; one array of features is what an audit reads")
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
                pairs.append((x.to_numpy(), frame[name].to_numpy()))
        if not shape_y:
            pairs.append((frame.to_numpy(), None))
    fitting = [
        (x, y)
        for x, y in pairs
        if list(x.shape) == shape_x and (y is None) == (shape_y is None) and (y is None or list(y.shape) == shape_y)
    ]
    whole = raw if isinstance(raw, Mapping) else None
    for x, y in fitting or pairs[:1]:
        yield _Reading("numpy", x, y, targets=targets, whole=whole)
    if not pairs:
        raise LineageError("it holds no two arrays or columns that could be the logged features and labels")


def _kind(profile: Mapping[str, Any]) -> str | None:
    """How mlflow.data computed the digest, told from the profile; None if it cannot be computed again."""
    if "features_shape" in profile:
        return "numpy"
    if "dataset_size" in profile:
        return "hugging_face"
    return "pandas" if "num_elements" in profile else None


def _columns(dataset: Any) -> dict[str, str]:
    """The logged schema of a table: column name → MLflow type."""
    columns = _json(dataset.schema).get("mlflow_colspec") or []
    return {str(c["name"]): str(c["type"]) for c in columns if isinstance(c, Mapping) and "name" in c and "type" in c}


def _fields(dataset: Any) -> dict[str, Any]:
    return _json(dataset.source)


def _json(text: str | None) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
