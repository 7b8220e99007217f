"""References on a real Ray cluster of this machine; a worker that is killed loses only what it was training."""

import collections
import dataclasses
import os
import signal

import mlflow
import pytest
from trees import register

import mlflow_privacy
from mlflow_privacy.auditing import references
from mlflow_privacy.errors import ConfigError, StoreError
from mlflow_privacy.store.tags import own_record

pytestmark = pytest.mark.slow
OPTIONS = {"num_ref_models": 6, "blind_baseline": False}


@pytest.fixture
def ray(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield ray
    ray.shutdown()


@pytest.fixture
def pairs(monkeypatch):
    """Workers take two references at a time, as they do of recipes that are trained stacked."""
    original = references.make_plan
    monkeypatch.setattr(references, "make_plan", lambda *args: dataclasses.replace(original(*args), together=2))


def finished(client):
    experiment = client.get_experiment_by_name("test").experiment_id
    query = "tags.`privacy.role` = 'reference' and attributes.status = 'FINISHED'"
    return client.search_runs([experiment], query)


def fits(folder, *, deaths):
    """A train_fn that kills its own process at the second reference of a group, `deaths` times in all."""

    def fit(x, y, seed):
        from sklearn.tree import DecisionTreeClassifier

        with open(folder / f"{os.getpid()}", "a") as file:
            file.write(f"{seed}\n")
        if len((folder / f"{os.getpid()}").read_text().split()) % 2 == 0:
            for death in range(deaths):
                try:
                    os.close(os.open(folder / f"death-{death}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return DecisionTreeClassifier(random_state=seed).fit(x, y)

    return fit


def seeds(folder):
    return collections.Counter(seed for path in folder.glob("[0-9]*") for seed in path.read_text().split())


def test_a_killed_worker_loses_only_what_it_was_training(tracking, tmp_path, ray, pairs, caplog):
    register()
    folder = tmp_path / "calls"
    folder.mkdir()
    fit = fits(folder, deaths=1)
    with caplog.at_level("INFO", "mlflow_privacy"):
        result = mlflow_privacy.evaluate("models:/tree/1", train_fn=fit, executor="ray", n_workers=2, **OPTIONS)
    assert "started one on this machine" in caplog.text
    assert "died: WorkerCrashedError" in caplog.text
    assert not ray.is_initialized()  # what was started is ended
    runs = finished(tracking)
    assert sorted(int(run.data.params["reference_index"]) for run in runs) == list(range(6))
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {result.run_id}
    counts = seeds(folder)
    assert sorted(counts.values()) == [1] * 5 + [2]  # the one that was cut off is the only one trained twice
    here = f":{os.getpid()}:"
    assert not any(here in own_record(run.data.tags)["process"] for run in runs)  # each was stored where it was trained
    again = mlflow_privacy.evaluate("models:/tree/1", train_fn=fit, executor="local", **OPTIONS)
    assert seeds(folder) == counts  # all are found
    assert again.metrics == result.metrics
    for run in runs:
        tracking.delete_run(run.info.run_id)
    alone = mlflow_privacy.evaluate("models:/tree/1", train_fn=fit, executor="local", **OPTIONS)
    assert alone.metrics == result.metrics


def test_after_three_deaths_the_error_tells_and_a_new_call_goes_on(tracking, tmp_path, ray):
    register()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)  # the caller's own cluster
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / "bad").write_text("")

    def fit(x, y, seed):
        from sklearn.tree import DecisionTreeClassifier

        if (folder / "bad").exists() and seed % 3 == 0:
            os._exit(1)
        with open(folder / f"{os.getpid()}", "a") as file:
            file.write(f"{seed}\n")
        return DecisionTreeClassifier(random_state=seed).fit(x, y)

    with pytest.raises(StoreError, match="could not be trained: their worker died 3 times.*All others are stored"):
        mlflow_privacy.evaluate("models:/tree/1", train_fn=fit, executor="ray", **OPTIONS)
    assert ray.is_initialized()  # what was there stays
    stored = len(finished(tracking))
    assert 0 < stored < 6
    (folder / "bad").unlink()
    mlflow_privacy.evaluate("models:/tree/1", train_fn=fit, executor="ray", **OPTIONS)
    assert len(finished(tracking)) == 6
    assert set(seeds(folder).values()) == {1}


def test_an_address_that_nobody_answers_is_an_error(ray, monkeypatch):
    from mlflow_privacy.executor.on_ray import session

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="RAY_ADDRESS='127.0.0.1:1' names no cluster"), session():
        pass


def test_mlflow_tracks_where_the_workers_are_told(tracking):
    from mlflow_privacy.store.references import ReferenceStore

    with ReferenceStore(tracking, "1", "parent") as store:
        assert store.elsewhere().uri == mlflow.get_tracking_uri()
