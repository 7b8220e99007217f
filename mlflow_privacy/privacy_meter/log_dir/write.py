"""The files of an experiment: into the parent run, and into `run.log_dir` if there is one."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.privacy_meter.log_dir.layout import (
    Model,
    audited_rows,
    memberships,
    metadata,
    models_of,
    pool_rows,
    signal_tables,
)
from mlflow_privacy.privacy_meter.log_dir.place import CONFIG, Place
from mlflow_privacy.privacy_meter.log_dir.records import Audited, ExperimentReport
from mlflow_privacy.report.average_figures import average_figure, target_roc
from mlflow_privacy.report.average_tables import average_arrays, average_csv, average_flat_metrics, target_arrays
from mlflow_privacy.store.quiet import no_artifact_bars
from mlflow_privacy.types import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_privacy.report.average_tables import Named
    from mlflow_privacy.store.fetch import RunFiles
    from mlflow_privacy.types import AuditResult
    from mlflow_privacy.zoo import DataSet

_logger = logging.getLogger(__name__)
FOLDER = "privacy_meter"  # of the parent run
_METRICS = 1000  # in one request


def write_experiment(
    report: ExperimentReport,
    audits: Sequence[Audited],
    data: DataSet,
    place: Place,
    *,
    config: Mapping[str, Any],
    algorithm: str | None,
    time_log: bool,
    report_log: str,
) -> None:
    """Logs timings and averages over targets to the parent run, which is active, and writes the log directory if any.

    The parent run gets metrics `time/<stage>` (where `time_log` asks for them) and `average/<variant>/<attack>/…`, and
    the averages' table, arrays and figures below `privacy_meter/report`. With a log directory it gets the other files
    too, but for the weights: those of a reference are in its own run, a target is a registered model.

    Args:
      report: of the experiment.
      audits: in the order of `report.targets`.
      data: the data set as loaded; its row ids name the records.
      place: of the log directory.
      config: what the config file said, by section.
      algorithm: the attack that names the files of signals; None for that of the first audit's verdict.
      time_log: whether timings are logged and written.
      report_log: folder in the log directory for the audits' artifacts.
    """
    import mlflow

    root = place.scratch / "layout"
    named = [(audited.report.variant, audited.result) for audited in audits]
    times = report.timings if time_log else {}
    metrics = [(f"time/{stage.replace(' ', '_')}", seconds) for stage, seconds in times.items()]
    metrics += average_flat_metrics(named).items()
    for start in range(0, len(metrics), _METRICS):
        mlflow.log_metrics(dict(metrics[start : start + _METRICS]))
    curves = _write_averages(root / "report", report.name, named)
    models, columns = models_of(audits)
    if place.folder is not None:
        files_of = _opener(report, models)
        _write_targets(root / "report" / "exp", audits, data, curves)
        _write_signals(root / "signals", audits, columns, (algorithm or audits[0].result.headline).lower(), data)
        weights = _move_weights(models, files_of, place.scratch, place.scratch / "weights-of-all")
        _write_models(root / "models", models, weights, audits, data)
        if time_log:
            _write(root / "report" / "log_time_analysis.log", time_lines(report.timings, audits).encode())
    with no_artifact_bars():
        mlflow.log_artifacts(str(root), FOLDER)
    if place.folder is None:
        return
    for source in sorted((place.scratch / "weights-of-all").glob("*")):
        source.rename(root / "models" / source.name)
    _write_summary(root, report, files_of, config=config, time_log=time_log, report_log=report_log)
    place.commit(root)


def time_lines(timings: Mapping[str, float], audits: Sequence[Audited]) -> str:
    """The timing log: seconds per stage, and below them the stages of each audit.

    Args:
      timings: of the experiment.
    """
    lines = [f"Time analysis, written {time.strftime('%Y-%m-%d %H:%M:%S %z')}", "", "experiment"]
    lines += _stages(timings)
    for audited in audits:
        label = f"audit of {audited.result.model.label} ({audited.report.variant})"
        lines += ["", label, *_stages(audited.result.timings)]
    return "\n".join(lines) + "\n"


def _stages(timings: Mapping[str, float]) -> list[str]:
    rows = [*timings.items(), ("total", sum(timings.values()))]
    return [f"  {stage:<24}{seconds:>12.3f} s" for stage, seconds in rows]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _save(path: Path, array: np.ndarray) -> None:
    """An array without pickles; strings as fixed-width unicode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array.astype(str) if array.dtype.hasobject else array
    np.save(path, array, allow_pickle=False)


def _write_averages(folder: Path, name: str, named: Named) -> tuple[bytes, bytes]:
    """Table, arrays and figures over all targets; returns the figures, linear and log-log.

    One target alone has nothing to average: its own curves stand there, and say that they are those of one target.
    """
    _write(folder / "attack_result_average.csv", average_csv(named))
    np.savez(folder / "attack_result_average.npz", **average_arrays(named))
    variants = {variant for variant, _ in named}
    if len(named) == 1:
        ((variant, result),) = named
        curves = _curves(result, f"the only target, {variant}")
    else:
        title = f"{name}: {named[0][0]}" if len(variants) == 1 else name
        curves = average_figure(named, log=False, title=title), average_figure(named, log=True, title=title)
    for file, curve in zip(("ROC_average.png", "ROC_log_average.png"), curves, strict=True):
        _write(folder / file, curve)
    return curves


def _curves(result: AuditResult, title: str) -> tuple[bytes, bytes]:
    """A target's curve, linear and log-log."""
    return target_roc(result, log=False, title=title), target_roc(result, log=True, title=title)


def _write_targets(folder: Path, audits: Sequence[Audited], data: DataSet, curves: tuple[bytes, bytes]) -> None:
    """Figures and arrays of each target's headline attack; `curves` are those of `_write_averages`."""
    for i, audited in enumerate(audits):
        where = audited_rows(audited)
        order = np.argsort(where)
        if len(audits) > 1:
            curves = _curves(audited.result, f"target {i}, {audited.report.variant}")
        _write(folder / f"ROC_{i}.png", curves[0])
        _write(folder / f"ROC_log_{i}.png", curves[1])
        arrays = target_arrays(audited.result, order, np.asarray(data.records.row_ids)[where[order]])
        np.savez(folder / f"attack_result_{i}.npz", **arrays)


def _write_signals(
    folder: Path, audits: Sequence[Audited], columns: Sequence[Sequence[int]], algorithm: str, data: DataSet
) -> None:
    """Signals with the row ids they belong to."""
    tables = signal_tables(audits, columns)
    rows, table = tables["pool"]
    _save(folder / f"{algorithm}_signals.npy", table)
    _save(folder / "row_ids.npy", np.asarray(data.records.row_ids)[rows])
    if "population" in tables:
        rows, table = tables["population"]
        apart = data.records if data.population is None else data.population
        _save(folder / f"{algorithm}_signals_pop.npy", table)
        _save(folder / "population_row_ids.npy", np.asarray(apart.row_ids)[rows])


def _write_models(
    folder: Path, models: Sequence[Model], weights: Sequence[str | None], audits: Sequence[Audited], data: DataSet
) -> None:
    """Who trained on what, and what each model is."""
    pool = pool_rows(audits)
    table = memberships(models, pool)
    paths = [name and f"models/{name}" for name in weights]
    _save(folder / "memberships.npy", table)
    _save(folder / "row_ids.npy", np.asarray(data.records.row_ids)[pool])
    _write(folder / "models_metadata.json", _json(metadata(models, table, paths, data.name)))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).encode()


def _opener(report: ExperimentReport, models: Sequence[Model]) -> Callable[[str], RunFiles]:
    """The files of a run, by its id; where those of audits and references are is asked for once and together."""
    import mlflow

    from mlflow_privacy.store.fetch import RunFiles, homes_of

    client = mlflow.MlflowClient()
    run_ids = [target.audit_run_id for target in report.targets]
    run_ids += [model.run_id for model in models if model.role == "reference" and model.run_id]
    homes = homes_of(client, run_ids, report.experiment_id)
    return lambda run_id: RunFiles(client, run_id, homes.get(run_id))


def _move_weights(
    models: Sequence[Model], files_of: Callable[[str], RunFiles], scratch: Path, folder: Path
) -> list[str | None]:
    """Each model's weights as `model_<i>` with the ending of their form (a folder if they are several files).

    Returns: their names in `folder`, None for a model without a safe form.
    """
    folder.mkdir()
    names: list[str | None] = []
    for i, model in enumerate(models):
        if model.role == "target":
            source = model.audited.weights
        else:
            source = _copied(files_of(model.run_id), scratch / f"w{i}") if model.run_id else None
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source is not None else []
        if source is None or not files:
            names.append(None)
            continue
        single = files[0] if len(files) == 1 else source
        name = f"model_{i}{single.suffix if single is not source else ''}"
        single.rename(folder / name)
        names.append(name)
    return names


def _copied(files: RunFiles, folder: Path) -> Path | None:
    """A reference run's weights, None if it was stored without."""
    if not files.listed("weights"):
        return None
    folder.mkdir()
    with no_artifact_bars():
        return files.copy("weights", folder)


def _write_summary(
    root: Path,
    report: ExperimentReport,
    files_of: Callable[[str], RunFiles],
    *,
    config: Mapping[str, Any],
    time_log: bool,
    report_log: str,
) -> None:
    """The config, the summary, the timings, and each audit's artifacts."""
    import yaml

    _write(root / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode())
    _write(root / "experiment.json", _json(to_json(report)))
    if time_log:
        _write(root / "time.json", _json(dict(report.timings)))
    with no_artifact_bars():
        for target in report.targets:
            folder = root / report_log / f"v{target.version}"
            folder.mkdir(parents=True, exist_ok=True)
            files_of(target.audit_run_id).copy("", folder)
