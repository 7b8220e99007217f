import collections
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import hypothesis
import pytest

# A deadline measures the machine, not the code; derandomised, so that a failure is everybody's failure.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A migrated SQLite store with nothing in it: migrating a new one costs a second each."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = tmp_path_factory.mktemp("database")
    SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
    return folder / "mlflow.db"


@pytest.fixture
def tracking(tmp_path, monkeypatch, empty_database):
    """A new SQLite tracking store and registry of the test's own, with `tmp_path` as working directory."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = mlflow.MlflowClient()
    # Not `set_experiment` on the default one, whose artifacts would lie where the template was made.
    mlflow.set_experiment(experiment_id=client.create_experiment("test", artifact_location=str(tmp_path / "artifacts")))
    yield client
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.fixture
def on_server(server):
    """A client of the server that is this process's too: early releases of MLflow 3 take files from no other."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server)
    yield mlflow.MlflowClient(server)
    mlflow.set_tracking_uri(before)


@pytest.fixture
def calls(monkeypatch):
    """How often each method of MLflow's client was called that asks a store something, or logs inputs."""
    import mlflow

    counts = collections.Counter()
    names = ("get_run", "get_model_version", "get_logged_model", "search_runs", "search_logged_models")
    for name in (*names, "list_artifacts", "download_artifacts", "log_inputs"):
        original = getattr(mlflow.MlflowClient, name)

        def counted(self, *args, _name=name, _original=original, **kwargs):
            counts[_name] += 1
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(mlflow.MlflowClient, name, counted)
    return counts


@pytest.fixture(scope="session")
def server(tmp_path_factory, empty_database):
    """URI of a real `mlflow server` with SQLite and proxied artifacts."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "a")]
    command += ["--serve-artifacts", "--workers", "1"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True, env=dict(os.environ)
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                if urllib.request.urlopen(f"{url}/health", timeout=1).status == 200:
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.25)
        else:
            raise AssertionError((folder / "log").read_text()[-2000:])
        yield url
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(20)


@pytest.fixture(scope="session")
def result():
    """An audit's result, without an audit."""
    from mlflow_privacy.report.example import example_result

    return example_result(n=500)
