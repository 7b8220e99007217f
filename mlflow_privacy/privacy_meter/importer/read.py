"""The files of a log directory, read and checked one by one; faults are collected, none ends the reading."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_TEXT_BYTES = 64 << 20
_TYPES: Mapping[str, tuple[type, ...]] = {
    "num_train": (int,),
    "optimizer": (str,),
    "batch_size": (int,),
    "epochs": (int,),
    "learning_rate": (int, float),
    "weight_decay": (int, float),
    "model_name": (str,),
    "model_path": (str,),
    "dataset": (str,),
}
# Models that differ in one of these were not trained by one recipe.
_RECIPE = ("optimizer", "batch_size", "epochs", "learning_rate", "weight_decay", "model_name", "dataset", "variant")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model: its number, its file, what the metadata say of it, and whom it trained on."""

    number: int
    path: Path
    metadata: Mapping[str, Any]
    row: np.ndarray

    @property
    def recipe(self) -> tuple[Any, ...]:
        return tuple(self.metadata.get(key) for key in _RECIPE)


@dataclasses.dataclass(frozen=True)
class LogDir:
    """A log directory.

    Attributes:
      entries: by number.
      row_ids: (n,) names of the records that the columns of the memberships are about; None for all of the data set.
    """

    folder: Path
    entries: tuple[Entry, ...]
    row_ids: np.ndarray | None = None


def read_log_dir(folder: Path, faults: list[str]) -> LogDir | None:
    """Reads what a log directory says of its models, without their weights.

    Args:
      faults: what is wrong is appended, a sentence each.

    Returns:
      The models whose entries are sound, without a row where the memberships are at fault; None if there is nothing
      to go on with.
    """
    models = folder / "models"
    if not models.is_dir():
        faults.append(f"{folder} has no folder models; it is not a log directory of Privacy Meter.")
        return None
    table = read_array(models / "memberships.npy", faults)
    if table is not None and (table.dtype != bool or table.ndim != 2):
        faults.append(f"memberships.npy must be bool (models, records), got {table.dtype} of shape {table.shape}.")
        table = None
    values = _metadata(models / "models_metadata.json", faults)
    if values is None:
        return None
    if table is not None and len(table) != len(values):
        faults.append(
            f"memberships.npy has {len(table)} rows, models_metadata.json {len(values)} models: it is half written."
        )
    entries = []
    for number in range(len(values)):
        found = values.get(str(number))
        if found is None:
            faults.append(f"models_metadata.json has {len(values)} entries but no {number!r}: it is half written.")
            continue
        wrong = _entry_faults(number, found)
        faults += wrong
        if wrong:
            continue
        path = models / _file_name(found["model_path"])
        if table is None or number >= len(table):
            entries.append(Entry(number, path, found, np.zeros(0, bool)))
            continue
        row = table[number]
        if row.all() or not row.any():
            faults.append(f"model {number} is a member of {'every' if row.all() else 'no'} record in memberships.npy.")
        if found["num_train"] != int(row.sum()):
            faults.append(
                f"model {number} has num_train {found['num_train']}, its row of memberships {int(row.sum())}."
            )
        entries.append(Entry(number, path, found, row))
    names = [entry.path.name for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(f"{names.count(name)} models have the same file {name}.")
    row_ids = None
    if (models / "row_ids.npy").exists():
        row_ids = read_array(models / "row_ids.npy", faults)
        if row_ids is not None and table is not None and row_ids.shape != table.shape[1:]:
            faults.append(f"row_ids.npy has the shape {row_ids.shape}, memberships.npy {table.shape[1]} columns.")
    return LogDir(folder, tuple(entries), row_ids)


def read_array(path: Path, faults: list[str]) -> np.ndarray | None:
    """One array without pickles; None, and a fault, if there is none."""
    try:
        value = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        faults.append(f"{path.name} is missing.")
    except (OSError, ValueError, EOFError, MemoryError) as error:
        faults.append(f"{path.name} is not an array that can be read: {error}.")
    else:
        if isinstance(value, np.ndarray):
            return value
        faults.append(f"{path.name} is not one array.")
    return None


def _metadata(path: Path, faults: list[str]) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _TEXT_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(f"{path.name} is missing: training has not ended, or the directory is half copied.")
        return None
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{path.name} cannot be read: {error}.")
        return None
    if not isinstance(values, dict) or not values:
        faults.append(f"{path.name} must hold the models by number, got {type(values).__name__}.")
        return None
    return values


def _entry_faults(number: int, values: Any) -> list[str]:
    if not isinstance(values, dict):
        return [f"model {number} of models_metadata.json is not a mapping."]
    faults = []
    for key, types in _TYPES.items():
        value = values.get(key)
        if not isinstance(value, types) or isinstance(value, bool):
            faults.append(f"model {number} has {key} {value!r}; {' or '.join(t.__name__ for t in types)} is expected.")
    if not faults and _file_name(values["model_path"]) in ("", ".", ".."):
        faults.append(f"model {number} has the model_path {values['model_path']!r}, which names no file.")
    return faults


def _file_name(path: str) -> str:
    """The last part of a path: it is relative to a directory that nobody knows any more.

    >>> _file_name("demo/models/model_0.pkl"), _file_name("demo\\\\models\\\\model_0.pkl")
    ('model_0.pkl', 'model_0.pkl')
    """
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def references_of(found: LogDir, target: Entry, notes: list[str]) -> tuple[Entry, ...]:
    """The reference models of a target: all models of its recipe but itself and its complement.

    The model that trained on exactly the records that the target did not would tell an attack the answer.

    Args:
      notes: who was left out, and why, is appended.
    """
    others = [entry for entry in found.entries if entry.number != target.number]
    foreign = [entry.number for entry in others if entry.recipe != target.recipe]
    if foreign:
        notes.append(f"Models {foreign} were trained by another recipe and are no references.")
    alike = [entry for entry in others if entry.recipe == target.recipe]
    same = [entry.number for entry in alike if (entry.row == target.row).all() or (entry.row != target.row).all()]
    if same:
        notes.append(f"Models {same} trained on the target's members or exactly the others and are no references.")
    references = [entry for entry in alike if entry.number not in same]
    table = np.array([entry.row for entry in references], bool).reshape(-1, len(target.row))
    # What nobody trained on may be an exact copy of a training record, which no audit asks about.
    used = target.row | table.any(axis=0)
    if len(references) and np.all(table.any(axis=0) & ~table.all(axis=0), where=used):
        return tuple(references)
    why = f"The {len(references)} other models leave records without" if references else "No other model gives records"
    notes.append(f"{why} an IN or an OUT reference: the audit will train reference models.")
    return ()
