"""References spread over workers are those trained one by one, and a worker that dies takes nothing along."""

import dataclasses
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlflow_privacy.auditing.references import NoStore, ensure
from mlflow_privacy.design import Design
from mlflow_privacy.errors import RecipeError, StoreError, UnsafeError
from mlflow_privacy.executor.parcel import pack, unpack
from mlflow_privacy.executor.work import with_threads
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.store.keys import StoredReference
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.types import Records

N = 120


class MemoryStore(NoStore):
    """Keeps what is saved, in the order of saving."""

    def __init__(self):
        self.saved = []

    def save(self, key, members, *, write_weights, outputs, metrics, **kwargs):
        folder = Path(os.environ["STORE_FOLDER"]) / str(len(self.saved))
        folder.mkdir()
        self.saved.append((key, folder if write_weights(folder) else None, metrics, os.getpid()))
        return StoredReference(key, f"run-{key.index}")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("STORE_FOLDER", str(tmp_path))
    return MemoryStore()


def table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    y = (x[:, 0] + rng.normal(size=n) > 0).astype(int)
    return Records(pd.DataFrame(x, columns=list("abcde")), y, np.arange(n).astype(str))


def images(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.normal(size=(n, 1, 8, 8)).astype(np.float32) + y[:, None, None, None] * 0.5
    return Records(x.astype(np.float32), y, np.arange(n).astype(str))


def train(pool, recipe, store, executor, count=4, n_workers=2):
    design = Design(data_digest(pool), len(pool), 3, 0.5, None)
    outputs = functools.partial(model_outputs, records=pool, task="classification", device="cpu")
    return ensure(
        pool,
        recipe,
        design,
        count,
        data_digests=["pool"],
        outputs=lambda model: (outputs(model),),
        store=store,
        device="cpu",
        executor=executor,
        n_workers=None if executor in ("local", "auto") else n_workers,
    )


def same(a, b, tolerance=0.0):
    np.testing.assert_array_equal(a.member, b.member)
    for one, other in zip(a.pool, b.pool, strict=True):
        np.testing.assert_allclose(one.signal, other.signal, rtol=tolerance, atol=tolerance)
    assert len({values.signal.tobytes() for values in a.pool}) == len(a.pool)  # not all of them one model
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize("executor", ["threading", "loky"])
def test_estimators_are_those_trained_one_by_one(store, executor, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for estimator in (
        RandomForestClassifier(5, n_jobs=2),
        make_pipeline(StandardScaler(), LogisticRegression()),
    )[:: 1 if executor == "threading" else -1]:
        recipe = make_recipe(estimator, task="classification")
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        spread = train(table(), recipe, store, executor)
        assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
        same(spread, train(table(), recipe, NoStore(), "local"))
        assert sorted(key.index for key, *_ in store.saved[-4:]) == [0, 1, 2, 3]
        assert {pid for *_, pid in store.saved} == {os.getpid()}  # workers need no MLflow
        if executor == "loky":
            break
    key, folder, metrics, _ = store.saved[-1]  # of the pipeline, which has a safe form
    loaded = trainer_for(recipe).load(recipe, folder)
    values = model_outputs(loaded, table(), task="classification").signal
    np.testing.assert_array_equal(values, spread.pool[key.index].signal)
    assert set(metrics) == {"member_loss", "nonmember_loss", "member_accuracy", "nonmember_accuracy"}


def test_conv_nets_are_those_trained_one_by_one(store):
    settings = {"epochs": 2, "batch_size": 10, "learning_rate": 0.1, "optimizer": "sgd", "loss": "cross_entropy"}
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Flatten(), torch.nn.Linear(108, 2)
    )
    pool = images()
    recipe = make_recipe(net, settings, task="classification", data=pool)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spread, alone = train(pool, recipe, store, "loky"), train(pool, recipe, NoStore(), "local")
    finally:
        torch.set_num_threads(threads)
    same(spread, alone)  # bitwise: the threads are equal
    key, folder, *_ = store.saved[0]
    assert (folder / "model.safetensors").is_file()
    values = model_outputs(trainer_for(recipe).load(recipe, folder), pool, task="classification").signal
    np.testing.assert_allclose(values, spread.pool[key.index].signal, atol=1e-5)


def test_a_killed_worker_is_replaced_and_only_its_reference_is_trained_again(store, tmp_path, caplog):
    calls = tmp_path / "calls"

    def fit(x, y, seed):
        from sklearn.linear_model import SGDClassifier

        with open(calls, "a") as file:
            file.write(f"{seed}\n")
        if calls.read_text().count("\n") == 2:  # the second call dies as by the system's hand, out of memory
            os.kill(os.getpid(), signal.SIGKILL)
        return SGDClassifier(loss="log_loss", random_state=seed, alpha=np.random.rand()).fit(x, y)  # noqa: NPY002

    recipe = make_recipe(None, train_fn=fit, task="classification")
    with caplog.at_level(logging.INFO, "mlflow_privacy"):
        spread = train(table(), recipe, store, "loky")
    assert "died" in caplog.text
    assert "are trained again" in caplog.text
    seeds = calls.read_text().split()
    assert len(seeds) == 5
    assert len(set(seeds)) == 4  # one of them twice
    assert sorted(key.index for key, *_ in store.saved) == [0, 1, 2, 3]
    calls.write_text("\n" * 9)
    same(spread, train(table(), recipe, NoStore(), "local"))  # a train_fn that draws from the global generator too


def test_a_reference_that_kills_every_worker_is_given_up_and_the_others_are_kept(store):
    design = Design(data_digest(table()), N, 3, 0.5, None)
    bad = design.train_seed(1)

    def fit(x, y, seed):
        from sklearn.tree import DecisionTreeClassifier

        if seed == bad:
            os._exit(9)
        return DecisionTreeClassifier(random_state=seed).fit(x, y)

    recipe = make_recipe(None, train_fn=fit, task="classification")
    with pytest.raises(StoreError, match=r"Reference model\(s\) 1 could not be trained: their worker died 3 times"):
        train(table(), recipe, store, "loky", count=4)
    assert sorted(key.index for key, *_ in store.saved) == [0, 2, 3]


class NotSent(LogisticRegression):
    """An estimator that no other process can have."""

    def __reduce__(self):
        raise TypeError("it holds a connection")


def test_a_backend_registered_with_joblib_trains_the_same_models(monkeypatch, caplog):
    from joblib.parallel import BACKENDS, LokyBackend

    monkeypatch.setitem(BACKENDS, "somebodys", LokyBackend)
    recipe = make_recipe(RandomForestClassifier(5), task="classification")
    with caplog.at_level(logging.INFO, "mlflow_privacy"):
        spread = train(table(), recipe, NoStore(), "somebodys")
    assert "by somebodys, 2 worker(s)" in caplog.text
    same(spread, train(table(), recipe, NoStore(), "local"))


def test_where_workers_cannot_be_had_auto_goes_on_alone_and_loky_says_why(store, monkeypatch, caplog):
    from mlflow_privacy.executor import plan

    recipe = make_recipe(NotSent(), task="classification")
    with pytest.raises(RecipeError, match="cannot be sent to another process: TypeError: it holds a connection"):
        train(table(), recipe, NoStore(), "loky")
    monkeypatch.setitem(plan._START_SECONDS, "sklearn", -1e9)  # workers would be worth it
    monkeypatch.setattr(plan, "usable_cores", lambda: 4)
    with caplog.at_level(logging.INFO, "mlflow_privacy"):
        found = train(table(), recipe, store, "auto")
    assert "Workers cannot be used" in caplog.text
    assert [key.index for key, *_ in store.saved] == [0, 1, 2, 3]
    same(found, train(table(), recipe, NoStore(), "local"))


def test_auto_trains_the_first_here_and_the_rest_in_workers(store, monkeypatch, caplog):
    from mlflow_privacy.executor import plan

    monkeypatch.setitem(plan._START_SECONDS, "sklearn", -1e9)
    monkeypatch.setattr(plan, "usable_cores", lambda: 2)
    recipe = make_recipe(make_pipeline(StandardScaler(), LogisticRegression()), task="classification")
    with caplog.at_level(logging.INFO, "mlflow_privacy"):
        found = train(table(), recipe, store, "auto", count=3)
    assert "in this process: the first one tells" in caplog.text
    assert "The other reference models are trained by loky, 2 worker(s)" in caplog.text
    assert store.saved[0][0].index == 0
    assert sorted(key.index for key, *_ in store.saved) == [0, 1, 2]
    same(found, train(table(), recipe, NoStore(), "local", count=3), 1e-6)


def test_an_error_of_training_travels_as_it_is_and_no_worker_stays(store):
    def fit(x, y, seed):
        return None

    recipe = make_recipe(None, train_fn=fit, task="classification")
    before = children()  # a server of other tests may run
    with pytest.raises(RecipeError, match="train_fn returned None"):
        train(table(), recipe, store, "loky", count=2)
    assert [process for process in children() if process not in before] == []


def children(pid=None):
    """Living processes below one, other than loky's resource tracker, which ends with it."""
    import psutil

    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


TERMINATED = """
import sys, time
from mlflow_privacy.evaluators.run import _terminate_as_exit
sys.path.insert(0, sys.argv[1])
import test_executor as helpers
from mlflow_privacy.trainers import make_recipe
def fit(x, y, seed):
    import os, time
    open(sys.argv[2] + f"/{os.getpid()}", "w").close()
    time.sleep(600)
recipe = make_recipe(None, train_fn=fit, task="classification")
with _terminate_as_exit():
    helpers.train(helpers.table(), recipe, helpers.NoStore(), "loky")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_caller(tmp_path, how):
    import psutil

    command = [sys.executable, "-W", "ignore", "-c", TERMINATED, str(Path(__file__).parent), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 240
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2, process.stderr.read()
    os.kill(process.pid, how)
    process.wait(60)
    assert process.returncode == (128 + how if how == signal.SIGTERM else -how)
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(psutil.pid_exists, workers))


def test_the_progress_of_workers_reaches_the_bar(tmp_path):
    from mlflow_privacy.executor.work import Job, _share, shares

    table = shares(tmp_path, 3, new=True)
    job = Job(None, None, None, (1, 2, 3), None, (), None, folder=tmp_path)
    _share(job, [1, 2])(5, 10)
    assert table.tolist() == [0, 0.5, 0.5]


def test_a_parcel_maps_arrays_once_and_holds_them_writable_and_apart(tmp_path):
    big = np.arange(1000.0)
    frame = pd.DataFrame({"a": big + 1})
    parcel = pack({"x": big, "again": big, "frame": frame, "f": lambda v: v + 1}, tmp_path)
    assert len(parcel.stream) == 0
    assert (tmp_path / "arrays").stat().st_size < 2.5 * big.nbytes  # the table's column and x once, though named twice
    value = unpack(parcel)
    assert value["x"] is value["again"]
    pd.testing.assert_frame_equal(value["frame"], frame)
    assert value["f"](1) == 2
    value["x"][0] = 7  # copy on write: neither the file nor the caller's array changes
    assert big[0] == 0
    assert unpack(dataclasses.replace(parcel), remember=False)["x"][0] == 0


def test_a_stream_that_somebody_else_has_written_is_not_unpickled(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    parcel = pack({"x": np.zeros(3)}, tmp_path)
    (tmp_path / "stream").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeError, match="changed by somebody else"):
        unpack(parcel)
    assert not (tmp_path / "harm").exists()


def test_what_cannot_be_sent_is_told(tmp_path):
    with pytest.raises(RecipeError, match="cannot be sent to another process.*Use executor='local'"):
        pack(threading.Lock(), tmp_path)


def test_estimators_start_no_threads_of_their_own_in_a_worker():
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(RandomForestClassifier(n_jobs=-1), {"max_depth": [1, 2]}, n_jobs=4)
    limited = with_threads(make_recipe(search, task="classification"), 1).template
    assert (limited.n_jobs, limited.estimator.n_jobs) == (1, 1)
    assert search.n_jobs == 4
    assert with_threads(make_recipe(LogisticRegression(), task="classification"), 2).template.n_jobs is None


def test_boosting_gets_as_many_threads_as_its_worker():
    xgboost = pytest.importorskip("xgboost")
    recipe = make_recipe(xgboost.XGBClassifier(), task="classification")
    assert with_threads(recipe, 2).template.n_jobs == 2


def test_questions_travel_without_the_live_objects_of_the_options():
    import cloudpickle

    from mlflow_privacy.auditing.options import AuditOptions
    from mlflow_privacy.auditing.questions import Asking

    options = AuditOptions(train=threading.Lock(), batch_size=7)
    ask = Asking((table(),), np.arange(N), ("k",), 1, "classification", None, options, {})
    there = cloudpickle.loads(cloudpickle.dumps(ask))
    assert there.options.train is None
    assert there.options.batch_size == 7
    assert there.options.model_fields_set == {"batch_size"}
    assert ask.options is options


def test_whether_workers_pay_is_decided_without_the_time_of_keeping(store, caplog, monkeypatch):
    save = MemoryStore.save

    def slowly(self, *args, **kwargs):
        time.sleep(0 if self.saved else 2.5)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(MemoryStore, "save", slowly)
    monkeypatch.setattr("mlflow_privacy.executor.plan.usable_cores", lambda: 2)
    with caplog.at_level(logging.INFO, logger="mlflow_privacy"):
        train(table(), make_recipe(LogisticRegression(), task="classification"), store, "auto", count=8)
    told = next(line for line in caplog.messages if line.startswith("The other reference models are trained"))
    assert "in this process: the first took 0." in told  # if keeping counted, 7 more: 18 s here, 12 s there
