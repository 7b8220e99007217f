"""A checked log directory into MLflow: one registered version with lineage, and its references as finished runs."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.privacy_meter.importer.plan import SOURCE, Plan, make_plan
from mlflow_privacy.privacy_meter.importer.weights import weights_digest

_logger = logging.getLogger(__name__)
_QUALITY = {
    "member_accuracy": "train_acc",
    "nonmember_accuracy": "test_acc",
    "member_loss": "train_loss",
    "nonmember_loss": "test_loss",
}


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What was imported.

    Attributes:
      model_uri: "models:/NAME/VERSION".
      run_id: of the target; the references are below it.
      reference_run_ids: of the imported references, in their order.
      n_known: of them, those that an earlier import had stored.
      notes: who was left out, and why.
    """

    name: str
    version: str
    model_uri: str
    run_id: str
    reference_run_ids: tuple[str, ...]
    n_known: int = 0
    notes: tuple[str, ...] = ()


def import_log_dir(
    log_dir: str | Path,
    *,
    name: str | None = None,
    data_dir: str | Path | None = None,
    dataset: str | None = None,
    target: int = 0,
    experiment: str | None = None,
    config: str | Path | None = None,
    base: str | None = None,
) -> ImportReport:
    """Registers a model of a Privacy Meter log directory, and the other models as its reference runs.

    An audit of it, `mlflow.evaluate(report.model_uri, evaluators=["privacy_meter"])`, then trains nothing. Weights are
    read without executing anything. Models of the target's recipe become references, but not the model that trained
    on exactly the records the target did not.

    Args:
      log_dir: the folder that holds `models/models_metadata.json`.
      name: of the registered model; made of model and data set if None.
      data_dir: folder of the data set.
      dataset: its name in our registry, if the metadata have another.
      target: number of the model to register.
      experiment: MLflow experiment; the active one if None.
      config: the YAML file of the training, if momentum, a tokenizer or options of the data matter.
      base: hub name or folder of the checkpoint that language models were fine-tuned from; by default the metadata's
        `model_name`.

    Returns:
      What was registered and stored.

    Raises:
      ConfigError: the directory is incomplete, or does not fit the data: all faults at once. Nothing was written.
      UnsafeError: a file holds more than tensors. Nothing was executed or written.
    """
    plan = make_plan(
        Path(log_dir).expanduser(),
        data_dir=data_dir,
        dataset=dataset,
        target=target,
        config=None if config is None else Path(config).expanduser(),
        base=base,
    )
    name = name or re.sub(r"[^\w.-]+", "-", f"{plan.target.metadata['model_name']}-{plan.data.name}")
    if re.search(r"[/:]", name) or not name.strip():
        raise ConfigError(f"name must be a name without / and :, got {name!r}.")
    for note in plan.notes:
        _logger.info("%s", note)
    return _write(plan, name, experiment)


def _write(plan: Plan, name: str, experiment: str | None) -> ImportReport:
    """Writes everything, or leaves nothing behind that counts."""
    import mlflow

    from mlflow_privacy.store.experiments import experiment_named
    from mlflow_privacy.store.turns import taking_turns

    client = mlflow.MlflowClient()
    done = _Done(client, name, _has_model(client, name))
    experiment_id = None if experiment is None else experiment_named(client, experiment)
    try:
        nested = mlflow.active_run() is not None
        with (
            taking_turns(),
            mlflow.start_run(run_name=f"import {name}", experiment_id=experiment_id, nested=nested) as run,
        ):
            done.run_id = run.info.run_id
            done.version = _register(plan, name)
            uri = f"models:/{name}/{done.version}"
            ids, n_known = _store_references(plan, uri, run.info.run_id, run.info.experiment_id, client, done)
    except BaseException:
        done.undo()
        raise
    _logger.info("Imported %s with %d reference model(s).", uri, len(ids))
    return ImportReport(name, done.version, uri, run.info.run_id, ids, n_known, plan.notes)


@dataclasses.dataclass
class _Done:
    """What an import has written so far."""

    client: Any
    name: str
    had_model: bool
    run_id: str = ""
    version: str = ""
    references: list[Any] = dataclasses.field(default_factory=list)

    def undo(self) -> None:
        """Deletes version, logged model and reference runs, so that nobody finds them; the target's run has failed."""
        from mlflow.exceptions import MlflowException

        steps: list[Callable[[], Any]] = [
            functools.partial(self.client.delete_run, reference.run_id) for reference in self.references
        ]
        steps.append(self._delete_logged_models)
        if not self.had_model and _has_model(self.client, self.name):
            steps.append(functools.partial(self.client.delete_registered_model, self.name))
        elif self.version:
            steps.append(functools.partial(self.client.delete_model_version, self.name, self.version))
        for step in steps:
            try:
                step()
            except MlflowException as error:
                _logger.warning("A part of the failed import could not be deleted: %s", error)

    def _delete_logged_models(self) -> None:
        outputs = self.client.get_run(self.run_id).outputs if self.run_id else None
        for output in outputs.model_outputs if outputs else []:
            self.client.delete_logged_model(output.model_id)


def _has_model(client: Any, name: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _register(plan: Plan, name: str) -> str:
    """Logs the target with its lineage in the active run and registers it; returns the version."""
    import mlflow

    from mlflow_privacy.experiment.models import register_model
    from mlflow_privacy.lineage.log import log_lineage
    from mlflow_privacy.store.tags import IMPORTED, ROLE

    entry, records = plan.target, plan.data.records
    mlflow.set_tags({ROLE: "target", IMPORTED: SOURCE})
    mlflow.log_params(
        {
            "model_name": entry.metadata["model_name"],
            "dataset": plan.data.name,
            "model_number": entry.number,
            **plan.settings,
        }
    )
    mlflow.log_metrics(_quality(entry.metadata, {"train_accuracy": "train_acc", "holdout_accuracy": "test_acc"}))
    mlflow.log_dict({"source": SOURCE, "notes": list(plan.notes), "model": dict(entry.metadata)}, "import.json")
    train, holdout = records.take(plan.where[entry.row]), records.take(plan.where[~entry.row])
    log_lineage(train=train, holdout=holdout, population=plan.population, recipe=dict(plan.settings))
    version = register_model(plan.module(entry), name, train.x[:2])
    mlflow.MlflowClient().set_model_version_tag(name, version, IMPORTED, SOURCE)
    return version


def _quality(metadata: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    values = {ours: metadata.get(theirs) for ours, theirs in names.items()}
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {key: value for key, value in numbers.items() if np.isfinite(value)}


def _store_references(
    plan: Plan, uri: str, run_id: str, experiment_id: str, client: Any, done: _Done
) -> tuple[tuple[str, ...], int]:
    """Stores the reference models under the recipe and pool that an audit of the target will have.

    Returns: the ids of their runs, and how many of them were there before.
    """
    from mlflow_privacy.auditing.questions import in_canonical_order
    from mlflow_privacy.fingerprint import data_digest, recipe_digest
    from mlflow_privacy.lineage import resolve_target
    from mlflow_privacy.store.keys import ReferenceKey, imported_fingerprint, members_digest
    from mlflow_privacy.store.references import ReferenceStore
    from mlflow_privacy.trainers import trainer_for
    from mlflow_privacy.types import to_json

    if not plan.references:
        return (), 0
    target = in_canonical_order(resolve_target(uri, client=client))
    if target.recipe is None:
        raise ConfigError(f"{uri} has no recipe, so that its references would not be found: {target.recipe_problem}")
    recipe, trainer = target.recipe, trainer_for(target.recipe)
    fingerprint = imported_fingerprint(recipe_digest(recipe), data_digest(target.pool))
    rows = _pool_rows(plan, target.pool.row_ids)
    n_known, ids = 0, []
    with ReferenceStore(client, experiment_id, run_id) as store:
        known = {reference.key.digest: reference for reference in store.find_imported(fingerprint)}
        for entry, row in zip(plan.references, rows, strict=True):
            seed = int(weights_digest(entry.path)[:8], 16) >> 1
            key = ReferenceKey(fingerprint, entry.number, members_digest(row), seed)
            if key.digest in known:
                n_known += 1
                ids.append(known[key.digest].run_id)
                continue
            saved = store.save(
                key,
                row,
                outputs={},
                write_weights=functools.partial(trainer.save, recipe, plan.module(entry)),
                metrics=_quality(entry.metadata, _QUALITY),
                recipe=to_json({"kind": recipe.kind, "spec": recipe.spec, "source": SOURCE}),
                started=time.time(),
                imported=SOURCE,
            )
            done.references.append(saved)
            ids.append(saved.run_id)
    return tuple(ids), n_known


def _pool_rows(plan: Plan, row_ids: np.ndarray) -> list[np.ndarray]:
    """(n_pool,) bool of each reference, in the audit's order.

    Lineage names a record "train:i" or "holdout:i", its place among the target's members or non-members. A copy of a
    record has a membership of its own here; `references.ensure` counts who trained on either as one that knows both.
    """
    row = plan.target.row
    columns = {
        **{f"train:{i}": int(column) for i, column in enumerate(np.flatnonzero(row))},
        **{f"holdout:{i}": int(column) for i, column in enumerate(np.flatnonzero(~row))},
    }
    order = np.array([columns[str(name)] for name in row_ids])
    return [reference.row[order] for reference in plan.references]
