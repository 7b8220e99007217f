"""The parts of a pool: what the caller gives, what `log_lineage` wrote, what MLflow recorded; in that order."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import LineageError, UnsafeError
from mlflow_privacy.lineage.files import read_path
from mlflow_privacy.lineage.manifest import (
    MODEL_TAGS,
    ROLES,
    SHA256_TAG,
    SPLIT,
    Entry,
    Manifest,
    read_canaries,
    read_rows,
)
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.lineage.places import Places
from mlflow_privacy.lineage.records import index_columns
from mlflow_privacy.lineage.sources import DigestMismatch, Found, load_dataset, loadable, mismatch, read_uri
from mlflow_privacy.lineage.tables import Table, Targets, as_table, table_digest

if TYPE_CHECKING:
    from mlflow_privacy.store.fetch import RunFiles

_logger = logging.getLogger(__name__)
CONTEXTS = {
    "train": ("training", "train"),
    "holdout": ("testing", "test", "validation", "eval", "evaluation", "holdout"),
    "population": ("population",),
}
_ROLE_OF = {context: role for role, contexts in CONTEXTS.items() for context in contexts}
_OWN_SOURCE = "mlflow_privacy_lineage"  # the pool that an earlier audit logged as its own input
_CONTEXT_TAG = "mlflow.data.context"
ALL_VALUES = "SHA-256 of all values"


@dataclasses.dataclass(frozen=True)
class Input:
    """A dataset that MLflow recorded: on the source run, or with a metric of the logged model."""

    dataset: Any
    context: str  # "" if it was logged without one
    sha256: str | None = None  # of all values, where `log_lineage` logged it
    model_id: str | None = None  # of the one model that it is logged for, if that is said

    @property
    def role(self) -> str | None:
        return _ROLE_OF.get(self.context.strip().lower())

    def __str__(self) -> str:
        context = f"context {self.context!r}" if self.context else "no context"
        return f'"{self.dataset.name}" ({context}, {self.dataset.source_type} source)'


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of one table that play one role; `canaries` are row indices of the table, None if none were named."""

    role: str
    table: Table
    prefix: str
    name: str
    source: str
    digest: str | None
    status: str
    index: np.ndarray | None = None
    targets: Targets | None = None
    text: str | None = None
    prompt: str | None = None
    note: str = ""
    canaries: np.ndarray | None = None
    compared: str = ""
    complete: bool = True  # whether that was every value


@dataclasses.dataclass
class Problems:
    """What did not load, collected so that it is all reported at once."""

    lines: list[tuple[str | None, str]] = dataclasses.field(default_factory=list)
    fatal: bool = False
    unsafe: bool = False

    def add(self, role: str | None, text: str, error: Exception | None = None) -> None:
        self.lines.append((role, text.rstrip(".")))
        self.fatal |= isinstance(error, DigestMismatch)
        self.unsafe |= isinstance(error, UnsafeError)


# --- what there is -----------------------------------------------------------------------------------------------


def get_run(client: Any, run_id: str) -> Any:
    """The source run; None if this tracking server does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        _logger.warning("source run %s cannot be read: %s", run_id, error)
        return None


def dataset_inputs(client: Any, run: Any, model_id: str | None) -> list[Input]:
    """Datasets of the source run; if it has no held-out one, also those the logged model was evaluated on elsewhere.

    Other runs give held-out data only: what is a training set there trained another model.
    """
    from mlflow.exceptions import MlflowException

    found = [] if run is None else _inputs_of(run)
    if model_id is None or any(item.role == "holdout" for item in found):
        return found
    try:
        metrics = client.get_logged_model(model_id).metrics or []
    except MlflowException as error:
        _logger.info("logged model %s cannot be read: %s", model_id, error)
        return found
    own = None if run is None else run.info.run_id
    used = {(m.run_id, m.dataset_name, m.dataset_digest) for m in metrics if m.dataset_name and m.run_id != own}
    for run_id in sorted({run_id for run_id, _, _ in used if run_id}):
        other = get_run(client, run_id)
        for item in [] if other is None else _inputs_of(other):
            if item.role == "holdout" and (run_id, item.dataset.name, item.dataset.digest) in used:
                found.append(item)
    return found


def _inputs_of(run: Any) -> list[Input]:
    """Dataset inputs of a run, each once; pools that audits logged are none."""
    found: dict[tuple[str, str], Input] = {}
    for item in run.inputs.dataset_inputs:
        tags = {tag.key: tag.value for tag in item.tags or []}
        if item.dataset.source_type != _OWN_SOURCE:
            model_id = next((tags[tag] for tag in MODEL_TAGS if tag in tags), None)
            logged = Input(item.dataset, tags.get(_CONTEXT_TAG, ""), tags.get(SHA256_TAG), model_id)
            found.setdefault((item.dataset.name, item.dataset.digest), logged)
    return list(found.values())


# --- loading -----------------------------------------------------------------------------------------------------


def gather(
    options: LineageOptions,
    manifest: Manifest,
    inputs: Sequence[Input],
    files: RunFiles | None,
    problems: Problems,
    places: Places = Places(),  # noqa: B008 (frozen)
) -> list[Part]:
    """All parts, each role from the caller, else from the manifest, else from the dataset inputs.

    Args:
      files: of the source run; None if it is not here, and with it no manifest.
      places: where files are looked for that are not where they were.
    """
    entries = manifest.entries
    given = {role: getattr(options, role) for role in ROLES if getattr(options, role) is not None}
    parts: list[Part] = []
    for role, data in given.items():
        try:
            found = _given_parts(role, data, entries.get(role), options, files)
            parts.extend(part for part in found if part.role == role or part.role not in given)
        except (LineageError, UnsafeError) as error:
            problems.add(role, f"the {role} data that was passed: {error}", error)
    for entry in entries.values():
        if entry.role in given:
            continue
        try:
            logged = _manifest_parts(entry, inputs, options, files, places)
            parts.extend(part for part in logged if part.role not in given)
        except (LineageError, UnsafeError) as error:
            role = "train" if entry.role == SPLIT else entry.role
            problems.add(role, f'its lineage entry "{entry.role}": {error}', error)
    covered = {*given, *entries, *(part.role for part in parts)}
    if SPLIT in entries:
        covered |= {"train", "holdout"}
    for role in ROLES:
        if role not in covered:
            of_role = [i for i in inputs if i.role == role]
            parts.extend(_input_parts(role, of_role, options, problems, places, _rows_together(inputs)))
    return parts


def _given_parts(
    role: str, data: Any, entry: Entry | None, options: LineageOptions, files: RunFiles | None
) -> list[Part]:
    """Data that the caller passes; if it is what was logged, it counts as verified and its logged rows are taken."""
    source = "evaluator_config"
    if isinstance(data, (str, Path)):
        source, data = str(data), read_uri(data)
    table = as_table(data, targets=options.targets, what=f"the {role} data")
    text, prompt = (None, None) if entry is None else (entry.text, entry.prompt)
    part = Part(role, table, role, role, source, None, "given", targets=options.targets, text=text, prompt=prompt)
    if entry is None or entry.sha256 is None:
        return [part]
    if table_digest(table) != entry.sha256 and table.is_frame and (strays := index_columns(table.x)):
        plain = dataclasses.replace(table, x=table.x.drop(columns=strays))
        if table_digest(plain) == entry.sha256:  # the file got the index of the frame as a column
            table, part = plain, dataclasses.replace(part, table=plain)
    if table_digest(table) != entry.sha256:
        note = f"The {role} data that was passed is not what was logged for this model; it was used all the same."
        return [dataclasses.replace(part, note=note)]
    part = dataclasses.replace(
        part,
        digest=entry.sha256,
        status="verified",
        compared=ALL_VALUES,
        targets=options.targets or entry.targets,
    )
    return _rows_of(part, entry, files)


def _manifest_parts(
    entry: Entry, inputs: Sequence[Input], options: LineageOptions, files: RunFiles | None, places: Places
) -> list[Part]:
    """The parts of one manifest entry, verified against its SHA-256."""
    targets = options.targets or entry.targets
    if entry.role == SPLIT:
        item = _sole_input(inputs)
        allow = options.allow_digest_mismatch
        found = load_dataset(item.dataset, targets=targets, split=item.context, allow_mismatch=allow, places=places)
        found = _drawn_rows(found)
        if entry.n is not None and len(found.table) != entry.n:
            raise LineageError(
                f"the membership mask was logged for {entry.n} records, the dataset input {item} has {len(found.table)}"
            )
        return _rows_of(_part("train", found, "data", item.dataset.name, targets), entry, files)
    table, where = _entry_table(entry, inputs, targets, files, places)
    digest = None if entry.sha256 is None else table_digest(table)
    status = "no digest" if digest is None else "verified" if digest == entry.sha256 else "overridden"
    if status == "overridden" and not options.allow_digest_mismatch:
        text = mismatch(where, str(entry.sha256)[:16], str(digest)[:16], logged_rows=entry.n, rows=len(table))
        raise DigestMismatch(text)
    found = Found(table, where, entry.sha256, status, ALL_VALUES if status == "verified" else "")
    return _rows_of(_part(entry.role, found, entry.role, entry.role, targets), entry, files)


def _entry_table(
    entry: Entry, inputs: Sequence[Input], targets: Targets | None, files: RunFiles | None, places: Places
) -> tuple[Table, str]:
    """The data of a manifest entry and where it was: beside the manifest, at its URI, or at its dataset's source."""
    if entry.file is not None and files is not None:
        path = f"{entry.folder}/{entry.file}"
        where = f"{path} of run {files.run_id}"
        with loadable(where), files.local(path) as file:
            return as_table(read_path(file), targets=targets), where
    if entry.uri is not None:
        return as_table(read_uri(entry.uri, places=places), targets=targets), entry.uri
    for item in inputs:
        if item.dataset.name == entry.name and item.dataset.source_type != "code":
            found = load_dataset(item.dataset, targets=targets, split=item.context, allow_mismatch=True, places=places)
            return _drawn_rows(found).table, found.source
    raise LineageError(
        "only its digest was logged, so the data must be passed: "
        f'evaluator_config={{"privacy_meter": {{"{entry.role}": ...}}}}'
    )


def _drawn_rows(found: Found) -> Found:
    """A dataset that is some rows of its file as a table of these rows alone."""
    if found.rows is None:
        return found
    x, y = found.table.x, found.table.y
    x = x.iloc[found.rows] if found.table.is_frame else x[found.rows]
    table = dataclasses.replace(found.table, x=x, y=None if y is None else y[found.rows])
    return dataclasses.replace(found, table=table, rows=None)


def _part(role: str, found: Found, prefix: str, name: str, targets: Targets | None) -> Part:
    return Part(
        role,
        found.table,
        prefix,
        name,
        found.source,
        found.digest,
        found.status,
        targets=targets,
        compared=found.compared,
        complete=found.complete,
        index=found.rows,
    )


def _rows_of(part: Part, entry: Entry, files: RunFiles | None) -> list[Part]:
    """The part itself, or one part per role that its logged row indices name."""
    part = dataclasses.replace(part, text=entry.text, prompt=entry.prompt)
    if entry.canaries is not None and files is not None:
        with files.local(f"{entry.folder}/{entry.canaries}") as path:
            part = dataclasses.replace(part, canaries=read_canaries(path, len(part.table)))
    if entry.rows is None or files is None:
        return [part]
    with files.local(f"{entry.folder}/{entry.rows}") as path:
        rows = read_rows(path, len(part.table))
    if part.canaries is not None and "holdout" in rows:  # what is neither trained on nor a canary plays no role
        rows["holdout"] = rows["holdout"][np.isin(rows["holdout"], part.canaries)]
    prefix = "data" if len(rows) > 1 else part.prefix
    return [dataclasses.replace(part, role=role, index=index, prefix=prefix) for role, index in rows.items()]


def _by_sha256(found: Found, sha256: str | None, *, allow_mismatch: bool) -> Found:
    """What was loaded, held against the SHA-256 that `log_lineage` logged with the input, if it did."""
    if sha256 is None or found.status == "overridden":
        return found
    digest = table_digest(_drawn_rows(found).table)
    if digest == sha256:
        return dataclasses.replace(found, digest=sha256, status="verified", compared=ALL_VALUES, complete=True)
    if not allow_mismatch:
        raise DigestMismatch(mismatch(found.source, sha256[:16], digest[:16]))
    return dataclasses.replace(found, status="overridden", compared="")


def _rows_together(inputs: Sequence[Input]) -> int | None:
    """Rows of the training and the held-out data that MLflow recorded, if they may be the two parts of one frame."""
    counts = {role: [_rows_logged(i) for i in inputs if i.role == role] for role in ("train", "holdout")}
    if any(len(found) != 1 or not found[0] for found in counts.values()):
        return None
    return sum(int(found[0] or 0) for found in counts.values())


def _rows_logged(item: Input) -> int | None:
    try:
        rows = json.loads(item.dataset.profile or "{}").get("num_rows")
    except (ValueError, AttributeError):
        return None
    return rows if isinstance(rows, int) else None


def _sole_input(inputs: Sequence[Input]) -> Input:
    """The one dataset input that a membership mask is about."""
    training = [i for i in inputs if i.role == "train"] or [i for i in inputs if not i.context]
    if len(training) != 1:
        raise LineageError(
            f"a membership mask was logged without data, and the run has {len(training)} training datasets, not one: "
            "log the mask with its data, log_lineage(train=..., mask=...)"
        )
    return training[0]


def _input_parts(
    role: str,
    inputs: Sequence[Input],
    options: LineageOptions,
    problems: Problems,
    places: Places,
    whole: int | None = None,
) -> list[Part]:
    """The parts of all dataset inputs of a role; one of a script, as autologging logs, is none where another loads."""
    parts: list[Part] = []
    empty: list[tuple[str, LineageError]] = []
    for item in inputs:
        if item.dataset.source_type == "code":
            error = LineageError("it was logged with a code source, which holds no data")
            empty.append((f"its input {item}: {error}", error))
            continue
        try:
            found = load_dataset(
                item.dataset,
                targets=options.targets,
                split=item.context,
                allow_mismatch=options.allow_digest_mismatch,
                places=places,
                whole=whole,
            )
            found = _by_sha256(found, item.sha256, allow_mismatch=options.allow_digest_mismatch)
        except (LineageError, UnsafeError) as error:
            problems.add(role, f"its input {item}: {error}", error)
            continue
        prefix = role if not parts else f"{role}{len(parts) + 1}"
        parts.append(_part(role, found, prefix, item.dataset.name, options.targets))
    for text, without_data in [] if parts else empty:
        problems.add(role, text, without_data)
    return parts
