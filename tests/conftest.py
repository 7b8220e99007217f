import os
import shutil

import pytest

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
