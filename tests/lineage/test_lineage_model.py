"""Every way to name a model leads to the same model, version, run and logged model."""

import mlflow
import numpy as np
import pytest

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import ConfigError, LineageError
from mlflow_privacy.lineage import log_lineage, resolve_model, resolve_target


@pytest.fixture
def registered(log_model, tracking, train, holdout):
    with mlflow.start_run() as run:
        log_lineage(train=train, holdout=holdout)
        info = log_model(registered_model_name="credit")
    tracking.set_registered_model_alias("credit", "champion", "1")
    return run.info.run_id, info


@pytest.mark.parametrize("form", ["version", "alias", "latest", "runs", "m-", "pyfunc", "folder"])
def test_every_uri_names_the_same_model(form, registered, estimator):
    run_id, info = registered
    model = {
        "version": "models:/credit/1",
        "alias": "models:/credit@champion",
        "latest": "models:/credit/latest",
        "runs": f"runs:/{run_id}/model",
        "m-": f"models:/{info.model_id}",
    }.get(form)
    if form == "pyfunc":
        model = mlflow.pyfunc.load_model("models:/credit/1")
    if form == "folder":
        model = mlflow.artifacts.download_artifacts("models:/credit/1")
    target = resolve_target(model)
    found = target.model
    assert (found.name, found.version) == ("credit", "1")
    assert (found.model_id, found.run_id) == (info.model_id, run_id)
    assert found.flavor == "sklearn"
    np.testing.assert_array_equal(found.native.coef_, estimator.coef_)
    assert target.membership.sum() == 40
    if isinstance(model, str):
        assert found.uri == model


def test_a_loaded_model_is_not_loaded_again(registered, monkeypatch):
    loaded = mlflow.pyfunc.load_model("models:/credit/1")
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda *a, **k: pytest.fail("loaded twice"))
    found = resolve_model("models:/credit@champion", loaded=loaded)
    assert found.native is loaded.get_raw_model()
    assert found.version == "1"


def test_a_model_registered_twice_goes_to_the_newest_and_says_so(registered):
    run_id, info = registered
    mlflow.register_model(f"models:/{info.model_id}", "credit")
    target = resolve_target(f"runs:/{run_id}/model")
    assert (target.model.name, target.model.version) == ("credit", "2")
    assert any("registered more than once" in warning and "credit v1" in warning for warning in target.warnings)
    assert resolve_target("models:/credit/1").warnings == ()


def test_another_model_of_the_same_run_is_not_taken_for_this_one(log_model, train, holdout):
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout)
        log_model(name="one", registered_model_name="other")
        info = log_model(name="two")
    found = resolve_model(f"models:/{info.model_id}")
    assert (found.name, found.version) == (None, None)
    assert found.label == f"models:/{info.model_id}"


def test_a_registered_python_model_stays_a_pyfunc_model(tracking, train, holdout):
    class Constant(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return np.zeros(len(model_input), int)

    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout, targets="label")
        info = mlflow.pyfunc.log_model(name="model", python_model=Constant(), pip_requirements=["x"])
    target = resolve_target(info.model_uri)
    assert target.model.flavor == "pyfunc"
    assert isinstance(target.model.native, mlflow.pyfunc.PyFuncModel)
    assert target.recipe is None
    assert "train_fn" in target.recipe_problem
    again = resolve_target(info.model_uri, AuditOptions(train_fn=train_constant))
    assert again.recipe.kind == "callable"


def train_constant(x, y, seed):
    return lambda rows: np.zeros(len(rows), int)


def test_a_model_without_a_run_takes_data_from_the_caller(log_model, train, holdout):
    info = log_model()
    target = resolve_target(info.model_uri, AuditOptions(train=train, holdout=holdout))
    assert target.membership.sum() == 40
    with pytest.raises(LineageError, match="the model does not say which run trained it"):
        resolve_target(info.model_uri)


def test_what_is_no_model_is_refused(tracking):
    with pytest.raises(ConfigError, match="got int"):
        resolve_model(5)
