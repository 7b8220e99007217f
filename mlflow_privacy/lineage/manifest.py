"""`privacy/lineage/lineage.json`: what `log_lineage` wrote on a run, and `resolve_target` reads first."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.tables import Targets, one_or_many

if TYPE_CHECKING:
    from mlflow_privacy.store.fetch import RunFiles

FOLDER = "privacy/lineage"
FILE = "lineage.json"
FORMAT = 1
ROLES = ("train", "holdout", "population")
SHA256_TAG = "privacy.sha256"  # of a dataset input, of all values of the data
MODEL_TAGS = ("model_id", "mlflow.model_id", "mlflow.modelId")  # of a dataset input: the model that it is logged for
SPLIT = "split"  # the entry of a mask over a data set that MLflow itself recorded


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set of a manifest.

    Attributes:
      role: "train" | "holdout" | "population" | "split".
      n: rows of the whole data set.
      sha256: `table_digest` of the whole data set, None if it is not known.
      file: data file beside the manifest.
      uri: where the data lies, if it was not copied.
      rows: file beside the manifest with the row indices per role, if not the whole data set belongs to `role`.
      canaries: file beside the manifest with the rows that are canaries: a coin decided about each of them. All rows
        of the held-out data then are canaries that were left out.
      targets: label column, or several.
      text, prompt: columns that a language model reads.
      name: of the MLflow dataset input that was logged with it.
      of_run: whether its files lie with the run's manifest, and not beside this one.
      folder: artifact path of its files.
    """

    role: str
    n: int | None = None
    sha256: str | None = None
    file: str | None = None
    uri: str | None = None
    rows: str | None = None
    canaries: str | None = None
    targets: Targets | None = None
    text: str | None = None
    prompt: str | None = None
    name: str | None = None
    of_run: bool = False
    folder: str = FOLDER


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was logged, by role.

    Attributes:
      classes: labels in the order of the model's outputs.
      logged_at: ms since 1970.
      after: whether data is logged after its model in this run; see `several`.
    """

    entries: Mapping[str, Entry] = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    classes: Sequence[Any] | None = None
    logged_at: int | None = None
    after: bool = False

    def to_json(self) -> str:
        entries = [
            {k: v for k, v in dataclasses.asdict(entry).items() if v not in (None, False) and k != "folder"}
            for entry in self.entries.values()
        ]
        values: dict[str, Any] = {"format": FORMAT, "datasets": entries, "recipe": self.recipe, "row_id_base": 0}
        if self.classes is not None:
            values["classes"] = list(self.classes)
        if self.logged_at is not None:
            values["logged_at"] = self.logged_at
        if self.after:
            values["after"] = True
        return json.dumps(values, indent=2, sort_keys=True)

    @staticmethod
    def from_json(text: str, folder: str, where: str) -> Manifest:
        """Reads and checks a manifest.

        Raises:
          LineageError: it is not of this format, or names a file outside its folder.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise LineageError(
                    f"{where} has format {data['format']!r}, this version reads {FORMAT}: upgrade mlflow-privacy."
                )
            known = {field.name for field in dataclasses.fields(Entry)} - {"folder"}
            entries = [
                Entry(**{k: v for k, v in item.items() if k in known}, folder=FOLDER if item.get("of_run") else folder)
                for item in data["datasets"]
            ]
            entries = [dataclasses.replace(entry, targets=one_or_many(entry.targets)) for entry in entries]
            recipe, classes, logged_at = data.get("recipe"), data.get("classes"), data.get("logged_at")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LineageError(f"{where} is not a lineage manifest ({error!r}): log the lineage again.") from error
        for entry in entries:
            for name in (entry.file, entry.rows, entry.canaries):
                if name is not None and PurePosixPath(name).name != name:
                    raise LineageError(f"{where} names a file outside its folder, {name!r}: log the lineage again.")
        after = data.get("after") is True
        return Manifest({entry.role: entry for entry in entries}, recipe, classes, logged_at, after)


def manifest_folder(model_id: str | None) -> str:
    """Artifact path of a manifest: of the run, or of one logged model of the run."""
    return f"{FOLDER}/{model_id}" if model_id else FOLDER


def read_manifest(files: RunFiles, folder: str = FOLDER, listed: Collection[str] | None = None) -> Manifest | None:
    """The manifest in a folder of a run, None if there is none; `listed` is what the folder holds, if that is known."""
    path = f"{folder}/{FILE}"
    if path not in (files.listed(folder) if listed is None else listed):
        return None
    with files.local(path) as file:
        text = file.read_text(encoding="utf-8")
    return Manifest.from_json(text, folder, f"{path} of run {files.run_id}")


def model_manifest(files: RunFiles, model_id: str | None) -> Manifest:
    """All that was logged for a model: for its whole run, and over that for itself; empty if nothing was."""
    listed = files.listed(FOLDER)
    own = manifest_folder(model_id)
    found = [read_manifest(files, FOLDER, listed), read_manifest(files, own) if own in listed else None]
    merged = Manifest()
    for manifest in found:
        if manifest is not None:
            recipe = merged.recipe if manifest.recipe is None else manifest.recipe
            classes = merged.classes if manifest.classes is None else manifest.classes
            merged = Manifest({**merged.entries, **manifest.entries}, recipe, classes)
    return merged


def write_manifest(client: Any, run_id: str, manifest: Manifest, folder: str = FOLDER) -> None:
    """Writes the manifest over an earlier one."""
    with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as local:
        path = Path(local) / FILE
        path.write_text(manifest.to_json(), encoding="utf-8")
        client.log_artifact(run_id, str(path), folder)


def read_canaries(path: Path, n: int) -> np.ndarray:
    """Row indices of canaries, checked against the number of rows.

    Raises:
      LineageError: an index lies outside the data set.
    """
    with np.load(path, allow_pickle=False) as data:
        index = data["canaries"].astype(np.int64)
    if len(index) and not 0 <= index.min() <= index.max() < n:
        raise LineageError(
            f"the logged canary rows reach {index.max()}, but the data has {n} rows: it is not the data whose rows "
            "were logged"
        )
    return index


def read_rows(path: Path, n: int) -> dict[str, np.ndarray]:
    """Row indices per role, checked against the number of rows.

    Raises:
      LineageError: an index lies outside the data set.
    """
    with np.load(path, allow_pickle=False) as data:
        rows = {role: data[role].astype(np.int64) for role in data.files if role in ROLES}
    for role, index in rows.items():
        if len(index) and not 0 <= index.min() <= index.max() < n:
            raise LineageError(
                f"the logged {role} row indices reach {index.max()}, but the data has {n} rows: it is not the "
                "data whose rows were logged"
            )
    return rows
