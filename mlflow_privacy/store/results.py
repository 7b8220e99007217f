"""Results into MLflow: the audit run, the logged model, and the model version; and the way back to them."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, LoggedModelInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from mlflow_privacy.errors import ConfigError, StoreError
from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.figures import roc_figure, score_histograms
from mlflow_privacy.report.game_figures import game_figure
from mlflow_privacy.report.html import render_html, render_markdown
from mlflow_privacy.report.markdown import brief_verdict, markdown_verdict, replace_block
from mlflow_privacy.report.pdf import pdf_report
from mlflow_privacy.report.schema import json_text, result_json, without_records
from mlflow_privacy.report.sections.checks import far_off, turned_round
from mlflow_privacy.report.tables import audit_json, metrics_json, roc_csv, scores_table
from mlflow_privacy.report.text import (
    blind_differs,
    format_estimate,
    headline_attack,
    is_weaker,
    plain_text,
    verdict,
)
from mlflow_privacy.store.dpia import FORM, write_form
from mlflow_privacy.store.experiments import active_run_of
from mlflow_privacy.store.mlflow_private import dataset_entity, know_inputs, uri_below
from mlflow_privacy.store.quiet import no_artifact_bars
from mlflow_privacy.store.tags import (
    ATTACK,
    AUDIT_RUN,
    DPIA,
    HEADLINE,
    MODEL,
    MODEL_ID,
    MODEL_NAME,
    MODEL_VERSION,
    ROLE,
    own_record,
    record_of,
    record_tag,
)
from mlflow_privacy.types import AuditedModel, AuditResult

if TYPE_CHECKING:
    from mlflow.data.dataset import Dataset
    from mlflow.models.evaluation import EvaluationArtifact

_logger = logging.getLogger(__name__)

FOLDER = "privacy"
# Beside that folder, where whoever opens the run or the model sees it first.
REPORT, REPORT_TEXT, REPORT_PDF, RESULT = (
    "privacy_report.html",
    "privacy_report.md",
    "privacy_report.pdf",
    "privacy_result.json",
)
# Stays with the audit run: what a model holds travels with every deployed copy of it, which should be neither a list
# of who was in the training data nor megabytes.
RUN_ONLY = (f"{FOLDER}/scores.parquet", f"{FOLDER}/roc.csv", REPORT_PDF, FORM)
NOTE_TAG = "mlflow.note.content"  # what the run page shows as its description
_GAME_TAGS = {"dp": "epsilon"}  # the others are tagged by their own name
_TAG_FPR = 0.01  # one for all models, so that versions compare
_INFINITE = {"inf": math.inf, "-inf": -math.inf}  # as `to_json` writes them
_PAGE = 100
_BATCH = 1000  # metrics in one request


def publish(
    result: AuditResult,
    *,
    run_id: str,
    client: MlflowClient,
    log_metrics: bool,
    dataset: Dataset | None = None,
    write_back: bool = True,
    to_model: bool = True,
) -> dict[str, str]:
    """Writes an audit to its run, then to the logged model and the model version.

    The run comes first and must succeed. The rest is a copy for whoever looks at the model: where it is not allowed
    or not reachable, a warning is logged and the audit stands.

    Args:
      run_id: the audit run, which stays as it is (running or not).
      log_metrics: False where MLflow itself logs the `headline_metrics`, as `mlflow.evaluate` does for a logged model.
      dataset: the audited pool, which the metrics are logged with.
      write_back: False leaves logged model and model version untouched.
      to_model: False leaves the logged model untouched: it is not this user's.

    Returns: URI by path of each artifact of the run, such as "privacy/roc.png".
    """
    run, model_id = client.get_run(run_id), result.model.model_id
    to_model = to_model and write_back
    _know_inputs(run)
    with tempfile.TemporaryDirectory() as folder:
        document = _report_values(result)
        paths = _write_files(result, Path(folder) / FOLDER) + _write_report(document, Path(folder), pdf=True)
        paths.append(write_form(result.about.dpia, Path(folder)))
        client.log_artifacts(run_id, folder)
        if log_metrics:
            _log_metrics(client, run, result, dataset, model_id if to_model else None)
        _tag_run(client, run, result)
        _log_params(client, run, result)
        if to_model and model_id:
            for name in RUN_ONLY:
                (Path(folder) / name).unlink(missing_ok=True)
            _write_report(without_records(document), Path(folder))
            _attempt(f"artifacts of {model_id}", lambda: client.log_model_artifacts(model_id, folder))
            _attempt(f"tags of {model_id}", lambda: _tag_logged_model(client, model_id, run, result))
    if write_back and result.model.name and result.model.version:
        label, name, number = result.model.label, result.model.name, result.model.version
        # Asked for once for both calls below; again if that failed.
        version = functools.cache(lambda: client.get_model_version(name, number))
        _attempt(f"tags of {label}", lambda: _tag_version(client, version().tags, run_id, result))
        _attempt(f"the description of {label}", lambda: _describe_version(client, version().description, run, result))
    return {path: uri_below(run.info.artifact_uri, path) for path in paths}


def evaluation_artifacts(result: AuditResult, paths: Mapping[str, str]) -> dict[str, EvaluationArtifact]:
    """MLflow's artifact objects of what `publish` wrote, named "privacy/roc", "privacy/scores", ….

    JSON is there at once; figures and tables are loaded from the run when their content is first asked for.

    Args:
      paths: what `publish` returned.
    """
    from mlflow_privacy.store.artifacts import KINDS  # it brings pyplot, which MLflow's own module imports

    at_once = {"metrics.json": metrics_json, "audit.json": audit_json}
    found: dict[str, EvaluationArtifact] = {}
    for path, uri in paths.items():
        file = path.rsplit("/", 1)[-1]
        if file not in KINDS:
            continue
        name, kind = KINDS[file]
        found[name] = kind(uri, at_once[file](result) if file in at_once else None)
    return found


def headline_metrics(result: AuditResult) -> dict[str, float]:
    """The few metrics that go into MLflow's tables and charts, which have a column or a chart for each.

    AUC and TPR at 1 % FPR of each attack, AUC of the most exposed group, the blind baseline, and what a game answers.
    All others, and the ends of the intervals, are in metrics.json.

    >>> from mlflow_privacy.report.example import example_result
    >>> sorted(headline_metrics(example_result(n=200)))[:3]
    ['privacy/blind/auc', 'privacy/headline/auc', 'privacy/headline/tpr_at_fpr_0.01']
    """
    attacks = ("headline", *(attack.name for attack in result.attacks))
    shown = {f"{FOLDER}/{name}/{key}" for name in attacks for key in ("auc", fpr_key(_TAG_FPR))}
    shown |= {f"{FOLDER}/headline/worst_group/auc", f"{FOLDER}/blind/auc"}
    shown |= {f"{FOLDER}/{name}/{key}" for name, game in result.games.items() for key in game.metrics}
    ordered = sorted(result.metrics, key=lambda key: "/headline/" not in key)  # MLflow's lists have it first
    return {key: result.metrics[key] for key in ordered if key in shown}


def audit_metrics(client: MlflowClient, run: Run) -> dict[str, float]:
    """All metrics of the audit in a run: from its metrics.json, or of an audit before that held them from the run.

    Raises: StoreError: the file is gone or cannot be read, and the run holds no intervals.
    """
    logged, problem = _privacy_metrics(run), "it has no flat metrics"
    try:
        with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as folder, no_artifact_bars():
            path = Path(client.download_artifacts(run.info.run_id, f"{FOLDER}/metrics.json", folder))
            found = flat_metrics(json.loads(path.read_text(encoding="utf-8")))
        if found is not None:
            return _with_headline(found, run)
    except (MlflowException, OSError, ValueError) as error:
        problem = str(error)
    if any(key.endswith("_low") for key in logged):
        return _with_headline(logged, run)
    raise StoreError(
        f"The metrics of the audit in run {run.info.run_id} cannot be read from its artifact {FOLDER}/metrics.json: "
        f"{problem}. Audit the model again; its reference models are found again."
    )


def _with_headline(metrics: Mapping[str, float], run: Run) -> dict[str, float]:
    """The metrics, those of the verdict's attack as `privacy/headline/…` too, which older audits did not write."""
    own = f"{FOLDER}/{run.data.tags.get(ATTACK)}/"
    again = {f"{FOLDER}/headline/{key.removeprefix(own)}": v for key, v in metrics.items() if key.startswith(own)}
    return {**metrics, **{key: value for key, value in again.items() if key not in metrics}}


def flat_metrics(findings: Any) -> dict[str, float] | None:
    """The flat metrics of a metrics.json; None of one from before it held them."""
    values = findings.get("metrics") if isinstance(findings, Mapping) else None
    if not isinstance(values, Mapping):
        return None
    numbers = {str(key): _INFINITE.get(str(value), value) for key, value in values.items()}
    return {k: float(v) for k, v in numbers.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def latest_audit(model_uri: str, client: MlflowClient | None = None) -> tuple[str, dict[str, float]]:
    """Run id and metrics of the newest audit of a model that is complete.

    Raises: StoreError: there is none, its metrics cannot be read, or the model is not registered.
    """
    client = client or MlflowClient()
    run = newest_audit(model_uri, client)
    return run.info.run_id, audit_metrics(client, run)


def newest_audit(model_uri: str, client: MlflowClient) -> Run:
    """The run of the newest audit of a model that is complete.

    An audit run belongs to the model by the tags that `publish` sets. The one that the model version's own tag
    names counts as complete, since that tag is written last; any other must be FINISHED.

    Raises: StoreError: there is none, or the model is not registered.
    """
    model, tagged_run = _resolve(client, model_uri)
    runs = [run for run in _audit_runs(client, model, tagged_run) if _privacy_metrics(run)]
    if not runs:
        raise StoreError(
            f"{model_uri} has no finished privacy audit. Audit it first: "
            f'mlflow.evaluate("{model_uri}", evaluators=["privacy_meter"]), or mlflow-privacy audit {model_uri}.'
        )
    return max(runs, key=audited_at)


def audited_model(model_uri: str, client: MlflowClient | None = None) -> AuditedModel:
    """What a URI means in the registry at this moment: name, version and logged model, without loading anything.

    Raises: StoreError: the model is not registered.
    """
    return _resolve(client or MlflowClient(), model_uri)[0]


def _write_files(result: AuditResult, folder: Path) -> list[str]:
    """All artifacts into `folder`; their paths inside the run."""
    folder.mkdir()
    content = {
        "roc.png": roc_figure(result),
        "scores_histogram.png": score_histograms(result),
        "metrics.json": _json_bytes(metrics_json(result)),
        "roc.csv": roc_csv(result),
        "audit.json": _json_bytes(audit_json(result)),
    }
    for name, game in result.games.items():
        picture = game_figure(result, game)
        if picture is not None:
            content[f"game_{name}.png"] = picture
    for name, data in content.items():
        (folder / name).write_bytes(data)
    scores_table(result).to_parquet(folder / "scores.parquet", index=False)
    return [f"{FOLDER}/{name}" for name in (*content, "scores.parquet")]


def _report_values(result: AuditResult) -> dict[str, Any]:
    """What the report shows, as JSON values."""
    limits = result.options.get("thresholds") or {}
    shown = ReportOptions(thresholds=limits, slices=result.slices, content=result.content)
    try:
        text = result_json(result, shown)
    except ConfigError as error:  # the audit is done and stands, so a wrong limit is no error any more
        _logger.warning("The report shows no limits: %s", error)
        text = result_json(result, dataclasses.replace(shown, thresholds={}))
    return json.loads(text)


def _write_report(document: Mapping[str, Any], folder: Path, *, pdf: bool = False) -> list[str]:
    """The report in all its forms, made from one document's JSON values; their paths inside the run."""
    page = render_html(document)
    files = {
        REPORT: page.encode(),
        REPORT_TEXT: render_markdown(document).encode(),
        RESULT: json_text(document).encode(),
    }
    printed = pdf_report(page) if pdf else None
    if printed is not None:
        files[REPORT_PDF] = printed
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return list(files)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False).encode()


def _log_metrics(
    client: MlflowClient, run: Run, result: AuditResult, dataset: Dataset | None, model_id: str | None
) -> None:
    """The headline metrics in one request, on the run and through it on the logged model, with their data set."""
    inputs = run.inputs
    known_data = {(d.dataset.name, d.dataset.digest) for d in (inputs.dataset_inputs if inputs else [])}
    known_models = {m.model_id for m in (inputs.model_inputs if inputs else None) or []}
    new_data = []
    if dataset is not None and (dataset.name, dataset.digest) not in known_data:
        new_data = [DatasetInput(dataset_entity(dataset), tags=[])]
    new_models = [LoggedModelInput(model_id)] if model_id and model_id not in known_models else []
    if new_data or new_models:
        client.log_inputs(run.info.run_id, datasets=new_data or None, models=new_models or None)
    now = int(time.time() * 1000)
    metrics = [
        Metric(
            key,
            value,
            now,
            0,
            model_id=model_id,
            dataset_name=None if dataset is None else dataset.name,
            dataset_digest=None if dataset is None else dataset.digest,
            run_id=run.info.run_id,
        )
        for key, value in headline_metrics(result).items()
    ]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + _BATCH], synchronous=True)


def _know_inputs(run: Run) -> None:
    """Tells this process's record of the active run which data and models the run has as inputs.

    Whoever logs metrics with a data set compares with that record, as `mlflow.evaluate` does after an audit. Where it
    lacks the data set or the model, MLflow sends them again, once a metric, in one long request.
    """
    active = active_run_of(run.info.run_id)
    if active is not None and run.inputs is not None:
        know_inputs(active, run.inputs)


def _tag_run(client: MlflowClient, run: Run, result: AuditResult) -> None:
    """What the run is, and the verdict as its description."""
    model = result.model
    tags = {
        ROLE: "audit",
        HEADLINE: verdict(result),
        ATTACK: headline_attack(result).name,
        MODEL: model.uri,
        MODEL_NAME: model.name,
        MODEL_VERSION: model.version,
        MODEL_ID: model.model_id,
        DPIA: "filled" if result.about.dpia else None,
    }
    record = {
        "audited_at": int(time.time() * 1000),  # a run may have begun long before its audit
        "model_run_id": model.run_id,
        "pool_digest": result.pool_digest,
        "fingerprint": result.references.get("fingerprint"),
        "n_imported": result.references.get("n_imported") or None,
    }
    texts = {key: plain_text(value, 1000) for key, value in tags.items() if value}
    texts |= record_tag(own_record(run.data.tags) | record)
    if note := replace_block(run.data.tags.get(NOTE_TAG), _blocks(result)):
        texts[NOTE_TAG] = note
    entities = [RunTag(key, text) for key, text in texts.items()]
    client.log_batch(run.info.run_id, tags=entities, synchronous=True)


def _log_params(client: MlflowClient, run: Run, result: AuditResult) -> None:
    """What the audit ran with, as parameters: columns of the list of runs, by which audits compare.

    MLflow never changes a parameter. In a run that has them from an audit before, they stay as they are.
    """
    references = result.references
    values = {
        "references": references.get("n"),
        "reference_fraction": references.get("fraction"),
        "random_seed": result.options.get("random_seed"),
        "attacks": ", ".join(attack.name for attack in result.attacks),
        "members": int(result.membership.sum()),
        "nonmembers": int((~result.membership).sum()),
        "game": ", ".join(result.games) or "membership",
    }
    params = [Param(f"{FOLDER}/{key}", str(value)) for key, value in values.items() if value is not None]
    if any(run.data.params.get(param.key, param.value) != param.value for param in params):
        _logger.info("The parameters of run %s stay those of its first audit.", run.info.run_id)
        return
    client.log_batch(run.info.run_id, params=params, synchronous=True)


def _short_tags(result: AuditResult, run_id: str) -> dict[str, str | None]:
    """The verdict in tags short enough for the version list, which cuts them; None for one that does not apply."""
    metrics = headline_attack(result).metrics
    auc, tpr = metrics.get("auc"), metrics.get(fpr_key(_TAG_FPR))
    return {
        "privacy.auc": None if auc is None else format_estimate(auc),
        "privacy.tpr": None if tpr is None else f"{format_estimate(tpr)} at {100 * _TAG_FPR:g}% FPR",
        # Of games the last audit of each stands, since an audit of another game says nothing about it.
        **{f"privacy.{_GAME_TAGS.get(name, name)}": plain_text(g.summary, 80) for name, g in result.games.items()},
        "privacy.caution": _caution(result),
        AUDIT_RUN: run_id,  # last: its presence says that the others belong to this audit
    }


def _caution(result: AuditResult) -> str | None:
    """What undoes or weakens the verdict, in a few words."""
    parts = [f"blind baseline {format_estimate(result.blind)}"] if blind_differs(result) else []
    parts += ["no reference models"] if is_weaker(result) else []
    parts += ["AUC below one half: something is turned round"] if turned_round(result) else []
    parts += ["references unlike the model"] if far_off(result) else []
    return "; ".join(parts) or None


def _tag_logged_model(client: MlflowClient, model_id: str, run: Run, result: AuditResult) -> None:
    tags = _short_tags(result, run.info.run_id)
    old = client.get_logged_model(model_id).tags
    tags[NOTE_TAG] = replace_block(old.get(NOTE_TAG), _blocks(result, run)) or old.get(NOTE_TAG)
    for key in (key for key, value in tags.items() if value is None and key in old):
        client.delete_logged_model_tag(model_id, key)
    client.set_logged_model_tags(model_id, {key: value for key, value in tags.items() if value is not None})


def _tag_version(client: MlflowClient, old: Mapping[str, str], run_id: str, result: AuditResult) -> None:
    """Sets the verdict's tags; removes those `old` ones of ours that no longer apply."""
    name, version = str(result.model.name), str(result.model.version)
    for key, value in _short_tags(result, run_id).items():
        if value is not None:
            client.set_model_version_tag(name, version, key, value)
        elif key in old:
            client.delete_model_version_tag(name, version, key)


def _describe_version(client: MlflowClient, old: str | None, run: Run, result: AuditResult) -> None:
    """Replaces this package's block in the description; the rest is the owner's."""
    name, version = str(result.model.name), str(result.model.version)
    description = replace_block(old, _blocks(result, run))
    if description is None:
        _logger.warning(
            "The description of %s has no room for the verdict; its tags and run %s hold it.",
            result.model.label,
            run.info.run_id,
        )
        return
    client.update_model_version(name, version, description=description)


def _blocks(result: AuditResult, run: Run | None = None) -> tuple[str, ...]:
    """The verdict for a description, from the fullest to the shortest form; with a link to `run`."""
    link = {} if run is None else {"experiment_id": run.info.experiment_id, "run_id": run.info.run_id}
    return (
        markdown_verdict(result, **link),
        markdown_verdict(result, **link, max_warnings=1),
        brief_verdict(result, **link),
        brief_verdict(result),
    )


def _attempt(what: str, write: Callable[[], None]) -> None:
    """Runs `write`; if the server refuses or is gone, a warning, since the audit run itself is complete."""
    try:
        write()
    except (MlflowException, OSError) as error:
        _logger.warning("Could not write %s: %s The audit run itself is complete.", what, error)


def _version_of(client: MlflowClient, model_uri: str) -> tuple[str, str | None]:
    """Name and version that a URI "models:/..." means, or the id of a logged model and None.

    Raises:
      MlflowException: there is no such version.
    """
    name, _, last = urlparse(model_uri, allow_fragments=False).path.strip("/").partition("/")
    if not last:
        name, at, alias = name.rpartition("@")
        return (name, str(client.get_model_version_by_alias(name, alias).version)) if at else (alias, None)
    if last.isdigit():
        return name, last
    if last.lower() == "latest":
        found = client.search_model_versions(f"name='{name}'", max_results=1, order_by=["version_number DESC"])
    else:
        found = client.get_latest_versions(name, [last])
    if not found:
        raise MlflowException(f"no version of {name!r} is {last!r}.")
    return name, str(found[0].version)


def _resolve(client: MlflowClient, model_uri: str) -> tuple[AuditedModel, str | None]:
    """The model, and the audit run that its tag names."""
    if not model_uri.startswith("models:/"):
        return AuditedModel(model_uri, None, None, None, None, ""), None
    try:
        name, version = _version_of(client, model_uri)
        if version is None:
            tag = client.get_logged_model(name).tags.get(AUDIT_RUN)
            return AuditedModel(model_uri, None, None, name, None, ""), tag
        entity = client.get_model_version(name, version)
    except MlflowException as error:
        raise StoreError(f"{model_uri} is not in the registry: {error}") from error
    model = AuditedModel(model_uri, name, version, entity.model_id, entity.run_id or None, "")
    return model, entity.tags.get(AUDIT_RUN)


def _audit_runs(client: MlflowClient, model: AuditedModel, tagged_run: str | None) -> Iterator[Run]:
    """The run that the version's tag names, then all finished audits of this model.

    A run that audited another model after this one holds that one's metrics, so the tag alone is not trusted.
    """
    if tagged_run:
        try:
            run = client.get_run(tagged_run)
        except MlflowException as error:
            _logger.warning("Audit run %s, named by %s, cannot be read: %s", tagged_run, model.uri, error)
        else:
            if run.info.lifecycle_stage == "active" and is_audit_of(run, model):
                yield run
    experiments = [e.experiment_id for e in _pages(lambda token: client.search_experiments(page_token=token))]
    query = f"tags.`{ROLE}` = 'audit' and attributes.status = 'FINISHED'"

    def search(some: list[str]) -> Iterator[Run]:
        return _pages(lambda token: client.search_runs(some, query, page_token=token))

    for start in range(0, len(experiments), _PAGE):
        yield from (run for run in search(experiments[start : start + _PAGE]) if is_audit_of(run, model))


def is_audit_of(run: Run, model: AuditedModel) -> bool:
    """By logged model where both know one, else by name and version, else by URI.

    A name that was deleted and used again has the same versions but other source runs.
    """
    tags = run.data.tags
    model_id, source_run = tags.get(MODEL_ID), record_of(tags).get("model_run_id")
    if model_id and model.model_id:
        return model_id == model.model_id
    if source_run and model.run_id and source_run != model.run_id:
        return False
    if model.name:
        return (tags.get(MODEL_NAME), tags.get(MODEL_VERSION)) == (model.name, model.version)
    return tags.get(MODEL) == model.uri


def audited_at(run: Run) -> int:
    """When the audit in a run ended, in ms since 1970."""
    text = str(record_of(run.data.tags).get("audited_at", ""))
    return int(text) if text.isdecimal() else run.info.start_time


def _pages(fetch: Callable[[str | None], Any]) -> Iterator[Any]:
    """All entries of a paged search."""
    token: str | None = None
    while True:
        page = fetch(token)
        yield from page
        token = page.token
        if not token:
            return


def _privacy_metrics(run: Run) -> dict[str, float]:
    return {key: value for key, value in run.data.metrics.items() if key.startswith(f"{FOLDER}/")}
