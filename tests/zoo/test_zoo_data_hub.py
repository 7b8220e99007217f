"""Hugging Face folders and AG News, written on the spot; scripts are never run."""

import io
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError

TEXTS = [f"text number {i}" for i in range(12)]
LABELS = [i % 4 for i in range(12)]


@pytest.fixture(autouse=True)
def no_cache_of_the_user(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("MLFLOW_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder, form, split="train", texts=TEXTS, labels=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({"text": texts, "label": labels})
    if form == "parquet":
        frame[: len(frame) // 2].to_parquet(folder / f"{split}-00000-of-00002.parquet")
        frame[len(frame) // 2 :].to_parquet(folder / f"{split}-00001-of-00002.parquet")
    elif form == "csv":
        frame.to_csv(folder / f"{split}.csv", index=False)
    else:
        frame.to_json(folder / f"{split}.jsonl", orient="records", lines=True)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("sub", ["", "data"])
def test_every_form_of_file_gives_the_same_texts(tmp_path, form, sub):
    write(tmp_path / "news" / sub, form)
    write(tmp_path / "news" / sub, form, "test", TEXTS[:2], [3, 0])
    data = zoo.load_dataset("hf:news", data_dir=tmp_path)
    assert data.modality == "text"
    assert data.records.x["text"].tolist() == TEXTS
    assert data.records.y.tolist() == LABELS
    assert (data.population.y.tolist(), data.classes) == ([3, 0], ("0", "1", "2", "3"))


def test_the_name_may_be_a_path_or_a_hub_name_whose_last_part_is_a_folder(tmp_path):
    write(tmp_path / "ag", "csv")
    for name in (f"hf:{tmp_path / 'ag'}", "hf:somebody/ag", "HF:ag"):
        assert len(zoo.load_dataset(name, data_dir=tmp_path).records) == 12


def test_saved_arrow_folders_keep_names_of_classes_and_selections(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list("abcd"))})
    train = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=features).select([5, 1, 2, 3])
    datasets.DatasetDict({"train": train, "test": train.select([0])}).save_to_disk(tmp_path / "both")
    train.save_to_disk(tmp_path / "one")
    for name, population in (("both", 1), ("one", 0)):
        data = zoo.load_dataset(f"hf:{name}", data_dir=tmp_path)
        assert data.records.x["text"].tolist() == [TEXTS[i] for i in (5, 1, 2, 3)]
        assert (data.records.y.tolist(), data.classes) == ([1, 1, 2, 3], ("a", "b", "c", "d"))
        assert (len(data.population) if data.population else 0) == population


def images(n, size=(5, 4), colour=True):
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(n, *size, 3) if colour else (n, *size), dtype=np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("colour", [True, False])
def test_images_are_channel_first_bytes(tmp_path, plain, colour):
    x = images(6, colour=colour)
    column = [png(i) if plain else {"bytes": png(i), "path": "a.png"} for i in x]
    pq.write_table(pa.table({"picture": column, "kind": list("abcabc")}), tmp_path / "train.parquet")
    data = zoo.load_dataset(f"hf:{tmp_path}", options={"image": "picture"}, targets="kind")
    np.testing.assert_array_equal(data.records.x, x.transpose(0, 3, 1, 2) if colour else x[:, None])
    assert (data.modality, data.classes) == ("image", ("a", "b", "c"))


def test_grey_and_coloured_images_together_become_coloured(tmp_path):
    grey, coloured = images(1, colour=False)[0], images(1)[0]
    pq.write_table(pa.table({"image": [png(grey), png(coloured)], "label": [0, 1]}), tmp_path / "train.parquet")
    x = zoo.load_dataset(f"hf:{tmp_path}").records.x
    np.testing.assert_array_equal(x, [np.stack([grey] * 3), coloured.transpose(2, 0, 1)])


def test_images_saved_by_hugging_face_are_the_same(tmp_path):
    import datasets

    x = images(4)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["p", "q"])})
    saved = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(i), "path": None} for i in x], "label": [0, 1, 1, 0]}, features
    )
    saved.save_to_disk(tmp_path / "d")
    data = zoo.load_dataset("hf:d", data_dir=tmp_path)
    np.testing.assert_array_equal(data.records.x, x.transpose(0, 3, 1, 2))
    assert data.classes == ("p", "q")


def test_options_choose_columns_splits_and_configs(tmp_path):
    frame = pd.DataFrame({"premise": ["a", "b"], "hypothesis": ["c", "d"], "gold": [0, 1], "other": ["x", "y"]})
    (tmp_path / "nli" / "mnli").mkdir(parents=True)
    frame.to_csv(tmp_path / "nli/mnli/dev.csv", index=False)
    frame[:1].to_csv(tmp_path / "nli/mnli/heldout.csv", index=False)
    options = {"text": ["premise", "hypothesis"], "targets": "gold", "split": "dev", "config": "mnli"}
    data = zoo.load_dataset("hf:nli", data_dir=tmp_path, options={**options, "population_split": "heldout"})
    assert data.records.x.to_dict("list") == {"premise": ["a", "b"], "hypothesis": ["c", "d"]}
    assert len(data.population) == 1
    write(tmp_path / "news", "csv")
    with pytest.raises(ConfigError, match=r"has no split 'tset': .*train"):
        zoo.load_dataset("hf:news", data_dir=tmp_path, options={"population_split": "tset"})


def test_texts_without_labels_have_no_classes(tmp_path):
    (tmp_path / "corpus").mkdir()
    pd.DataFrame({"text": TEXTS}).to_json(tmp_path / "corpus/all.jsonl", orient="records", lines=True)
    data = zoo.load_dataset("hf:corpus", data_dir=tmp_path)
    assert (data.classes, data.records.y.tolist(), data.population) == ((), [0] * 12, None)


def test_wrong_columns_are_reported_with_the_nearest_and_tables_sent_elsewhere(tmp_path):
    write(tmp_path / "news", "csv")
    with pytest.raises(ConfigError) as caught:
        zoo.load_dataset("hf:news", data_dir=tmp_path, text="txt", targets="lable")
    assert "no column 'txt' in its records, did you mean 'text'?" in str(caught.value)
    assert "no column 'lable' in its records, did you mean 'label'?" in str(caught.value)
    (tmp_path / "numbers").mkdir()
    pd.DataFrame({"a": [1, 2], "label": [0, 1]}).to_csv(tmp_path / "numbers/train.csv", index=False)
    with pytest.raises(ConfigError, match=r"shows no text or image column by its name; it has a, label"):
        zoo.load_dataset("hf:numbers", data_dir=tmp_path)


def test_missing_texts_and_labels_are_named(tmp_path):
    write(tmp_path / "a", "parquet", texts=[*TEXTS[:-1], None])
    with pytest.raises(ConfigError, match=r"1 values of 'text' are no text, first record 11"):
        zoo.load_dataset("hf:a", data_dir=tmp_path)
    write(tmp_path / "b", "parquet", labels=[*LABELS[:-1], None])
    with pytest.raises(ConfigError, match="'label' of hf:b has 1 missing labels"):
        zoo.load_dataset("hf:b", data_dir=tmp_path)


def test_a_script_is_never_run_and_the_error_says_so(tmp_path, monkeypatch):
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted/scripted.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with pytest.raises(ConfigError, match="Its script scripted.py is never run"):
        zoo.load_dataset("hf:scripted", data_dir=tmp_path)
    assert not (tmp_path / "executed").exists()


def test_the_hub_is_asked_without_trust_and_its_refusals_have_a_remedy(tmp_path, monkeypatch):
    import datasets

    asked = []

    def refusing(path, name=None, trust_remote_code=None):
        asked.append((path, name, trust_remote_code))
        raise RuntimeError("Dataset scripts are no longer supported, but found old.py")

    monkeypatch.setattr(datasets, "load_dataset", refusing)
    with pytest.raises(ConfigError, match=r"'hf:some/old' is made by a Python script of its own, which is never run"):
        zoo.load_dataset("hf:some/old", data_dir=tmp_path, options={"config": "c"})
    assert asked == [("some/old", "c", False)]

    def offline(path, name=None):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ConfigError, match=r"ConnectionError: Couldn't reach the Hub.*as a folder old below"):
        zoo.load_dataset("hf:some/old", data_dir=tmp_path)
    with pytest.raises(ConfigError, match="data.options.download is off"):
        zoo.load_dataset("hf:some/old", data_dir=tmp_path, options={"download": False})


def test_what_the_hub_gives_is_read_split_by_split(monkeypatch, tmp_path):
    import datasets

    part = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})
    held = datasets.DatasetDict({"train": part, "test": part.select([0, 1])})
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name=None: held)
    data = zoo.load_dataset("hf:some/thing", data_dir=tmp_path)
    assert (len(data.records), len(data.population)) == (12, 2)
    with pytest.raises(ConfigError, match="has no split dev; it has train, test"):
        zoo.load_dataset("hf:some/thing", data_dir=tmp_path, options={"split": "dev"})
    assert zoo.load_dataset("agnews", data_dir=tmp_path).classes == ("World", "Sports", "Business", "Sci/Tech")


@pytest.mark.parametrize("folder", ["", "ag_news", "agnews"])
def test_agnews_is_found_in_the_folder_or_below_it(tmp_path, folder):
    write(tmp_path / folder, "parquet")
    write(tmp_path / folder, "parquet", "test", TEXTS[:4], LABELS[:4])
    data = zoo.load_dataset("AG_News", data_dir=tmp_path)
    assert (data.name, data.modality, data.classes[1], len(data.population)) == ("agnews", "text", "Sports", 4)
    test = zoo.load_dataset("agnews", data_dir=tmp_path, options={"split": "test"})
    assert (len(test.records), test.population) == (4, None)


def test_agnews_without_files_says_what_to_put_where(tmp_path):
    with pytest.raises(ConfigError, match=r"train-00000-of-00001.parquet.*as ag_news below"):
        zoo.load_dataset("agnews", data_dir=tmp_path, options={"download": False})


@pytest.mark.slow
def test_the_real_agnews_test_split_has_1900_news_of_each_class():
    folder = os.environ.get("MLFLOW_PRIVACY_DATA")
    if not folder:
        pytest.skip("MLFLOW_PRIVACY_DATA is not set: a folder with ag_news/test-*.parquet")
    data = zoo.load_dataset("agnews", data_dir=folder, options={"split": "test", "download": False})
    assert np.bincount(data.records.y).tolist() == [1900] * 4
    assert data.records.x["text"].str.len().min() > 20
