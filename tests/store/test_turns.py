"""Requests that hold several connections of a database are made in turn; a server's are not."""

import concurrent.futures
import threading

import mlflow
import pytest
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.store.experiments import experiment_named
from mlflow_privacy.store.turns import _NESTED, take_turns, taking_turns

THREADS = 3


@pytest.fixture
def most(monkeypatch):
    """The most requests of the kind `log_batch` that were under way at one moment, each a while."""
    under_way, seen, count = 0, [0], threading.Lock()
    everybody = threading.Event()

    def log_batch(self, run_id, **kwargs):
        nonlocal under_way
        with count:
            under_way += 1
            seen[0] = max(seen[0], under_way)
            if under_way == THREADS:
                everybody.set()
        everybody.wait(0.2)
        with count:
            under_way -= 1

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    return seen


def at_once(uri, initializer=None):
    def write(_):
        mlflow.MlflowClient(uri).log_batch("run")

    with concurrent.futures.ThreadPoolExecutor(THREADS, initializer=initializer) as pool:
        list(pool.map(write, range(THREADS)))


def test_a_database_that_this_process_opens_gets_one_at_a_time(most, tracking):
    at_once(tracking.tracking_uri, take_turns)
    assert most == [1]


def test_a_server_gets_all_at_once(most, tracking):
    at_once("http://127.0.0.1:9", take_turns)
    assert most == [THREADS]


def test_threads_that_asked_for_no_turns_do_not_wait(most, tracking):
    with taking_turns():
        at_once(tracking.tracking_uri)
    assert most == [THREADS]


def test_the_requests_that_hold_several_connections_are_those_of_the_table(tracking):
    """Whoever adds a request to audits, or a version of MLflow, that holds more of them at once is told here."""
    from sqlalchemy import event
    from sqlalchemy.pool import QueuePool

    held, most_held = 0, 0

    def out(*args):
        nonlocal held, most_held
        held += 1
        most_held = max(most_held, held)

    def back(*args):
        nonlocal held
        held -= 1

    event.listen(QueuePool, "checkout", out)
    event.listen(QueuePool, "checkin", back)
    try:
        experiment = tracking.create_experiment("connections")
        run_id = tracking.create_run(experiment).info.run_id
        model_id = tracking.create_logged_model(experiment, source_run_id=run_id).model_id
        requests = {
            "create_run": lambda: tracking.create_run(experiment),
            "log_batch": lambda: tracking.log_batch(run_id, tags=[RunTag("mlflow.runName", "name")]),
            "log_inputs": lambda: tracking.log_inputs(run_id, models=[mlflow.entities.LoggedModelInput(model_id)]),
            "set_tag": lambda: tracking.set_tag(run_id, "mlflow.runName", "name"),
            "set_experiment_tag": lambda: tracking.set_experiment_tag(experiment, "a", "b"),
            "set_logged_model_tags": lambda: tracking.set_logged_model_tags(model_id, {"a": "b"}),
            "delete_logged_model_tag": lambda: tracking.delete_logged_model_tag(model_id, "a"),
            "search_runs": lambda: tracking.search_runs([experiment], "tags.a = 'b'"),
            "set_terminated": lambda: tracking.set_terminated(run_id),
            "delete_run": lambda: tracking.delete_run(run_id),
        }
        several = set()
        for name, request in requests.items():
            held = most_held = 0
            request()
            assert most_held
            several |= {name} if most_held > 1 else set()
            assert most_held <= 4  # a smaller pool than that holds no request at all
    finally:
        event.remove(QueuePool, "checkout", out)
        event.remove(QueuePool, "checkin", back)
    assert several <= set(_NESTED)


def test_an_experiment_that_somebody_creates_in_between_is_taken(tracking, monkeypatch):
    create = mlflow.MlflowClient.create_experiment

    def lose(self, name):
        create(self, name)
        return create(self, name)

    monkeypatch.setattr(mlflow.MlflowClient, "create_experiment", lose)
    found = experiment_named(tracking, "raced")
    assert tracking.get_experiment(found).name == "raced"


def test_an_experiment_that_cannot_be_created_is_an_error(tracking, monkeypatch):
    def refuse(self, name):
        raise MlflowException("Permission denied", error_code=7)

    monkeypatch.setattr(mlflow.MlflowClient, "create_experiment", refuse)
    with pytest.raises(MlflowException, match="Permission denied"):
        experiment_named(tracking, "refused")


def test_a_deleted_experiment_is_named(tracking):
    tracking.delete_experiment(tracking.create_experiment("gone"))
    with pytest.raises(ConfigError, match="'gone' was deleted"):
        experiment_named(tracking, "gone")
