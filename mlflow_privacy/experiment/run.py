"""An experiment: train targets on real data, register them, and audit every version through MLflow's evaluator.

config ─▶ data ─▶ split ─▶ targets, one run and one version each ─▶ mlflow.evaluate ─▶ summary
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.attacks import default_attacks
from mlflow_privacy.design import fraction_like, group_size, references_for
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.data import Split, load_data, prepare, split_indices, target_seed
from mlflow_privacy.experiment.folder import open_log_dir
from mlflow_privacy.experiment.games import game_of, privacy_spent, with_canaries
from mlflow_privacy.experiment.load import attack_name
from mlflow_privacy.experiment.models import build_target, recipe_settings, register_model, task_of
from mlflow_privacy.experiment.sections import ExperimentConfig, TrainSection
from mlflow_privacy.privacy_meter.log_dir import Audited, ExperimentReport, Place, TargetReport, write_experiment
from mlflow_privacy.store.experiments import open_as_training
from mlflow_privacy.store.tags import ROLE
from mlflow_privacy.store.turns import taking_turns
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.types import AuditResult, Records, Task, to_json

if TYPE_CHECKING:
    from mlflow_privacy.zoo import DataSet

_logger = logging.getLogger(__name__)


def evaluator_options(config: ExperimentConfig) -> dict[str, Any]:
    """The `evaluator_config={"privacy_meter": …}` of this experiment's audits."""
    audit = config.audit
    headline = attack_name(audit.algorithm) if audit.algorithm else None
    attacks = [attack_name(word) for word in audit.attacks] if audit.attacks is not None else None
    if attacks is not None and headline is not None and headline not in attacks:
        attacks = [headline, *attacks]
    # Privacy Meter's meaning in the file, ours below: OUT references of a record, and references in all.
    fraction, out = audit.reference_fraction, audit.num_ref_models
    if fraction == "auto":
        fraction = fraction_like(0.5 if config.dp_audit is not None else config.data.train_fraction)
        count = group_size(fraction) * -(-references_for(out, 0.5) // group_size(fraction))
    else:
        count = references_for(out, fraction)
    defaults = default_attacks(count // group_size(fraction), "logit")
    if attacks is None and headline is not None and (headline not in defaults or not audit.num_ref_models):
        usual = defaults if audit.num_ref_models else ("population",)
        attacks = [headline, *(name for name in usual if name != headline)]
    options = {
        "num_ref_models": count,
        "data_size": audit.data_size,
        "num_queries": audit.num_queries if "num_queries" in audit.model_fields_set else None,  # a default, unsaid
        "reference_fraction": fraction,
        "random_seed": config.run.random_seed,
        "fprs": list(audit.fprs),
        "confidence": audit.confidence,
        "blind_baseline": audit.blind_baseline,
        "score_duplicates": audit.score_duplicates,
        "device": audit.device,
        "batch_size": audit.batch_size,
        "executor": audit.executor,
        "n_workers": audit.n_workers,
        "time_budget": audit.time_budget,
        "attack_options": {attack_name(name): dict(values) for name, values in audit.attack_options.items()},
        "attacks": attacks,
    }
    game, game_options = game_of(config)
    if game != "membership":
        options |= {"game": game, "game_options": game_options}
    # None is the first attack, so that the figures of all targets are of one attack, and can be averaged.
    return {key: value for key, value in options.items() if value is not None} | {"headline": headline}


def run_experiment(config: ExperimentConfig) -> ExperimentReport:
    """Trains, registers and audits every target of a config, below one parent MLflow run.

    Args:
      config: checked, see `mlflow_privacy.experiment.load.load_config`.

    Returns:
      One report a registered version.

    Raises:
      ConfigError: data, model and split do not fit each other, or `run.log_dir` holds the results of another config;
        nothing is trained then.
      PrivacyAuditError: an audit failed; the run is marked as failed.
    """
    with open_log_dir(config) as place, taking_turns():
        return _run(config, place)


def _run(config: ExperimentConfig, place: Place) -> ExperimentReport:
    """The experiment, with a place for its files."""
    import mlflow

    clock, started = {}, time.perf_counter()
    source = load_data(config)
    source = with_canaries(source, config, _split(config, source, 0).canaries)
    variants = config.variants()
    prepared = {name: prepare(source, train, config.data.normalize) for name, train in variants.items()}
    models = {name: build_target(name, prepared[name], train, config.data) for name, train in variants.items()}
    splits = [_split(config, source, index) for index in range(config.run.num_experiments)]
    clock["load data"] = time.perf_counter() - started
    with _parent_run(config, source) as parent:
        _log_config(config)
        targets: list[tuple[TargetReport, TrainSection, Split, Path | None]] = []
        started = time.perf_counter()
        for index, split in enumerate(splits):
            for name, train in variants.items():
                weights = place.scratch / f"target_{len(targets)}" if place.folder else None
                trained = _train_target(
                    config, name, train, prepared[name], models[name], split, index, weights=weights
                )
                targets.append((trained, train, split, weights))
        clock["train targets"] = time.perf_counter() - started
        started = time.perf_counter()
        audits = []
        for target, train, split, weights in targets:
            target, result = _audit_target(config, target)
            audits.append(
                Audited(
                    report=target,
                    train=train.model_dump(),
                    members=split.train,
                    nonmembers=split.holdout,
                    population=split.population,
                    result=result,
                    weights=weights,
                )
            )
        clock["audit"] = time.perf_counter() - started
        clock = {stage: round(seconds, 3) for stage, seconds in clock.items()}
        reports = tuple(audited.report for audited in audits)
        report = ExperimentReport(config.name, parent.info.run_id, parent.info.experiment_id, reports, clock)
        mlflow.log_dict(to_json(report), "experiment.json")
        write_experiment(
            report,
            audits,
            source,
            place,
            config=config.model_dump(exclude_unset=True),
            algorithm=config.audit.algorithm,
            time_log=config.run.time_log,
            report_log=config.audit.report_log,
        )
    return report


def _split(config: ExperimentConfig, data: DataSet, experiment: int) -> Split:
    split = split_indices(
        len(data.records),
        seed=config.run.random_seed,
        experiment=experiment,
        train_fraction=config.data.train_fraction,
        size=config.data.size,
        population_size=config.audit.population_size,
        n_population=0 if data.population is None else len(data.population),
        canaries=None if config.dp_audit is None else config.dp_audit.canary_size,
    )
    pool = len(split.train) + len(split.holdout) if split.canaries is None else len(split.canaries)
    asked = config.audit.data_size
    if asked is not None and asked > pool:
        what = "the pool has" if split.canaries is None else "there are"
        kind = "records" if split.canaries is None else "canaries"
        raise ConfigError(f"audit.data_size is {asked}, but {what} {pool} {kind}. Lower it, or leave it out.")
    return split


@contextlib.contextmanager
def _parent_run(config: ExperimentConfig, data: DataSet) -> Iterator[Any]:
    """The run above all others: the project's own under `mlflow run`, else a new one in the config's experiment."""
    import mlflow

    wanted = config.run.experiment_name
    inside = mlflow.active_run() is not None
    adopted = bool(os.environ.get("MLFLOW_RUN_ID")) and not inside
    if wanted and not adopted and not inside:
        mlflow.set_experiment(wanted)
    tags = {ROLE: "experiment", "privacy.data_source": data.source}
    with mlflow.start_run(run_name=None if adopted else config.name, nested=inside, tags=tags) as run:
        client = mlflow.MlflowClient()
        if wanted and (adopted or inside):
            found = client.get_experiment(run.info.experiment_id).name
            if found != wanted:
                _logger.warning(
                    "run.experiment_name %r is not used: the run that is open belongs to experiment %r. "
                    "Use `mlflow run --experiment-name`.",
                    wanted,
                    found,
                )
        open_as_training(client, run.info.experiment_id)
        yield run


def _log_config(config: ExperimentConfig) -> None:
    """The effective config on the parent run: as a file that can be run again, and as parameters to compare by."""
    import mlflow
    import yaml

    values = config.model_dump(exclude_unset=True)
    mlflow.log_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "config.yaml")
    flat = _flat({key: value for key, value in config.model_dump().items()})
    mlflow.log_params({key: str(value)[:500] for key, value in flat.items()})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys of the characters MLflow allows; unset values are left out."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + re.sub(r"[^\w .:/-]", "_", str(key))
        if isinstance(value, Mapping):
            out.update(_flat(value, f"{name}."))
        elif value is not None and value != []:
            out[name] = value
    return out


def _train_target(
    config: ExperimentConfig,
    variant: str,
    train: TrainSection,
    data: Any,
    template: Any,
    split: Split,
    experiment: int,
    *,
    weights: Path | None = None,
) -> TargetReport:
    """Trains one target in a run of its own, with its lineage, and registers it; `weights` also gets its files."""
    import mlflow

    from mlflow_privacy.lineage.log import log_lineage
    from mlflow_privacy.trainers import make_recipe, trainer_for

    seed = target_seed(config.run.random_seed, experiment)
    settings = recipe_settings(train, config.data, data.task)
    parts = split.parts(data)
    pool = Records.concat([parts["train"], parts["holdout"]])
    members = np.arange(len(pool)) < len(parts["train"])
    task = task_of(template, data)
    live = {"base": template} if isinstance(template, LanguageModel) else {}
    recipe = make_recipe(template, {**settings, **live}, task=task, source="the experiment's config", data=pool)
    suffix = f" #{experiment + 1}" if config.run.num_experiments > 1 else ""
    tags = {ROLE: "target", "privacy.variant": variant}
    with mlflow.start_run(run_name=f"train {variant}{suffix}", nested=True, tags=tags) as run:
        options = {f"model_options.{key}": value for key, value in train.model_options.items()}
        mlflow.log_params(
            {
                "model_name": train.model_name,
                **settings,
                **options,
                "seed": seed,
                "dataset": data.name,
                "task": task,
            }
        )
        started = time.perf_counter()
        (model,) = trainer_for(recipe).train(recipe, pool, members[None], [seed], device=train.device)
        metrics = {"train_seconds": round(time.perf_counter() - started, 3)}
        metrics.update(_quality(model, parts, task, config))
        settings, spent = privacy_spent(recipe, settings, len(parts["train"]))
        metrics.update(spent)
        mlflow.log_metrics(metrics)
        if weights is not None:
            weights.mkdir()
            trainer_for(recipe).save(recipe, model, weights)
        if data.classes:
            mlflow.log_dict({"classes": list(data.classes)}, "classes.json")
        population = parts["population"] if len(parts["population"]) else None
        canaries = None if split.canaries is None else np.isin(split.train, split.canaries)
        log_lineage(
            train=parts["train"], holdout=parts["holdout"], population=population, recipe=settings, canaries=canaries
        )
        version = register_model(model, config.name, parts["train"].x[:2])
        mlflow.MlflowClient().set_model_version_tag(config.name, version, "variant", f"{variant}{suffix}")
    _logger.info("Trained %s%s: %s v%s, %s", variant, suffix, config.name, version, metrics)
    uri = f"models:/{config.name}/{version}"
    return TargetReport(variant, experiment, version, uri, run.info.run_id, metrics)


def _quality(model: Any, parts: Mapping[str, Records], task: Task, config: ExperimentConfig) -> dict[str, float]:
    """Accuracy (or R²) and mean loss on the training and the held-out records."""
    from mlflow_privacy.signals import model_outputs

    known = np.unique(np.concatenate([parts["train"].y, parts["holdout"].y]))
    classes = known if task == "classification" else None
    metrics = {}
    for part in ("train", "holdout"):
        records = parts[part]
        outputs = model_outputs(
            model,
            records,
            task=task,
            classes=classes,
            device=config.audit.device,
            batch_size=config.audit.batch_size,
        )
        loss = float(np.mean(outputs.loss))
        metrics[f"{part}_loss"] = round(loss, 6)
        if outputs.correct is not None:
            metrics[f"{part}_accuracy"] = round(float(np.mean(outputs.correct)), 6)
        elif task == "regression" and np.var(records.y) > 0:
            metrics[f"{part}_r2"] = round(1 - loss / float(np.var(records.y)), 6)
    return metrics


def _audit_target(config: ExperimentConfig, target: TargetReport) -> tuple[TargetReport, AuditResult]:
    """Audits one version exactly as anybody would: by MLflow's own `evaluate`; with what it found in memory."""
    import mlflow

    from mlflow_privacy.evaluators.call import LISTENER

    options = evaluator_options(config)
    found: list[AuditResult] = []
    token = LISTENER.set(found.append)
    title = f"audit {config.name} v{target.version}"
    with mlflow.start_run(run_name=title, nested=True, tags={"privacy.variant": target.variant}) as run:
        try:
            result = mlflow.models.evaluate(
                target.model_uri, evaluators=["privacy_meter"], evaluator_config={"privacy_meter": options}
            )
        finally:
            LISTENER.reset(token)
    for warning in found[-1].warnings:
        _logger.warning("%s v%s: %s", config.name, target.version, warning)
    audit = {key: float(value) for key, value in result.metrics.items()}
    named = found[-1].headline
    return dataclasses.replace(target, audit_run_id=run.info.run_id, audit=audit, headline=named), found[-1]
