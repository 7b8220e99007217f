import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pandas as pd
import pytest

COLUMNS = ["width", "height", "weight"]


def make_frame(n=60, seed=0, dtype=np.float32):
    """n labelled records, none twice."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)).astype(dtype), columns=COLUMNS)
    frame["label"] = (frame["width"] + rng.normal(scale=0.3, size=n) > 0).astype(np.int64)
    return frame


@pytest.fixture
def train():
    return make_frame(40, seed=1)


@pytest.fixture
def holdout():
    return make_frame(30, seed=2)


@pytest.fixture(scope="session")
def estimator():
    from sklearn.linear_model import LogisticRegression

    frame = make_frame(40, seed=1)
    return LogisticRegression().fit(frame[COLUMNS], frame["label"])


@pytest.fixture(scope="session")
def estimator_without_names():
    from sklearn.linear_model import LogisticRegression

    frame = make_frame(40, seed=1)
    return LogisticRegression().fit(frame[COLUMNS].to_numpy(), frame["label"])


@pytest.fixture
def log_model(tracking, estimator):
    """Logs the fitted estimator in the active run; without an environment or an example, which cost seconds."""
    import mlflow

    def log(model=estimator, signature=True, **kwargs):
        if signature is True:
            signature = mlflow.models.infer_signature(make_frame(3)[COLUMNS])
        kwargs.setdefault("name", "model")
        return mlflow.sklearn.log_model(model, signature=signature or None, pip_requirements=["scikit-learn"], **kwargs)

    return log


@pytest.fixture
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
