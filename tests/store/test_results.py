import contextlib
import dataclasses
import io
import json
import logging
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.decide.gate import check_gate, latest_metrics
from mlflow_privacy.errors import StoreError
from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.figures import roc_figure, score_histograms
from mlflow_privacy.report.html import html_report, markdown_report
from mlflow_privacy.report.markdown import BEGIN, END
from mlflow_privacy.report.schema import result_json
from mlflow_privacy.report.tables import metrics_json
from mlflow_privacy.report.text import verdict
from mlflow_privacy.store import results
from mlflow_privacy.store.results import (
    NOTE_TAG,
    audit_metrics,
    evaluation_artifacts,
    flat_metrics,
    headline_metrics,
    latest_audit,
    publish,
)
from mlflow_privacy.types import AuditedModel, Estimate

FILES = {"roc.png", "scores_histogram.png", "metrics.json", "roc.csv", "scores.parquet", "audit.json"}
REPORTS = {"privacy_report.html", "privacy_report.md", "privacy_result.json"}
FORM = {"privacy_dpia.yaml"}  # of the run alone
X = np.arange(8.0).reshape(4, 2)


@pytest.fixture(scope="module")
def plain_result():
    return example_result(n=150)


@pytest.fixture
def register(tracking):
    """Registers a new version of a logged model that holds nothing; returns what an audit would know of it."""
    experiment = tracking.get_experiment_by_name("test").experiment_id

    def register(name="credit") -> AuditedModel:
        run_id = tracking.create_run(experiment).info.run_id
        model_id = tracking.create_logged_model(experiment, name="model", source_run_id=run_id).model_id
        with contextlib.suppress(MlflowException):
            tracking.create_registered_model(name)
        version = str(tracking.create_model_version(name, f"models:/{model_id}", run_id).version)
        return AuditedModel(f"models:/{name}/{version}", name, version, model_id, run_id, "sklearn")

    return register


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch, figures):
    """The figures are tested for themselves; here all audits share one drawing."""
    monkeypatch.setattr(results, "roc_figure", lambda result: figures[0])
    monkeypatch.setattr(results, "score_histograms", lambda result: figures[1])


@pytest.fixture(scope="module")
def figures(plain_result):
    return roc_figure(plain_result), score_histograms(plain_result)


@pytest.fixture
def heard(caplog):
    """`caplog` on our own logger: MLflow 3.1 replaces the root's handlers when it creates a database."""
    logger = logging.getLogger("mlflow_privacy")
    logger.addHandler(caplog.handler)
    logger.propagate = False
    yield caplog
    logger.propagate = True
    logger.removeHandler(caplog.handler)


@pytest.fixture
def audited(tracking, plain_result):
    """Publishes an audit of a model into a run of its own; returns the run id, the paths and the result."""

    def audited(model, *, finish=True, log_metrics=True, dataset=None, write_back=True, **changes):
        experiment = tracking.get_experiment_by_name("test").experiment_id
        run_id = tracking.create_run(experiment).info.run_id
        result = dataclasses.replace(plain_result, model=model, **changes)
        paths = publish(
            result, run_id=run_id, client=tracking, log_metrics=log_metrics, dataset=dataset, write_back=write_back
        )
        if finish:
            tracking.set_terminated(run_id)
        return run_id, paths, result

    return audited


def _reread(tracking, model):
    return tracking.get_model_version(model.name, model.version)


def test_an_audit_is_found_on_run_logged_model_and_version(tracking, register, audited):
    model = register()
    tracking.update_model_version(model.name, model.version, "Ours since May.\r\n\r\n| a |")
    dataset = mlflow.data.from_numpy(X, name="privacy pool")
    run_id, paths, result = audited(model, dataset=dataset)

    inside = {path for path in paths if path.startswith("privacy/")}
    assert {path.split("/")[1] for path in inside} == FILES
    assert {f.path for f in tracking.list_artifacts(run_id, "privacy")} == inside
    assert {f.path for f in tracking.list_artifacts(run_id)} - {"privacy"} == set(paths) - inside
    assert set(paths) - inside == REPORTS | FORM
    run = tracking.get_run(run_id)
    assert run.data.metrics == headline_metrics(result)
    assert run.data.tags["privacy.role"] == "audit"
    assert run.data.tags["privacy.headline"] == verdict(result)
    assert verdict(result) in run.data.tags[NOTE_TAG]
    assert [d.dataset.name for d in run.inputs.dataset_inputs] == ["privacy pool"]

    logged = tracking.get_logged_model(model.model_id)
    found = {m.key: m for m in logged.metrics if m.key.startswith("privacy/")}
    assert {key: m.value for key, m in found.items()} == headline_metrics(result)
    assert {(m.dataset_name, m.dataset_digest, m.run_id) for m in found.values()} == {
        ("privacy pool", dataset.digest, run_id)
    }
    assert logged.tags["privacy.audit_run"] == run_id
    assert verdict(result) in logged.tags[NOTE_TAG]

    version = _reread(tracking, model)
    assert version.description.startswith("Ours since May.\r\n\r\n| a |")
    assert verdict(result) in version.description
    assert f"runs/{run_id})" in version.description
    assert set(version.tags) == {"privacy.auc", "privacy.tpr", "privacy.audit_run"}
    assert version.tags["privacy.tpr"].endswith(" at 1% FPR")
    assert len(version.tags["privacy.auc"]) < 25


def test_a_real_logged_model_still_loads_and_carries_no_list_of_members(tracking, audited):
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            LogisticRegression().fit(X, [0, 1, 0, 1]),
            name="model",
            pip_requirements=["scikit-learn"],
            registered_model_name="real",
        )
    version = str(info.registered_model_version)
    run_id, _, _ = audited(
        AuditedModel(f"models:/real/{version}", "real", version, info.model_id, run.info.run_id, "sklearn")
    )
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{info.model_id}"))
    assert {p.name for p in (folder / "privacy").iterdir()} == FILES - {"scores.parquet", "roc.csv"}
    for name in REPORTS:  # the run's report names the most exposed records, the model's does not
        assert "train:" not in (folder / name).read_text(), name
    on_run = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="privacy_report.html"))
    assert "train:" in on_run.read_text()
    assert mlflow.sklearn.load_model(f"models:/real/{version}").predict(X).shape == (4,)
    assert latest_metrics(f"models:/real/{version}")


def test_the_models_report_is_the_runs_without_the_list_of_records(tracking, register, audited, plain_result):
    model = register()
    run_id, _, result = audited(model)
    folder = Path(tracking.get_logged_model(model.model_id).artifact_location.removeprefix("file://"))
    assert (folder / "privacy_report.html").read_text() == html_report(result, ReportOptions(top=0))
    assert (folder / "privacy_report.md").read_text() == markdown_report(result, ReportOptions(top=0))
    assert (folder / "privacy_result.json").read_text() == result_json(result, ReportOptions(top=0))
    on_run = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="privacy_report.html"))
    assert on_run.read_text() == html_report(result)


def test_an_audit_reads_run_version_and_logged_model_once(register, audited, calls):
    model = register()
    calls.clear()
    audited(model)
    assert {name: n for name, n in calls.items() if name.startswith("get")} == {
        "get_run": 1,
        "get_logged_model": 1,
        "get_model_version": 1,
    }


def test_a_version_that_cannot_be_read_is_tried_again_and_named_twice(register, audited, monkeypatch, heard):
    def refuse(self, *args):
        raise MlflowException("no permission")

    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version", refuse)
    with heard.at_level(logging.WARNING):
        audited(register())
    assert "Could not write tags of credit v1: no permission" in heard.text
    assert "Could not write the description of credit v1: no permission" in heard.text


def test_a_second_audit_replaces_block_and_tags_and_keeps_the_persons_text(tracking, register, audited):
    model = register()
    tracking.update_model_version(model.name, model.version, "before")
    audited(model, blind=Estimate(0.7, 0.68, 0.72, 300))
    first = _reread(tracking, model)
    assert first.tags["privacy.caution"] == "blind baseline 0.700 [0.680, 0.720]"
    tracking.update_model_version(model.name, model.version, first.description + "\n\nafter <b>|`")
    run_id, _, _ = audited(model)
    version = _reread(tracking, model)
    assert version.description.count(BEGIN) == version.description.count(END) == 1
    assert version.description.startswith("before")
    assert version.description.endswith("\n\nafter <b>|`")
    assert "differ even" not in version.description
    assert "privacy.caution" not in version.tags
    assert version.tags["privacy.audit_run"] == run_id
    assert "privacy.caution" not in tracking.get_logged_model(model.model_id).tags


def test_few_metrics_are_columns_of_mlflow_and_all_are_read_back(tracking, register, audited):
    run_id, _, result = audited(register())
    run = tracking.get_run(run_id)
    assert set(run.data.metrics) == {
        *(f"privacy/{a.name}/{key}" for a in result.attacks for key in ("auc", "tpr_at_fpr_0.01")),
        *(f"privacy/headline/{key}" for key in ("auc", "tpr_at_fpr_0.01", "worst_group/auc")),
        "privacy/blind/auc",
    }
    assert audit_metrics(tracking, run) == pytest.approx(result.metrics)
    assert list(audit_metrics(tracking, run)) == list(result.metrics)
    assert len(result.metrics) > 100


def test_an_audit_of_before_whose_metrics_were_all_logged_is_still_read(tracking, register, audited, tmp_path):
    model = register()
    run_id, _, result = audited(model)
    old = {key: value for key, value in metrics_json(result).items() if key != "metrics"}
    logged = {key: value for key, value in result.metrics.items() if "/headline/" not in key}
    (tmp_path / "metrics.json").write_text(json.dumps(old))
    tracking.log_artifact(run_id, str(tmp_path / "metrics.json"), "privacy")
    with pytest.raises(StoreError, match=f"run {run_id} cannot be read .* it has no flat metrics"):
        latest_audit(model.uri)
    for key, value in logged.items():
        tracking.log_metric(run_id, key, value)
    assert latest_audit(model.uri) == (run_id, pytest.approx(result.metrics))
    assert not check_gate(latest_metrics(model.uri), {"rmia/auc": 0.999}, upper=True)


def test_infinite_metrics_are_read_back_and_what_is_no_number_is_not():
    values = {"a": 1, "b": "inf", "c": "-inf", "d": None, "e": "x", "f": True}
    assert flat_metrics({"metrics": values}) == {"a": 1.0, "b": float("inf"), "c": float("-inf")}
    assert flat_metrics({"attacks": {}}) is flat_metrics([]) is None


def test_metrics_are_left_to_mlflow_where_it_logs_them_itself(tracking, register, audited):
    model = register()
    run_id, _, _ = audited(model, log_metrics=False)
    assert tracking.get_run(run_id).data.metrics == {}
    assert not [m for m in tracking.get_logged_model(model.model_id).metrics or [] if m.key.startswith("privacy/")]


def test_without_write_back_only_the_run_is_written(tracking, register, audited):
    model = register()
    run_id, _, result = audited(model, write_back=False)
    assert tracking.get_run(run_id).data.metrics == headline_metrics(result)
    version, logged = _reread(tracking, model), tracking.get_logged_model(model.model_id)
    assert not version.tags
    assert not version.description
    assert not [tag for tag in logged.tags if tag.startswith("privacy")]
    assert not [m for m in logged.metrics or [] if m.key.startswith("privacy/")]


def test_a_model_that_is_not_registered_is_audited_into_its_run(tracking, audited):
    run_id, paths, result = audited(AuditedModel("runs:/0/model", None, None, None, None, "sklearn"))
    assert tracking.get_run(run_id).data.metrics == headline_metrics(result)
    assert set(paths) == {f"privacy/{name}" for name in FILES} | REPORTS | FORM


def test_a_registry_that_refuses_leaves_a_complete_run_and_warnings(tracking, register, audited, monkeypatch, heard):
    model = register()

    def refuse(*args, **kwargs):
        raise MlflowException("PERMISSION_DENIED: not yours")

    for method in ("set_model_version_tag", "update_model_version", "set_logged_model_tags", "log_model_artifacts"):
        monkeypatch.setattr(type(tracking), method, refuse)
    with heard.at_level(logging.WARNING, logger="mlflow_privacy"):
        run_id, paths, result = audited(model)
    assert tracking.get_run(run_id).data.metrics == headline_metrics(result)
    assert {f.path for f in tracking.list_artifacts(run_id, "privacy")} == set(paths) - REPORTS - FORM
    warned = [r.getMessage() for r in heard.records if "PERMISSION_DENIED" in r.getMessage()]
    assert len(warned) == 4
    assert all("The audit run itself is complete" in line for line in warned)


def test_a_run_that_refuses_is_an_error(tracking, register, audited, monkeypatch):
    def refuse(*args, **kwargs):
        raise MlflowException("no")

    monkeypatch.setattr(type(tracking), "log_artifacts", refuse)
    with pytest.raises(MlflowException, match="no"):
        audited(register())


def test_a_full_description_is_left_alone_with_a_warning(tracking, register, audited, heard):
    model = register()
    mine = "m" * 4995
    tracking.update_model_version(model.name, model.version, mine)
    with heard.at_level(logging.WARNING, logger="mlflow_privacy"):
        audited(model)
    assert _reread(tracking, model).description == mine
    assert "has no room for the verdict" in heard.text


def test_the_note_of_a_persons_own_run_stays(tracking, register, plain_result):
    model = register()
    with mlflow.start_run() as run:
        mlflow.set_tag(NOTE_TAG, "my notes")
        publish(
            dataclasses.replace(plain_result, model=model),
            run_id=run.info.run_id,
            client=tracking,
            log_metrics=True,
        )
    assert tracking.get_run(run.info.run_id).data.tags[NOTE_TAG].startswith("my notes\n\n")


def test_evaluation_artifacts_load_what_was_written(register, audited):
    _, paths, result = audited(register())
    found = evaluation_artifacts(result, paths)
    names = ("roc", "scores_histogram", "metrics", "audit", "roc_data", "scores", "report", "report_text", "result")
    assert set(found) == {f"privacy/{name}" for name in names}
    assert found["privacy/report"].content.startswith("<!DOCTYPE html>")
    assert all(found[name].uri.startswith(("file:", "/")) for name in found)
    assert found["privacy/roc"].content.size[0] == 1400
    assert len(found["privacy/scores"].content) == 300
    assert set(found["privacy/roc_data"].content.attack) == {a.name for a in result.attacks}
    for name in ("metrics", "audit"):
        at_once, artifact = found[f"privacy/{name}"].content, found[f"privacy/{name}"]
        artifact._content = None
        assert artifact.content == at_once


def test_evaluation_result_saves_and_loads(register, audited, tmp_path):
    from mlflow.models import EvaluationResult

    run_id, paths, result = audited(register())
    EvaluationResult(result.metrics, evaluation_artifacts(result, paths), run_id=run_id).save(str(tmp_path / "saved"))
    loaded = EvaluationResult.load(str(tmp_path / "saved"))
    assert loaded.metrics == result.metrics
    pd.testing.assert_frame_equal(
        loaded.artifacts["privacy/scores"].content, evaluation_artifacts(result, paths)["privacy/scores"].content
    )


def test_artifacts_are_valid_files(tracking, register, audited, tmp_path):
    run_id, _, result = audited(register())
    folder = tracking.download_artifacts(run_id, "privacy", str(tmp_path))
    content = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
    assert content["roc.png"][:8] == content["scores_histogram.png"][:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads(content["metrics.json"])["verdict"] == verdict(result)
    assert json.loads(content["audit.json"])["rows"]["members"] == 150
    assert pd.read_parquet(io.BytesIO(content["scores.parquet"])).risk_rank.iloc[0] == 1


@pytest.mark.parametrize("way", ["version", "alias", "model id", "latest"])
def test_the_gate_reads_the_newest_audit(tracking, register, audited, way):
    model = register()
    tracking.set_registered_model_alias(model.name, "champion", model.version)
    uri = {
        "version": model.uri,
        "alias": f"models:/{model.name}@champion",
        "model id": f"models:/{model.model_id}",
        "latest": f"models:/{model.name}/latest",
    }[way]
    with pytest.raises(StoreError, match=f"{uri} has no finished privacy audit. Audit it first"):
        latest_metrics(uri)
    audited(model)
    run_id, _, result = audited(model)
    assert latest_audit(uri) == (run_id, result.metrics)
    assert check_gate(latest_metrics(uri), {"rmia/auc": 0.5}) != ()


def test_an_audit_without_write_back_is_newer_than_the_one_that_the_version_names(tracking, register, audited):
    model = register()
    audited(model)
    newer, _, _ = audited(model, write_back=False)
    assert latest_audit(model.uri)[0] == newer
    unfinished, _, _ = audited(model, write_back=False, finish=False)
    assert latest_audit(model.uri)[0] == newer
    tracking.set_terminated(unfinished, "FAILED")
    assert latest_audit(model.uri)[0] == newer


def test_other_versions_and_deleted_runs_do_not_count(tracking, register, audited):
    first, second = register(), register()
    run_id, _, _ = audited(first)
    with pytest.raises(StoreError, match="credit/2 has no finished"):
        latest_audit(second.uri)
    tracking.delete_run(run_id)
    with pytest.raises(StoreError, match="credit/1 has no finished"):
        latest_audit(first.uri)


def test_a_model_registered_anew_under_an_old_name_does_not_inherit_its_audits(tracking, register, audited):
    old = register()
    audited(old, write_back=False)
    tracking.delete_registered_model(old.name)
    new = register()
    assert new.uri == old.uri
    with pytest.raises(StoreError, match="has no finished"):
        latest_audit(new.uri)


def test_a_run_that_audited_another_model_afterwards_does_not_count(tracking, register, audited, plain_result):
    first, second = register(), register()
    run_id, _, _ = audited(first)
    publish(dataclasses.replace(plain_result, model=second), run_id=run_id, client=tracking, log_metrics=True)
    assert latest_audit(second.uri)[0] == run_id
    with pytest.raises(StoreError, match="has no finished"):
        latest_audit(first.uri)


def test_a_model_that_does_not_exist_says_so(tracking):
    with pytest.raises(StoreError, match="models:/nobody/1 is not in the registry"):
        latest_audit("models:/nobody/1")
