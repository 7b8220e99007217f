"""The one line against a real `mlflow server`: artifacts, references and results travel over HTTP."""

import mlflow
import pandas as pd
from trees import register

import mlflow_privacy


def test_the_one_line_works_against_a_server_and_finds_its_references_again(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    try:
        mlflow.set_experiment("over http")
        _, info = register("remote")
        config = {"privacy_meter": {"num_ref_models": 4, "blind_baseline": False}}
        first = mlflow.evaluate("models:/remote/1", evaluators=["privacy_meter"], evaluator_config=config)
        client = mlflow.MlflowClient()
        assert first.metrics["privacy/rmia/auc"] > 0.5
        logged = {metric.key: metric.value for metric in mlflow.get_logged_model(info.model_id).metrics}
        assert logged["privacy/rmia/auc"] == first.metrics["privacy/rmia/auc"]
        assert "AUC" in client.get_model_version("remote", "1").description
        path = mlflow.artifacts.download_artifacts(run_id=first.run_id, artifact_path="privacy/scores.parquet")
        assert len(pd.read_parquet(path)) == 569
        second = mlflow_privacy.evaluate("models:/remote/1", **config["privacy_meter"])
        assert second.metrics == first.metrics
        references = client.search_runs(
            [client.get_experiment_by_name("over http").experiment_id], "tags.`privacy.role` = 'reference'"
        )
        assert {run.data.tags["mlflow.parentRunId"] for run in references} == {first.run_id}
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
