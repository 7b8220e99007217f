"""MLflow's own digest sees a part of the data: what it says, what else is compared, and what it lets through."""

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage import log_lineage, resolve_target
from mlflow_privacy.lineage.quality import quality_in

COLUMNS = ["width", "height", "weight"]


def long_frame(n, seed):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)).round(3), columns=COLUMNS)
    return frame.assign(label=(frame["width"] > 0).astype(int))


def log(frame, path, context, **kwargs):
    frame.to_parquet(path)
    mlflow.log_input(mlflow.data.from_pandas(frame, source=str(path), name=path.stem, **kwargs), context=context)


def test_beyond_row_10000_anything_may_have_changed_and_that_is_said(log_model, holdout, tmp_path):
    train = long_frame(10_200, 0)
    with mlflow.start_run():
        info = log_model()
        log(train, tmp_path / "a.parquet", "training")
        log(holdout.astype({"label": int}), tmp_path / "b.parquet", "testing")
    train.loc[10_000:, "label"] = 1 - train.loc[10_000:, "label"]
    train.to_parquet(tmp_path / "a.parquet")
    target = resolve_target(info.model_uri)
    member, other = target.sources
    assert (member.status, other.status) == ("weakly verified", "weakly verified")
    assert "the first 10,000 of 10,200 rows" in member.compared
    assert "all rows" in other.compared
    assert len(member.sha256) == 64
    (note,) = target.warnings
    assert "verified weakly" in note
    assert "a.parquet" in note
    assert target.doubts == (note,)


def test_columns_that_the_digest_leaves_out_are_named(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        info = log_model()
        for frame, name, context in ((train, "a", "training"), (holdout, "b", "testing")):
            log(frame.assign(flag=frame["width"] > 0), tmp_path / f"{name}.parquet", context)
    target = resolve_target(info.model_uri, AuditOptions(targets="label"))
    assert "without the columns flag" in target.sources[0].compared


def test_more_rows_than_were_logged_are_a_mismatch_though_the_digest_is_equal(log_model, holdout, tmp_path):
    import datasets

    train = long_frame(10_300, 1)
    with mlflow.start_run():
        info = log_model()
        for frame, name, context in ((train, "a", "training"), (holdout, "b", "testing")):
            data = datasets.Dataset.from_pandas(frame)
            data.save_to_disk(tmp_path / name)
            mlflow.log_input(mlflow.data.from_huggingface(data, path=str(tmp_path / name), name=name), context=context)
    assert resolve_target(info.model_uri).sources[0].status == "weakly verified"
    datasets.Dataset.from_pandas(train[:10_200]).save_to_disk(tmp_path / "shorter")
    (tmp_path / "a").rename(tmp_path / "was")
    (tmp_path / "shorter").rename(tmp_path / "a")
    with pytest.raises(LineageError, match=r"10,200 rows, 10,300 were logged.*digest, which covers a part, is equal"):
        resolve_target(info.model_uri)


FLAGS = [f"flag{i}" for i in range(24)]


def flags(seed, label):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.random((len(label), len(FLAGS))) < 0.5, columns=FLAGS).assign(label=label)


@pytest.fixture(scope="module")
def of_flags():
    from sklearn.linear_model import LogisticRegression

    frame = flags(0, np.arange(60) % 2)
    return LogisticRegression().fit(frame[FLAGS], frame["label"])


def test_the_source_that_another_run_logged_first_is_named(log_model, of_flags, tmp_path):
    label = np.arange(60) % 2
    runs = []
    for month in ("january", "february"):
        frame = flags(len(month), label)
        frame.to_parquet(tmp_path / f"{month}.parquet")
        with mlflow.start_run() as run:
            runs.append(run.info.run_id)
            info = log_model(of_flags, signature=False)
            source = str(tmp_path / f"{month}.parquet")
            mlflow.log_input(mlflow.data.from_pandas(frame, source=source, name="records"), context="training")
            log(flags(9, 1 - label), tmp_path / f"holdout_{month}.parquet", "testing")
    target = resolve_target(info.model_uri)
    assert "january" in target.sources[0].source  # all that MLflow has
    assert any(runs[0] in doubt and "keeps the source of the first one only" in doubt for doubt in target.doubts)


def test_a_holdout_that_mlflow_dropped_for_its_name_and_digest_is_explained(log_model, of_flags, tmp_path):
    label = np.arange(60) % 2
    with mlflow.start_run():
        info = log_model(of_flags, signature=False)
        for seed, context in ((1, "training"), (2, "testing")):
            flags(seed, label).to_parquet(tmp_path / f"{seed}.parquet")
            source = str(tmp_path / f"{seed}.parquet")
            mlflow.log_input(mlflow.data.from_pandas(flags(seed, label), source=source), context=context)
    with pytest.raises(LineageError, match=r"no held-out data.*(?s:.*)both name and digest in common.*was dropped"):
        resolve_target(info.model_uri)


def test_our_own_sha256_finds_what_mlflows_digest_does_not(log_model, tracking, holdout, tmp_path):
    train = long_frame(10_100, 2)
    with mlflow.start_run() as run:
        log_lineage(train=train, holdout=holdout, targets="label")
        info = log_model()
    folder = tmp_path / "artifacts" / run.info.run_id / "artifacts" / "privacy" / "lineage"
    assert {source.status for source in resolve_target(info.model_uri).sources} == {"verified"}
    (folder / "lineage.json").unlink()  # the inputs that it logged are left, and say the same
    options = AuditOptions(targets="label")
    assert {source.status for source in resolve_target(info.model_uri, options).sources} == {"verified"}
    train.loc[10_050, "label"] = 1 - train.loc[10_050, "label"]
    train.to_parquet(folder / "train.parquet", index=False)
    with pytest.raises(LineageError, match="is not the data this model was trained on"):
        resolve_target(info.model_uri, options)


def test_the_accuracy_that_autologging_wrote_comes_along(tracking, train, holdout):
    from sklearn.linear_model import LogisticRegression

    mlflow.sklearn.autolog(log_models=True, log_datasets=False, silent=True)
    try:
        with mlflow.start_run() as run:
            model = LogisticRegression().fit(train[COLUMNS], train["label"])
            log_lineage(train=train, holdout=holdout, targets="label")
    finally:
        mlflow.sklearn.autolog(disable=True)
    (logged,) = tracking.get_run(run.info.run_id).outputs.model_outputs
    target = resolve_target(f"models:/{logged.model_id}")
    accuracy = model.score(train[COLUMNS], train["label"])
    assert (target.quality.name, target.quality.exact) == ("training_accuracy_score", True)
    assert target.quality.value == pytest.approx(accuracy)
    assert target.n_trained == 40


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"training_score": 0.9, "train_accuracy": 0.8}, "training_score"),
        ({"train_acc": 0.9, "val_acc": 0.1}, "train_acc"),
        ({"train/accuracy": 0.9, "test/accuracy": 0.1}, "train/accuracy"),
        ({"accuracy": 0.9, "val_accuracy": 0.1}, "accuracy"),
        ({"train_accuracy_epoch": 90.0}, "train_accuracy_epoch"),
        ({"accuracy": 0.9, "test_accuracy": 0.9, "train_loss": 0.3}, None),
        ({"train_test_accuracy": 0.9, "train_top5_accuracy": 0.99, "train_accuracy": float("nan")}, None),
    ],
)
def test_names_of_the_training_accuracy(metrics, name):
    found = quality_in(metrics, "classification")
    assert (found and found.name) == name
    assert found is None or found.value == 0.9
