"""`mlflow.evaluate(uri, evaluators=["privacy_meter"])`, written as a user writes it, on a real store."""

import json

import mlflow
import numpy as np
import pandas as pd
import pytest
from trees import register, split

import mlflow_privacy
from mlflow_privacy.errors import ConfigError, LineageError
from mlflow_privacy.store.results import latest_audit

FAST = {"privacy_meter": {"num_ref_models": 2, "blind_baseline": False}}


def audits(client):
    experiment = client.get_experiment_by_name("test").experiment_id
    return client.search_runs([experiment], "tags.`privacy.role` = 'audit'")


def test_the_one_line_reads_auc_tpr_and_roc_on_the_model_version(registered, tracking):
    result = mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"])
    assert result.metrics["privacy/rmia/auc"] > 0.55  # an unpruned tree memorises
    for key in ("privacy/rmia/auc_low", "privacy/lira/auc", "privacy/learned/auc", "privacy/headline/tpr_at_fpr_0.01"):
        assert key in result.metrics
    (run,) = audits(tracking)
    assert run.info.status == "FINISHED"
    assert tracking.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    assert result.run_id == run.info.run_id
    for key, value in run.data.metrics.items():
        assert result.metrics[key] == pytest.approx(value)
    assert {"privacy/rmia/auc", "privacy/rmia/tpr_at_fpr_0.01", "privacy/blind/auc"} <= set(run.data.metrics)
    assert len(run.data.metrics) <= 14 < len(result.metrics)
    assert latest_audit("models:/tree/1") == (run.info.run_id, pytest.approx(result.metrics))
    assert {entry.path for entry in tracking.list_artifacts(run.info.run_id, "privacy")} >= {
        "privacy/roc.png",
        "privacy/metrics.json",
        "privacy/roc.csv",
        "privacy/scores.parquet",
        "privacy/audit.json",
    }
    model = mlflow.get_logged_model(registered[1].model_id)
    assert {m.key: m.value for m in model.metrics}["privacy/rmia/auc"] == result.metrics["privacy/rmia/auc"]
    version = tracking.get_model_version("tree", "1")
    assert "AUC" in version.description
    assert any(tag.startswith("privacy.") for tag in version.tags)
    children = tracking.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert len(children) == 8
    assert {child.data.tags["privacy.role"] for child in children} == {"reference"}


@pytest.mark.parametrize("kind", ["version", "alias", "runs", "model_id", "pyfunc", "latest"])
def test_every_form_of_model_uri_finds_the_same_model(registered, tracking, kind):
    run_id, info = registered
    tracking.set_registered_model_alias("tree", "champion", "1")
    model = {
        "version": "models:/tree/1",
        "alias": "models:/tree@champion",
        "latest": "models:/tree/latest",
        "runs": f"runs:/{run_id}/model",
        "model_id": f"models:/{info.model_id}",
        "pyfunc": None,
    }[kind] or mlflow.pyfunc.load_model("models:/tree/1")
    result = mlflow.models.evaluate(model, evaluators=["privacy_meter"], evaluator_config=FAST)
    assert result.metrics["privacy/rmia/auc"] > 0.5
    keys = {m.key for m in mlflow.get_logged_model(info.model_id).metrics}
    assert "privacy/rmia/auc" in keys
    assert tracking.get_model_version("tree", "1").tags  # written back whichever way it was named


@pytest.mark.parametrize("evaluators", ["privacy_meter", ["privacy_meter"]])
@pytest.mark.parametrize("nested", [True, False])
def test_a_name_or_a_list_with_config_by_name_or_flat(registered, tracking, evaluators, nested):
    if isinstance(evaluators, list) and not nested:
        pytest.skip("MLflow itself takes flat config only for one name")
    config = FAST if nested else FAST["privacy_meter"]
    result = mlflow.evaluate("models:/tree/1", evaluators=evaluators, evaluator_config=config)
    (run,) = audits(tracking)
    assert len(tracking.search_runs([run.info.experiment_id], "tags.`privacy.role` = 'reference'")) == 2
    assert result.metrics


def test_it_runs_beside_the_default_evaluator_with_the_data_that_needs(registered, tracking):
    holdout = split()[1]
    result = mlflow.evaluate(
        "models:/tree/1",
        holdout,
        targets="target",
        model_type="classifier",
        evaluators=["default", "privacy_meter"],
        evaluator_config={**FAST, "default": {"log_model_explainability": False}},
    )
    assert result.metrics["accuracy_score"] > 0.8
    assert "privacy/rmia/auc" in result.metrics


def test_without_evaluators_it_does_not_run(registered, tracking):
    holdout = split()[1]
    result = mlflow.evaluate(
        "models:/tree/1",
        holdout,
        targets="target",
        model_type="classifier",
        evaluator_config={"log_model_explainability": False},
    )
    assert not [key for key in result.metrics if key.startswith("privacy")]
    assert audits(tracking) == []


def test_the_plain_function_is_the_same_thing(registered, tracking):
    direct = mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=FAST)
    plain = mlflow_privacy.evaluate("models:/tree/1", **FAST["privacy_meter"])
    assert plain.metrics == direct.metrics


def test_an_active_run_is_used_and_left_open(registered, tracking):
    with mlflow.start_run(run_name="mine") as run:
        result = mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=FAST)
        assert mlflow.active_run().info.run_id == run.info.run_id
    assert result.run_id == run.info.run_id
    assert tracking.get_run(run.info.run_id).info.run_name == "mine"


def test_thresholds_of_mlflow_gate_on_the_metrics(registered, tracking):
    result = mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=FAST)
    strict = {"privacy/rmia/auc": mlflow.models.MetricThreshold(threshold=0.5, greater_is_better=False)}
    with pytest.raises(mlflow.exceptions.MlflowException, match="privacy/rmia/auc"):
        mlflow.validate_evaluation_results(validation_thresholds=strict, candidate_result=result)
    loose = {"privacy/rmia/auc": mlflow.models.MetricThreshold(threshold=1.0, greater_is_better=False)}
    mlflow.validate_evaluation_results(validation_thresholds=loose, candidate_result=result)


def test_artifacts_of_the_result_load(registered, tracking, tmp_path):
    result = mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=FAST)
    contents = {name: artifact.content for name, artifact in result.artifacts.items()}
    assert any(isinstance(content, pd.DataFrame) for content in contents.values())
    result.save(str(tmp_path / "saved"))
    again = mlflow.models.EvaluationResult.load(str(tmp_path / "saved"))
    assert again.metrics == pytest.approx(result.metrics)


def test_bad_options_come_all_at_once_and_leave_no_run(registered, tracking):
    config = {"privacy_meter": {"num_ref_model": 3, "confidence": 2.0, "attacks": ["rmia"]}}
    with pytest.raises(ConfigError, match=r"(?s)confidence.*'num_ref_model', did you mean 'num_ref_models'"):
        mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=config)
    assert audits(tracking) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ["rmai"]}, "rmia"),
        ({"attacks": ["rmia"], "num_ref_models": 0}, "rmia"),
        ({"num_ref_models": 1, "reference_fraction": 0.5}, "num_ref_models=1"),
        ({"headline": "loss"}, "headline='loss'"),
        ({"attack_options": {"loss": {}}}, "attack_options"),
        ({"attack_options": {"rmia": {"gama": 2}}}, "gamma"),
        ({"fprs": [2.0]}, "fprs"),
    ],
)
def test_wrong_values_name_the_option_and_the_remedy(registered, tracking, options, message):
    with pytest.raises(ValueError, match=message):
        mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config={"privacy_meter": options})
    assert not [run for run in audits(tracking) if run.info.status == "RUNNING"]


def test_missing_lineage_names_the_model_and_the_remedy_and_leaves_no_run(tracking):
    register(lineage=False)
    with pytest.raises(LineageError, match=r"(?s)models:/tree/1.*log_lineage"):
        mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"])
    assert audits(tracking) == []


def test_data_of_the_caller_wins_and_needs_no_lineage(tracking):
    register(lineage=False)
    train, holdout = split()
    result = mlflow_privacy.evaluate(
        "models:/tree/1", train=train, holdout=holdout, targets="target", **FAST["privacy_meter"]
    )
    assert result.metrics["privacy/rmia/auc"] > 0.5


def test_audit_json_repeats_the_audit(registered, tracking):
    result = mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=FAST)
    path = mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="privacy/audit.json")
    with open(path) as file:
        record = json.load(file)
    again = mlflow_privacy.evaluate(
        "models:/tree/1",
        num_ref_models=record["options"]["num_ref_models"],
        random_seed=record["options"]["random_seed"],
        blind_baseline=record["options"]["blind_baseline"],
    )
    assert again.metrics == result.metrics


def test_data_and_model_are_sent_once_and_not_once_a_metric(registered, tracking, monkeypatch):
    sent, original = [], mlflow.MlflowClient.log_inputs

    def counted(self, run_id, datasets=None, models=None):
        sent.append((len(datasets or []), len(models or [])))
        return original(self, run_id, datasets, models)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", counted)
    result = mlflow.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=FAST)
    assert sent == [(1, 1)]
    inputs = tracking.get_run(result.run_id).inputs
    assert [item.dataset.name for item in inputs.dataset_inputs] == ["privacy pool"]
    assert [item.model_id for item in inputs.model_inputs] == [registered[1].model_id]
    metric = next(m for m in mlflow.get_logged_model(registered[1].model_id).metrics if m.key == "privacy/rmia/auc")
    assert (metric.run_id, metric.dataset_name) == (result.run_id, "privacy pool")


def test_the_dataset_constructor_describes_the_pool(registered, tracking):
    dataset = mlflow.data.from_model_lineage("models:/tree/1")
    train, _ = split()
    assert dataset.profile["num_members"] == len(train)
    assert dataset.df["member"].sum() == len(train)
    assert len(dataset.digest) == 8
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="audit")
    logged = tracking.get_run(run.info.run_id).inputs.dataset_inputs[0].dataset
    assert json.loads(logged.source) == {"model_uri": "models:/tree/1"}
    assert np.isin(dataset.df["label"], [0, 1]).all()
