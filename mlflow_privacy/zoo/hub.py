"""Text and image data sets of the Hugging Face hub, or of folders in its layouts. No code of a data set is run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.types import Task
from mlflow_privacy.zoo.cache import cached_arrays
from mlflow_privacy.zoo.data import DataSet, make_dataset, make_text_dataset
from mlflow_privacy.zoo.images import decode_images
from mlflow_privacy.zoo.registry import data_folders, dataset

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img")
TEXT_COLUMNS = ("text", "sentence", "content", "review")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target")
_SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")
_SUBFOLDERS = ("", "data", "plain_text", "default")


@dataclasses.dataclass(frozen=True)
class Part:
    """One split.

    Attributes:
      table: its columns.
      features: of the hub's own description, column → {"_type": …}; empty where there is none.
      files: it was read from; () if it came from the hub.
    """

    table: pa.Table
    features: Mapping[str, Any]
    files: tuple[Path, ...] = ()


@dataset("hf:")
def hugging_face(
    name: str,
    *,
    text: Sequence[str] | str | None = None,
    image: str | None = None,
    targets: str | None = None,
    split: str = "train",
    population_split: str | None = None,
    config: str | None = None,
    task: Task | None = None,
    download: bool = True,
    data_dir: str | Path | None = None,
    folders: Sequence[str | Path] = (),
) -> DataSet:
    """A text or image data set, `hf:NAME`, from a local folder of that name, else from the hub.

    A folder holds Parquet, JSONL, CSV or TSV files with the split in their names (`train-00000-of-00001.parquet`,
    `data/test.csv`), or is what `Dataset.save_to_disk` writes. Data sets that are made by a script of their own are
    refused: scripts are never run.

    Args:
      name: on the hub, or a folder: absolute, or below one of `folders`.
      text: text column or columns; default: one named text, sentence, content or review.
      image: image column; default: one named image or img. All images must be of one size.
      targets: label column; default: one named label, labels, fine_label or target. Texts may have none.
      split: whose records are the pool.
      population_split: whose records are the population; default "test" if there is one and it is not the pool.
      config: of a data set that has several.
      task: inferred from the targets if None.
      download: whether to ask the hub if there is no such folder.
      data_dir: kept for loaders of the same form; the hub's own cache is used for what is downloaded.
      folders: where to look for folders.

    Raises:
      ConfigError: it cannot be found, needs a script, or has no such columns.
    """
    bases = [Path(f) for f in folders] or data_folders(data_dir)
    places = [Path(name).expanduser(), *(f / n for f in bases for n in dict.fromkeys((name, name.split("/")[-1])))]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is not None:
        pool = local_part(folder, split, config)
        if pool is None:
            raise ConfigError(no_split(folder, split))
        other = local_part(folder, population_split or "test", config) if population_split or split != "test" else None
        if population_split and other is None:
            raise ConfigError(no_split(folder, population_split))
        source = f"folder {folder.name}, split {split}"
    else:
        if not download:
            looked = ", ".join(str(place.absolute()) for place in dict.fromkeys(places))
            raise ConfigError(
                f"data set 'hf:{name}' is no local folder, and data.options.download is off; looked for {looked}."
            )
        pool, other = hub_parts(name, split, population_split, config)
        source = f"Hugging Face hub {name}, split {split}"
    same_files = other is not None and other.files and other.files == pool.files
    return from_parts(
        f"hf:{name}",
        source,
        pool,
        None if same_files else other,
        text=text,
        image=image,
        targets=targets,
        task=task,
    )


def from_parts(
    name: str,
    source: str,
    pool: Part,
    population: Part | None,
    *,
    text: Sequence[str] | str | None = None,
    image: str | None = None,
    targets: str | None = None,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
) -> DataSet:
    """A `DataSet` of one or two splits; columns that are not named are looked for.

    Raises:
      ConfigError: a column is missing, or the data set is neither text nor images.
    """
    columns = list(pool.table.column_names)
    asked = [*([text] if isinstance(text, str) else text or ()), *(c for c in (image, targets) if c is not None)]
    parts = [pool, *([population] if population is not None else [])]
    faults = [
        f"{name} has no column {c!r} in its {what}{nearest(c, part.table.column_names, listed=True)}"
        for part, what in zip(parts, ("records", "population"))
        for c in asked
        if c not in part.table.column_names
    ]
    if text is not None and image is not None:
        faults.append(f"data.text and data.options.image of {name} exclude each other. Remove one.")
    if faults:
        raise ConfigError("\n".join(faults))
    image = image or (None if text else next((c for c in IMAGE_COLUMNS if c in columns), None))
    label = targets or next((c for c in LABEL_COLUMNS if c in columns and c != image), None)
    if image is None:
        use = asked[: len(asked) - (targets is not None)] or _text_columns(pool, name, label)
    needed = [*([image] if image else use), *([label] if label else [])]
    lacking = [c for c in needed if c not in parts[-1].table.column_names]
    if lacking:
        raise ConfigError(
            f"the population of {name} has no column {', '.join(lacking)}. Name another population_split."
        )
    if image is not None and label is None:
        raise ConfigError(f"{name} has no label column among {', '.join(columns)}. Name it in data.targets.")
    names = classes or class_names(pool, label)
    ys = [None if label is None else _labels(part.table[label], name, label) for part in parts]
    kind = task if task is not None else ("classification" if names else None)
    if image is not None:
        xs = [_images(part, image, name) for part in parts]
        apart = (xs[1], ys[1]) if population is not None else None
        return make_dataset(xs[0], ys[0], name=name, source=source, task=kind, classes=names, population=apart)
    frames = [part.table.select(use).to_pandas() for part in parts]
    apart = (frames[1], ys[1]) if population is not None else None
    return make_text_dataset(frames[0], ys[0], name=name, source=source, task=kind, classes=names, population=apart)


def _text_columns(part: Part, name: str, label: str | None) -> list[str]:
    import pyarrow as pa

    kinds = {field.name: field.type for field in part.table.schema}
    strings = [c for c, t in kinds.items() if (pa.types.is_string(t) or pa.types.is_large_string(t)) and c != label]
    found = next((c for c in TEXT_COLUMNS if c in strings), strings[0] if len(strings) == 1 else None)
    if found is None:
        raise ConfigError(
            f"{name} shows no text or image column by its name; it has {', '.join(kinds)}. Name it in data.text or "
            "data.options.image. Tables of numbers are read as files: data.dataset: PATH.parquet."
        )
    return [found]


def class_names(part: Part, label: str | None) -> tuple[str, ...] | None:
    """Names of the classes as the hub describes them, None if it does not."""
    feature = part.features.get(label) if label else None
    names = feature.get("names") if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" else None
    return tuple(map(str, names)) if names else None


def _labels(column: Any, name: str, label: str) -> np.ndarray:
    if column.null_count:
        raise ConfigError(f"column {label!r} of {name} has {column.null_count} missing labels. Leave out these rows.")
    values = column.to_pandas().to_numpy()
    return values if values.dtype.kind in "biuf" else values.astype(str)


def encoded_images(column: Any, name: str) -> list[bytes]:
    """The encoded files in a column of bytes, or of {bytes, path} as the hub stores images."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.to_pylist()
    if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
        raise ConfigError(f"data set {name!r}: its images must be bytes or {{bytes, path}}, got {column.type}.")
    encoded = pc.struct_field(column, "bytes").to_pylist()
    if any(data is None for data in encoded) and column.type.get_field_index("path") >= 0:
        paths = pc.struct_field(column, "path").to_pylist()
        encoded = [
            Path(path).read_bytes() if data is None and path and Path(path).is_file() else data
            for data, path in zip(encoded, paths)
        ]
    return encoded


def _images(part: Part, image: str, name: str) -> np.ndarray:
    def build() -> dict[str, np.ndarray]:
        return {"x": decode_images(encoded_images(part.table[image], name), name=name)}

    stem = re.sub(r"\W+", "-", f"{name}-{image}")
    return cached_arrays(stem, part.files, build)["x"] if part.files else build()["x"]


def local_part(folder: Path, split: str, config: str | None = None) -> Part | None:
    """One split of a folder, None if the folder does not have it.

    Raises:
      ConfigError: a file of it is damaged.
    """
    saved = _saved_part(folder, split)
    if saved is not None:
        return saved
    files = split_files(folder, split, config)
    return read_part(files) if files else None


def split_files(folder: Path, split: str, config: str | None = None) -> tuple[Path, ...]:
    """Data files of a split, by the split's name in theirs; files that name no split at all are "train"."""
    by_name = re.compile(rf"(?:^|[\W_0-9]){re.escape(split)}(?:$|[\W_0-9])", re.IGNORECASE)
    subfolders = [folder / config] if config else [folder / sub for sub in _SUBFOLDERS]
    every = []
    for place in subfolders:
        for suffix in _SUFFIXES:
            files = sorted(p for p in place.glob(f"*{suffix}") if p.is_file())
            found = [p for p in files if by_name.search(p.stem)] or sorted((place / split).glob(f"*{suffix}"))
            if found:
                return tuple(found)
            every.append(files)
    named = re.compile(r"(?:^|[\W_0-9])(?:train|test|validation|valid|dev)(?:$|[\W_0-9])", re.IGNORECASE)
    files = next((files for files in every if files), [])
    return tuple(files) if split == "train" and not any(named.search(p.stem) for p in files) else ()


def read_part(files: Sequence[Path]) -> Part:
    """Reads Parquet, JSONL, CSV or TSV files of the same columns.

    Raises:
      ConfigError: a file is damaged, or they differ in columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlflow_privacy.zoo.tables import read_frame

    tables = []
    for file in files:
        try:
            if file.suffix.lower() == ".parquet":
                tables.append(pq.read_table(file))
            else:
                tables.append(pa.Table.from_pandas(read_frame(file), preserve_index=False))
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from error
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise ConfigError(f"{', '.join(f.name for f in files)} do not fit together: {error}") from error
    return Part(table, described_features(tables[0].schema), tuple(files))


def described_features(schema: Any) -> dict[str, Any]:
    """What the hub wrote into a Parquet file about its columns; {} if nothing."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _saved_part(folder: Path, split: str) -> Part | None:
    """A split that `save_to_disk` wrote."""
    single, several = (folder / "state.json").is_file(), (folder / "dataset_dict.json").is_file()
    path = folder if single else folder / split
    if not (single and split == "train") and not (several and path.is_dir()):
        return None
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read as a saved data set: {error}") from error
    if not isinstance(loaded, datasets.Dataset):
        raise ConfigError(f"{path} holds several data sets, one was expected.")
    return _from_hugging_face(loaded)


def _from_hugging_face(loaded: Any) -> Part:
    loaded = loaded.flatten_indices() if loaded._indices is not None else loaded
    features = {c: f for c, f in loaded.features.to_dict().items() if isinstance(f, dict)}
    return Part(loaded.data.table, features)


def hub_parts(name: str, split: str, population_split: str | None, config: str | None) -> tuple[Part, Part | None]:
    """Pool and population of a data set on the hub; a script it may have is never run.

    Raises:
      ConfigError: it cannot be reached, does not exist, needs a script, or has no such split.
    """
    import inspect

    import datasets

    options: dict[str, Any] = {"name": config}
    if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:
        options["trust_remote_code"] = False
    try:
        loaded = datasets.load_dataset(name, **options)
    except Exception as error:  # the hub's client raises its own, httpx's and fsspec's errors
        raise ConfigError(_hub_fault(name, error)) from error
    wanted = [split, *([population_split] if population_split else [])]
    missing = [s for s in wanted if s not in loaded]
    if missing:
        raise ConfigError(f"hf:{name} has no split {', '.join(missing)}; it has {', '.join(loaded)}.")
    other = population_split or ("test" if split != "test" and "test" in loaded else None)
    return _from_hugging_face(loaded[split]), None if other is None else _from_hugging_face(loaded[other])


def _hub_fault(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "script" in text.lower() or "trust_remote_code" in text:
        return (
            f"data set 'hf:{name}' is made by a Python script of its own, which is never run here. Use its Parquet "
            f"files (the hub's branch refs/convert/parquet): save them as a folder {name.split('/')[-1]} below "
            "data.data_dir."
        )
    return (
        f"data set 'hf:{name}' is no local folder, and the hub does not give it: {type(error).__name__}: {text[:300]}. "
        f"Check the name and the connection, or save its Parquet, CSV or JSONL files (train-*.parquet, test-*.parquet) "
        f"as a folder {name.split('/')[-1]} below data.data_dir."
    )


def no_split(folder: Path, split: str) -> str:
    found = sorted({p.name for sub in _SUBFOLDERS for s in _SUFFIXES for p in (folder / sub).glob(f"*{s}")})
    held = f"it holds {', '.join(found[:6])}" if found else "it holds no Parquet, JSONL, CSV or TSV file"
    scripts = ", ".join(p.name for p in sorted(folder.glob("*.py")))
    note = f" Its script {scripts} is never run." if scripts else ""
    return f"folder {folder} has no split {split!r}: {held}.{note} Name files after their split: {split}-*.parquet."
