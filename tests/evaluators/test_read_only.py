"""Whoever may read a model, and not write on it, can audit it: into a run of his own, and is told what was left out."""

import logging

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from mlflow_privacy.errors import ConfigError, DesignError, SignalError
from mlflow_privacy.store.results import latest_audit

LIGHT = {"num_ref_models": 2, "blind_baseline": False, "progress": False}


def audit(**options):
    config = {"privacy_meter": {**LIGHT, **options}}
    return mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=config)


def denied(*args, **kwargs):
    raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)


@pytest.fixture
def reader(registered, tracking, monkeypatch):
    """As MLflow's server with authentication answers who may only read the model and its experiment."""
    home = tracking.get_run(registered[0]).info.experiment_id
    client = type(tracking)
    for name in ("set_logged_model_tags", "log_model_artifacts", "delete_logged_model_tag"):
        monkeypatch.setattr(client, name, denied)
    for name in ("set_model_version_tag", "delete_model_version_tag", "update_model_version"):
        monkeypatch.setattr(client, name, denied)

    def unless(name, forbidden):
        original = getattr(client, name)

        def call(self, *args, **kwargs):
            return denied() if forbidden(*args, **kwargs) else original(self, *args, **kwargs)

        monkeypatch.setattr(client, name, call)

    unless("log_inputs", lambda run_id, datasets=None, models=None: bool(models))
    unless("log_batch", lambda run_id, metrics=(), **others: any(m.model_id for m in metrics))
    unless("create_run", lambda experiment_id, *args, **kwargs: experiment_id == home)
    mlflow.set_experiment(experiment_id=tracking.create_experiment("mine", artifact_location="mine"))
    return home


@pytest.mark.parametrize("write_back", [True, False])
def test_who_may_only_read_a_model_audits_it_into_his_own_run(reader, tracking, heard_lines, write_back):
    result = audit(write_back=write_back)
    assert result.metrics["privacy/rmia/auc"] > 0.5
    run = tracking.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert tracking.get_experiment(run.info.experiment_id).name == "mine"
    assert "privacy/rmia/auc" in run.data.metrics
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["privacy pool"]
    assert not run.inputs.model_inputs
    assert tracking.download_artifacts(result.run_id, "privacy_report.html")
    assert latest_audit("models:/tree/1")[0] == result.run_id
    told = [line for line in heard_lines if "may not write on the logged model" in line]
    refused = [line for line in heard_lines if line.startswith("Could not write")]
    assert (len(told), len(refused)) == ((1, 2) if write_back else (0, 0))


def test_what_is_not_wanted_on_a_model_is_not_written_there(registered, tracking):
    result = audit(write_back=False)
    logged = tracking.get_logged_model(registered[1].model_id)
    assert not [m for m in logged.metrics or [] if m.key.startswith("privacy/")]
    assert not [tag for tag in logged.tags if tag.startswith("privacy.")]
    assert not tracking.get_model_version("tree", "1").tags
    assert "privacy/rmia/auc" in tracking.get_run(result.run_id).data.metrics


def test_where_no_run_may_be_opened_beside_the_model_it_is_opened_as_without(reader, tracking, monkeypatch, tmp_path):
    other = mlflow.set_experiment("mine").experiment_id
    monkeypatch.setattr("mlflow_privacy.store.experiments.nobody_chose_an_experiment", lambda: True)
    assert tracking.get_run(audit().run_id).info.experiment_id == other


def test_references_of_others_that_may_not_be_written_on_are_used_as_they_are(registered, tracking, monkeypatch):
    audit()
    original = type(tracking).log_artifacts
    home = {run.info.run_id for run in tracking.search_runs([tracking.get_run(registered[0]).info.experiment_id])}

    def log_artifacts(self, run_id, *args, **kwargs):
        return denied() if run_id in home else original(self, run_id, *args, **kwargs)

    monkeypatch.setattr(type(tracking), "log_artifacts", log_artifacts)
    result = audit(data_size=200)  # other records: the references are asked anew, and that is not kept with them
    assert tracking.get_run(result.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("error", [ConfigError, DesignError, SignalError])
def test_an_audit_that_cannot_be_leaves_no_run(registered, tracking, monkeypatch, error):
    home = [tracking.get_run(registered[0]).info.experiment_id]
    before = len(tracking.search_runs(home))

    def ask(*args, **kwargs):
        raise error("the model says nothing.")

    monkeypatch.setattr("mlflow_privacy.auditing.pipeline.ask_target", ask)
    with pytest.raises(error, match="says nothing"):
        audit()
    assert len(tracking.search_runs(home)) == before
    with mlflow.start_run() as run, pytest.raises(error):  # the caller's own run is his
        audit()
    assert tracking.get_run(run.info.run_id).info.lifecycle_stage == "active"


def test_an_audit_that_ends_after_references_were_trained_leaves_them_and_its_run(registered, tracking, monkeypatch):
    home = [tracking.get_run(registered[0]).info.experiment_id]

    def score(*args, **kwargs):
        raise SignalError("no.")

    monkeypatch.setattr("mlflow_privacy.auditing.pipeline.stack_signals", score)
    with pytest.raises(SignalError):
        audit()
    (run,) = tracking.search_runs(home, "tags.`privacy.role` = 'audit'")
    assert run.info.status == "FAILED"
    assert len(tracking.search_runs(home, f"tags.mlflow.parentRunId = '{run.info.run_id}'")) == 2


@pytest.fixture
def heard_lines():
    """What this package logs as warnings."""
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Lines(logging.WARNING)
    logging.getLogger("mlflow_privacy").addHandler(handler)
    yield lines
    logging.getLogger("mlflow_privacy").removeHandler(handler)
