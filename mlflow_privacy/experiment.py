"""An experiment: train targets on real data, register them, and audit every version through MLflow's evaluator.

config ─▶ data ─▶ split ─▶ targets, one run and one version each ─▶ mlflow.evaluate ─▶ summary
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.attacks import default_attacks
from mlflow_privacy.config_sections import ExperimentConfig, TrainSection, training_settings
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment_config import attack_name
from mlflow_privacy.experiment_data import Split, load_data, prepare, split_indices, target_seed
from mlflow_privacy.types import Records, to_json

_logger = logging.getLogger(__name__)
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"


@dataclasses.dataclass(frozen=True)
class TargetReport:
    """One audited target.

    Attributes:
      variant: its name in the config.
      experiment: 0 to `num_experiments` - 1.
      version: of the registered model; model_uri: "models:/NAME/VERSION".
      run_id: of its training; audit_run_id: of its audit.
      metrics: "train_accuracy", "holdout_accuracy", "train_loss", … ("train_r2" for a regression).
      audit: `privacy/<attack>/<metric>` of its audit.
      headline: the attack the verdict is about.
    """

    variant: str
    experiment: int
    version: str
    model_uri: str
    run_id: str
    metrics: Mapping[str, float]
    audit_run_id: str = ""
    audit: Mapping[str, float] = dataclasses.field(default_factory=dict)
    headline: str = ""


@dataclasses.dataclass(frozen=True)
class ExperimentReport:
    """What an experiment found.

    Attributes:
      name: of the registered model.
      run_id, experiment_id: of the parent run.
      targets: one report a version, in the order they were trained.
      timings: seconds per stage.
    """

    name: str
    run_id: str
    experiment_id: str
    targets: tuple[TargetReport, ...]
    timings: Mapping[str, float]


def evaluator_options(config: ExperimentConfig) -> dict[str, Any]:
    """The `evaluator_config={"privacy_meter": …}` of this experiment's audits."""
    audit = config.audit
    headline = attack_name(audit.algorithm) if audit.algorithm else None
    attacks = [attack_name(word) for word in audit.attacks] if audit.attacks is not None else None
    if attacks is not None and headline is not None and headline not in attacks:
        attacks = [headline, *attacks]
    defaults = default_attacks(True, "logit")
    if attacks is None and headline is not None and (headline not in defaults or not audit.num_ref_models):
        usual = defaults if audit.num_ref_models else ("population",)
        attacks = [headline, *(name for name in usual if name != headline)]
    options = {
        "num_ref_models": audit.num_ref_models,
        "reference_fraction": audit.reference_fraction,
        "random_seed": config.run.random_seed,
        "fprs": list(audit.fprs),
        "confidence": audit.confidence,
        "blind_baseline": audit.blind_baseline,
        "device": audit.device,
        "batch_size": audit.batch_size,
        "attack_options": {attack_name(name): dict(values) for name, values in audit.attack_options.items()},
        "attacks": attacks,
        "headline": headline,
    }
    return {key: value for key, value in options.items() if value is not None}


def run_experiment(config: ExperimentConfig) -> ExperimentReport:
    """Trains, registers and audits every target of a config, below one parent MLflow run.

    Args:
      config: checked, see `mlflow_privacy.experiment_config.load_config`.

    Returns:
      One report a registered version.

    Raises:
      ConfigError: data, model and split do not fit each other; nothing is trained then.
      PrivacyAuditError: an audit failed; the run is marked as failed.
    """
    import mlflow

    clock, started = {}, time.perf_counter()
    source = load_data(config)
    variants = config.variants()
    prepared = {name: prepare(source, train, config.data.normalize) for name, train in variants.items()}
    models = {name: _build(name, prepared[name], train) for name, train in variants.items()}
    splits = [_split(config, len(source.records), index) for index in range(config.run.num_experiments)]
    clock["load data"] = time.perf_counter() - started
    with _parent_run(config) as parent:
        _log_config(config, source)
        targets, started = [], time.perf_counter()
        for index, split in enumerate(splits):
            for name, train in variants.items():
                targets.append(_train_target(config, name, train, prepared[name], models[name], split, index))
        clock["train targets"] = time.perf_counter() - started
        started = time.perf_counter()
        targets = [_audit_target(config, target) for target in targets]
        clock["audit"] = time.perf_counter() - started
        clock = {stage: round(seconds, 3) for stage, seconds in clock.items()}
        if config.run.time_log:
            mlflow.log_metrics({f"time/{stage.replace(' ', '_')}": seconds for stage, seconds in clock.items()})
        report = ExperimentReport(config.name, parent.info.run_id, parent.info.experiment_id, tuple(targets), clock)
        mlflow.log_dict(to_json(report), "experiment.json")
    if config.run.log_dir:
        _write_log_dir(config, report, Path(config.run.log_dir))
    return report


def _split(config: ExperimentConfig, n: int, experiment: int) -> Split:
    return split_indices(
        n,
        seed=config.run.random_seed,
        experiment=experiment,
        train_fraction=config.data.train_fraction,
        data_size=config.audit.data_size,
        population_size=config.audit.population_size,
    )


def _build(variant: str, data: Any, train: TrainSection) -> Any:
    """The variant's model, untrained, once it is known that its recipe fits the data.

    Raises:
      ConfigError: the model or a setting does not fit the task; all faults at once.
    """
    from mlflow_privacy import zoo
    from mlflow_privacy.trainers.settings import read_settings

    if train.model_name in zoo.MODELS:
        faults = read_settings(training_settings(train), task=data.task)[1]
        if faults:
            raise ConfigError("\n  ".join([f"train (variant {variant!r}) does not fit the {data.task}:", *faults]))
    shape = tuple(data.records.x.shape[1:])
    return zoo.build_model(train.model_name, shape, data.num_outputs, train.model_options, task=data.task)


@contextlib.contextmanager
def _parent_run(config: ExperimentConfig) -> Iterator[Any]:
    """The run above all others: the project's own under `mlflow run`, else a new one in the config's experiment."""
    import mlflow

    wanted = config.run.experiment_name
    inside = mlflow.active_run() is not None
    adopted = bool(os.environ.get("MLFLOW_RUN_ID")) and not inside
    if wanted and not adopted and not inside:
        mlflow.set_experiment(wanted)
    with mlflow.start_run(run_name=None if adopted else config.name, nested=inside) as run:
        client = mlflow.MlflowClient()
        experiment = client.get_experiment(run.info.experiment_id)
        if wanted and experiment.name != wanted:
            _logger.warning(
                "run.experiment_name %r is not used: the run that is open belongs to experiment %r. "
                "Use `mlflow run --experiment-name`.",
                wanted,
                experiment.name,
            )
        # Without the tag the UI opens an experiment as if it were about generative AI, where models are hard to find.
        if experiment.tags.get(_KIND_TAG, "inferred").endswith("inferred"):
            client.set_experiment_tag(run.info.experiment_id, _KIND_TAG, _KIND)
        mlflow.set_tag("privacy.role", "experiment")
        yield run


def _log_config(config: ExperimentConfig, data: Any) -> None:
    """The effective config on the parent run: as a file that can be run again, and as parameters to compare by."""
    import mlflow
    import yaml

    values = config.model_dump(exclude_unset=True)
    mlflow.log_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "config.yaml")
    flat = _flat({key: value for key, value in config.model_dump().items()})
    mlflow.log_params({key: str(value)[:500] for key, value in flat.items()})
    mlflow.set_tag("privacy.data_source", data.source)


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
) -> TargetReport:
    """Trains one target in a run of its own, with its lineage, and registers it."""
    import mlflow

    from mlflow_privacy import zoo
    from mlflow_privacy.lineage.log import log_lineage
    from mlflow_privacy.trainers import make_recipe, trainer_for

    seed = target_seed(config.run.random_seed, experiment)
    settings = training_settings(train) if train.model_name in zoo.MODELS else {}
    parts = {name: data.records.take(index) for name, index in dataclasses.asdict(split).items()}
    pool = Records.concat([parts["train"], parts["holdout"]])
    members = np.arange(len(pool)) < len(parts["train"])
    recipe = make_recipe(template, settings, task=data.task, source="the experiment's config", data=pool)
    suffix = f" #{experiment + 1}" if config.run.num_experiments > 1 else ""
    with mlflow.start_run(run_name=f"train {variant}{suffix}", nested=True) as run:
        mlflow.set_tags({"privacy.role": "target", "privacy.variant": variant})
        options = {f"model_options.{key}": value for key, value in train.model_options.items()}
        mlflow.log_params(
            {
                "model_name": train.model_name,
                **settings,
                **options,
                "seed": seed,
                "dataset": data.name,
                "task": data.task,
            }
        )
        started = time.perf_counter()
        (model,) = trainer_for(recipe).train(recipe, pool, members[None], [seed], device=train.device)
        metrics = {"train_seconds": round(time.perf_counter() - started, 3)}
        metrics.update(_quality(model, parts, data, config))
        mlflow.log_metrics(metrics)
        if data.classes:
            mlflow.log_dict({"classes": list(data.classes)}, "classes.json")
        population = parts["population"] if len(parts["population"]) else None
        log_lineage(train=parts["train"], holdout=parts["holdout"], population=population, recipe=settings)
        version = _register(model, config.name, parts["train"].x[:2])
        mlflow.MlflowClient().set_model_version_tag(config.name, version, "variant", f"{variant}{suffix}")
    _logger.info("Trained %s%s: %s v%s, %s", variant, suffix, config.name, version, metrics)
    uri = f"models:/{config.name}/{version}"
    return TargetReport(variant, experiment, version, uri, run.info.run_id, metrics)


def _quality(model: Any, parts: Mapping[str, Records], data: Any, config: ExperimentConfig) -> dict[str, float]:
    """Accuracy (or R²) and mean loss on the training and the held-out records."""
    from mlflow_privacy.signals import model_outputs

    classes = np.unique(np.concatenate([parts["train"].y, parts["holdout"].y])) if data.classes else None
    metrics = {}
    for part in ("train", "holdout"):
        records = parts[part]
        outputs = model_outputs(
            model,
            records,
            task=data.task,
            classes=classes,
            device=config.audit.device,
            batch_size=config.audit.batch_size,
        )
        loss = float(np.mean(outputs.loss))
        metrics[f"{part}_loss"] = round(loss, 6)
        if outputs.correct is not None:
            metrics[f"{part}_accuracy"] = round(float(np.mean(outputs.correct)), 6)
        elif np.var(records.y) > 0:
            metrics[f"{part}_r2"] = round(1 - loss / float(np.var(records.y)), 6)
    return metrics


def _register(model: Any, name: str, example: np.ndarray) -> str:
    """Logs a model in the active run and registers it; returns the version.

    Requirements are given, because inferring them takes seconds a model.
    """
    import inspect

    import mlflow
    from mlflow.models import infer_signature

    if hasattr(model, "get_params"):
        import sklearn

        signature = infer_signature(example, np.asarray(model.predict(example)))
        options = _skops_options(model, inspect.signature(mlflow.sklearn.log_model).parameters)
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature,
            registered_model_name=name,
            pip_requirements=[f"scikit-learn=={sklearn.__version__}", f"numpy=={np.__version__}"],
            **options,
        )
    else:
        import torch

        model = model.cpu().eval()
        with torch.inference_mode():
            output = model(torch.from_numpy(np.ascontiguousarray(example))).numpy()
        # An exported graph (the default of newer versions) has no layers that a reference model could reset.
        accepts = inspect.signature(mlflow.pytorch.log_model).parameters
        options = {"serialization_format": "pickle"} if "serialization_format" in accepts else {}
        with _without_warnings("mlflow.pytorch"):  # of the pickle, on every target
            info = mlflow.pytorch.log_model(
                model,
                name="model",
                signature=infer_signature(example, output),
                registered_model_name=name,
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
                **options,
            )
    return str(info.registered_model_version)


def _skops_options(model: Any, accepts: Mapping[str, Any]) -> dict[str, Any]:
    """Options that store an estimator without a pickle, where MLflow can.

    skops asks to name types whose files could crash a process, such as trees; here they are scikit-learn's own, of a
    model that was trained a moment ago.
    """
    if "skops_trusted_types" not in accepts:
        return {}
    import skops.io

    types = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    return {"skops_trusted_types": types} if all(name.startswith("sklearn.") for name in types) else {}


@contextlib.contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Lets only errors of one logger through."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _audit_target(config: ExperimentConfig, target: TargetReport) -> TargetReport:
    """Audits one version exactly as anybody would: by MLflow's own `evaluate`."""
    import mlflow

    options = evaluator_options(config)
    title = f"audit {config.name} v{target.version}"
    with mlflow.start_run(run_name=title, nested=True, tags={"privacy.variant": target.variant}) as run:
        result = mlflow.models.evaluate(
            target.model_uri, evaluators=["privacy_meter"], evaluator_config={"privacy_meter": options}
        )
    audit = {key: float(value) for key, value in result.metrics.items()}
    names = [key.split("/")[1] for key in audit if re.fullmatch(r"privacy/(?!blind)[^/]+/auc", key)]
    headline = options.get("headline") or (names[0] if names else "")
    return dataclasses.replace(target, audit_run_id=run.info.run_id, audit=audit, headline=headline)


def _write_log_dir(config: ExperimentConfig, report: ExperimentReport, folder: Path) -> None:
    """The config, the summary, the timings, and each audit's artifacts, as files."""
    import mlflow
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    values = config.model_dump(exclude_unset=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
    (folder / "experiment.json").write_text(json.dumps(to_json(report), indent=1), "utf-8")
    if config.run.time_log:
        (folder / "time.json").write_text(json.dumps(dict(report.timings), indent=1), "utf-8")
    for target in report.targets:
        place = folder / config.audit.report_log / f"v{target.version}"
        place.mkdir(parents=True, exist_ok=True)
        mlflow.artifacts.download_artifacts(run_id=target.audit_run_id, dst_path=str(place))
