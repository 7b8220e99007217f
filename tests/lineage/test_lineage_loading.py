"""Models that do not load: one error of ours, with the thing and the remedy."""

import shutil

import mlflow
import pytest

import mlflow_privacy
from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage import log_lineage, resolve_model
from mlflow_privacy.lineage.loading import _stated, load_pyfunc


@pytest.fixture
def registered(log_model, train, holdout):
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout, targets="label")
        return log_model(registered_model_name="churn")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/chrun/1", "there is no registered model 'chrun' on sqlite:.*did you mean 'churn'"),
        ("models:/churn/7", "model 'churn' has no version 7; there are: 1"),
        ("models:/churn@champion", "model 'churn' has no alias 'champion'"),
        ("models:/m-0123", "the logged model m-0123 is not on"),
        ("runs:/" + 32 * "0" + "/model", "there is no run 0000"),
        ("nowhere/at/all", "A model is models:/NAME/VERSION"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(uri, message, registered):
    with pytest.raises(LineageError, match=f"{uri} cannot be loaded: (?s:.*){message}"):
        resolve_model(uri)
    with pytest.raises(LineageError, match=message):  # and leaves no run behind
        mlflow_privacy.evaluate(uri)
    assert len(mlflow.search_runs()) == 1


def test_files_that_are_gone_are_named(registered, tracking):
    place = tracking.get_logged_model(registered.model_id).artifact_location
    shutil.rmtree(place.removeprefix("file://"))
    with pytest.raises(LineageError, match=r"models:/churn/1 cannot be loaded: its files cannot be read at .*Restore"):
        resolve_model("models:/churn/1")


def test_a_version_whose_logged_model_was_deleted_is_an_error_of_ours_and_leaves_no_run(registered, tracking):
    tracking.delete_logged_model(registered.model_id)
    with pytest.raises(LineageError, match="which was deleted, though its files are there.*log it again"):
        mlflow_privacy.evaluate("models:/churn/1", num_ref_models=0)
    assert len(mlflow.search_runs()) == 1


def not_installed(module):
    def load(uri, **options):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    return load


@pytest.mark.parametrize(
    ("module", "stated", "message"),
    [
        ("tensorflow", ["mlflow", "tensorflow==2.15.1"], "needs tensorflow, .*pip install 'tensorflow==2.15.1'"),
        ("tensorflow.keras", ["tensorflow-cpu==2.15.1"], "pip install 'tensorflow-cpu==2.15.1'"),
        ("catboost", ["# made by hand", "CatBoost>=1.2"], "pip install 'CatBoost>=1.2'"),
        ("sklearn", ["scikit-learn==1.4"], "pip install 'scikit-learn==1.4'"),
        ("my_project.features", ["numpy"], "code_paths"),
    ],
)
def test_a_missing_package_is_named_as_the_model_states_it(module, stated, message, tracking, tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("\n".join(stated))
    monkeypatch.setattr(mlflow.pyfunc, "load_model", not_installed(module))
    monkeypatch.setattr(mlflow.pyfunc, "get_model_dependencies", lambda uri, format: tmp_path / "requirements.txt")
    with pytest.raises(LineageError, match=f"(?s)models:/churn/1 cannot be loaded: .*{message}"):
        load_pyfunc("models:/churn/1", client=tracking)


def test_the_requirements_that_a_model_states_are_read(registered):
    assert "scikit-learn" in _stated(registered.model_uri)


def test_a_class_that_is_not_here_is_told_from_a_bug(registered, tracking, monkeypatch):
    def missing(uri, **options):
        raise AttributeError("Can't get attribute 'Net' on <module '__main__' from 'x.py'>")

    monkeypatch.setattr(mlflow.pyfunc, "load_model", missing)
    with pytest.raises(LineageError, match="Can't get attribute 'Net'.*code_paths"):
        load_pyfunc(registered.model_uri, client=tracking)

    def bug(uri, **options):
        raise AttributeError("nothing of the kind")

    monkeypatch.setattr(mlflow.pyfunc, "load_model", bug)
    with pytest.raises(AttributeError, match="nothing of the kind"):
        load_pyfunc(registered.model_uri, client=tracking)
