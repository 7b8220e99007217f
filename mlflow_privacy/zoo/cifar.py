"""CIFAR-10 and CIFAR-100 in any of the layouts in which they are passed around."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError, UnsafeError
from mlflow_privacy.zoo.cache import cached_arrays, user_cache
from mlflow_privacy.zoo.data import DataSet, make_dataset
from mlflow_privacy.zoo.downloads import extract_files
from mlflow_privacy.zoo.registry import data_folders, dataset

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MAX_UNPACKED = 400 * 2**20
_CLASSES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CLASSES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_SUBFOLDERS = ("", "data", "plain_text")


@dataclasses.dataclass(frozen=True)
class Cifar:
    """What is published about one of the two.

    Attributes:
      title: as in a sentence; also torchvision's class, without the hyphen.
      classes: names by index.
      pickles: folder of the Python version; `train` and `test` are its files with their MD5.
      label_key: of the labels in these files.
      binaries: folder of the binary version with its files; `label_bytes` come before the pixels, the label last.
      columns: label columns of Parquet files, in order of preference.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    pickles: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    label_key: bytes
    binaries: str
    binary_train: tuple[str, ...]
    binary_test: tuple[str, ...]
    label_bytes: int
    columns: tuple[str, ...]


CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    classes=tuple(_CLASSES_10.split()),
    pickles="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    label_key=b"labels",
    binaries="cifar-10-batches-bin",
    binary_train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    binary_test=("test_batch.bin",),
    label_bytes=1,
    columns=("label", "labels"),
)
CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    classes=tuple(_CLASSES_100.split()),
    pickles="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    label_key=b"fine_labels",
    binaries="cifar-100-binary",
    binary_train=("train.bin",),
    binary_test=("test.bin",),
    label_bytes=2,  # coarse, then fine
    columns=("fine_label", "label", "labels"),
)


@dataset("cifar10")
def cifar10(
    *, download: bool = True, data_dir: str | Path | None = None, folders: Sequence[str | Path] = ()
) -> DataSet:
    """50,000 photographs, 3×32×32 bytes, 10 classes, and 10,000 more as population (Krizhevsky 2009).

    Looked for as Parquet files in the layout of the Hugging Face hub (`train-*.parquet` and `test-*.parquet` with `img`
    or `image`, and `label`), as the Python version (`cifar-10-batches-py`, whose files must have their published MD5
    and are read without running what is in them) and as the binary version (`cifar-10-batches-bin`), in each folder
    itself and in its `cifar10` or `cifar-10…`. Else torchvision downloads it.

    Args:
      download: whether to download what is not there.
      data_dir: gets what is downloaded; the user's cache if None.
      folders: where to look, in order; default: data_dir.

    Raises:
      ConfigError: it is not there and cannot be downloaded, or is damaged.
      UnsafeError: a file of the Python version holds something else than arrays and numbers.
    """
    return _load(CIFAR10, download, data_dir, folders)


@dataset("cifar100")
def cifar100(
    *, download: bool = True, data_dir: str | Path | None = None, folders: Sequence[str | Path] = ()
) -> DataSet:
    """50,000 photographs, 3×32×32 bytes, 100 fine classes, and 10,000 more as population (Krizhevsky 2009).

    Layouts, arguments and errors are those of `cifar10`; Parquet files have the column `fine_label`.
    """
    return _load(CIFAR100, download, data_dir, folders)


def _load(spec: Cifar, download: bool, data_dir: str | Path | None, folders: Sequence[str | Path]) -> DataSet:
    places = [Path(f) for f in folders] or data_folders(data_dir)
    places = list(dict.fromkeys([*places, user_cache() / spec.name]))
    arrays, source = _found(spec, places) or (None, "")
    if arrays is None:
        if not download:
            raise ConfigError(f"{spec.title} is not there, and data.options.download is off. {_layouts(spec, places)}")
        target = Path(data_dir) if data_dir is not None else user_cache() / spec.name
        try:
            folder = _download(spec, target)
        except ConfigError as error:
            raise ConfigError(
                f"{spec.title} is not there and cannot be downloaded: {error} {_layouts(spec, places)}"
            ) from error
        arrays, source = _pickled(spec, folder), f"torchvision, {spec.pickles}"
    apart = (arrays["x_test"], arrays["y_test"]) if len(arrays["y_test"]) else None
    return make_dataset(
        arrays["x"],
        arrays["y"],
        name=spec.name,
        source=source,
        task="classification",
        classes=spec.classes,
        population=apart,
    )


def _found(spec: Cifar, places: Sequence[Path]) -> tuple[Mapping[str, np.ndarray], str] | None:
    """The arrays of the first layout that is there, and where it is in words."""
    folders = list(_folders(spec, places))
    for folder in folders:
        train, test = (_parquet(spec, folder, split) for split in ("train", "test"))
        if train:
            arrays = cached_arrays(spec.name, [*train, *test], partial(_decoded, spec, train, test))
            return arrays, f"Parquet files in {folder.name}"
    for folder in folders:
        for inside in (folder / spec.pickles, folder):
            if all((inside / file).is_file() for file in (*spec.train, *spec.test)) and inside.name == spec.pickles:
                return _pickled(spec, inside), f"{spec.pickles}, published MD5 verified"
    for folder in folders:
        for inside in (folder / spec.binaries, folder):
            if all((inside / file).is_file() for file in (*spec.binary_train, *spec.binary_test)):
                return _binary(spec, inside), spec.binaries
    return None


def _folders(spec: Cifar, places: Sequence[Path]) -> Iterator[Path]:
    """Folders that exist, with those of its name below them; CIFAR-100's are not CIFAR-10's."""
    for place in places:
        below = [place, *(sorted(p for p in place.glob("cifar*") if p.is_dir()) if place.is_dir() else [])]
        for folder in below:
            digits = "".join(c for c in folder.name if c.isdigit())
            if folder == place or digits == spec.title.split("-")[1]:
                yield from (folder / sub for sub in _SUBFOLDERS if (folder / sub).is_dir())


def _parquet(spec: Cifar, folder: Path, split: str) -> list[Path]:
    """Parquet files of a split, if their columns are those of this data set."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlflow_privacy.zoo.hub import described_features

    files = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}.parquet"))
    if not files:
        return []
    try:
        schema = pq.read_schema(files[0])
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{files[0]} cannot be read: {error}") from error
    label = next((c for c in spec.columns if c in schema.names), None)
    if label is None or not {"img", "image"} & set(schema.names):
        return []
    names = described_features(schema).get(label, {}).get("names")
    return files if names is None or len(names) == len(spec.classes) else []


def _decoded(spec: Cifar, train: Sequence[Path], test: Sequence[Path]) -> dict[str, np.ndarray]:
    x, y = _decode(spec, train)
    x_test, y_test = _decode(spec, test) if test else (x[:0], y[:0])
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test}


def _decode(spec: Cifar, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Row group by row group, so that encoded images are never all in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlflow_privacy.zoo.hub import encoded_images
    from mlflow_privacy.zoo.images import decode_images

    xs, ys = [], []
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                image, label = (next(c for c in among if c in names) for among in (("img", "image"), spec.columns))
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=[image, label])
                    xs.append(decode_images(encoded_images(table[image], spec.name), name=spec.name))
                    ys.append(table[label].to_numpy().astype(np.int64))
        except (pa.ArrowException, OSError, StopIteration) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
    return _checked(spec, np.concatenate(xs), np.concatenate(ys), files[0].parent)


def _checked(spec: Cifar, x: np.ndarray, y: np.ndarray, where: Path) -> tuple[np.ndarray, np.ndarray]:
    faults = []
    if x.shape[1:] != _SHAPE:
        faults.append(f"its images have shape {x.shape[1:]}, not {_SHAPE}")
    if len(y) and not 0 <= y.min() <= y.max() < len(spec.classes):
        faults.append(f"its labels are {y.min()} to {y.max()}, not 0 to {len(spec.classes) - 1}")
    if len(x) != len(y):
        faults.append(f"it has {len(x)} images and {len(y)} labels")
    if faults:
        raise ConfigError(f"{where} is not {spec.title}: {'; '.join(faults)}.")
    return x, y


def _pickled(spec: Cifar, folder: Path) -> dict[str, np.ndarray]:
    """The Python version: pickles, of which only the published ones are read, and arrays and numbers alone."""
    for file, published in {**spec.train, **spec.test}.items():
        actual = hashlib.md5((folder / file).read_bytes(), usedforsecurity=False).hexdigest()
        if actual != published:
            raise UnsafeError(
                f"{folder / file} has MD5 {actual}, the published is {published}: it is damaged or another file. "
                "Delete it, and download it again."
            )

    from mlflow_privacy.privacy_meter.safe_pickle.reader import read_pickle

    def read(files: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        batches: list[Any] = [read_pickle(folder / file, encoding="bytes") for file in files]
        try:
            x = np.concatenate([np.asarray(b[b"data"], np.uint8).reshape(-1, *_SHAPE) for b in batches])
            y = np.concatenate([np.asarray(b[spec.label_key], np.int64).reshape(-1) for b in batches])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{folder} is not {spec.title}: {error}.") from error
        return _checked(spec, x, y, folder)

    (x, y), (x_test, y_test) = read(spec.train), read(spec.test)
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test}


def _binary(spec: Cifar, folder: Path) -> dict[str, np.ndarray]:
    """The binary version: the label's byte or bytes, then the pixels."""

    def read(files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        size, parts = spec.label_bytes + _PIXELS, []
        for file in files:
            data = np.fromfile(folder / file, np.uint8)
            if not len(data) or len(data) % size:
                raise ConfigError(
                    f"{folder / file} has {len(data):,} bytes, not a multiple of {size:,}: it is damaged."
                )
            parts.append(data.reshape(-1, size))
        rows = np.concatenate(parts)
        x = np.ascontiguousarray(rows[:, spec.label_bytes :]).reshape(-1, *_SHAPE)
        return _checked(spec, x, rows[:, spec.label_bytes - 1].astype(np.int64), folder)

    (x, y), (x_test, y_test) = read(spec.binary_train), read(spec.binary_test)
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test}


def _download(spec: Cifar, folder: Path) -> Path:
    """torchvision fetches the archive and checks its MD5; we unpack the files we need, and nobody unpickles them."""
    try:
        import torchvision.datasets
        from torchvision.datasets.utils import download_url
    except Exception as error:  # beside an unfitting torch it raises RuntimeError, AttributeError, ImportError, OSError
        raise ConfigError(
            f"torchvision, which would download it, cannot be imported beside this torch ({type(error).__name__}: "
            f"{error})."
        ) from error
    published = getattr(torchvision.datasets, spec.title.replace("-", ""))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60.0)  # torchvision sets none
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url(published.url, str(folder), published.filename, published.tgz_md5)
    except (OSError, RuntimeError, EOFError) as error:  # URLError is an OSError; RuntimeError is a wrong MD5
        raise ConfigError(f"{published.url}: {error}.") from error
    finally:
        socket.setdefaulttimeout(before)
    target = folder / spec.pickles
    extract_files(folder / published.filename, [*spec.train, *spec.test], target, max_bytes=_MAX_UNPACKED)
    return target


def _layouts(spec: Cifar, places: Sequence[Path]) -> str:
    label = spec.columns[0]
    return (
        f"Put one of these into data.data_dir, or into {spec.name} below it: train-*.parquet and test-*.parquet with "
        f"the columns img (or image) and {label}, as the Hugging Face hub has them; {spec.pickles} "
        f"({', '.join(spec.train)}, {', '.join(spec.test)}) of the Python version; {spec.binaries} "
        f"({', '.join(spec.binary_train)}, {', '.join(spec.binary_test)}) of the binary version. Both versions are at "
        f"https://www.cs.toronto.edu/~kriz/cifar.html. Looked in {', '.join(map(str, places))}."
    )
