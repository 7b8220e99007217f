"""Rows that code drew from one file are found by their content or by MLflow's digest, and an index is no feature."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from mlflow_privacy import log_lineage
from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage import drawn
from mlflow_privacy.lineage.drawn import rows_by_digest, rows_of_part
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.lineage.readings import Reading
from mlflow_privacy.lineage.records import for_model, index_columns, to_records
from mlflow_privacy.lineage.resolve import resolve_target
from mlflow_privacy.lineage.tables import Table

COLUMNS = ["width", "height", "weight"]


def everything(n=120, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=COLUMNS)
    return frame.assign(kind=rng.choice(["a", "b"], n), label=rng.integers(0, 2, n))


FRAME = everything()
SAMPLED = FRAME.sample(frac=0.7, random_state=11)
SPLITS = {
    "train_test_split": train_test_split(FRAME, test_size=0.25, random_state=42),
    "another seed": train_test_split(FRAME, test_size=0.3, random_state=77),
    "stratified": train_test_split(FRAME, test_size=0.25, random_state=3, stratify=FRAME["label"]),
    "cut": (FRAME[:80], FRAME[80:]),
    "sample": (SAMPLED, FRAME.drop(SAMPLED.index)),
}


@pytest.mark.parametrize("reset", [False, True], ids=["index kept", "index reset"])
@pytest.mark.parametrize("which", [0, 1], ids=["train", "test"])
@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_found_by_the_digest_that_mlflow_gave_them(split, which, reset):
    part = SPLITS[split][which]
    logged = part.reset_index(drop=True) if reset else part
    found = rows_by_digest(FRAME, Reading("pandas", logged).digest(), len(part), targets="label", whole=None)
    assert np.array_equal(found.rows, part.index)


def test_nothing_is_taken_that_does_not_have_the_digest():
    part = SPLITS["train_test_split"][0]
    digest = Reading("pandas", part).digest()
    changed = FRAME.copy()
    changed.loc[part.index[5], "width"] += 1e-9
    assert rows_by_digest(changed, digest, len(part), targets="label", whole=None) is None
    assert rows_by_digest(FRAME, digest, len(part) - 1, targets="label", whole=None) is None


def test_the_hash_of_all_rows_at_once_is_that_of_each_part(monkeypatch):
    rows = np.random.default_rng(1).permutation(120)[:50]
    quick = drawn._digests_of(FRAME, 120)(rows, rows)
    assert quick == Reading("pandas", FRAME.iloc[rows]).digest()
    monkeypatch.setattr(drawn, "_END", np.uint64(1))  # as if pandas computed it in another way
    assert drawn._digests_of(FRAME, 120)(rows, rows) == quick


def log_parts(tmp_path, train, test, train_file, test_file):
    """Logs two frames with the files that they are said to come from, and a model."""
    for context, part, file in (("training", train, train_file), ("testing", test, test_file)):
        dataset = mlflow.data.from_pandas(part, source=str(tmp_path / file), targets="label", name=context)
        mlflow.log_input(dataset, context=context)
    model = LogisticRegression().fit(train[COLUMNS].to_numpy(), train["label"])
    return mlflow.sklearn.log_model(
        model, name="model", signature=mlflow.models.infer_signature(train[COLUMNS]), pip_requirements=["scikit-learn"]
    )


def test_a_file_that_was_split_by_code_is_audited_from_what_mlflow_recorded(tracking, tmp_path):
    FRAME.to_csv(tmp_path / "all.csv", index=False)
    train, test = SPLITS["train_test_split"]
    with mlflow.start_run():
        info = log_parts(tmp_path, train, test, "all.csv", "all.csv")
    target = resolve_target(info.model_uri, LineageOptions(targets="label"))
    members = target.pool.row_ids[target.membership]
    assert sorted(members) == sorted(f"train:{row}" for row in train.index)
    assert sorted(target.pool.row_ids[~target.membership]) == sorted(f"holdout:{row}" for row in test.index)
    order = [int(name.split(":")[1]) for name in target.pool.row_ids]
    np.testing.assert_array_equal(target.pool.x, FRAME[COLUMNS].to_numpy()[order])
    assert {source.status for source in target.sources} == {"weakly verified"}
    assert all("of its 120 rows train_test_split(random_state=42)" in source.compared for source in target.sources)
    FRAME.assign(width=FRAME["width"] + 1).to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(LineageError, match="is not the data this model was trained on"):
        resolve_target(info.model_uri, LineageOptions(targets="label"))


def test_parts_whose_files_lost_the_index_are_recognised(tracking, tmp_path):
    train, test = SPLITS["train_test_split"]
    train.to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    with mlflow.start_run():
        info = log_parts(tmp_path, train, test, "train.csv", "test.csv")
    target = resolve_target(info.model_uri, LineageOptions(targets="label"))
    assert target.membership.sum() == len(train)
    assert {source.status for source in target.sources} == {"weakly verified"}
    assert "with the index of train_test_split(random_state=42)" in target.sources[0].compared


@pytest.mark.parametrize("split", ["of no usual seed", "stratified"])
def test_an_index_that_nobody_can_tell_is_named_as_a_cause(split, tracking, tmp_path):
    order = np.random.default_rng(5).permutation(120)
    train, test = SPLITS.get(split, (FRAME.iloc[order[:90]], FRAME.iloc[order[90:]]))
    train.to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    with mlflow.start_run():
        info = log_parts(tmp_path, train, test, "train.csv", "test.csv")
    with pytest.raises(LineageError, match=r"if only the index is another one.*index=False.*stratified.*log_lineage"):
        resolve_target(info.model_uri, LineageOptions(targets="label"))
    run_id = mlflow.last_active_run().info.run_id  # the remedy
    parts = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("train", "test"))
    log_lineage(**dict(zip(("train", "holdout"), parts, strict=True)), targets="label", run_id=run_id)
    assert resolve_target(info.model_uri, LineageOptions()).membership.sum() == len(train)


def test_a_reference_to_some_rows_of_a_file_keeps_their_numbers(tracking, tmp_path):
    FRAME.to_csv(tmp_path / "all.csv", index=False)
    train, test = SPLITS["another seed"]

    def of(part):
        return mlflow.data.from_pandas(part, source=str(tmp_path / "all.csv"), targets="label")

    with mlflow.start_run() as run:
        log_lineage(train=of(train), holdout=of(test.reset_index(drop=True)), store="reference")
        info = mlflow.sklearn.log_model(
            LogisticRegression().fit(train[COLUMNS], train["label"]), name="model", pip_requirements=["scikit-learn"]
        )
    stored = {item.path.rpartition("/")[2] for item in tracking.list_artifacts(run.info.run_id, "privacy/lineage")}
    assert stored == {"lineage.json", "train_rows.npz", "holdout_rows.npz"}  # and no data
    target = resolve_target(info.model_uri)
    assert {source.status for source in target.sources} == {"verified"}
    assert sorted(target.pool.row_ids[target.membership]) == sorted(f"train:{row}" for row in train.index)
    assert sorted(target.pool.row_ids[~target.membership]) == sorted(f"holdout:{row}" for row in test.index)


def test_a_mask_over_rows_of_a_file_becomes_rows_of_the_file(tracking, tmp_path):
    FRAME.to_csv(tmp_path / "all.csv", index=False)
    some = FRAME.iloc[20:80]
    with mlflow.start_run():
        data = mlflow.data.from_pandas(some, source=str(tmp_path / "all.csv"), targets="label")
        log_lineage(train=data, mask=np.arange(60) < 40, store="reference")
        info = mlflow.sklearn.log_model(
            LogisticRegression().fit(some[COLUMNS], some["label"]), name="model", pip_requirements=["scikit-learn"]
        )
    target = resolve_target(info.model_uri)
    assert sorted(target.pool.row_ids[target.membership]) == sorted(f"data:{row}" for row in range(20, 60))


def test_rows_are_found_by_their_content_and_copies_one_after_the_other():
    whole = Table(pd.concat([FRAME, FRAME[:10]], ignore_index=True))
    mixed = FRAME.sample(frac=0.5, random_state=1).reset_index(drop=True)
    rows = rows_of_part(Table(mixed), whole)
    pd.testing.assert_frame_equal(whole.x.iloc[rows].reset_index(drop=True), mixed)
    twice = Table(pd.concat([FRAME[:10], FRAME[:10]], ignore_index=True))
    assert rows_of_part(twice, whole).tolist() == [*range(10), *range(120, 130)]
    assert rows_of_part(Table(pd.concat([FRAME[:1]] * 3)), whole) is None
    assert rows_of_part(Table(FRAME[COLUMNS].astype(np.float32)[5:9]), Table(FRAME)).tolist() == [5, 6, 7, 8]
    assert rows_of_part(Table(FRAME.assign(more=1)), whole) is None
    x, y = FRAME[COLUMNS].to_numpy(), FRAME["label"].to_numpy()
    assert rows_of_part(Table(x[[7, 3]], y[[7, 3]]), Table(x, y)).tolist() == [7, 3]
    assert rows_of_part(Table(x[[7, 3]], 1 - y[[7, 3]]), Table(x, y)) is None


# --- an index that a file took along -----------------------------------------------------------------------------


def test_the_index_of_a_frame_in_a_csv_is_no_feature(tracking, tmp_path):
    train, test = SPLITS["train_test_split"]
    train.drop(columns="kind").to_csv(tmp_path / "train.csv")
    test.drop(columns="kind").to_csv(tmp_path / "test.csv")
    assert "Unnamed: 0" in pd.read_csv(tmp_path / "train.csv")
    with mlflow.start_run():
        log_lineage(train=tmp_path / "train.csv", holdout=tmp_path / "test.csv", targets="label")
        model = LogisticRegression().fit(train[COLUMNS].to_numpy(), train["label"])
        info = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
    target = resolve_target(info.model_uri)
    assert target.pool.x.shape == (120, 3)
    given = LineageOptions(train=str(tmp_path / "train.csv"), holdout=str(tmp_path / "test.csv"), targets="label")
    assert resolve_target(info.model_uri, given).pool.x.shape == (120, 3)


def test_a_csv_that_has_the_index_beside_what_was_logged_is_verified(tracking, tmp_path):
    train, test = (part.drop(columns="kind") for part in SPLITS["train_test_split"])
    with mlflow.start_run():
        log_lineage(train=train, holdout=test, targets="label", store="reference")
        model = LogisticRegression().fit(train[COLUMNS].to_numpy(), train["label"])
        info = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
    train.to_csv(tmp_path / "train.csv")
    test.to_csv(tmp_path / "test.csv")
    given = LineageOptions(train=str(tmp_path / "train.csv"), holdout=str(tmp_path / "test.csv"))
    target = resolve_target(info.model_uri, given)
    assert {source.status for source in target.sources} == {"verified"}
    assert target.pool.x.shape == (120, 3)


def records_of(frame):
    return to_records(Table(frame.assign(label=0), None, "label"), "train")


def test_an_index_stays_where_the_model_was_trained_on_it():
    torch = pytest.importorskip("torch")
    frame = FRAME[COLUMNS].assign(**{"Unnamed: 0": np.arange(120)[::-1]})
    assert index_columns(frame) == ["Unnamed: 0"]
    sloppy = LogisticRegression().fit(frame.to_numpy(), FRAME["label"])
    tidy = LogisticRegression().fit(FRAME[COLUMNS].to_numpy(), FRAME["label"])
    for model, flavor, columns in [
        (sloppy, "sklearn", 4),
        (tidy, "sklearn", 3),
        (torch.nn.Linear(4, 2), "pytorch", 4),
        (torch.nn.Linear(3, 2), "pytorch", 3),
        (lambda x: x, "pyfunc", 3),
    ]:
        assert for_model(records_of(frame), model, flavor, None).x.shape == (120, columns)
    assert for_model(records_of(frame), tidy, "sklearn", ["Unnamed: 0", *COLUMNS]).x.shape == (120, 4)
    twice = frame.assign(**{"Unnamed: 0": 1})
    assert index_columns(twice) == []  # a column of that name that is no index
