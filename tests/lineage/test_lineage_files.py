"""Files: what is read, and what is refused."""

import io
import pickle

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import LineageError, UnsafeError
from mlflow_privacy.lineage import resolve_target
from mlflow_privacy.lineage.files import read_path, recast, write_table
from mlflow_privacy.lineage.tables import Table, as_table, table_digest
from mlflow_privacy.store.places import without_password


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


@pytest.mark.parametrize("name", ["a.pkl", "a.joblib", "a.pt", "a.pkl.gz", "a.csv", "a", "a.npz", "a.npy", "a.parquet"])
def test_pickles_are_refused_whatever_they_are_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if name.endswith(("npz", "npy")):
        bomb = np.array([Bomb()], dtype=object)
        buffer = io.BytesIO()
        (np.savez if name.endswith("z") else np.save)(buffer, bomb)
        path.write_bytes(buffer.getvalue())
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UnsafeError, match="refused"):
        read_path(path)
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_as_lineage_source_is_refused_in_the_audit(log_model, train, holdout, tmp_path):
    train.to_pickle(tmp_path / "train.pkl")
    with mlflow.start_run():
        info = log_model()
        data = mlflow.data.from_pandas(train, source=str(tmp_path / "train.pkl"), name="train")
        mlflow.log_input(data, context="training")
    with pytest.raises(UnsafeError, match=r"train\.pkl is a pickle"):
        resolve_target(info.model_uri, AuditOptions(holdout=holdout))
    with pytest.raises(UnsafeError, match=r"train\.pkl is a pickle"):
        resolve_target(info.model_uri, AuditOptions(train=str(tmp_path / "train.pkl"), holdout=holdout))


def test_unknown_formats_name_the_known_ones(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"\0\1\2")
    with pytest.raises(LineageError, match="CSV, Parquet, NPZ"):
        read_path(tmp_path / "a.xlsx")


def test_formats_are_known_by_content_too(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5], "y": [0, 1]})
    frame.to_parquet(tmp_path / "one")
    np.savez(tmp_path / "two.npz", x=np.eye(2), y=np.arange(2))
    (tmp_path / "two.npz").rename(tmp_path / "two")
    frame.to_csv(tmp_path / "three", index=False)
    frame.to_feather(tmp_path / "four")
    pd.testing.assert_frame_equal(read_path(tmp_path / "one"), frame)
    assert set(read_path(tmp_path / "two")) == {"x", "y"}
    pd.testing.assert_frame_equal(read_path(tmp_path / "three"), frame)
    pd.testing.assert_frame_equal(read_path(tmp_path / "four"), frame)


def test_csv_floats_survive_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"double": rng.normal(size=500) * 1e-7, "single": rng.normal(size=500).astype(np.float32)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    read = read_path(tmp_path / "a.csv", {"double": "double", "single": "float"})
    pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_recast_leaves_what_does_not_fit():
    frame = pd.DataFrame({"a": ["x", "y"], "b": [1.0, np.nan]})
    assert recast(frame, {"a": "double", "b": "long", "c": "long"}).equals(frame)


@pytest.mark.parametrize(
    "table",
    [
        Table(np.eye(3, dtype=np.float32), np.arange(3)),
        Table(np.array(["a", "b", "c"]), np.array(["x", "y", "x"])),
        Table(pd.DataFrame({"a": [1, 2], "t": ["x", "y"], "c": pd.Categorical(["u", "v"]), "y": [0.5, 1.5]})),
        Table(pd.DataFrame({"tokens": [[1, 2], [3]], "y": [0, 1]})),
        Table(pd.DataFrame({0: [1.5], 1: [2.5]})),
    ],
    ids=["numbers", "texts", "mixed", "lists", "numbered columns"],
)
def test_stored_tables_come_back_equal(table, tmp_path):
    once = as_table(read_path(write_table(table, tmp_path, "a")))
    twice = as_table(read_path(write_table(once, tmp_path, "b")))
    assert table_digest(once) == table_digest(twice)
    assert np.asarray(once.x).tolist() == np.asarray(table.x).tolist() or "tokens" in once.x


def test_columns_of_mixed_objects_cannot_be_stored(tmp_path):
    with pytest.raises(LineageError, match="cannot be stored as Parquet"):
        write_table(Table(pd.DataFrame({"a": [1, "x", {}]})), tmp_path, "train")


def test_no_password_is_written_into_a_source():
    assert without_password("http://me:secret@host:1/x") == "http://host:1/x"
