"""What we need of MLflow's undocumented parts is still there, and where it is gone the documented way does the same.

A test "mlflow still ..." that fails says which entry of `store/mlflow_private.py` needs a look: the package goes on
working without it, only slower.
"""

import importlib
import subprocess
import sys
import uuid
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from mlflow.entities import RunInputs

from mlflow_privacy.store import mlflow_private as private


def hide(monkeypatch, *modules):
    """As if this MLflow did not have these modules."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


def test_mlflow_still_has_import_hooks(tmp_path, monkeypatch):
    from mlflow.utils.import_hooks import register_post_import_hook

    (tmp_path / "imported_later.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []

    def hook(module):
        seen.append(module.__name__)

    register_post_import_hook(hook, "imported_later", overwrite=False)
    assert not seen
    importlib.import_module("imported_later")
    assert seen == ["imported_later"]


@pytest.mark.parametrize("imported", [True, False])
def test_without_import_hooks_the_hook_runs_if_evaluation_is_imported_already(imported, monkeypatch):
    module = private.evaluation_module()
    hide(monkeypatch, "mlflow.utils.import_hooks")
    if not imported:
        monkeypatch.delitem(sys.modules, private.EVALUATION)
    seen = []
    private.when_evaluation_is_imported(seen.append)
    assert seen == ([module] if imported else [])


SEARCHED = """
import sys
import mlflow, sklearn
from mlflow_privacy.store.mlflow_private import evaluation_module, load_evaluators
evaluation_module()
{before}
from mlflow.models.evaluation.utils.trace import configure_autologging_for_evaluation
class Seen(list):
    def find_spec(self, name, path=None, target=None):
        self.append(name)
seen = Seen()
sys.meta_path.insert(0, seen)
with configure_autologging_for_evaluation():
    print(*seen)
"""


@pytest.mark.parametrize("before", ["load_evaluators()", "pass"])
def test_mlflow_imports_nothing_under_its_lock_that_was_loaded_before(before):
    """Whoever imports there waits for other threads that import, and they for the lock."""
    pytest.importorskip("mlflow.models.evaluation.utils.trace")
    code = SEARCHED.format(before=before)
    searched = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    if before == "pass":  # else there is nothing left to be loaded before
        assert "mlflow.sklearn" in searched
    else:
        assert not searched


def test_mlflow_still_tells_which_experiment_a_run_would_go_to(tracking, monkeypatch):
    assert not private.nobody_chose_an_experiment()
    mlflow.set_experiment(experiment_id="0")
    assert private.nobody_chose_an_experiment()
    hide(monkeypatch, "mlflow.tracking.default_experiment")
    assert not private.nobody_chose_an_experiment()


def test_mlflow_still_keeps_the_id_of_a_loaded_model_where_it_is_taken_off():
    model = mlflow.pyfunc.PyFuncModel(SimpleNamespace(), SimpleNamespace(predict=lambda x: x), model_id="m-1")
    assert private.unlinked(model).model_id is None
    assert model.model_id == "m-1"
    other = SimpleNamespace()
    assert private.unlinked(other) is other


def test_mlflow_still_binds_evaluate_to_no_other_names():
    from mlflow_privacy.evaluators.hook import _MARK, install_privacy_meter_hook

    base = private.evaluation_module()
    install_privacy_meter_hook(base)
    original = getattr(base.evaluate, _MARK)
    loaded = [module for name, module in sys.modules.items() if name.startswith("mlflow.") and module is not None]
    assert [m.__name__ for m in loaded if any(value is original for value in list(vars(m).values()))] == []
    for module, name in private._BOUND:
        assert getattr(sys.modules[module], name) is base.evaluate, f"{module}.{name} is gone, or is another function"


def test_mlflow_still_has_run_inputs(tracking):
    with mlflow.start_run() as active:
        inputs = RunInputs(dataset_inputs=[], model_inputs=[])
        private.know_inputs(active, inputs)
        assert active.inputs is inputs


def test_a_run_without_that_record_is_left_alone():
    active = SimpleNamespace(info=1)
    private.know_inputs(active, RunInputs(dataset_inputs=[], model_inputs=[]))
    assert vars(active) == {"info": 1}


def test_mlflow_still_stores_of_a_data_set_what_we_do():
    dataset = mlflow.data.from_numpy(np.arange(3), source="https://example.org/x.npy", name="x")
    assert dict(private.dataset_entity(dataset)) == dict(dataset._to_mlflow_entity())


def test_mlflow_still_saves_artifacts_by_save(tmp_path):
    from mlflow.models.evaluation import EvaluationResult

    from mlflow_privacy.store.artifacts import Text

    (tmp_path / "page.html").write_text("<p>")
    page = Text(uri=(tmp_path / "page.html").as_uri())
    EvaluationResult({}, {"page": page}).save(str(tmp_path / "saved"))
    (saved,) = (tmp_path / "saved" / "artifacts").iterdir()
    assert saved.read_text() == "<p>"


def test_mlflow_still_lists_packages_by_that_function_and_has_it_back_afterwards():
    from mlflow.utils import requirements_utils

    listing = getattr(requirements_utils, private._LISTING)
    assert hasattr(requirements_utils, private._MAP)
    with private.quick_requirement_check():
        assert getattr(requirements_utils, private._LISTING) is not listing
        with private.quick_requirement_check():  # within itself it changes nothing
            pass
        assert getattr(requirements_utils, private._LISTING) is not listing
    assert getattr(requirements_utils, private._LISTING) is listing


def test_a_mlflow_without_the_listing_is_left_as_it_is(monkeypatch):
    from mlflow.utils import requirements_utils

    monkeypatch.delattr(requirements_utils, private._LISTING)
    with private.quick_requirement_check():
        assert not hasattr(requirements_utils, private._LISTING)
    hide(monkeypatch, "mlflow.utils.requirements_utils")
    monkeypatch.delattr(mlflow.utils, "requirements_utils")
    with private.quick_requirement_check():
        pass


@pytest.fixture(params=["folder", "server"])
def home(request, tracking):
    """A client, and the artifact URI of a run with two files."""
    experiment = "1"
    if request.param == "server":
        tracking = request.getfixturevalue("on_server")
        experiment = tracking.create_experiment(f"private {uuid.uuid4()}")
    run = tracking.create_run(experiment)
    for name in ("one", "two"):
        tracking.log_text(run.info.run_id, name, f"some/folder/{name}.txt")
    return tracking, run.info.artifact_uri, request.param


def contents(client, uri, tmp_path):
    """What a repository says and gives."""
    repository = private.repository_at(client, uri)
    private.download_file(repository, "some/folder/one.txt", tmp_path / "one.txt")
    (tmp_path / "copy").mkdir()
    copy = repository.download_artifacts("some", str(tmp_path / "copy"))
    with pytest.raises(mlflow.exceptions.MlflowException):
        repository.download_artifacts("some/none.txt", str(tmp_path / "copy"))
    return (
        (tmp_path / "one.txt").read_text(),
        sorted(path.relative_to(copy).as_posix() for path in (tmp_path / "copy" / "some").rglob("*.txt")),
        *({entry.path: entry.is_dir for entry in repository.list_artifacts(p)} for p in (None, "some", "some/folder")),
    )


def test_mlflow_still_has_repositories_of_uris_and_fetches_single_files(home, tmp_path):
    client, uri, kind = home
    repository = private.repository_at(client, uri)
    assert not isinstance(repository, private._DocumentedRepository)
    assert callable(repository._download_file)
    assert (private.folder_of(repository) is not None) == (kind == "folder")
    if kind == "folder":
        assert (private.folder_of(repository) / "some" / "folder" / "one.txt").read_text() == "one"
    one, files, top, some, folder = contents(client, uri, tmp_path)
    assert (one, files) == ("one", ["folder/one.txt", "folder/two.txt"])
    assert top == {"some": True}
    assert some == {"some/folder": True}
    assert folder == {"some/folder/one.txt": False, "some/folder/two.txt": False}


def test_without_repositories_the_documented_functions_give_the_same(home, tmp_path, monkeypatch):
    client, uri, _ = home
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    before = contents(client, uri, tmp_path / "a")
    monkeypatch.setattr(
        private, "repository_at", lambda client, home: private._DocumentedRepository(home, client.tracking_uri)
    )
    assert contents(client, uri, tmp_path / "b") == before
    assert private.folder_of(private.repository_at(client, uri)) is None
    monkeypatch.undo()
    hide(monkeypatch, "mlflow.store.artifact.artifact_repository_registry")
    assert isinstance(private.repository_at(client, uri), private._DocumentedRepository)
    hide(monkeypatch, "mlflow.store.artifact.local_artifact_repo")
    assert private.folder_of(None) is None


@pytest.mark.parametrize("uri", ["/a/b", "file:///a/b", "mlflow-artifacts:/1/x/artifacts", "https://host/a/"])
def test_mlflow_still_puts_paths_below_uris_and_ours_are_the_same(uri, monkeypatch):
    from mlflow.utils import uri as uris

    assert callable(uris.append_to_uri_path)
    found = private.uri_below(uri, "privacy/roc.png")
    hide(monkeypatch, "mlflow.utils.uri")
    assert private.uri_below(uri, "privacy/roc.png") == found


def test_mlflow_still_tells_the_address_of_an_artifact_on_a_server(monkeypatch):
    uri, server = "mlflow-artifacts:/1/x/artifacts/a.parquet", "http://127.0.0.1:5000"
    found = private.address_on_server(uri, server)
    assert found.startswith(server)
    assert found.endswith("/1/x/artifacts/a.parquet")
    hide(monkeypatch, "mlflow.store.artifact.mlflow_artifacts_repo")
    assert private.address_on_server(uri, server) is None
