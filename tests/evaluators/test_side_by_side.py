"""Audits of several models on one pool at one moment, in threads of one process and in processes on one store."""

import concurrent.futures
import os
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import mlflow_privacy
from mlflow_privacy.store import turns
from mlflow_privacy.store.turns import again_if_raced, taking_turns

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
            mlflow.sklearn.log_model(
                model,
                name="model",
                registered_model_name=name,
                pip_requirements=["scikit-learn"],
                serialization_format="cloudpickle",  # what reads the default one imports torch, in each process
            )
    return names


AUDITS = """
import concurrent.futures, faulthandler, sys
faulthandler.dump_traceback_later(240, exit=True)  # whoever hangs says where, and fails
import mlflow_privacy
from mlflow_privacy.store import results
drawn, rounds, *names = sys.argv[1:]
if drawn == "False":  # half of an audit's time
    results.roc_figure = results.score_histograms = lambda result: b""
def audit(name):
    options = {"num_ref_models": 2, "blind_baseline": False, "experiment": "together"}
    return [mlflow_privacy.evaluate(f"models:/{name}/1", **options).run_id for _ in range(int(rounds))]
with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
    print(*(run_id for ids in pool.map(audit, names) for run_id in ids))
"""


def audits_elsewhere(uri, names, *, rounds, drawn):
    """Runs of audits in a process of its own: `rounds` one after the other of each model, the models in threads.

    Its pool has four connections, as many as one request holds at most, so that four threads exhaust it as fifteen do
    MLflow's own.
    """
    small = {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "3", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "1"}
    environment = {**os.environ, **small, "MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "test"}
    command = [sys.executable, "-W", "ignore", "-c", AUDITS, str(drawn), str(rounds), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout.split()


def test_threads_of_two_processes_on_one_store_all_finish(models, tracking):
    """Four that audit once and draw nothing, beside two that audit twice."""
    uri = tracking.tracking_uri
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        four = pool.submit(audits_elsewhere, uri, models, rounds=1, drawn=False)
        two = pool.submit(audits_elsewhere, uri, models[:2], rounds=2, drawn=True)
        both = four.result(), two.result()
    runs = [tracking.get_run(run_id) for runs in both for run_id in runs]
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    assert len({run.info.run_id for run in runs}) == 8
    (home,) = {run.info.experiment_id for run in runs}  # one experiment, though all found none of this name at first
    assert tracking.get_experiment(home).name == "together"
    for run, name in zip(runs, [*models, *np.repeat(models[:2], 2)]):
        assert run.data.tags["privacy.model_name"] == name
        assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["privacy pool"]
        assert "privacy/rmia/auc" in run.data.metrics


def test_whoever_loses_the_race_tries_again_and_nobody_else(monkeypatch):
    monkeypatch.setattr(turns, "_PAUSE", 0.001)
    asked = []

    def log_inputs(self, run_id, datasets=None, models=None):
        asked.append(run_id)
        if len(asked) < 3:
            raise MlflowException(RACED)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", log_inputs)
    with pytest.raises(MlflowException, match="UNIQUE"):
        mlflow.MlflowClient().log_inputs("a")
    with taking_turns():
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
