"""An audit inside an MLflow run: reference runs below it, results into it and back onto the model version."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.models.evaluation import EvaluationResult

from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.evaluators.about import about_audit
from mlflow_privacy.evaluators.call import LISTENER, Found, Request
from mlflow_privacy.report.dpia import merged_texts
from mlflow_privacy.store.dpia import kept_form
from mlflow_privacy.store.experiments import active_run_of, open_as_training
from mlflow_privacy.store.references import ReferenceStore, process_tag, sweep_dead_runs
from mlflow_privacy.store.results import evaluation_artifacts, headline_metrics, publish
from mlflow_privacy.store.tags import ROLE, record_tag


@contextlib.contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """Turns SIGTERM into SystemExit, so that MLflow closes the run as failed instead of leaving it running for ever."""

    def exit_now(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    untouched = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if untouched:
        signal.signal(signal.SIGTERM, exit_now)
    try:
        yield
    finally:
        if untouched:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def audit_into_run(request: Request, run_id: str) -> EvaluationResult:
    """Audits `request.target`, storing references as children of `run_id` and results in it."""
    client = MlflowClient()
    run, options = active_run_of(run_id) or client.get_run(run_id), request.options
    experiment_id = run.info.experiment_id
    sweep_dead_runs(client, [experiment_id])
    tags = {ROLE: "audit"}
    if request.own_run:
        request.opened.append((run_id, experiment_id))
        tags |= {
            "mlflow.runName": f"privacy audit of {request.target.model.label}",
            **record_tag({"process": process_tag()}),
        }
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    open_as_training(client, experiment_id)
    with _terminate_as_exit(), ReferenceStore(client, experiment_id, run_id) as store:
        result = audit(request.target, options, store, timings={"lineage": request.seconds})
    filled = merged_texts(kept_form(client, request.target.model), options.dpia)
    result = dataclasses.replace(result, about=about_audit(request.target, options, run, filled))
    paths = publish(
        result,
        run_id=run_id,
        client=client,
        log_metrics=not request.mlflow_logs,
        dataset=request.dataset,
        write_back=options.write_back,
        to_model=request.to_model,
    )
    request.found.append(Found(result, run_id, experiment_id))
    if (listener := LISTENER.get()) is not None:
        listener(result)
    # MLflow logs these; whoever called gets them all (`ending.shown_result`).
    return EvaluationResult(
        metrics=headline_metrics(result), artifacts=evaluation_artifacts(result, paths), run_id=run_id
    )
