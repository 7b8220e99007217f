"""An audit that is killed loses nothing, and its scores equal those of one that ran straight through."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trees import register, split

import mlflow_privacy

OPTIONS = {"num_ref_models": 4, "blind_baseline": False}

# Kills its own process at the n-th call of one method of the client, before or in the middle of it.
KILLED = """
import os, signal, sys
import mlflow, mlflow_privacy
from mlflow import MlflowClient
method, count = sys.argv[1], int(sys.argv[2])
original, calls = getattr(MlflowClient, method), []
def killed(self, *args, **kwargs):
    is_reference = method != "create_run" or kwargs["tags"].get("privacy.role") == "reference"
    calls.append(is_reference)
    if sum(calls) == count:
        if method == "log_artifacts":  # half of the files are there
            for path in sorted(os.listdir(args[1]))[:2]:
                if os.path.isfile(os.path.join(args[1], path)):
                    self.log_artifact(args[0], os.path.join(args[1], path))
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)
setattr(MlflowClient, method, killed)
mlflow.set_tracking_uri(sys.argv[3])
mlflow.set_experiment("test")
mlflow_privacy.evaluate("models:/tree/1", num_ref_models=4, blind_baseline=False)
"""


def scores(run_id):
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="privacy/scores.parquet")
    return pd.read_parquet(path)


def references(client, status="FINISHED"):
    experiment = client.get_experiment_by_name("test").experiment_id
    return client.search_runs([experiment], f"tags.`privacy.role` = 'reference' and attributes.status = '{status}'")


@pytest.fixture
def straight(registered, tracking):
    """Scores of an audit that ran straight through; its reference runs are deleted again."""
    result = mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    table = scores(result.run_id)
    for run in references(tracking):
        tracking.delete_run(run.info.run_id)
    return result.metrics, table


def test_killed_at_several_points_it_finishes_from_what_was_done(straight, tracking):
    metrics, table = straight
    uri = mlflow.get_tracking_uri()
    points = [("create_run", 2), ("log_artifacts", 2), ("log_batch", 1), ("set_terminated", 1)]
    done = []
    for method, count in points:
        command = [sys.executable, "-W", "ignore", "-c", KILLED, method, str(count), uri]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == -signal.SIGKILL, process.stderr
        done.append(len(references(tracking)))
    assert done == [1, 2, 2, 2]  # what was finished stays, what was half-written does not count
    result = mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    assert result.metrics == metrics
    pd.testing.assert_frame_equal(scores(result.run_id), table)
    assert len(references(tracking)) == 4
    running = tracking.search_runs(
        [tracking.get_experiment_by_name("test").experiment_id],
        "tags.`privacy.role` = 'audit' and attributes.status = 'RUNNING'",
    )
    assert running == []  # the killed audits were closed


def test_sigterm_closes_the_run_as_failed(registered, tracking, tmp_path):
    code = (
        "import sys, time, mlflow, mlflow_privacy, mlflow_privacy.evaluators.run as run\n"
        "def slow(*args, **kwargs):\n"
        "    open('started', 'w').close()\n"
        "    time.sleep(60)\n"
        "run.audit = slow\n"
        "mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_experiment('test')\n"
        "mlflow_privacy.evaluate('models:/tree/1')\n"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, mlflow.get_tracking_uri()])
    deadline = time.monotonic() + 60
    while not Path("started").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    experiment = tracking.get_experiment_by_name("test").experiment_id
    (run,) = tracking.search_runs([experiment], "tags.`privacy.role` = 'audit'")
    assert run.info.status == "FAILED"


def test_sixteen_after_eight_trains_eight(registered, tracking):
    first = mlflow_privacy.evaluate("models:/tree/1", num_ref_models=8, blind_baseline=False)
    second = mlflow_privacy.evaluate("models:/tree/1", num_ref_models=16, blind_baseline=False)
    parents = [run.data.tags["mlflow.parentRunId"] for run in references(tracking)]
    assert parents.count(first.run_id) == 8
    assert parents.count(second.run_id) == 8


def test_references_serve_other_versions_and_other_experiments(registered, tracking):
    mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    register()  # version 2: same recipe, same data
    mlflow.set_experiment("elsewhere")
    mlflow_privacy.evaluate("models:/tree/2", **OPTIONS)
    assert len(references(tracking)) == 4
    elsewhere = tracking.get_experiment_by_name("elsewhere").experiment_id
    assert tracking.search_runs([elsewhere], "tags.`privacy.role` = 'reference'") == []


def test_versions_trained_on_different_parts_of_one_pool_share_their_references(registered, tracking):
    first = mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    register(seed=1)  # another random half of the same records
    second = mlflow_privacy.evaluate("models:/tree/2", **OPTIONS)
    assert len(references(tracking)) == 4
    assert first.metrics["privacy/rmia/auc"] != second.metrics["privacy/rmia/auc"]
    assert second.metrics["privacy/rmia/auc"] > 0.5


def test_another_recipe_or_seed_trains_its_own_references(registered, tracking):
    mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    register(max_depth=2)
    mlflow_privacy.evaluate("models:/tree/2", **OPTIONS)
    assert len(references(tracking)) == 8
    mlflow_privacy.evaluate("models:/tree/1", random_seed=1, **OPTIONS)
    assert len(references(tracking)) == 12


def test_a_repeated_audit_does_no_inference_for_references(registered, tracking, monkeypatch):
    import mlflow_privacy.auditing.questions as pipeline

    first = mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    calls = []
    original = pipeline.model_outputs
    monkeypatch.setattr(pipeline, "model_outputs", lambda *a, **kw: calls.append(len(a[1])) or original(*a, **kw))
    second = mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    assert calls[1:] == [16, 16]  # whether the target answers a few records twice alike
    assert len(calls[:1]) == 1  # the target's own
    assert second.metrics == first.metrics


def test_a_damaged_reference_is_trained_again(registered, tracking):
    first = mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    run = references(tracking)[0]
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="signals"))
    for file in folder.iterdir():
        (Path(run.info.artifact_uri) / "signals" / file.name).write_bytes(b"damaged")
    second = mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    assert second.metrics == first.metrics
    assert len(references(tracking)) == 5


@pytest.mark.parametrize(("safe", "expected"), [(True, 4), (False, 8)])
def test_a_new_population_is_inferred_from_stored_weights_or_by_training_again(tracking, safe, expected):
    # Trees have no form that loads without trust, so their references are stored without weights.
    register(model=make_pipeline(StandardScaler(), LogisticRegression()) if safe else None)
    mlflow_privacy.evaluate("models:/tree/1", **OPTIONS)
    population = split(seed=5)[1].assign(**{"mean radius": lambda frame: frame["mean radius"] + 1e-3})
    result = mlflow_privacy.evaluate("models:/tree/1", population=population, **OPTIONS)
    assert len(references(tracking)) == expected
    again = mlflow_privacy.evaluate("models:/tree/1", population=population, **OPTIONS)
    assert len(references(tracking)) == expected
    assert again.metrics == result.metrics


def test_two_audits_at_once_do_not_spoil_each_other(straight, tracking):
    metrics, _ = straight
    uri = mlflow.get_tracking_uri()
    code = (
        "import sys, mlflow, mlflow_privacy\n"
        "mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_experiment('test')\n"
        "result = mlflow_privacy.evaluate('models:/tree/1', num_ref_models=4, blind_baseline=False)\n"
        "print(sorted(result.metrics.items()))"
    )
    outputs = []

    def work():
        command = [sys.executable, "-W", "ignore", "-c", code, uri]
        outputs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 2
    for output in outputs:
        assert output.strip().splitlines()[-1] == str(sorted(metrics.items()))
    assert mlflow_privacy.evaluate("models:/tree/1", **OPTIONS).metrics == metrics
