"""Data files of safe formats: read, recast, written. Nothing is ever unpickled.

CSV/TSV and JSON lines (also compressed), Parquet (file or folder), NPZ, NPY, Arrow/Feather, Hugging Face
`save_to_disk`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import LineageError, UnsafeError
from mlflow_privacy.lineage.tables import Table

_PICKLED = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".dill", ".cloudpickle", ".p"}
_COMPRESSED = {".gz", ".bz2", ".xz", ".zip", ".zst", ".gzip"}
_KINDS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".data": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
    ".parquet": "parquet", ".pq": "parquet",
    ".npz": "npz", ".npy": "npy",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
_SEPARATORS = (",", ";", "\t", "|")
_COLSPEC = {
    "boolean": "bool", "integer": "int32", "long": "int64", "float": "float32", "double": "float64",
    "datetime": "datetime64[ns]",
}  # fmt: skip


def read_path(path: str | Path, columns: Mapping[str, str] | None = None) -> Any:
    """Reads a data file or folder.

    Args:
      path: local file or folder.
      columns: the logged schema, column name → MLflow type, to which a CSV is recast.

    Returns:
      A DataFrame, an array, a dict of arrays (npz), or a Hugging Face Dataset or DatasetDict.

    Raises:
      UnsafeError: the file is a pickle, or holds one.
      LineageError: the format is unknown.
      OSError, ValueError: the file is missing or broken.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, columns)
    kind = file_kind(path)
    if kind == "csv":
        return _read_csv(path, columns)
    if kind == "json":
        return _read_json(path)
    if kind == "parquet":
        import pandas as pd

        return pd.read_parquet(path)
    if kind == "arrow":
        return _read_arrow(path)
    return _read_numpy(path)


def file_kind(path: Path) -> str:
    """ "csv" | "json" | "parquet" | "npz" | "npy" | "arrow", from the name, else from the first bytes.

    Raises:
      UnsafeError: the name or the first bytes are a pickle's.
      LineageError: neither name nor content is of a known format.
    """
    suffixes = [s.lower() for s in path.suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    with open(path, "rb") as file:
        head = file.read(4096)
    if suffix in _PICKLED or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise UnsafeError(
            f"{path.name} is a pickle (or a format that holds one), which runs code when it is read, so it is refused. "
            "Save the data as Parquet, NPZ or CSV."
        )
    if suffix in _KINDS:
        return _KINDS[suffix]
    for magic, kind in ((b"PAR1", "parquet"), (b"\x93NUMPY", "npy"), (b"ARROW1", "arrow")):
        if head.startswith(magic):
            return kind
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() and all(name.endswith(".npy") for name in archive.namelist()):
                return "npz"
    if not suffix and head and b"\0" not in head and any(sep.encode() in head for sep in _SEPARATORS):
        return "csv"
    raise LineageError(
        f"the format of {path.name} is not known; data is read from CSV, Parquet, NPZ, NPY, JSON lines, Arrow or a "
        "folder of Hugging Face save_to_disk"
    )


def _read_folder(path: Path, columns: Mapping[str, str] | None) -> Any:
    """A Hugging Face `save_to_disk` folder, or the parts of a (Spark-written) Parquet or CSV table."""
    import pandas as pd

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        import datasets

        return datasets.load_from_disk(str(path))
    parts = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(("_", ".")))
    kinds = {file_kind(p) for p in parts}
    if kinds == {"parquet"}:
        return pd.read_parquet(path)
    if kinds == {"json"}:
        return pd.concat([_read_json(p) for p in parts], ignore_index=True)
    if kinds == {"csv"}:
        return pd.concat([_read_csv(p, columns) for p in parts], ignore_index=True)
    if len(parts) == 1:
        return read_path(parts[0], columns)
    raise LineageError(
        f"the folder {path.name} holds {len(parts)} files, neither all Parquet nor all CSV nor all JSON lines nor of "
        "save_to_disk"
    )


def _read_json(path: Path) -> Any:
    """Records of a JSON file, one a line or in one list; strings stay strings, whatever they look like."""
    import pandas as pd

    compression: Any = "gzip" if path.suffix.lower() == ".gzip" else "infer"
    with _open_text(path) as file:
        start = file.read(64).lstrip()[:1]
    frame = pd.read_json(
        path,
        orient="records",
        lines=start == "{",
        dtype=False,
        convert_dates=False,
        convert_axes=False,
        precise_float=True,
        compression=compression,
    )
    return frame


def _read_csv(path: Path, columns: Mapping[str, str] | None) -> Any:
    """A CSV with floats read to the last bit, and recast to the logged schema."""
    import pandas as pd

    columns = dict(columns or {})
    compression: Any = "gzip" if path.suffix.lower() == ".gzip" else "infer"
    with _open_text(path) as file:
        header = file.readline()
    known = [sep for sep in _SEPARATORS if columns and all(name in header for name in columns)]
    separator = max(known or _SEPARATORS, key=header.count)
    frame = pd.read_csv(
        path,
        sep=separator,
        float_precision="round_trip",
        compression=compression,
        dtype={name: str for name, kind in columns.items() if kind == "string"},
    )
    return recast(frame, columns)


def _open_text(path: Path) -> Any:
    """The file as text, through the decompressor that its name asks for."""
    from pandas.io.common import get_handle

    suffix = path.suffix.lower()
    if suffix not in _COMPRESSED:
        return open(path, encoding="utf-8", errors="replace")
    return get_handle(path, "r", compression="gzip" if suffix == ".gzip" else "infer", errors="replace").handle


def recast(frame: Any, columns: Mapping[str, str]) -> Any:
    """A frame read from CSV with the dtypes of the logged schema.

    A column that does not take its dtype keeps its own: the digest then decides. An unnamed first column that the
    schema does not have is the index that `to_csv` wrote.

    >>> import pandas as pd
    >>> str(recast(pd.DataFrame({"a": [1.5]}), {"a": "float"}).dtypes["a"])
    'float32'
    """
    if not columns:
        return frame
    first = str(frame.columns[0])
    if first not in columns and first.startswith("Unnamed: 0"):
        frame = frame.set_index(frame.columns[0]).rename_axis(None)
    casts = {}
    for name, kind in columns.items():
        dtype = _COLSPEC.get(kind)
        if dtype is None or name not in frame.columns:
            continue
        if dtype.startswith(("int", "bool")) and frame[name].isna().any():
            continue
        casts[name] = dtype
    for name, dtype in casts.items():
        try:
            frame = frame.astype({name: dtype})
        except (ValueError, TypeError):
            continue
    return frame


def _read_arrow(path: Path) -> Any:
    """An Arrow IPC file (also Feather) or stream."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_pandas()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).read_pandas()


def _read_numpy(path: Path) -> Any:
    """An array, or the arrays of an npz; object arrays are refused."""
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            return {key: data[key] for key in data.files}
    except ValueError as error:
        if "allow_pickle" in str(error) or "pickle" in str(error).lower():
            raise UnsafeError(
                f"{path.name} holds an object array, which is a pickle and runs code when it is read, so it is "
                "refused. Save strings as a string dtype and mixed columns as Parquet."
            ) from None
        raise


def write_table(table: Table, folder: Path, stem: str) -> Path:
    """Writes a table as Parquet (frames) or NPZ (arrays x and y); the name tells which.

    Raises:
      LineageError: a column or array holds Python objects that no safe format keeps.
    """
    if not table.is_frame:
        path = folder / f"{stem}.npz"
        arrays = {"x": _storable(table.x, f"{stem} features")}
        if table.y is not None:
            arrays["y"] = _storable(table.y, f"{stem} labels")
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path
    import pyarrow as pa

    path = folder / f"{stem}.parquet"
    frame = table.x.copy(deep=False)
    frame.columns = [str(c) for c in frame.columns]
    try:
        frame.reset_index(drop=True).to_parquet(path, index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise LineageError(
            f"{stem} cannot be stored as Parquet: {error}. Give every column one type, or leave the column out."
        ) from error
    return path


def _storable(array: np.ndarray, what: str) -> np.ndarray:
    """`array` without Python objects: numbers where all are numbers, else strings."""
    if not array.dtype.hasobject:
        return array
    flat = [v for v in array.ravel()]
    if all(isinstance(v, str) for v in flat):
        return array.astype(str)
    if all(isinstance(v, (int, float, bool, np.number, np.bool_)) for v in flat):
        return np.array(array.tolist())
    if array.ndim == 1 and all(isinstance(v, (str, int, float, bool, np.number, np.bool_)) or v is None for v in flat):
        return array.astype(str)
    raise LineageError(
        f"{what} are an array of Python objects ({type(flat[0]).__name__}, …), which only a pickle could keep. Pass a "
        "DataFrame with one type per column, or a numeric array."
    )
