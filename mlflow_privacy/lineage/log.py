"""`log_lineage`: stores, in the training run, what an audit will want to know."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.classes import plain_classes
from mlflow_privacy.lineage.drawn import rows_of_part
from mlflow_privacy.lineage.files import read_path, write_table
from mlflow_privacy.lineage.manifest import (
    FOLDER,
    ROLES,
    SHA256_TAG,
    SPLIT,
    Entry,
    Manifest,
    manifest_folder,
    read_manifest,
    write_manifest,
)
from mlflow_privacy.lineage.recipe import named_base, plain_recipe
from mlflow_privacy.lineage.records import named_texts
from mlflow_privacy.lineage.several import fork_of, write_fork
from mlflow_privacy.lineage.sources import read_uri
from mlflow_privacy.lineage.tables import Table, as_table, names_of, one_or_many, table_digest
from mlflow_privacy.store.mlflow_private import address_on_server, dataset_entity
from mlflow_privacy.store.places import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

    from mlflow_privacy.store.fetch import RunFiles

_logger = logging.getLogger(__name__)
_CONTEXT = {"train": "training", "holdout": "testing", "population": "population"}


def log_lineage(
    *,
    train: Any = None,
    holdout: Any = None,
    population: Any = None,
    recipe: Mapping[str, Any] | None = None,
    targets: str | Sequence[str] | None = None,
    text: str | None = None,
    prompt: str | None = None,
    classes: Sequence[Any] | None = None,
    mask: Any = None,
    row_indices: Any = None,
    canaries: Any = None,
    store: Literal["copy", "reference"] = "copy",
    run_id: str | None = None,
    model_id: str | None = None,
    client: MlflowClient | None = None,
) -> None:
    """Logs what a model is trained on, and how, so that it can be audited later from its URI alone.

    Call it inside the training run, or afterwards with `run_id=`. Data is stored as Parquet or NPZ artifacts under
    `privacy/lineage/`, never as a pickle, with its full SHA-256, and appears on the run as dataset inputs. A second
    call adds to the first; what it names again it replaces.

    Args:
      train: the records the model trains on: a DataFrame with the label column, (x, y), a torch dataset of (x, y)
        pairs, a Hugging Face dataset, an MLflow dataset, or a path or URI of a data file.
      holdout: records of the same distribution that it does not train on.
      population: more such records, which no model trains on.
      recipe: how it is trained, in plain values: {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 20, …}. For a
        language model "base" is the checkpoint that it starts from: a hub name, a folder, or the live model, of which
        name and SHA-256 are kept.
      targets: the label column of frames, or the columns of several targets.
      text: the column that a language model reads, of frames, Hugging Face datasets and files; a list of strings gets
        this name. Such data needs no labels, but for a classifier.
      prompt: the column that stands before the text and is not learned.
      classes: the labels in the order of the model's outputs, where that is not their sorted order and the model does
        not name them itself: ["yes", "no"] for a net whose first output is that of "yes".
      mask: (n,) bool over the rows of `train`: True where the model trains on the row; the others are non-members.
        Without `train` it is about the one training dataset that `mlflow.log_input` recorded on the run.
      row_indices: instead of a mask, the indices of the rows the model trains on, or {"train": …, "holdout": …,
        "population": …} where some rows play no role. Counted from 0 in the order of the data.
      canaries: for a bound on ε: (n,) bool over the rows of `train`, or their indices: the records of which an
        independent fair coin decided whether the model trains on them. The held-out records then are the canaries that
        were left out. With a mask or row_indices it names the canaries of both kinds; what is neither trained on nor a
        canary plays no role. Audits ask about canaries only; references always train on the other members.
      store: "copy" stores the data; "reference" keeps only URI, digest and row indices, for data that must not be
        copied. Data without a URI must then be passed to the audit, which verifies it.
      run_id: the training run; the active one if None.
      model_id: tells this model's lineage apart from that of other models of the same run. Without it, other data that
        is logged after a further model was logged is taken to be that of the next model, or of the one just logged if
        the first call came after its model, too; the models before keep theirs.
      client: where the tracking server is; the current one if None.

    Raises:
      LineageError: there is no run, the data has no labels or cannot be stored without a pickle, or the recipe holds
        something other than plain values.
      RecipeError: no model could be trained by the recipe, as of a misspelt key; nothing was logged.
    """
    import mlflow

    from mlflow_privacy.store.experiments import active_run_of
    from mlflow_privacy.store.fetch import RunFiles
    from mlflow_privacy.store.turns import taking_turns

    client = client or mlflow.MlflowClient()
    if store not in ("copy", "reference"):
        raise LineageError(f'store must be "copy" or "reference", got {store!r}.')
    given = {
        role: data
        for role, data in (("train", train), ("holdout", holdout), ("population", population))
        if data is not None
    }
    if canaries is not None and train is None:
        raise LineageError("canaries are rows of the training data: pass train= with them.")
    if not given and recipe is None and classes is None and mask is None and row_indices is None:
        raise LineageError("log_lineage was called without anything to log: pass train= and holdout=, or recipe=.")
    plain = None if recipe is None else plain_recipe(named_base(recipe))
    if plain is not None:
        from mlflow_privacy.trainers.recipe_keys import check_recipe

        check_recipe(plain)
    run_id = _training_run(client, run_id, model_id)
    active = active_run_of(run_id)
    files = RunFiles(client, run_id, None if active is None else active.info.artifact_uri)
    folder = manifest_folder(model_id)
    earlier = read_manifest(files, folder) or Manifest()
    entries, inputs = dict(earlier.entries), []
    fork = None
    if model_id is None and any(role in entries for role in given):  # else nothing is replaced
        owned = [path.rpartition("/")[2] for path in files.listed(FOLDER)]
        fork = fork_of(client, run_id, earlier, owned)
    stem = "" if fork is None else f"-{uuid.uuid4().hex[:8]}"  # what is there stays
    with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as local:
        for role, data in given.items():
            rows = {"mask": mask, "row_indices": row_indices, "canaries": canaries} if role == "train" else {}
            columns = {"targets": one_or_many(targets), "text": text, "prompt": prompt}
            entries[role], logged = _log_data(
                client, files, folder, Path(local), role, data, columns, store, stem=stem, **rows
            )
            inputs.append(logged)
        if "train" not in given and (mask is not None or row_indices is not None):
            rows_of = membership_rows(mask, row_indices, None)
            n = None if mask is None else len(np.asarray(mask))
            entries[SPLIT] = Entry(
                SPLIT,
                n=n,
                targets=one_or_many(targets),
                text=text,
                prompt=prompt,
                rows=_log_rows(client, run_id, folder, local, SPLIT, rows_of),
            )
        elif "train" in given:
            entries.pop(SPLIT, None)
    if inputs:
        with taking_turns():
            client.log_inputs(run_id, inputs)
    if fork is not None and all(entries[role].sha256 == earlier.entries[role].sha256 for role in given):
        fork = None  # the same data once more
    manifest = Manifest(
        entries,
        earlier.recipe if plain is None else plain,
        earlier.classes if classes is None else plain_classes(classes),
        logged_at=int(time.time() * 1000),
        after=earlier.after or (fork is not None and fork.after),
    )
    if fork is not None:
        write_fork(client, run_id, fork, earlier, manifest)
    write_manifest(client, run_id, manifest, folder)


def membership_rows(mask: Any, row_indices: Any, n: int | None) -> dict[str, np.ndarray] | None:
    """Row indices per role from a mask or from indices; None if there is neither.

    Raises:
      LineageError: both are given, or they do not fit the number of rows.

    >>> {role: rows.tolist() for role, rows in membership_rows([True, False, True], None, 3).items()}
    {'train': [0, 2], 'holdout': [1]}
    """
    if mask is None and row_indices is None:
        return None
    if mask is not None and row_indices is not None:
        raise LineageError("Pass mask= or row_indices=, not both.")
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.ndim != 1 or (n is not None and len(mask) != n):
            raise LineageError(
                f"mask must be {n if n is not None else 'n'} booleans, one per row of train, got {mask.dtype} of shape "
                f"{mask.shape}. Row numbers go into row_indices."
            )
        return {"train": np.flatnonzero(mask), "holdout": np.flatnonzero(~mask)}
    if isinstance(row_indices, Mapping):
        stray = [role for role in row_indices if role not in ROLES]
        if stray:
            raise LineageError(f"row_indices names {', '.join(map(repr, stray))}; the roles are {', '.join(ROLES)}.")
        rows = {role: _indices(index, role, n) for role, index in row_indices.items()}
    else:
        rows = {"train": _indices(row_indices, "train", n)}
        if n is None:
            raise LineageError(
                'row_indices without train= must name the other rows too: {"train": [...], "holdout": [...]}; '
                "or pass mask=."
            )
        rows["holdout"] = np.setdiff1d(np.arange(n), rows["train"])
    every = np.concatenate([np.unique(index) for index in rows.values()])
    if len(every) != len(np.unique(every)):
        raise LineageError("row_indices gives the same row to two roles.")
    return {role: index for role, index in rows.items() if len(index)}


def _indices(index: Any, role: str, n: int | None) -> np.ndarray:
    index = np.asarray(index)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise LineageError(
            f"row_indices of {role} must be whole numbers, got {index.dtype} of shape {index.shape}. "
            "Booleans go into mask."
        )
    index = index.astype(np.int64)
    if len(index) and (index.min() < 0 or (n is not None and index.max() >= n)):
        raise LineageError(
            f"row_indices of {role} reach from {index.min()} to {index.max()}, but the data has {n} rows."
        )
    return index


def _training_run(client: Any, run_id: str | None, model_id: str | None) -> str:
    """The run to log on."""
    import mlflow

    if run_id is not None:
        return run_id
    active = mlflow.active_run()
    if active is not None:
        return active.info.run_id
    if model_id is not None and (source := client.get_logged_model(model_id).source_run_id):
        return source
    raise LineageError(
        "log_lineage needs the training run: call it inside `with mlflow.start_run():`, or pass run_id=."
    )


def _log_data(
    client: Any,
    files: RunFiles,
    folder: str,
    local: Path,
    role: str,
    data: Any,
    columns: Mapping[str, Any],
    store: str,
    *,
    stem: str = "",
    mask: Any = None,
    row_indices: Any = None,
    canaries: Any = None,
) -> tuple[Entry, DatasetInput]:
    """Logs one data set's files; returns its entry, and the input that is to be logged on the run."""
    run_id = files.run_id
    targets, text, prompt = columns["targets"], columns["text"], columns["prompt"]
    uri, source = None, None
    if text is not None:
        data = named_texts(data, text)
    if isinstance(data, (str, Path)):
        uri = _absolute(str(data))
        table = as_table(read_uri(uri), targets=targets, what=role)
    else:
        table = as_table(data, targets=targets, what=role)
        if store == "reference":
            uri, source = _uri_of(data)
    if not table.is_frame and table.y is None:
        raise LineageError(
            f"{role} has features but no labels: pass ({role}_x, {role}_y); of an autoencoder ({role}_x, {role}_x)."
        )
    if table.is_frame and targets is not None and table.targets is None:
        wanted, shown = " and ".join(map(repr, names_of(targets))), ", ".join(map(str, table.x.columns))
        raise LineageError(f"{role} has no target column {wanted}; its columns are {shown}.")
    stray = [name for name in (text, prompt) if name is not None and not (table.is_frame and name in table.x.columns)]
    if stray:
        shown = ", ".join(map(str, table.x.columns)) if table.is_frame else "none: it is an array"
        raise LineageError(f"{role} has no column {' and no column '.join(map(repr, stray))}; its columns are {shown}.")
    rows = membership_rows(mask, row_indices, len(table))
    canary_rows = None if canaries is None else _canary_rows(canaries, len(table))
    entry = Entry(
        role,
        n=len(table),
        targets=table.targets or targets,
        text=text,
        prompt=prompt,
        uri=uri if store == "reference" else None,
    )
    if store == "copy":
        path = write_table(table, local, f"{role}{stem}")
        stored = as_table(read_path(path), targets=entry.targets)  # the digest is of what will be read
        client.log_artifact(run_id, str(path), folder)
        entry = dataclasses.replace(entry, file=path.name, sha256=table_digest(stored))
        source = _artifact_source(client, files.home, f"{folder}/{path.name}")
    else:
        if uri is not None and not isinstance(data, (str, Path)):
            entry, drawn = _checked_reference(entry, table, uri, role)
            if drawn is not None:
                rows = {role: drawn} if rows is None else {part: drawn[index] for part, index in rows.items()}
                canary_rows = None if canary_rows is None else np.sort(drawn[canary_rows])
        else:
            entry = dataclasses.replace(entry, sha256=table_digest(table))
        source = source or _source_of_uri(uri)
        if entry.uri is None:
            _logger.warning(
                "%s has no URI, so only its digest is kept: pass it to the audit as "
                'evaluator_config={"privacy_meter": {"%s": ...}}.',
                role,
                role,
            )
    name = f"{role}-{str(entry.sha256)[:8]}-{run_id[:8]}"
    entry = dataclasses.replace(
        entry, name=name, rows=None if rows is None else _log_rows(client, run_id, folder, local, f"{role}{stem}", rows)
    )
    if canary_rows is not None:
        file = _log_rows(client, run_id, folder, local, f"{role}{stem}_canary", {"canaries": canary_rows})
        entry = dataclasses.replace(entry, canaries=file)
    return entry, _dataset_input(table, source, name, str(entry.sha256), _CONTEXT[role])


def _canary_rows(canaries: Any, n: int) -> np.ndarray:
    """Sorted row indices of a mask or of indices."""
    given = np.asarray(canaries)
    if given.dtype == bool:
        if given.shape != (n,):
            raise LineageError(f"canaries must be {n} booleans, one per row of train, got shape {given.shape}.")
        index = np.flatnonzero(given)
    else:
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise LineageError(f"canaries must be booleans or whole numbers, got {given.dtype} of shape {given.shape}.")
        index = np.unique(given.astype(np.int64))
        if len(index) and (index[0] < 0 or index[-1] >= n):
            raise LineageError(f"canaries reach from {index[0]} to {index[-1]}, but train has {n} rows.")
    if not len(index):
        raise LineageError("canaries names no row: leave it out, or name the records that a coin decided about.")
    return index


def _log_rows(client: Any, run_id: str, folder: str, local: Any, role: str, rows: Any) -> str:
    path = Path(local) / f"{role}_rows.npz"
    np.savez(path, **rows)
    client.log_artifact(run_id, str(path), folder)
    return path.name


def _uri_of(data: Any) -> tuple[str | None, Any]:
    """URI and source of an MLflow dataset that has a loadable one."""
    source = getattr(data, "source", None)
    uri = getattr(source, "uri", None) or getattr(source, "url", None)
    return (_absolute(str(uri)), source) if uri else (None, source if hasattr(source, "to_json") else None)


def _checked_reference(entry: Entry, table: Table, uri: str, role: str) -> tuple[Entry, np.ndarray | None]:
    """A reference is kept only if reading it gives the data, or a part of it whose row numbers are returned."""
    read = as_table(read_uri(uri), targets=entry.targets, what=role)
    drawn = None
    if len(read) != len(table):
        drawn = rows_of_part(table, read)
        if drawn is None:
            raise LineageError(
                f"{role} has {len(table)} rows, but its source {uri} has {len(read)}, and not all of these rows are "
                f"among them: pass the URI itself as {role}= and the rows that were used as row_indices=."
            )
    return dataclasses.replace(entry, n=len(read), sha256=table_digest(read)), drawn


def _absolute(uri: str) -> str:
    """Local paths as absolute ones, since an audit may run in another directory."""
    scheme = urlparse(uri).scheme
    return str(Path(uri).resolve()) if scheme == "" or len(scheme) == 1 else uri


# --- what MLflow's UI shows --------------------------------------------------------------------------------------


def _artifact_source(client: Any, home: str, path: str) -> Any:
    """A dataset source of an artifact that loads on any client which reaches the artifact store.

    `runs:/` and `mlflow-artifacts:/` cannot be sources; a proxied artifact has an HTTP address instead. The manifest
    does not depend on it.

    Args:
      home: the run's artifact URI.
    """
    root = home.rstrip("/")
    uri = f"{root}/{path}"
    if urlparse(root).scheme != "mlflow-artifacts":
        return _source_of_uri(uri)
    tracking = client.tracking_uri
    if urlparse(tracking).scheme not in ("http", "https"):
        return None
    address = address_on_server(uri, tracking)
    return None if address is None else _source_of_uri(without_password(address))


def _source_of_uri(uri: str | None) -> Any:
    import mlflow
    from mlflow.exceptions import MlflowException

    if uri is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "can be interpreted in multiple ways" is said of every local file
        try:
            return mlflow.data.from_numpy(np.zeros(1), source=uri).source  # the documented way from a URI to a source
        except MlflowException:
            return None


def _dataset_input(table: Table, source: Any, name: str, sha256: str, context: str) -> DatasetInput:
    """What MLflow's pages show of a data set.

    The name is unique to content and run: MLflow keeps the first source of a (name, digest) pair.
    """
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.numpy_dataset import from_numpy
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.entities import DatasetInput, InputTag

    source = source or CodeDatasetSource(tags={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints on integer columns are about serving
        dataset: Any
        if table.is_frame:
            dataset = from_pandas(table.x, source=source, name=name)
        else:
            dataset = from_numpy(table.x, source=source, targets=table.y, name=name)  # type: ignore[arg-type]
        entity = dataset_entity(dataset)
    tags = [InputTag("mlflow.data.context", context), InputTag(SHA256_TAG, sha256)]
    return DatasetInput(entity, tags)
