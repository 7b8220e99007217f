"""Modalities, populations, pixels as bytes, and their statistics."""

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.zoo import data as forms
from mlflow_privacy.zoo.data import (
    as_inputs,
    image_statistics,
    make_dataset,
    make_text_dataset,
    standardised,
    unit_floats,
)
from mlflow_privacy.zoo.tables import load_table


def pictures(n=20, shape=(3, 4, 5), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(n, *shape), dtype=np.uint8)


def bytes_data(n=20, **options):
    return make_dataset(
        pictures(n), np.arange(n) % 2, name="p", population=(pictures(6, seed=1), [0, 1] * 3), **options
    )


def test_images_of_bytes_stay_bytes_and_become_unit_floats_where_flattened():
    data = bytes_data()
    assert (data.records.x.dtype, data.population.x.dtype, data.modality) == (np.uint8, np.uint8, "image")
    flat = as_inputs(data, "flat", model_name="mlp")
    for records, source in ((flat.records, pictures()), (flat.population, pictures(6, seed=1))):
        assert records.x.dtype == np.float32
        np.testing.assert_allclose(records.x, source.reshape(len(source), -1) / 255, rtol=1e-6)
    assert as_inputs(data, "image", model_name="cnn").records.x.dtype == np.uint8


def test_images_of_floats_and_tables_of_bytes_are_not_rescaled():
    floats = make_dataset(pictures().astype(np.float64), np.arange(20) % 2, name="f")
    np.testing.assert_array_equal(floats.records.x, pictures())
    table = make_dataset(np.uint8([[0], [255]]), [0, 1], name="t")
    assert (table.records.x.tolist(), table.records.x.dtype, table.modality) == ([[0.0], [255.0]], np.float32, "table")
    assert unit_floats(np.float32([[2.0]])).tolist() == [[2.0]]


@pytest.mark.parametrize("chunk", [1, 1000, 2**26])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_image_statistics_equal_numpys_whatever_the_chunks(monkeypatch, chunk, as_bytes):
    monkeypatch.setattr(forms, "_CHUNK_BYTES", chunk)
    x = pictures() if as_bytes else (pictures() / 255).astype(np.float32)
    mean, deviation = image_statistics(make_dataset(x, np.arange(20) % 2, name="p"))
    truth = pictures() / 255
    np.testing.assert_allclose(mean, truth.mean(axis=(0, 2, 3)), rtol=1e-6 if not as_bytes else 1e-12)
    np.testing.assert_allclose(deviation, truth.std(axis=(0, 2, 3)), rtol=1e-6 if not as_bytes else 1e-12)


def test_standardised_bytes_equal_standardised_floats_and_the_population_moves_with_the_records():
    data, floats = bytes_data(), make_dataset(pictures() / 255, np.arange(20) % 2, name="f")
    out = standardised(data)
    np.testing.assert_allclose(out.records.x, standardised(floats).records.x, atol=1e-5)
    mean, deviation = image_statistics(data)
    expected = (pictures(6, seed=1) / 255 - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(out.population.x, expected, atol=1e-5)
    assert out.records.x.dtype == out.population.x.dtype == np.float32
    np.testing.assert_array_equal(data.records.x, pictures())  # the argument is left alone


def test_a_constant_whose_mean_rounds_is_still_constant():
    x = np.column_stack([np.full(1001, 0.1), np.arange(1001)]).astype(np.float32)
    assert (standardised(make_dataset(x, np.arange(1001) % 2, name="t")).records.x[:, 0] == 0).all()
    black = make_dataset(np.full((3, 1, 2, 2), 7, np.uint8), [0, 1, 0], name="b")
    assert image_statistics(black)[1].tolist() == [0.0]
    assert (standardised(black).records.x == 0).all()


def test_classes_of_records_and_population_are_numbered_together():
    data = make_dataset([[0.0], [1.0]], ["a", "c"], name="t", population=([[2.0], [3.0]], ["b", "c"]))
    assert (data.classes, data.records.y.tolist(), data.population.y.tolist()) == (("a", "b", "c"), [0, 2], [1, 2])


def test_a_population_of_another_form_is_refused_with_every_fault():
    with pytest.raises(ConfigError) as caught:
        make_dataset([[0.0], [1.0]], [0, 1], name="t", population=([[np.nan, 1.0]], [0, 1]))
    for part in ("a record has shape (1,), one of the population (2,)", "features of the population must be finite",
                 "one target per record of the population"):  # fmt: skip
        assert part in str(caught.value)


def test_texts_stay_texts_and_models_of_numbers_refuse_them():
    data = make_text_dataset(["good", "bad"], ["+", "-"], name="t", population=(["fine"], ["+"]))
    assert (data.modality, data.classes, data.population.y.tolist()) == ("text", ("+", "-"), [0])
    assert as_inputs(data, "text", model_name="bert").records.x["text"].tolist() == ["good", "bad"]
    for inputs, form in (("flat", "numbers"), ("image", "images")):
        with pytest.raises(ConfigError, match=rf"takes {form}.*'t' is text. Use a model for texts"):
            as_inputs(data, inputs, model_name="m")
    with pytest.raises(ConfigError, match="takes texts"):
        as_inputs(bytes_data(), "text", model_name="m")
    with pytest.raises(ConfigError, match="cannot be standardised"):
        standardised(data)
    with pytest.raises(ConfigError, match="no images"):
        image_statistics(data)


def test_texts_without_labels_have_no_classes_and_zeros():
    data = make_text_dataset(["a", "b"], name="t", population=(["c"], None))
    assert (data.classes, data.records.y.tolist(), data.population.y.tolist()) == ((), [0, 0], [0])
    with pytest.raises(ConfigError, match="only one of records and population has labels"):
        make_text_dataset(["a", "b"], [0, 1], name="t", population=(["c"], None))
    with pytest.raises(ConfigError, match="one target per record, got 2 records and targets of shape"):
        make_text_dataset(["a", "b"], [0, 1, 2], name="t")


def test_jsonl_equals_csv_and_its_texts_are_not_taken_for_numbers_or_dates(tmp_path):
    frame = pd.DataFrame({"a": [0.1, 0.2, 1e-17], "b": [1, 2, 3], "y": ["n", "p", "n"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True, double_precision=15)
    x = load_table(tmp_path / "t.jsonl", targets="y").records.x
    np.testing.assert_allclose(x, load_table(tmp_path / "t.csv", targets="y").records.x, atol=1e-15)
    (tmp_path / "d.jsonl").write_text(
        '{"date": "2020-01-01", "id": "007", "y": 1}\n{"date": "x", "id": "1e3", "y": 0}\n'
    )
    texts = load_table(tmp_path / "d.jsonl", targets="y", text=["date", "id"]).records.x
    assert texts.to_dict("list") == {"date": ["2020-01-01", "x"], "id": ["007", "1e3"]}


def test_a_text_column_makes_a_text_data_set_whose_row_ids_name_rows_of_the_file(tmp_path):
    texts = [f"t{i}" for i in range(12)]
    texts[3] = None
    frame = pd.DataFrame({"body": texts, "kind": ["a", "b"] * 6})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ConfigError, match=r"missing values in 'body' \(1\)"):
        load_table(tmp_path / "t.csv", text="body")
    data = load_table(tmp_path / "t.csv", text="body", targets="kind", missing="drop")
    assert (data.modality, data.classes, len(data.records)) == ("text", ("a", "b"), 11)
    assert data.records.row_ids.tolist() == [f"t:{i}" for i in range(12) if i != 3]
    assert load_table(tmp_path / "t.csv", text="body", missing="drop").classes == ()
    with pytest.raises(ConfigError) as caught:
        load_table(tmp_path / "t.csv", text="bodi", targets="kid", features=["x"])
    assert "data.text: t.csv has no column 'bodi', did you mean 'body'?" in str(caught.value)
    assert "data.targets: t.csv has no column 'kid', did you mean 'kind'?" in str(caught.value)
    assert "exclude each other" in str(caught.value)
    np.savez(tmp_path / "n.npz", x=np.zeros((2, 2)), y=[0, 1])
    with pytest.raises(ConfigError, match="holds numbers"):
        load_table(tmp_path / "n.npz", text="x")


def test_row_ids_after_dropped_rows_keep_all_digits(tmp_path):
    pd.DataFrame({"a": [1.0, None, *range(2, 11)], "y": [0, 1] * 5 + [0]}).to_csv(tmp_path / "t.csv", index=False)
    assert load_table(tmp_path / "t.csv", targets="y", missing="drop").records.row_ids[-1] == "t:10"
