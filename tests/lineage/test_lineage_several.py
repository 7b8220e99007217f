"""Two models logged in one run, each with data of its own: the right pool for each, or an error that asks."""

import mlflow
import numpy as np
import pytest

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage import log_lineage, resolve_target

COLUMNS = ["width", "height", "weight"]


def members(uri):
    target = resolve_target(uri)
    return np.asarray(target.pool.x)[target.membership]


def same(uri, frame):
    np.testing.assert_array_equal(members(uri), frame[COLUMNS].to_numpy())


@pytest.fixture
def parts(train, holdout):
    """(train, holdout) of three models."""
    return [(train[i * 12 : i * 12 + 12], holdout[i * 8 : i * 8 + 8]) for i in range(3)]


@pytest.mark.parametrize("order", ["data first", "model first"])
def test_other_data_after_a_further_model_does_not_replace_that_of_the_first(order, log_model, parts):
    models = []
    with mlflow.start_run():
        for i, (train, holdout) in enumerate(parts):
            if order == "model first":
                models.append(log_model(name=f"m{i}"))
            log_lineage(train=train, holdout=holdout, targets="label", recipe={"C": float(i + 1)})
            if order == "data first":
                models.append(log_model(name=f"m{i}"))
    for i, (model, (train, holdout)) in enumerate(zip(models, parts)):
        same(model.model_uri, train)
        target = resolve_target(model.model_uri)
        assert (~target.membership).sum() == len(holdout)
        assert {source.status for source in target.sources} == {"verified"}
        assert target.recipe.spec["estimator"]["params"]["C"] == i + 1.0


def test_other_data_without_a_further_model_is_a_correction(log_model, parts):
    (wrong, holdout), (right, _), _ = parts
    with mlflow.start_run():
        log_lineage(train=wrong, holdout=holdout, targets="label")
        log_lineage(train=right, targets="label")
        info = log_model()
        log_lineage(train=right, targets="label")  # the same once more
    same(info.model_uri, right)


def test_rows_of_each_model_stay_its_own(log_model, train):
    masks = [np.arange(40) % 2 == 0, np.arange(40) % 3 == 0]
    models = []
    with mlflow.start_run():
        for i, mask in enumerate(masks):
            log_lineage(train=train.assign(extra=i), mask=mask, targets="label")
            models.append(log_model(name=f"m{i}"))
    for model, mask in zip(models, masks):
        same(model.model_uri, train[mask])


def log_inputs(parts, tmp_path, *, names=("a", "b"), tags=None):
    for i, ((train, holdout), name) in enumerate(zip(parts, names)):
        for frame, kind, context in ((train, "train", "training"), (holdout, "test", "testing")):
            path = tmp_path / f"{name}_{kind}.parquet"
            frame.reset_index(drop=True).to_parquet(path)
            data = mlflow.data.from_pandas(frame.reset_index(drop=True), source=str(path), name=f"{name}_{kind}")
            mlflow.log_input(data, context=context, tags={"model_id": tags[i]} if tags else None)
            yield i, kind, data


def test_a_tag_tells_whose_a_data_set_is(log_model, parts, tmp_path):
    with mlflow.start_run():
        models = [log_model(name="m") for _ in range(2)]
        list(log_inputs(parts, tmp_path, tags=[model.model_id for model in models]))
    for model, (train, holdout) in zip(models, parts):
        same(model.model_uri, train)
        assert (~resolve_target(model.model_uri).membership).sum() == len(holdout)


def test_metrics_of_a_model_tell_whose_a_data_set_is(log_model, parts, tmp_path):
    with mlflow.start_run():
        models = [log_model(name="m") for _ in range(2)]
        for i, kind, data in log_inputs(parts, tmp_path):
            mlflow.log_metric(f"{kind}_accuracy", 0.9, dataset=data, model_id=models[i].model_id)
    for model, (train, _) in zip(models, parts):
        same(model.model_uri, train)


def test_names_of_models_and_data_sets_tell_whose_a_data_set_is(log_model, parts, tmp_path):
    with mlflow.start_run():
        models = [log_model(name=name) for name in ("churn", "fraud")]
        list(log_inputs(parts, tmp_path, names=("churn", "fraud")))
    for model, (train, _) in zip(models, parts):
        same(model.model_uri, train)


def test_where_nothing_tells_the_audit_asks(log_model, parts, tmp_path):
    with mlflow.start_run():
        models = [log_model(name=name) for name in ("churn", "fraud")]
        list(log_inputs(parts, tmp_path))
    with pytest.raises(LineageError, match=r"logged 2 models and the training data .a_train., .b_train.*model_id="):
        resolve_target(models[0].model_uri)
    with mlflow.start_run(run_id=models[0].run_id):  # as the error says
        log_lineage(train=parts[1][0], holdout=parts[1][1], targets="label", model_id=models[0].model_id)
    same(models[0].model_uri, parts[1][0])


def test_one_training_set_of_several_models_is_everyones(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        models = [log_model(name=name) for name in ("small", "large")]
        list(log_inputs([(train, holdout)], tmp_path))
    for model in models:
        same(model.model_uri, train)
