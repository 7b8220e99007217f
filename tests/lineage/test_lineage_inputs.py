"""Plain `mlflow.log_input` lineage: every form of source, read back and verified."""

import functools
import http.server
import re
import threading

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage import resolve_target

COLUMNS = ["width", "height", "weight"]


def csv(frame, folder, name):
    frame.to_csv(folder / f"{name}.csv", index=False)
    return f"{folder}/{name}.csv"


def csv_gz(frame, folder, name):
    frame.to_csv(folder / f"{name}.csv.gz", index=False)
    return f"{folder}/{name}.csv.gz"


def semicolons(frame, folder, name):
    frame.to_csv(folder / f"{name}.csv", index=False, sep=";")
    return f"{folder}/{name}.csv"


def parquet(frame, folder, name):
    frame.to_parquet(folder / f"{name}.parquet")
    return f"{folder}/{name}.parquet"


def parquet_folder(frame, folder, name):
    """As Spark writes it: parts, a marker, checksums."""
    (folder / name).mkdir()
    half = len(frame) // 2
    frame[:half].reset_index(drop=True).to_parquet(folder / name / "part-00000-ab.snappy.parquet")
    frame[half:].reset_index(drop=True).to_parquet(folder / name / "part-00001-ab.snappy.parquet")
    (folder / name / "_SUCCESS").touch()
    (folder / name / ".part-00000-ab.snappy.parquet.crc").write_bytes(b"crc")
    return f"{folder}/{name}"


def feather(frame, folder, name):
    frame.to_feather(folder / f"{name}.feather")
    return f"{folder}/{name}.feather"


def save_to_disk(frame, folder, name):
    import datasets

    datasets.Dataset.from_pandas(frame).save_to_disk(folder / name)
    return f"{folder}/{name}"


def file_uri(frame, folder, name):
    return "file://" + parquet(frame, folder, name)


def relative(frame, folder, name):
    frame.to_parquet(f"{name}.parquet")  # the working directory is the test's own
    return f"{name}.parquet"


FRAME_FORMS = [
    csv,
    csv_gz,
    semicolons,
    parquet,
    parquet_folder,
    feather,
    save_to_disk,
    file_uri,
    relative,
]


@pytest.mark.parametrize("write", FRAME_FORMS, ids=lambda f: f.__name__)
def test_frames_read_back_verified_and_bit_for_bit(write, log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        for frame, name, context in ((train, "a", "training"), (holdout, "b", "testing")):
            mlflow.log_input(mlflow.data.from_pandas(frame, source=write(frame, tmp_path, name)), context=context)
    target = resolve_target(info.model_uri)
    assert target.membership.tolist() == [True] * 40 + [False] * 30
    assert list(target.pool.x.columns) == COLUMNS
    assert target.pool.x.dtypes.tolist() == [np.dtype(np.float32)] * 3
    np.testing.assert_array_equal(target.pool.x[:40], train[COLUMNS])
    np.testing.assert_array_equal(target.pool.y, [*train["label"], *holdout["label"]])
    assert target.pool.row_ids[[0, 39, 40, 69]].tolist() == ["train:0", "train:39", "holdout:0", "holdout:29"]
    assert [(s.role, s.status, s.n_records) for s in target.sources] == [
        ("members", "weakly verified", 40),
        ("non_members", "weakly verified", 30),
    ]
    assert target.task == "classification"
    assert target.recipe is not None
    assert target.recipe.kind == "sklearn"
    assert target.warnings == ()


@pytest.mark.parametrize("form", ["npz", "npz_odd_names", "csv", "npy_features_only"])
def test_arrays_read_back_verified(form, log_model, estimator_without_names, train, holdout, tmp_path):
    def log(frame, name, context):
        x, y = frame[COLUMNS].to_numpy(), frame["label"].to_numpy()
        path = tmp_path / f"{name}.{form[:3]}"
        if form == "npz":
            np.savez(path, y=y, x=x)
        elif form == "npz_odd_names":
            np.savez(path, one=y, two=x, other=x[:3])
        elif form == "csv":
            frame.to_csv(path, index=False)
        else:
            np.save(path, x)
            y = None
        mlflow.log_input(mlflow.data.from_numpy(x, targets=y, source=str(path), name=name), context=context)

    with mlflow.start_run():
        info = log_model(estimator_without_names, signature=False)
        log(train, "a", "train")
        log(holdout, "b", "validation")
    if form == "npy_features_only":
        with pytest.raises(LineageError, match="features but no labels"):
            resolve_target(info.model_uri)
        return
    target = resolve_target(info.model_uri)
    assert {s.status for s in target.sources} == {"weakly verified"}
    np.testing.assert_array_equal(target.pool.x[:40], train[COLUMNS].to_numpy())
    np.testing.assert_array_equal(target.pool.y, [*train["label"], *holdout["label"]])


def test_http_source_is_downloaded_and_verified(log_model, train, holdout, tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    csv(train, folder, "a"), csv(holdout, folder, "b")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{web.server_port}"
        with mlflow.start_run():
            info = log_model()
            mlflow.log_input(mlflow.data.from_pandas(train, source=f"{url}/a.csv", name="a"), context="training")
            mlflow.log_input(mlflow.data.from_pandas(holdout, source=f"{url}/b.csv", name="b"), context="eval")
        assert resolve_target(info.model_uri).sources[0].status == "weakly verified"
    finally:
        web.shutdown()
        web.server_close()


def test_hugging_face_source_with_several_splits_takes_the_one_with_the_logged_digest(
    log_model, train, holdout, tmp_path
):
    import datasets

    both = datasets.DatasetDict(
        {"first": datasets.Dataset.from_pandas(train), "second": datasets.Dataset.from_pandas(holdout)}
    )
    both.save_to_disk(tmp_path / "hub")
    with mlflow.start_run():
        info = log_model()
        for split, context in (("first", "training"), ("second", "testing")):
            data = mlflow.data.from_huggingface(both[split], path=str(tmp_path / "hub"), name=split)
            mlflow.log_input(data, context=context)
    target = resolve_target(info.model_uri)
    assert {s.status for s in target.sources} == {"weakly verified"}
    np.testing.assert_array_equal(target.pool.x[:40], train[COLUMNS])


def test_spark_written_parquet_is_read_without_spark(log_model, train, holdout, tmp_path):
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.spark_dataset_source import SparkDatasetSource

    with mlflow.start_run():
        info = log_model()
        for frame, name, context in ((train, "a", "training"), (holdout, "b", "testing")):
            source = SparkDatasetSource(path=parquet_folder(frame, tmp_path, name))
            mlflow.log_input(MetaDataset(source, name=name), context=context)
    target = resolve_target(info.model_uri)
    np.testing.assert_array_equal(target.pool.x[:40], train[COLUMNS])
    assert [s.status for s in target.sources] == ["no digest", "no digest"]
    assert "no digest that could be verified" in target.warnings[0]


def test_csv_recast_keeps_texts_dates_flags_and_a_written_index(log_model, tmp_path):
    def make(n, seed):
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame(
            {
                "width": rng.normal(size=n).astype(np.float32),
                "height": rng.normal(size=n),
                "weight": rng.integers(-5, 5, n).astype(np.int32),
                "code": [f"{v:03d}" for v in rng.integers(0, 99, n)],
                "when": pd.to_datetime("2024-01-01") + pd.to_timedelta(np.arange(n), unit="D"),
                "flag": rng.random(n) > 0.5,
                "label": rng.integers(0, 2, n),
            }
        )
        return frame.sample(frac=1, random_state=0)  # a shuffled index

    signature = mlflow.models.infer_signature(make(3, 0).drop(columns="label"))
    with mlflow.start_run():
        info = log_model(signature=signature)
        for seed, context in ((1, "training"), (2, "testing")):
            frame = make(20, seed)
            frame.to_csv(tmp_path / f"{seed}.csv")
            mlflow.log_input(mlflow.data.from_pandas(frame, source=f"{tmp_path}/{seed}.csv"), context=context)
    target = resolve_target(info.model_uri)
    assert {s.status for s in target.sources} == {"weakly verified"}
    expected = make(20, 1)
    for name in ("width", "height", "weight", "flag", "code", "when"):
        np.testing.assert_array_equal(target.pool.x[name][:20].to_numpy(), expected[name].to_numpy())
    assert target.pool.x["width"].dtype == np.float32
    assert target.pool.x["weight"].dtype == np.int32


@pytest.fixture
def changed(log_model, train, holdout, tmp_path):
    """A model whose training file was changed after training."""
    with mlflow.start_run():
        info = log_model()
        source = csv(train, tmp_path, "train")
        mlflow.log_input(mlflow.data.from_pandas(train, source=source, name="train"), context="training")
        mlflow.log_input(mlflow.data.from_pandas(holdout, source=csv(holdout, tmp_path, "b")), context="test")
    train.loc[7, "width"] += 1
    csv(train, tmp_path, "train")
    return info.model_uri, source


def test_changed_data_stops_the_audit(changed):
    uri, source = changed
    with pytest.raises(
        LineageError, match=re.escape(f"the data at {source} is not the data this model was trained on")
    ) as e:
        resolve_target(uri)
    assert "allow_digest_mismatch" in str(e.value)
    assert uri in str(e.value)


def test_changed_data_can_be_allowed_and_is_then_said(changed):
    uri, source = changed
    target = resolve_target(uri, AuditOptions(allow_digest_mismatch=True))
    assert [s.status for s in target.sources] == ["overridden", "weakly verified"]
    assert any(source in warning and "allow_digest_mismatch" in warning for warning in target.warnings)


def test_a_source_that_holds_more_rows_than_were_logged_says_so(log_model, train, holdout, tmp_path):
    whole = csv(pd.concat([holdout[:5], train, holdout[5:]]), tmp_path, "whole")  # not drawn in a usual way
    with mlflow.start_run():
        info = log_model()
        mlflow.log_input(mlflow.data.from_pandas(train, source=whole, name="a"), context="training")
    with pytest.raises(LineageError, match=r"70 rows, 40 were logged.*row_indices"):
        resolve_target(info.model_uri)


def test_a_custom_digest_is_not_compared(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        data = mlflow.data.from_pandas(train, source=csv(train, tmp_path, "a"), digest="release-2024-05")
        mlflow.log_input(data, context="training")
        mlflow.log_input(mlflow.data.from_pandas(holdout, source=csv(holdout, tmp_path, "b")), context="test")
    assert [s.status for s in resolve_target(info.model_uri).sources] == ["no digest", "weakly verified"]


def test_missing_lineage_names_model_inputs_and_remedies_at_once(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        mlflow.log_input(mlflow.data.from_pandas(train, name="first"), context="train")  # a code source
        mlflow.log_input(mlflow.data.from_pandas(holdout, source=csv(holdout, tmp_path, "b"), name="second"))
    with pytest.raises(LineageError) as error:
        resolve_target(info.model_uri)
    text = str(error.value)
    assert text.startswith(f"{info.model_uri} has no training data and no held-out data (non-members)")
    assert "\"first\" (context 'train', code source): it was logged with a code source" in text
    assert '"second" (no context, local source) was logged with no context' in text
    assert "log_lineage(train=..., holdout=...)" in text
    assert 'evaluator_config={"privacy_meter": {"train": ..., "holdout": ...}}' in text


def test_an_unlabelled_dataset_is_never_guessed(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        mlflow.log_input(mlflow.data.from_pandas(train, source=csv(train, tmp_path, "a"), name="only"))
    with pytest.raises(LineageError, match="whether the model trained on it is not known"):
        resolve_target(info.model_uri, AuditOptions(holdout=holdout))


def test_a_file_that_is_gone_names_path_and_reason(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        data = mlflow.data.from_pandas(train, source=relative(train, tmp_path, "gone"))
        mlflow.log_input(data, context="train")
    (tmp_path / "gone.parquet").unlink()
    with pytest.raises(LineageError, match=r"its source gone.parquet does not exist \(a relative path, looked up in"):
        resolve_target(info.model_uri, AuditOptions(holdout=holdout))


def test_evaluation_data_of_another_run_is_held_out_but_its_training_data_is_not(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        mlflow.log_input(mlflow.data.from_pandas(train, source=csv(train, tmp_path, "a"), name="a"), context="train")
    with mlflow.start_run():
        test_set = mlflow.data.from_pandas(holdout, source=csv(holdout, tmp_path, "b"), name="b")
        other = mlflow.data.from_pandas(holdout[:5], source=csv(holdout[:5], tmp_path, "c"), name="c")
        mlflow.log_input(test_set, context="evaluation")
        mlflow.log_input(other, context="training")
        mlflow.log_metric("accuracy", 0.5, dataset=test_set, model_id=info.model_id)
        mlflow.log_metric("train_accuracy", 0.5, dataset=other, model_id=info.model_id)
    target = resolve_target(info.model_uri)
    assert [(s.role, s.name) for s in target.sources] == [("members", "a"), ("non_members", "b")]


def test_the_pool_that_an_earlier_audit_logged_is_no_data_of_the_model(log_model, train, holdout, tmp_path):
    from mlflow_privacy.evaluators.dataset import LineageDataset

    with mlflow.start_run() as run:
        info = log_model()
        mlflow.log_input(mlflow.data.from_pandas(train, source=csv(train, tmp_path, "a")), context="train")
        mlflow.log_input(mlflow.data.from_pandas(holdout, source=csv(holdout, tmp_path, "b")), context="test")
    before = resolve_target(info.model_uri)
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_input(LineageDataset(before), context="training")
    assert resolve_target(info.model_uri).sources == before.sources


def test_several_training_sets_are_all_members(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        for name, frame in (("a", train[:25]), ("b", train[25:].reset_index(drop=True))):
            data = mlflow.data.from_pandas(frame, source=csv(frame, tmp_path, name), name=name)
            mlflow.log_input(data, context="train")
        mlflow.log_input(mlflow.data.from_pandas(holdout, source=csv(holdout, tmp_path, "c")), context="test")
    target = resolve_target(info.model_uri)
    assert target.membership.sum() == 40
    assert len(set(target.pool.row_ids.tolist())) == 70


@pytest.mark.parametrize("how", ["signature", "targets", "feature_names_in_"])
def test_the_label_column_is_what_the_model_does_not_take(how, log_model, train, holdout, tmp_path):
    extra = {"targets": "label"} if how == "targets" else {}
    with mlflow.start_run():
        info = log_model(signature=how == "signature")
        for frame, name, context in ((train, "a", "train"), (holdout, "b", "test")):
            if how == "targets":
                frame = frame.assign(number=np.arange(len(frame)))
            data = mlflow.data.from_pandas(frame, source=csv(frame, tmp_path, name), targets="label")
            mlflow.log_input(data, context=context)
    if how == "targets":
        with pytest.raises(LineageError, match="'label', 'number' are no inputs of the model"):
            resolve_target(info.model_uri)
    target = resolve_target(info.model_uri, AuditOptions(**extra))
    assert list(target.pool.x.columns) == COLUMNS


def test_population_excludes_the_pool_and_is_subsampled_by_seed(log_model, train, holdout, tmp_path):
    everyone = pd.concat([train[:10], holdout[:5], make_more(50)], ignore_index=True)
    with mlflow.start_run():
        info = log_model()
        for frame, name, context in ((train, "a", "train"), (holdout, "b", "test"), (everyone, "c", "population")):
            mlflow.log_input(mlflow.data.from_pandas(frame, source=csv(frame, tmp_path, name)), context=context)
    target = resolve_target(info.model_uri)
    assert len(target.population) == 50
    assert any("15 of 65 population records are in the pool too" in warning for warning in target.warnings)
    small = resolve_target(info.model_uri, AuditOptions(population_size=20, random_seed=3)).population
    again = resolve_target(info.model_uri, AuditOptions(population_size=20, random_seed=3)).population
    other = resolve_target(info.model_uri, AuditOptions(population_size=20, random_seed=4)).population
    assert len(small) == 20
    assert small.row_ids.tolist() == again.row_ids.tolist() != other.row_ids.tolist()


def make_more(n):
    rng = np.random.default_rng(9)
    return pd.DataFrame(rng.normal(size=(n, 3)).astype(np.float32), columns=COLUMNS).assign(label=rng.integers(0, 2, n))
