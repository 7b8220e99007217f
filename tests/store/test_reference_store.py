import dataclasses
import subprocess
import sys
import threading

import mlflow
import numpy as np
import pytest

from mlflow_privacy.errors import StoreError
from mlflow_privacy.store.keys import ReferenceKey, members_digest
from mlflow_privacy.store.references import (
    ReferenceStore,
    _is_dead,
    process_tag,
    read_outputs,
    sweep_dead_runs,
    write_outputs,
)
from mlflow_privacy.store.tags import RECORD, ROLE, own_record, record_tag
from mlflow_privacy.types import ModelOutputs

POOL, OTHER = "ab" * 32, "cd" * 32
MEMBERS = np.array([True, False, True, False])


def outputs(shift=0.0):
    signal = np.array([1.5, -2, 80, -80], np.float32) + np.float32(shift)
    return ModelOutputs(signal, np.array([True, False, True, False]), np.ones(4, np.float32), "logit")


def key(index=0, fingerprint="f" * 64):
    return ReferenceKey(fingerprint, index, members_digest(MEMBERS), 17 + index)


def write_weights(folder):
    (folder / "weights.safetensors").write_bytes(b"abc")
    return True


def save(store, reference_key=None, **changes):
    arguments = {
        "outputs": {POOL: outputs()},
        "write_weights": write_weights,
        "metrics": {"member_loss": 0.5},
        "recipe": {"kind": "sklearn"},
        "started": 1.7e9,
    }
    return store.save(reference_key or key(), MEMBERS, **{**arguments, **changes})


@pytest.fixture
def store(tracking):
    with mlflow.start_run() as run, ReferenceStore(tracking, run.info.experiment_id, run.info.run_id) as opened:
        yield opened


def test_a_saved_reference_is_found_with_its_signals_and_weights(store, tracking):
    saved = save(store)
    assert store.find("f" * 64) == {0: saved}
    loaded = store.read(saved, POOL)
    np.testing.assert_array_equal(loaded.signal, outputs().signal)
    np.testing.assert_array_equal(loaded.correct, outputs().correct)
    assert loaded.link == "logit"
    assert (store.weights(saved) / "weights.safetensors").read_bytes() == b"abc"
    run = tracking.get_run(saved.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == mlflow.active_run().info.run_id
    assert run.data.metrics["member_loss"] == 0.5
    members = mlflow.artifacts.download_artifacts(run_id=saved.run_id, artifact_path="membership.npy")
    np.testing.assert_array_equal(np.load(members, allow_pickle=False), MEMBERS)


def test_references_are_found_across_experiments_and_only_by_their_fingerprint(store, tracking):
    saved = save(store)
    other = tracking.create_experiment("another")
    with ReferenceStore(tracking, other, "0" * 32) as elsewhere:
        second = save(elsewhere, key(1))
        third = save(elsewhere, key(0, "0" * 64))
    assert store.find("f" * 64) == {0: saved, 1: second}
    assert store.find("0" * 64) == {0: third}


def test_of_doubles_the_oldest_counts(store):
    second = save(store, started=1.6e9)
    save(store, started=1.7e9)
    assert store.find("f" * 64)[0].run_id == second.run_id


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_only_finished_runs_count(store, tracking, status):
    saved = save(store)
    store.flush()
    tracking.update_run(saved.run_id, status=status)
    assert store.find("f" * 64) == {}


def test_a_run_whose_tags_do_not_fit_its_key_is_ignored(store, tracking):
    saved = save(store)
    store.flush()
    record = own_record(tracking.get_run(saved.run_id).data.tags)
    for seed in (18, "not a number", [17], None):
        tracking.set_tag(saved.run_id, *record_tag(record | {"train_seed": seed}).popitem())
        assert store.find("f" * 64) == {}
    tracking.set_tag(saved.run_id, RECORD, "no JSON")
    assert store.find("f" * 64) == {}
    tracking.set_tag(saved.run_id, *record_tag(record).popitem())
    assert store.find("f" * 64) == {0: saved}


def test_signals_of_further_data_can_be_added(store):
    saved = save(store)
    assert store.read(saved, OTHER) is None
    store.add(saved, OTHER, outputs(1.0))
    np.testing.assert_array_equal(store.read(saved, OTHER).signal, outputs(1.0).signal)


def test_a_model_without_a_safe_form_is_stored_without_weights(store):
    saved = save(store, write_weights=lambda folder: False)
    assert store.weights(saved) is None
    assert store.read(saved, POOL) is not None


def test_damaged_signals_are_an_error_and_never_unpickled(tmp_path):
    for name, content in (("cut", b"PK\x03\x04 half"), ("empty", b""), ("text", b"hello")):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(StoreError, match=f"{name}.npz"):
            read_outputs(tmp_path / f"{name}.npz", POOL)
    hostile = np.empty(1, object)
    hostile[0] = {"not": "data"}
    np.savez(tmp_path / "hostile.npz", signal=hostile, loss=np.ones(1), link=np.array("logit"), data=np.array(POOL))
    with pytest.raises(StoreError, match=r"hostile\.npz"):
        read_outputs(tmp_path / "hostile.npz", POOL)


def test_signals_of_other_data_are_refused(tmp_path):
    write_outputs(outputs(), OTHER, tmp_path / "a.npz")
    with pytest.raises(StoreError, match="signals of data"):
        read_outputs(tmp_path / "a.npz", POOL)


def test_extra_signals_are_kept_and_files_without_them_still_load(tmp_path):
    extra = {"min_k:k=0.2": np.arange(4, dtype=np.float32), "neighbours:n=2,replaced=1,seed=0": np.ones(4, np.float32)}
    kept = dataclasses.replace(outputs(), correct=None, link="log", extra=extra)
    write_outputs(kept, POOL, tmp_path / "a.npz")
    loaded = read_outputs(tmp_path / "a.npz", POOL)
    assert list(loaded.extra) == list(extra)
    for key, values in extra.items():
        np.testing.assert_array_equal(loaded.extra[key], values)
    assert loaded.link == "log"
    assert loaded.correct is None
    old = {"signal": np.ones(2, np.float32), "loss": np.ones(2, np.float32), "link": np.array("logit")}
    np.savez(tmp_path / "old.npz", **old, data=np.array(POOL))
    assert read_outputs(tmp_path / "old.npz", POOL).extra == {}


def test_reference_metrics_do_not_attach_to_the_audited_model(store, tracking):
    model = mlflow.initialize_logged_model("audited")
    with mlflow.set_active_model(model_id=model.model_id):
        save(store)
    assert not mlflow.get_logged_model(model.model_id).metrics


def test_a_reference_that_cannot_be_stored_is_an_error_of_the_next_call_or_on_leaving(tracking, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no space left")

    experiment = tracking.get_experiment_by_name("test").experiment_id
    with ReferenceStore(tracking, experiment, "0" * 32) as store:
        old = save(store, key(0))
    monkeypatch.setattr(mlflow.MlflowClient, "log_artifacts", refused)
    store = ReferenceStore(tracking, experiment, "0" * 32)
    save_one = save(store, key(1))
    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            store.retire(old)  # its successor is not safe
    with pytest.raises(OSError, match="no space left"):
        store.__exit__(None)
    with pytest.raises(OSError, match="no space left"), ReferenceStore(tracking, experiment, "0" * 32) as other:
        save(other, key(2))
    with ReferenceStore(tracking, experiment, "0" * 32) as later:
        assert later.find("f" * 64) == {0: old}
    assert tracking.get_run(save_one.run_id).info.status == "RUNNING"


def test_references_are_read_in_place_where_the_artifacts_are_a_folder(store, monkeypatch):
    saved = save(store)
    monkeypatch.setattr(mlflow.MlflowClient, "download_artifacts", None)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", None)
    found = store.find("f" * 64)[0]
    assert found == saved
    np.testing.assert_array_equal(store.read(found, POOL).signal, outputs().signal)
    assert str(store.weights(found)).startswith(mlflow.get_run(saved.run_id).info.artifact_uri)
    np.testing.assert_array_equal(store.members(found), MEMBERS)


def test_references_on_a_server_come_back_whole_and_each_as_its_own(on_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = on_server
    experiment = client.create_experiment("reference store")
    parent = client.create_run(experiment).info.run_id
    with ReferenceStore(client, experiment, parent) as store:
        for index in range(3):
            save(store, key(index), outputs={POOL: outputs(index)})
    with ReferenceStore(client, experiment, parent) as store:
        found = store.find("f" * 64)
        assert sorted(found) == [0, 1, 2]
        for index in (1, 0, 2):  # not in the order in which they are fetched ahead
            np.testing.assert_array_equal(store.read(found[index], POOL).signal, outputs(index).signal)
            assert store.read(found[index], OTHER) is None
            np.testing.assert_array_equal(store.members(found[index]), MEMBERS)
        store.add(found[1], OTHER, outputs(7.0))
        np.testing.assert_array_equal(store.read(found[1], OTHER).signal, outputs(7.0).signal)
        assert (store.weights(found[2]) / "weights.safetensors").read_bytes() == b"abc"


def test_two_stores_at_once_do_not_spoil_each_other(store, tracking):
    experiment = tracking.get_experiment_by_name("test").experiment_id

    def work():
        with ReferenceStore(tracking, experiment, "0" * 32) as mine:
            for index in range(4):
                save(mine, key(index))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.find("f" * 64)
    assert sorted(found) == [0, 1, 2, 3]
    assert all(store.read(reference, POOL) is not None for reference in found.values())


def test_runs_of_dead_processes_are_closed_and_those_of_live_ones_are_not(tracking):
    code = "from mlflow_privacy.store.references import process_tag; print(process_tag())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    experiment = tracking.get_experiment_by_name("test").experiment_id
    tags = {"dead": gone, "alive": process_tag(), "elsewhere": "another-host:1:1", "odd": ":::"}
    runs = {
        name: tracking.create_run(experiment, tags={ROLE: "audit", **record_tag({"process": tag})}).info.run_id
        for name, tag in tags.items()
    }
    plain = tracking.create_run(experiment).info.run_id
    assert sweep_dead_runs(tracking, [experiment]) == [runs["dead"]]
    assert tracking.get_run(runs["dead"]).info.status == "KILLED"
    for name in ("alive", "elsewhere", "odd"):
        assert tracking.get_run(runs[name]).info.status == "RUNNING"
    assert tracking.get_run(plain).info.status == "RUNNING"


def test_a_reused_pid_is_not_taken_for_the_old_process():
    host, pid, _ = process_tag().split(":")
    assert _is_dead(f"{host}:{pid}:1")
    assert not _is_dead(process_tag())
