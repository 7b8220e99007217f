"""An MLflow dataset input, or a path or URI → Table, verified against the digest that was logged with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from mlflow_privacy.errors import LineageError, UnsafeError
from mlflow_privacy.lineage.drawn import rows_by_digest
from mlflow_privacy.lineage.files import read_path
from mlflow_privacy.lineage.patience import download, within_limits
from mlflow_privacy.lineage.places import Places
from mlflow_privacy.lineage.readings import Reading, digest_kind, readings
from mlflow_privacy.lineage.tables import Table, Targets, as_table

_logger = logging.getLogger(__name__)
_MLFLOW_DIGEST = re.compile(r"[0-9a-f]{8}")


@dataclasses.dataclass(frozen=True)
class Found:
    """A dataset that was loaded.

    Attributes:
      status: "verified" (SHA-256) | "weakly verified" (MLflow's own digest) | "no digest" | "overridden" (it does not
        match its digest, and the caller allowed that).
      compared: what was compared with what was logged, in words; "" for nothing.
      complete: whether that is every value.
      rows: which rows of the table are the dataset; None for all.
    """

    table: Table
    source: str
    digest: str | None
    status: str
    compared: str = ""
    complete: bool = True
    rows: np.ndarray | None = None  # of the table, if it is not all of them


class DigestMismatch(LineageError):
    """The data that was loaded is not the data that was logged."""


def mismatch(
    where: str,
    expected: str,
    found: str,
    *,
    logged_rows: int | None = None,
    rows: int | None = None,
    said: str = "",
) -> str:
    """The sentence about data that has changed, with what to do; `said` stands for digests that are equal."""
    by_digest = said or f"digest {found}, expected {expected}"
    text = f"the data at {where} is not the data this model was trained on: {by_digest}"
    if logged_rows is not None and rows is not None and logged_rows != rows:
        text += (
            f" ({rows} rows, {logged_rows} were logged; if the model trained on a part of this data, log "
            "which: log_lineage(row_indices=...) or mask=...)"
        )
    elif logged_rows is not None and rows is not None and not said:
        text += (
            " (if only the index is another one, as a CSV that was written with index=False does not hold that of "
            "train_test_split, which nobody can tell if the split was stratified, log the parts as they are now: "
            "log_lineage(train=..., holdout=..., run_id=...))"
        )
    return (
        f"{text}. Restore the data, or log a copy in the training run with mlflow_privacy.log_lineage(...). To audit "
        'with this data all the same, pass evaluator_config={"privacy_meter": {"allow_digest_mismatch": True}}'
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


def load_dataset(
    dataset: Any,
    *,
    targets: Targets | None,
    split: str | None,
    allow_mismatch: bool,
    places: Places = Places(),  # noqa: B008 (frozen)
    whole: int | None = None,
) -> Found:
    """Loads and verifies a logged dataset.

    Args:
      dataset: `mlflow.entities.Dataset`, as it hangs on a run.
      places: where a file is looked for that is not where it was.
      targets: the label column or array if the caller knows it.
      split: the context it was logged in, which chooses among the splits of a DatasetDict.
      allow_mismatch: return data that does not match its digest, with the status "overridden".
      whole: rows of training and held-out data together, if that is known: they may be drawn from one file.

    Raises:
      LineageError: the source holds no data or does not load.
      DigestMismatch: the data has changed.
      UnsafeError: the source is a pickle.
    """
    where = describe_source(dataset)
    if dataset.source_type == "code":
        raise LineageError("it was logged with a code source, which holds no data")
    columns = _columns(dataset)
    with loadable(where), _raw(dataset, columns, where, places) as (raw, moved):
        where = where if moved is None else f"{where} (found at {moved})"
        options: dict[str, Any] = {"targets": targets, "split": split, "allow_mismatch": allow_mismatch}
        return _verified(raw, dataset, columns, where, whole=whole, **options)


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
        raise _does_not_load(where, error) from error
    except Exception as error:  # object stores have trees of errors of their own, which need not be installed
        if type(error).__module__.partition(".")[0] not in _STORES:
            raise
        raise _does_not_load(where, error) from error


_STORES = {
    *("aiobotocore", "aiohttp", "adlfs", "azure", "boto3", "botocore", "databricks", "datasets", "deltalake", "fsspec"),
    *(
        "gcsfs",
        "google",
        "grpc",
        "huggingface_hub",
        "paramiko",
        "py4j",
        "pyarrow",
        "pysftp",
        "pyspark",
        "s3fs",
        "s3transfer",
    ),
    *("sqlalchemy", "urllib3"),
}
_CREDENTIALS = re.compile(r"credential|forbidden|unauthorized|accessdenied|access denied|40[13]|permission", re.I)
_MISSING_NAME = re.compile(r"no module named '?([\w.]+)'?", re.I)


def _does_not_load(where: str, error: Exception) -> LineageError:
    """What reading a source raised, with what helps against it."""
    text = " ".join(str(error).split()) or type(error).__name__
    said = f"its source {where} does not load ({type(error).__name__}: {text[:300]})"
    missing = _MISSING_NAME.search(text)
    if missing is not None:
        return LineageError(f"{said}: install {missing[1].partition('.')[0]}")
    if _CREDENTIALS.search(f"{type(error).__name__} {text}"):
        return LineageError(f"{said}: give this process the credentials of the store")
    return LineageError(said)


def read_uri(
    uri: str | Path,
    columns: Mapping[str, str] | None = None,
    places: Places = Places(),  # noqa: B008 (frozen)
) -> Any:
    """Reads a data file or folder at a local path (relative ones from this process's directory) or any URI.

    Raises: as `load_dataset`.
    """
    with loadable(str(uri)), local_copy(str(uri), places) as path:
        return read_path(path, columns)


@contextlib.contextmanager
def local_copy(uri: str, places: Places = Places()) -> Iterator[Path]:  # noqa: B008 (frozen)
    """The local path of a URI; what had to be downloaded is deleted afterwards.

    Raises:
      LineageError: it is nowhere, or does not answer in time; see `patience`.
    """
    scheme = urlparse(uri).scheme
    if scheme in ("", "file") or len(scheme) == 1:  # one letter: a Windows drive
        path = _local_path(uri)
        if path.exists():
            yield path
            return
        with places.found(path) as elsewhere:
            yield elsewhere
        return
    with tempfile.TemporaryDirectory(prefix="mlflow-privacy-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        yield within_limits(lambda: _fetched(uri, folder), where=uri, grows=folder)


def _fetched(uri: str, folder: Path) -> Path:
    if urlparse(uri).scheme in ("http", "https"):
        return download(uri, folder)
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder)))


def _local_path(uri: str) -> Path:
    """The path on this machine that a path or file URI means; on Windows a server in it has a shared folder.

    >>> _local_path("file:///a%20b/c.csv").as_posix(), _local_path("d/e.csv").as_posix()
    ('/a b/c.csv', 'd/e.csv')
    """
    parts = urlparse(uri)
    if parts.scheme != "file":
        return Path(uri)
    return Path(url2pathname(f"//{parts.netloc}{parts.path}" if os.name == "nt" and parts.netloc else parts.path))


@contextlib.contextmanager
def _raw(dataset: Any, columns: Mapping[str, str], where: str, places: Places) -> Iterator[tuple[Any, Path | None]]:
    """What the source of a logged dataset holds, before it is verified, and where it was if not at its address."""
    fields = _fields(dataset)
    uri = fields.get("uri") or fields.get("url") or (fields.get("path") if dataset.source_type == "spark" else None)
    if uri and dataset.source_type not in ("hugging_face", "delta_table"):
        here = urlparse(str(uri)).scheme in ("", "file") and not _local_path(str(uri)).exists()
        with local_copy(str(uri), places) as path:
            yield read_path(path, columns), path if here else None
        return
    if dataset.source_type == "hugging_face":
        yield within_limits(lambda: _load_hub(fields), where=where), None
        return
    import mlflow

    loaded = within_limits(lambda: mlflow.data.get_source(dataset).load(), where=where)
    yield read_path(loaded, columns) if isinstance(loaded, (str, Path)) else loaded, None


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
    targets: Targets | None,
    split: str | None,
    allow_mismatch: bool,
    whole: int | None = None,
) -> Found:
    """The reading of `raw` that has the logged digest; there may be several readings, such as the arrays of an npz."""
    profile = {**_json(dataset.profile), **_dtypes(dataset)}
    expected = dataset.digest
    kind = digest_kind(profile)
    found_readings = readings(raw, kind, profile, columns, targets, split)
    first = next(found_readings)
    if kind is None or not _MLFLOW_DIGEST.fullmatch(expected or ""):
        return Found(first.table(), where, expected, "no digest")
    found = None
    misfits: list[str] = []
    for reading in [first, *found_readings]:
        digest = reading.digest()
        if digest == expected:
            misfits = reading.misfits(profile)
            if not misfits:
                text, complete = reading.covered()
                return Found(reading.table(), where, expected, "weakly verified", _compared(text), complete)
            first = reading
            break
        found = found or digest
    if not misfits and (part := _drawn(first, dataset, columns, where, profile, whole)) is not None:
        return part
    if allow_mismatch:
        return Found(first.table(), where, expected, "overridden")
    rows = profile.get("num_rows") or (profile.get("features_shape") or [None])[0]
    if misfits:
        text = f"it has {' and '.join(misfits)}, though MLflow's digest, which covers a part, is equal"
        raise DigestMismatch(mismatch(where, expected, expected, logged_rows=rows, rows=len(first), said=text))
    raise DigestMismatch(mismatch(where, expected, str(found), logged_rows=rows, rows=len(first)))


def _drawn(
    first: Reading,
    dataset: Any,
    columns: Mapping[str, str],
    where: str,
    profile: Mapping[str, Any],
    whole: int | None,
) -> Found | None:
    """The rows of a file that were logged as the dataset, if code drew them in a usual way; see `drawn`."""
    n, frame, names = profile.get("num_rows"), first.data, list(columns)
    if first.kind != "pandas" or not hasattr(frame, "iloc") or not isinstance(n, int) or not names:
        return None
    if not set(names) <= set(frame.columns) or n > len(frame):
        return None
    frame = frame[names].reset_index(drop=True)
    drawn = rows_by_digest(frame, dataset.digest, n, targets=first.targets, whole=whole)
    if drawn is None:
        return None
    text, complete = Reading("pandas", frame.iloc[drawn.rows]).covered()
    how = f"{_compared(text)}; of its {len(frame)} rows {drawn.how}"
    if n == len(frame):
        how = f"{_compared(text)}, with the index of {drawn.how}, which the file does not hold"
    table, rows = as_table(frame, targets=first.targets), None if n == len(frame) else drawn.rows
    return Found(table, where, dataset.digest, "weakly verified", how, complete, rows)


def _compared(text: str) -> str:
    return f"MLflow's digest of 32 bits: {text}; number of rows"


def _columns(dataset: Any) -> dict[str, str]:
    """The logged schema of a table: column name → MLflow type."""
    columns = _json(dataset.schema).get("mlflow_colspec") or []
    return {str(c["name"]): str(c["type"]) for c in columns if isinstance(c, Mapping) and "name" in c and "type" in c}


def _dtypes(dataset: Any) -> dict[str, str]:
    """The logged dtypes of NumPy features and targets."""
    out = {}
    for part, text in (_json(dataset.schema).get("mlflow_tensorspec") or {}).items():
        specs = json.loads(text) if isinstance(text, str) else None
        if isinstance(specs, list) and len(specs) == 1 and isinstance(specs[0], dict):
            out[f"{part}_dtype"] = str(specs[0].get("tensor-spec", {}).get("dtype"))
    return out


def _fields(dataset: Any) -> dict[str, Any]:
    return _json(dataset.source)


def _json(text: str | None) -> dict[str, Any]:
    """A JSON object, empty where there is none."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
