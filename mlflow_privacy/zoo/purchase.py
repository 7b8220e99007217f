"""Purchase-100 and Texas-100 (Shokri et al. 2017, https://arxiv.org/abs/1610.05820)."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError, UnsafeError
from mlflow_privacy.zoo.cache import cached_arrays, user_cache
from mlflow_privacy.zoo.data import DataSet, make_dataset
from mlflow_privacy.zoo.downloads import check_sha256, extract_files, record_sha256
from mlflow_privacy.zoo.downloads import download as fetch
from mlflow_privacy.zoo.registry import data_folders, dataset

POOL_FRACTION = 0.75  # the rest is the population, as in Privacy Meter
CLASSES = 100
_BLOCK = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Published:
    """What is known about one of the two.

    Attributes:
      url: of the archive.
      files: in the archive: one with the label first, or features and labels apart.
      rows, features: of the whole data set.
      subfolders: where else the files may lie below a folder.
      max_archive, max_unpacked: bytes above which something is wrong.
    """

    name: str
    title: str
    url: str
    files: tuple[str, ...]
    rows: int
    features: int
    subfolders: tuple[str, ...]
    max_archive: int
    max_unpacked: int

    @property
    def archive(self) -> str:
        return self.url.rsplit("/", 1)[1]


PURCHASE = Published(
    name="purchase100",
    title="Purchase-100",
    url="https://www.comp.nus.edu.sg/~reza/files/dataset_purchase.tgz",
    files=("dataset_purchase",),
    rows=197_324,
    features=600,
    subfolders=("", "purchase100", "dataset_purchase"),
    max_archive=500 * 2**20,
    max_unpacked=1000 * 2**20,
)
TEXAS = Published(
    name="texas100",
    title="Texas-100",
    url="https://www.comp.nus.edu.sg/~reza/files/dataset_texas.tgz",
    files=("feats", "labels"),
    rows=67_330,
    features=6_169,
    subfolders=("", "texas100", "dataset_texas", "texas/100", "dataset_texas/texas/100"),
    max_archive=1000 * 2**20,
    max_unpacked=3000 * 2**20,
)


@dataset("purchase100")
def purchase100(
    *,
    sha256: str | None = None,
    download: bool = True,
    data_dir: str | Path | None = None,
    folders: Sequence[str | Path] = (),
) -> DataSet:
    """197,324 shoppers, 600 binary features (bought or not), 100 clusters as classes. The last quarter is population.

    Looked for, in each folder and in its `purchase100` or `dataset_purchase`, as `purchase100.npz` (features, labels),
    as the file `dataset_purchase` (comma-separated, the label 1 to 100 first) and as the archive
    `dataset_purchase.tgz`; else the archive is downloaded.

    **What is verified.** No checksum of the original is known here, so none is built in. The number of rows and
    columns, the range of labels and that every feature is 0 or 1 are checked. The SHA-256 of the file that was read is
    written beside it (`NAME.sha256`) and compared whenever it is read again: that shows later changes, not that the
    first was the original. Give `sha256` if you know it.

    Args:
      sha256: expected checksum of the archive, or of what you have instead of it (NPZ, dataset_purchase).
      download: whether to download what is not there.
      data_dir: gets what is downloaded; the user's cache if None.
      folders: where to look, in order; default: data_dir.

    Raises:
      ConfigError: it is not there and cannot be downloaded, or is not what it should be.
      UnsafeError: a checksum differs, or the archive holds paths out of it, links or too much.
    """
    return _load(PURCHASE, sha256, download, data_dir, folders)


@dataset("texas100")
def texas100(
    *,
    sha256: str | None = None,
    download: bool = True,
    data_dir: str | Path | None = None,
    folders: Sequence[str | Path] = (),
) -> DataSet:
    """67,330 hospital stays, 6,169 binary features, 100 procedures as classes. The last quarter is population.

    Looked for as `texas100.npz` (features, labels), as the two files `feats` and `labels` in each folder or its
    `dataset_texas`, `texas100` or `texas/100`, and as `dataset_texas.tgz`; else the archive is downloaded. What is
    verified, the arguments and the errors are those of `purchase100`; `sha256` without archive or NPZ is that of
    `feats`.
    """
    return _load(TEXAS, sha256, download, data_dir, folders)


def _load(
    spec: Published, sha256: str | None, download: bool, data_dir: str | Path | None, folders: Sequence[str | Path]
) -> DataSet:
    places = [Path(f) for f in folders] or data_folders(data_dir)
    places = list(dict.fromkeys([*places, user_cache() / spec.name]))
    candidates = [place / sub for place in places for sub in spec.subfolders]
    archive = _first(candidates, spec.archive)
    files: tuple[Path, ...]
    digests: dict[Path, str] = {}
    npz = _first(candidates, f"{spec.name}.npz")
    plain = next((f for f in candidates if all((f / file).is_file() for file in spec.files)), None)
    if npz is not None:
        files = (npz,)
    elif plain is not None and (sha256 is None or archive is None):
        files = tuple(plain / file for file in spec.files)
    else:
        if archive is None:
            archive = _downloaded(spec, sha256, download, data_dir, places)
        digests[archive] = check_sha256(archive, sha256)
        sha256 = None  # was of the archive
        writable = os.access(archive.parent, os.W_OK)
        target = archive.parent / archive.stem if writable else user_cache() / spec.name / archive.stem
        unpacked = extract_files(archive, spec.files, target, max_bytes=spec.max_unpacked)
        files = tuple(unpacked[file] for file in spec.files)
    for i, file in enumerate(files):
        digests[file] = check_sha256(file, sha256 if i == 0 else None)
    arrays = cached_arrays(spec.name, files, lambda: _parse(spec, files))
    for file, digest in digests.items():  # only of what has proved to be the data set
        record_sha256(file, digest)
    x, y, k = arrays["x"], arrays["y"], int(POOL_FRACTION * len(arrays["y"]))
    return make_dataset(
        x[:k],
        y[:k],
        name=spec.name,
        source=f"{spec.title}, {', '.join(file.name for file in files)}",
        task="classification",
        classes=[str(c) for c in range(1, CLASSES + 1)],
        population=(x[k:], y[k:]),
    )


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _downloaded(
    spec: Published, sha256: str | None, download: bool, data_dir: str | Path | None, places: Sequence[Path]
) -> Path:
    layouts = (
        f"Put one of these into data.data_dir, or into {spec.name} below it: {spec.archive} from {spec.url}; its "
        f"unpacked {' and '.join(spec.files)}, also in a folder {spec.archive.removesuffix('.tgz')}; {spec.name}.npz "
        f"with the arrays features and labels. Looked in {', '.join(map(str, places))}. For trying things out there is "
        f"{spec.name}_synthetic."
    )
    if not download:
        raise ConfigError(f"{spec.title} is not there, and data.options.download is off. {layouts}")
    folder = Path(data_dir) if data_dir is not None else user_cache() / spec.name
    try:
        return fetch(spec.url, folder / spec.archive, sha256=sha256, max_bytes=spec.max_archive)
    except (ConfigError, OSError) as error:
        raise ConfigError(f"{spec.title} is not there and cannot be downloaded: {error} {layouts}") from error


def _parse(spec: Published, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """x (rows, features) uint8 of 0 and 1, y (rows,) int64 of 0..99, checked."""
    if files[0].suffix == ".npz":
        x, y = _npz(files[0])
    elif len(files) == 1:
        x, y = _csv(files[0], label_first=True)
    else:
        (x, _), (_, y) = _csv(files[0], label_first=False), _csv(files[1], label_first=True)
    faults = []
    if x.shape != (spec.rows, spec.features):
        shape = " × ".join(f"{k:,}" for k in x.shape)
        faults.append(f"its features are {shape}, not {spec.rows:,} × {spec.features:,}")
    if y.shape != (len(x),):
        faults.append(f"it has {len(x):,} rows of features and labels of shape {y.shape}")
    elif len(y) and (y.min(), y.max()) == (1, CLASSES):
        y = y - 1
    elif len(y) and (y.min(), y.max()) != (0, CLASSES - 1):
        faults.append(f"its labels are {y.min()} to {y.max()}, not 1 to {CLASSES}")
    if x.size and not (x.max() <= 1 if x.dtype == np.uint8 else np.isin(x, (0, 1)).all()):
        faults.append("a feature is neither 0 nor 1")
    if faults:
        raise ConfigError(
            f"{files[0]} is not {spec.title}: {'; '.join(faults)}. Delete it, or name it in data.dataset if it is a "
            "data set of your own."
        )
    return {"x": x.astype(np.uint8, copy=False), "y": y.astype(np.int64)}


def _csv(path: Path, *, label_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers without a header: (n, d) uint8 features, and (n,) int16 labels if they come first.

    Block by block: what is in memory is bytes, not the columns of a table.
    """
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as file:
        width = file.readline().count(b",") + 1
    digits = None if label_first else _single_digits(path, width)
    if digits is not None:
        return digits, np.empty(0, np.int16)
    names = [f"f{i}" for i in range(width)]
    types: dict[str, Any] = dict.fromkeys(names, pa.uint8())
    if label_first:
        types["f0"] = pa.int16()
    parts, labels = [], []
    try:
        with csv.open_csv(
            path,
            read_options=csv.ReadOptions(column_names=names, block_size=_BLOCK),
            convert_options=csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        ) as reader:
            for batch in reader:
                columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
                if label_first:
                    labels.append(columns.pop(0))
                parts.append(np.column_stack(columns) if columns else np.empty((batch.num_rows, 0), np.uint8))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} cannot be read as comma-separated whole numbers: {error}") from error
    if not parts:
        return np.empty((0, 0), np.uint8), np.empty(0, np.int16)
    return np.concatenate(parts), np.concatenate(labels) if labels else np.empty(0, np.int16)


def _single_digits(path: Path, width: int) -> np.ndarray | None:
    """(n, width) uint8 of a file in which every number is one digit, or None; much faster than by columns."""
    row, size = 2 * width, path.stat().st_size
    if not size or size % row:
        return None
    out = np.empty((size // row, width), np.uint8)
    separators = np.full(width, ord(","), np.uint8)
    separators[-1] = ord("\n")
    step = max(1, _BLOCK // row)
    with path.open("rb") as file:
        for start in range(0, len(out), step):
            block = np.frombuffer(file.read(step * row), np.uint8).reshape(-1, row)
            numbers = block[:, ::2] - np.uint8(ord("0"))  # what is no digit wraps around to more than 9
            if (block[:, 1::2] != separators).any() or (numbers > 9).any():
                return None
            out[start : start + len(numbers)] = numbers
    return out


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Arrays features and labels; labels may be one-hot."""
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["features"], file["labels"]
    except KeyError as error:
        raise ConfigError(f"{path} must hold the arrays features and labels: {error}") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise UnsafeError(f"{path} holds pickled objects, which could run code. Save plain arrays.") from error
        raise ConfigError(f"{path} cannot be read as NPZ: {error}") from error
    return x, y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)
