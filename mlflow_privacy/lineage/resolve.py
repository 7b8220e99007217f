"""Model URI → AuditTarget: members, non-members, population and recipe, from what the caller gives and MLflow holds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import LineageError, UnsafeError
from mlflow_privacy.lineage.classes import output_classes
from mlflow_privacy.lineage.doubts import weakly_verified
from mlflow_privacy.lineage.labels import settle_labels
from mlflow_privacy.lineage.manifest import ROLES, SPLIT, Manifest, model_manifest
from mlflow_privacy.lineage.model import LoadedModel, load_model
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.lineage.parts import CONTEXTS, Input, Part, Problems, dataset_inputs, gather, get_run
from mlflow_privacy.lineage.places import places_of
from mlflow_privacy.lineage.pool import build_pool, subsample, without
from mlflow_privacy.lineage.quality import logged_quality
from mlflow_privacy.lineage.recipe import as_trained, claimed_privacy, recipe_settings, resolve_recipe
from mlflow_privacy.lineage.records import for_model, same_form, text_records, to_records
from mlflow_privacy.lineage.several import inputs_of_model
from mlflow_privacy.lineage.tables import names_of, table_digest
from mlflow_privacy.lineage.text_model import with_settings
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.types import AuditTarget, DataSource, Records

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

_logger = logging.getLogger(__name__)
_MEANING = {"train": "members", "holdout": "non_members", "population": "population"}


def resolve_target(
    model: str | PyFuncModel,
    options: LineageOptions | None = None,
    *,
    loaded: PyFuncModel | None = None,
    client: MlflowClient | None = None,
) -> AuditTarget:
    """Finds what a model was trained on, and how: its members, non-members, population and recipe.

    What `options` holds (`train`, `holdout`, `population`, `targets`, `recipe`) wins over what
    `mlflow_privacy.log_lineage` wrote, and that over the dataset inputs of the source run. Loaded data is verified
    against its logged digest. Records that occur more than once are known (`lineage.copies`); records of the pool are
    left out of the population.

    Args:
      model: URI, or a loaded pyfunc model; see `resolve_model`.
      options: the defaults if None.
      loaded: the model as a pyfunc model, if it is loaded already.
      client: where registry and tracking server are; the current ones if None.

    Returns:
      The target; `recipe` is None, with `recipe_problem`, where reference models cannot be trained.

    Raises:
      LineageError: members or non-members cannot be found, loaded or verified; names every input and the remedies; or
        labels of their form cannot be asked of the model.
      SignalError: the model is none of labels.
      ConfigError: `classes` does not name the labels of the data.
      RecipeError: the recipe or `train_fn` in `options` cannot train a reference model.
      UnsafeError: a source is a pickle, or the recipe in `options` names code that is not allowed.
    """
    import mlflow

    options, client = options or LineageOptions(), client or mlflow.MlflowClient()
    found = load_model(model, loaded=loaded, client=client)
    audited, label = found.model, found.model.uri
    run = None if audited.run_id is None else get_run(client, audited.run_id)
    problems, notes = Problems(), list(found.notes)
    manifest, files = Manifest(), None
    if run is not None:
        from mlflow_privacy.store.fetch import RunFiles

        files = RunFiles(client, run.info.run_id, run.info.artifact_uri)
        try:
            manifest = model_manifest(files, audited.model_id)
        except LineageError as error:  # it may say that only a part of the data was trained on
            problems.add(None, str(error), error)
            problems.fatal = True
    inputs = dataset_inputs(client, run, audited.model_id)
    if options.train is None and not {"train", SPLIT} & set(manifest.entries):
        try:
            inputs = inputs_of_model(client, run, audited.model_id, inputs)
        except LineageError as error:
            problems.add("train", str(error), error)
            inputs = [item for item in inputs if item.role != "train"]
    parts = gather(options, manifest, inputs, files, problems, places_of(client, files))
    params = {} if run is None else as_trained(run.data.params, run.data.metrics)
    settings, _ = recipe_settings(audited.native, options, manifest.recipe, params)
    records = _records(parts, options, found, problems, (settings.get("text"), settings.get("prompt")))
    if not records["train"] or not records["holdout"] or problems.fatal or any(r == "train" for r, _ in problems.lines):
        raise _lineage_error(label, run, audited.run_id, inputs, parts, records, problems)
    notes.extend(f"Left out: {text}." for _, text in problems.lines)
    notes.extend(_status_notes(parts))
    weak, doubts = weakly_verified(client, run, parts)
    notes.extend(weak)
    try:
        members = _joined(records["train"], "members")
        non_members = _joined(records["holdout"], "non-members")
        fixed = _fixed(parts, members)
        built = build_pool(members, non_members, fixed)
        pool, membership = built.records, built.membership
        population, outside = _population(records["population"], pool, options)
    except LineageError as error:
        raise LineageError(f"{label} cannot be audited: {error}. {_remedy(label, audited.run_id)}") from error
    notes.extend(outside)
    native = audited.native
    if isinstance(native, LanguageModel):
        native = with_settings(native, settings, pool)
        audited = dataclasses.replace(audited, native=native)
    loss = settings.get("loss")
    said = _said_classes(options, manifest)
    loss = loss if isinstance(loss, str) else None
    try:
        settled = settle_labels(native, pool, population, task=options.task, loss=loss, names=said)
    except LineageError as error:
        raise LineageError(f"{label} cannot be audited: {error}.") from error
    pool, population, task = settled.pool, settled.population, settled.task
    always = None if fixed is None else membership & np.isin(pool.row_ids, members.row_ids[fixed])
    classes = output_classes(native, said, pool.y) if task == "classification" else None
    recipe, problem = resolve_recipe(
        native,
        options,
        logged=manifest.recipe,
        params=params,
        task=task,
        pool=pool,
        classes=classes,
        one_hot=settled.one_hot,
    )
    _logger.info("%s: %d members, %d non-members, %s", label, membership.sum(), (~membership).sum(), task)
    return AuditTarget(
        model=audited,
        pool=pool,
        membership=membership,
        task=task,
        population=population,
        recipe=recipe,
        recipe_problem=problem,
        sources=tuple(_data_source(part) for part in parts),
        n_duplicates=built.n_duplicates,
        warnings=tuple(notes),
        always=always,
        copies=built.copies,
        scored=built.scored,
        repeated=built.repeated,
        claims=claimed_privacy(manifest.recipe, params, {} if run is None else dict(run.data.metrics)),
        quality=logged_quality(client, run, audited.model_id, task),
        n_trained=sum(len(part) for part in records["train"]),
        doubts=tuple(doubts),
        label_name=_label_name(parts),
        classes=classes,
    )


def _said_classes(options: LineageOptions, manifest: Manifest) -> Any:
    """Labels in the order of the outputs, from whoever says them first: the caller, then the lineage."""
    said: tuple[Any, ...] = (options.classes, (options.recipe or {}).get("classes"))
    said += (manifest.classes, (manifest.recipe or {}).get("classes"))
    return next((classes for classes in said if classes is not None), None)


# --- records -----------------------------------------------------------------------------------------------------


def _records(
    parts: Sequence[Part],
    options: LineageOptions,
    found: LoadedModel,
    problems: Problems,
    columns: tuple[str | None, str | None] = (None, None),
) -> dict[str, list[Records]]:
    """Records per role, in the form the model takes; `columns` are text and prompt that a recipe names."""
    model, out = found.model, {role: [] for role in ROLES}  # type: ignore[var-annotated]
    inputs: Sequence[str] | None = found.inputs
    if inputs is None and getattr(model.native, "feature_names_in_", None) is not None:
        inputs = [str(name) for name in model.native.feature_names_in_]
    for part in parts:
        try:
            records = _part_records(part, model.native, inputs, columns)
            if not len(records):
                raise LineageError("it has no records")
        except LineageError as error:
            problems.add(part.role, f'"{part.name}" from {part.source}: {error}', error)
            continue
        out[part.role].append(for_model(records, model.native, model.flavor, inputs))
    return out


def _part_records(
    part: Part, native: Any, inputs: Sequence[str] | None, columns: tuple[str | None, str | None]
) -> Records:
    if not isinstance(native, LanguageModel):
        return to_records(part.table, part.prefix, index=part.index, targets=part.targets, inputs=inputs)
    return text_records(
        part.table,
        part.prefix,
        index=part.index,
        targets=part.targets,
        text=columns[0] or part.text,
        prompt=columns[1] or part.prompt,
        labelled=native.objective == "sequence_classification",
        tokenizer=native.tokenizer,
    )


def _label_name(parts: Sequence[Part]) -> str:
    """Name of the label column, as the lineage or the training data itself gives it."""
    named = (part.targets or part.table.targets for part in parts if part.role == "train")
    return next((", ".join(names_of(name)) for name in named if name), "")


def _joined(parts: Sequence[Records], what: str) -> Records:
    """All parts of a role as one."""
    return Records.concat([parts[0], *(same_form(parts[0], part, what) for part in parts[1:])])


def _population(parts: Sequence[Records], pool: Records, options: LineageOptions) -> tuple[Records | None, list[str]]:
    """The population without records of the pool, at most `population_size` of it."""
    if not parts:
        return None, []
    everyone = same_form(pool, _joined(parts, "population"), "population records")
    population, inside = without(everyone, [pool])
    notes = []
    if inside:
        notes.append(f"{inside} of {len(everyone)} population records are in the pool too and were left out.")
    if not len(population):
        notes.append("Nothing is left of the population: the non-members stand in for it.")
        return None, notes
    return subsample(population, options.population_size, options.random_seed), notes


def _fixed(parts: Sequence[Part], members: Records) -> np.ndarray | None:
    """(n_members,) bool: members that are no canaries; None where no canaries were logged."""
    named = [part for part in parts if part.role == "train" and part.canaries is not None]
    if not named:
        return None
    canaries = [f"{part.prefix}:{i}" for part in named for i in (() if part.canaries is None else part.canaries)]
    return ~np.isin(members.row_ids, canaries)


# --- what is said ------------------------------------------------------------------------------------------------


def _data_source(part: Part) -> DataSource:
    n = len(part.table) if part.index is None else len(part.index)
    sha256 = part.digest if part.status == "verified" else None
    if part.status == "weakly verified":
        sha256 = table_digest(part.table)
    return DataSource(_MEANING[part.role], part.name, part.source, n, part.digest, part.status, part.compared, sha256)


def _status_notes(parts: Sequence[Part]) -> list[str]:
    """Sentences on data that was not verified."""
    notes = []
    for part in parts:
        if part.note:
            notes.append(part.note)
        if part.status == "overridden":
            notes.append(
                f'The data "{part.name}" at {part.source} is not the data that was logged (digest {part.digest}): the '
                "membership it stands for may be wrong. It was used because allow_digest_mismatch is set."
            )
        elif part.status == "no digest":
            notes.append(f'The data "{part.name}" at {part.source} has no digest that could be verified.')
    return notes


def _remedy(label: str, run_id: str | None, roles: Sequence[str] = ("train", "holdout")) -> str:
    """What the person can do: the line that helps at once, then the one that helps for good."""
    files = " ".join(f"--{role} FILE" for role in roles)
    config = ", ".join(f'"{role}": ...' for role in roles)
    arguments = ", ".join(f"{role}=..." for role in dict.fromkeys(("train", "holdout", *roles)))
    over = "" if run_id is None else f', or now, though the run is over, with run_id="{run_id}"'
    return (
        f"Audit it with the files themselves: mlflow-privacy audit {label} {files}; from Python, "
        f'evaluator_config={{"privacy_meter": {{{config}}}}}. For good: mlflow_privacy.log_lineage({arguments}) in the '
        f"training run{over}."
    )


def _kept_once(parts: Sequence[Part]) -> list[str]:
    """Says that MLflow may have dropped the missing data set, where one of the same name and digest is there."""
    return [
        f"MLflow records data of one name and digest once, with the first context. The digest {part.digest} of "
        f'"{part.name}" is that of {part.compared.partition(": ")[2].partition(";")[0]}: if training and held-out data '
        "have both name and digest in common, the second was dropped. Give them names of their own, or use log_lineage"
        for part in parts
        if part.role in ("train", "holdout") and part.status == "weakly verified" and not part.complete
    ]


def _lineage_error(
    label: str,
    run: Any,
    run_id: str | None,
    inputs: Sequence[Input],
    parts: Sequence[Part],
    records: dict[str, list[Records]],
    problems: Problems,
) -> LineageError | UnsafeError:
    """One error with everything that is in the way."""
    failed = {role for role, _ in problems.lines}
    missing = [role for role in ("train", "holdout") if not records[role] or (role == "train" and role in failed)]
    words = {"train": "training data", "holdout": "held-out data (non-members)"}
    if missing:
        head = f"{label} has no {' and no '.join(words[role] for role in missing)} that can be loaded"
    else:
        head = f"{label} cannot be audited"
    lines = [text for _, text in problems.lines]
    remedy = _remedy(label, None if run is None else run_id, missing) if missing else ""
    if run is None:
        lines.append(
            "the model does not say which run trained it" if run_id is None else f"its source run {run_id} is not here"
        )
    for role in missing:
        if role not in failed and run is not None:
            contexts = ", ".join(map(repr, CONTEXTS[role]))
            lines.append(f"its source run {run_id} has no dataset input with the context {contexts}")
            lines.extend(_kept_once(parts))
    for item in inputs:
        if item.role is None:
            lines.append(
                f"its input {item} was logged with {'another' if item.context else 'no'} context, so whether the "
                'model trained on it is not known: use mlflow.log_input(dataset, context="training"), or "testing"'
            )
    if len(lines) == 1:
        text = f"{head}: {lines[0]}. {remedy}"
    else:
        text = "\n".join([f"{head}:", *(f"  - {line}." for line in lines), remedy])
    return (UnsafeError if problems.unsafe else LineageError)(text.rstrip())
