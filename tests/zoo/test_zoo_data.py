"""Data sets: what ships with scikit-learn, files, and users' own loaders."""

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError, UnsafeError
from mlflow_privacy.zoo import datasets as builtin
from mlflow_privacy.zoo.data import as_inputs, make_dataset, standardised
from mlflow_privacy.zoo.tables import find_file, load_table


@pytest.mark.parametrize(
    ("name", "shape", "classes", "task"),
    [
        ("digits", (1797, 1, 8, 8), 10, "classification"),
        ("breast_cancer", (569, 30), 2, "classification"),
        ("wine", (178, 13), 3, "classification"),
        ("diabetes", (442, 10), 0, "regression"),
    ],
)
def test_bundled_data_sets_have_their_published_sizes(name, shape, classes, task):
    data = zoo.load_dataset(name)
    assert data.records.x.shape == shape
    assert data.records.x.dtype == np.float32
    assert (len(data.classes), data.task) == (classes, task)
    assert len(set(data.records.row_ids)) == len(data.records)
    assert data.num_outputs == max(classes, 1)
    assert builtin is not None


def test_digits_are_scaled_to_the_unit_interval_and_flatten_in_row_order():
    data = zoo.load_dataset("digits")
    assert (data.records.x.min(), data.records.x.max()) == (0, 1)
    from sklearn.datasets import load_digits

    flat = as_inputs(data, "flat", model_name="mlp").records.x
    np.testing.assert_allclose(flat * 16, load_digits().data)


def test_a_table_cannot_be_given_to_a_model_of_images():
    with pytest.raises(ConfigError, match=r"'cnn' takes images .* shape \(13,\)"):
        as_inputs(zoo.load_dataset("wine"), "image", model_name="cnn")


def test_standardised_features_have_mean_0_and_deviation_1_and_constants_become_0():
    x = np.random.default_rng(0).normal(5, 3, (50, 3))
    x[:, 2] = 7
    out = standardised(make_dataset(x, np.arange(50) % 2, name="t")).records.x
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(out.std(axis=0), [1, 1, 0], atol=1e-5)


def write_csv(folder, **changes):
    frame = pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(6)],
            "age": [30, 41, 52, 63, 24, 35],
            "city": ["Bern", "Basel", "Bern", "Chur", "Basel", "Bern"],
            "sick": ["no", "yes", "no", "yes", "yes", "no"],
        }
    ).assign(**changes)
    frame.to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


def test_csv_gives_one_hot_categories_and_class_indices(tmp_path):
    data = load_table(write_csv(tmp_path), targets="sick", drop=["id"])
    assert data.feature_names == ("age", "city=Basel", "city=Bern", "city=Chur")
    assert data.records.x[1].tolist() == [41, 1, 0, 0]
    assert data.classes == ("no", "yes")
    assert data.records.y.tolist() == [0, 1, 0, 1, 1, 0]
    assert data.records.row_ids[2] == "people:2"


def test_csv_parquet_and_npz_of_the_same_numbers_are_equal(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(3, size=20)
    frame = pd.DataFrame(x, columns=list("abc")).assign(label=y)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", features=x, labels=y)
    loaded = [
        load_table(tmp_path / f"t.{s}", targets=t) for s, t in (("csv", "label"), ("parquet", "label"), ("npz", None))
    ]
    for data in loaded:
        np.testing.assert_array_equal(data.records.x, x)
        np.testing.assert_array_equal(data.records.y, y)


def test_npz_arrays_can_be_named(tmp_path):
    np.savez(tmp_path / "t.npz", pixels=np.zeros((4, 2)), kind=[0, 1, 0, 1], y=[1, 1, 0, 0])
    data = load_table(tmp_path / "t.npz", features="pixels", targets="kind")
    assert data.records.y.tolist() == [0, 1, 0, 1]
    with pytest.raises(ConfigError, match="has none of features, x, X, data, images. It holds pixels, kind, y"):
        load_table(tmp_path / "t.npz")


def test_npz_with_pickled_objects_is_refused_and_runs_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    np.savez(tmp_path / "t.npz", x=np.array([[Payload()], [Payload()]], object), y=[0, 1])
    with pytest.raises(UnsafeError, match="pickled objects"):
        load_table(tmp_path / "t.npz")
    assert not (tmp_path / "executed").exists()


def test_wrong_columns_are_reported_all_at_once_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_table(write_csv(tmp_path), targets="sik", drop=["Id"], features=["ages"])
    message = str(caught.value)
    assert "data.targets: people.csv has no column 'sik', did you mean 'sick'?" in message
    assert "data.drop: people.csv has no column 'Id', did you mean 'id'?" in message
    assert "data.features: people.csv has no column 'ages', did you mean 'age'?" in message


def test_missing_values_are_counted_or_their_rows_dropped_keeping_row_ids(tmp_path):
    path = write_csv(tmp_path, age=[30, None, 52, 63, 24, 35])
    with pytest.raises(ConfigError, match=r"missing values in 'age' \(1\).*data.missing: drop"):
        load_table(path, targets="sick", drop=["id"])
    data = load_table(path, targets="sick", drop=["id"], missing="drop")
    assert data.records.row_ids.tolist() == ["people:0", "people:2", "people:3", "people:4", "people:5"]


def test_a_column_of_ids_is_refused_with_its_remedy(tmp_path):
    frame = pd.DataFrame({"id": [f"r{i}" for i in range(300)], "y": np.arange(300) % 2})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ConfigError, match=r"'id' .* 300 distinct texts .* data.drop: \[id\]"):
        load_table(tmp_path / "t.csv", targets="y")


def test_real_targets_are_a_regression_unless_told_otherwise(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.zeros((4, 2)), y=[0.5, 1.0, 2.0, 3.0])
    assert load_table(tmp_path / "t.npz").task == "regression"
    assert load_table(tmp_path / "t.npz", task="classification").num_outputs == 4


def test_files_are_looked_up_in_order_and_a_missing_one_says_where(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "t.csv").write_text("x")
    assert find_file("t.csv", [tmp_path / "a", tmp_path / "b"]) == (tmp_path / "b" / "t.csv").resolve()
    with pytest.raises(ConfigError, match=r"looked for .*a.u.csv, .*b.u.csv"):
        find_file("u.csv", [tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_a_broken_file_is_named(tmp_path, suffix):
    (tmp_path / f"t.{suffix}").write_bytes(b"" if suffix == "csv" else b"not a table")
    with pytest.raises(ConfigError, match=rf"t.{suffix} "):
        load_table(tmp_path / f"t.{suffix}", targets="y")


def test_not_finite_features_and_a_single_class_are_refused():
    with pytest.raises(ConfigError, match="must be finite, 1 values are not"):
        make_dataset([[np.nan], [1.0]], [0, 1], name="t")
    with pytest.raises(ConfigError, match="has 1 class"):
        make_dataset([[0.0], [1.0]], [1, 1], name="t")


def test_a_loader_is_registered_by_a_decorator_and_gets_the_data_dir(monkeypatch, tmp_path):
    monkeypatch.setattr("mlflow_privacy.zoo.registry.DATASETS", dict(zoo.DATASETS))
    seen = []

    @zoo.dataset("mine")
    def mine(data_dir=None):
        seen.append(data_dir)
        return [[0.0], [1.0], [2.0]], ["a", "b", "a"]

    data = zoo.load_dataset("mine", data_dir=tmp_path)
    assert (seen, data.classes, data.name) == ([tmp_path], ("a", "b"), "mine")


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown data set 'digit', did you mean 'digits'?"):
        zoo.load_dataset("digit")


def test_options_of_files_are_refused_for_registered_data_sets():
    with pytest.raises(ConfigError, match="takes no data.targets"):
        zoo.load_dataset("wine", targets="class")
