"""Sources that do not answer, cannot be reached or have moved: an error in time that names them, or the file found."""

import http.server
import re
import socket
import threading
import time

import mlflow
import pytest

from mlflow_privacy.errors import ConfigError, LineageError
from mlflow_privacy.lineage import log_lineage, patience, resolve_target
from mlflow_privacy.lineage.patience import SILENCE, TOTAL, limit, within_limits
from mlflow_privacy.lineage.sources import loadable, read_uri


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setenv(SILENCE, "0.6")
    monkeypatch.setattr(patience, "_PAUSE", 0.01)
    monkeypatch.setattr(patience, "_dead", {})


@pytest.fixture
def silent():
    """Address of a server that accepts a connection and never says anything."""
    server = socket.create_server(("127.0.0.1", 0))
    kept = []
    threading.Thread(target=lambda: [kept.append(server.accept()) for _ in range(9)], daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()


@pytest.fixture
def web():
    """Address of a server: /drip sends a file a byte at a time, /403 refuses, anything else is a small CSV."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403 if self.path == "/403" else 200)
            self.end_headers()
            text = b"a,b\n1,2\n3,4\n"
            for i in range(len(text)):
                self.wfile.write(text[i : i + 1])
                self.wfile.flush()
                time.sleep(0.15 if self.path.startswith("/drip") else 0)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_source_that_never_answers_is_given_up_and_named(silent, log_model, train, holdout):
    with mlflow.start_run():
        info = log_model()
        for frame, name, context in ((train, "train.csv", "training"), (holdout, "test.csv", "testing")):
            data = mlflow.data.from_pandas(frame, source=f"{silent}/{name}", name=name)
            mlflow.log_input(data, context=context)
    started = time.monotonic()
    with pytest.raises(LineageError) as error:
        resolve_target(info.model_uri)
    assert time.monotonic() - started < 20
    text = str(error.value)
    assert re.search(r"/train.csv does not load: nothing came for 0.6 s \(MLFLOW_PRIVACY_SOURCE_TIMEOUT\)", text)
    assert "/test.csv was not asked" in text  # of the same address
    assert "log_lineage" in text


def test_a_slow_source_that_says_something_is_waited_for(web):
    assert read_uri(f"{web}/drip.csv").shape == (2, 2)  # 1.8 s, a byte every 0.15


def test_but_not_longer_than_the_total(web, monkeypatch):
    monkeypatch.setenv(TOTAL, "0.8")
    with pytest.raises(LineageError, match=r"/drip.csv was not there after 0.8 s in all \(MLFLOW_PRIVACY_SOURCE_TOTAL"):
        read_uri(f"{web}/drip.csv")


def test_work_whose_progress_cannot_be_seen_has_longer():
    assert within_limits(lambda: time.sleep(1.0) or "done", where="table") == "done"
    with pytest.raises(KeyError, match="own"):
        within_limits(lambda: {}["own"], where="table")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://no-such-host.invalid/a.csv", "the name no-such-host.invalid is not known .tried twice"),
        ("http://127.0.0.1:9/a.csv", "refused.*tried twice"),
    ],
)
def test_what_cannot_be_reached_is_named(address, message):
    with pytest.raises(LineageError, match=f"(?s)its source {re.escape(address)} does not load: .*{message}"):
        read_uri(address)


def test_a_refusal_is_no_reason_to_try_again(web):
    with pytest.raises(LineageError, match="HTTP 403. Give this process user and password"):
        read_uri(f"{web}/403")


def raised_by(module, name, text):
    return type(name, (Exception,), {"__module__": module})(text)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (raised_by("botocore.exceptions", "NoCredentialsError", "Unable to locate credentials"), "credentials of the"),
        (raised_by("google.api_core.exceptions", "Forbidden", "403 GET https://…"), "credentials of the store"),
        (ModuleNotFoundError("No module named 'boto3'"), "install boto3"),
        (raised_by("azure.core.exceptions", "ServiceRequestError", "timed out"), "does not load .ServiceRequestError"),
    ],
)
def test_errors_of_object_stores_are_ours_with_what_helps(error, message):
    with pytest.raises(LineageError, match=message), loadable("s3://bucket/a.csv"):
        raise error


def test_an_error_of_our_own_code_is_not_taken_for_the_sources():
    with pytest.raises(ZeroDivisionError), loadable("s3://bucket/a.csv"):
        raise ZeroDivisionError


def test_limits_must_be_numbers(monkeypatch):
    monkeypatch.setenv(SILENCE, "soon")
    with pytest.raises(
        ConfigError, match="MLFLOW_PRIVACY_SOURCE_TIMEOUT must be a positive number of seconds, got 'soon'"
    ):
        limit(SILENCE)


# --- moved -------------------------------------------------------------------------------------------------------


@pytest.fixture
def log_relative(log_model, train, holdout, tmp_path, monkeypatch):
    """Logs both parts by relative paths from one folder, and leaves for another."""

    def log(folder="data"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        with mlflow.start_run() as run:
            info = log_model()
            for frame, name, context in ((train, "train", "training"), (holdout, "test", "testing")):
                frame.to_parquet(f"{folder}/{name}.parquet")
                data = mlflow.data.from_pandas(frame, source=f"{folder}/{name}.parquet", name=name)
                mlflow.log_input(data, context=context)
        (tmp_path / "away").mkdir()
        monkeypatch.chdir(tmp_path / "away")
        return info.model_uri, run.info.run_id

    return log


def test_a_relative_path_is_found_beside_the_tracking_store(log_relative, tmp_path):
    uri, _ = log_relative()
    target = resolve_target(uri)
    assert [source.status for source in target.sources] == ["weakly verified"] * 2
    assert target.sources[0].source == f"data/train.parquet (found at {tmp_path}/data/train.parquet)"


def test_files_that_moved_are_found_in_the_folder_of_the_environment(log_relative, tmp_path, monkeypatch):
    uri, _ = log_relative()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_PRIVACY_DATA", str(tmp_path / "elsewhere"))
    assert "elsewhere/train.parquet" in resolve_target(uri).sources[0].source


def test_files_that_moved_are_found_among_the_runs_artifacts(log_relative, tmp_path, tracking):
    uri, run_id = log_relative()
    for name in ("train", "test"):
        tracking.log_artifact(run_id, str(tmp_path / "data" / f"{name}.parquet"))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert [source.status for source in resolve_target(uri).sources] == ["weakly verified"] * 2


def test_a_file_that_is_nowhere_says_where_it_was_looked_for(log_relative, tmp_path):
    uri, run_id = log_relative()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(LineageError) as error:
        resolve_target(uri)
    text = str(error.value)
    assert f"a relative path, looked up in {tmp_path}/away, in {tmp_path} (the tracking store)" in text
    assert f"the artifacts of run {run_id}; MLFLOW_PRIVACY_DATA is not set" in text


def test_a_reference_to_a_file_that_moved_is_found_and_verified(log_model, train, holdout, tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    for frame, name in ((train, "train"), (holdout, "holdout")):
        frame.to_parquet(tmp_path / "old" / f"{name}.parquet")
    with mlflow.start_run():
        info = log_model()
        paths = {name: str(tmp_path / "old" / f"{name}.parquet") for name in ("train", "holdout")}
        log_lineage(**paths, targets="label", store="reference")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.setenv("MLFLOW_PRIVACY_DATA", str(tmp_path / "new"))
    assert {source.status for source in resolve_target(info.model_uri).sources} == {"verified"}
