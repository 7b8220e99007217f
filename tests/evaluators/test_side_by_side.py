"""Audits of several models on one pool at one moment, in threads of one process and in processes on one store."""

import concurrent.futures
import os
import subprocess
import sys

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import mlflow_privacy
from mlflow_privacy.store import inputs
from mlflow_privacy.store.inputs import again_if_raced, patient_inputs

RACED = "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest"


@pytest.fixture
def models(tracking):
    """Models of one recipe each, trained on the same records."""
    x, y = load_breast_cancer(return_X_y=True)
    x = x / x.max(axis=0)
    names = [f"model{i}" for i in range(4)]
    for i, name in enumerate(names):
        with mlflow.start_run():
            model = LogisticRegression(C=10.0**i).fit(x[:280], y[:280])
            mlflow_privacy.log_lineage(train=(x[:280], y[:280]), holdout=(x[280:], y[280:]))
            mlflow.sklearn.log_model(model, name="model", registered_model_name=name, pip_requirements=["scikit-learn"])
    return names


def test_audits_in_threads_of_one_process_all_finish(models, tracking):
    def audit(name):
        return mlflow_privacy.evaluate(f"models:/{name}/1", num_ref_models=2, blind_baseline=False)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(audit, models))
    assert len({result.run_id for result in results}) == 4
    for name, result in zip(models, results):
        run = tracking.get_run(result.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["privacy.model_name"] == name
        assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["privacy pool"]
        assert "privacy/rmia/auc" in run.data.metrics


def test_audits_in_processes_on_one_store_all_finish(models, tracking):
    code = (
        "import sys, mlflow_privacy; "
        "print(mlflow_privacy.evaluate(f'models:/{sys.argv[1]}/1', num_ref_models=0, blind_baseline=False).run_id)"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking.tracking_uri, "MLFLOW_EXPERIMENT_NAME": "test"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = list(
            pool.map(
                lambda name: subprocess.run(
                    [*command, name], env=environment, check=True, capture_output=True, text=True
                ),
                models[:2],
            )
        )
    ids = [run.stdout.strip().splitlines()[-1] for run in runs]
    assert [tracking.get_run(run_id).info.status for run_id in ids] == ["FINISHED", "FINISHED"]


def test_whoever_loses_the_race_tries_again_and_nobody_else(monkeypatch):
    monkeypatch.setattr(inputs, "_PAUSE", 0.001)
    asked = []

    def log_inputs(self, run_id, datasets=None, models=None):
        asked.append(run_id)
        if len(asked) < 3:
            raise MlflowException(RACED)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", log_inputs)
    with pytest.raises(MlflowException, match="UNIQUE"):
        mlflow.MlflowClient().log_inputs("a")
    with patient_inputs():
        mlflow.MlflowClient().log_inputs("b")
    assert asked == ["a", "b", "b"]


def test_other_errors_are_not_tried_again():
    asked = []

    def refuse():
        asked.append(1)
        raise MlflowException("Permission denied")

    with pytest.raises(MlflowException, match="Permission denied"):
        again_if_raced(refuse)
    assert len(asked) == 1
