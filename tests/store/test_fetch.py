"""Files of runs: read in place where the artifacts are on this machine, else fetched, without asking for the run."""

import uuid

import pytest
from mlflow.exceptions import MlflowException

from mlflow_privacy.store.fetch import RunFiles, homes_of


@pytest.fixture(params=["folder", "server"])
def run(request, tracking):
    """A finished run with three files; its artifacts in a folder, or behind a server."""
    experiment = "1"
    if request.param == "server":
        tracking = request.getfixturevalue("on_server")
        experiment = tracking.create_experiment(f"fetch {uuid.uuid4()}")  # the default one is no proxied place
    run = tracking.create_run(experiment)
    for text, path in (("top", None), ("one", "some/folder"), ("two", "some/folder")):
        tracking.log_text(run.info.run_id, text, f"{path}/{text}.txt" if path else f"{text}.txt")
    return tracking, run, request.param


def test_files_are_read_with_no_request_for_their_run(run, calls):
    client, run, kind = run
    files = RunFiles(client, run.info.run_id, run.info.artifact_uri)
    assert files.listed("") == {"top.txt", "some"}
    assert files.listed("some/folder") == {"some/folder/one.txt", "some/folder/two.txt"}
    assert files.listed("none") == set()
    with files.local("some/folder/one.txt") as path:
        assert path.read_text() == "one"
        in_place = str(path).startswith(run.info.artifact_uri.removeprefix("file://"))
    assert path.exists() == in_place == (kind == "folder")
    with files.local("some/folder") as folder:
        assert {file.name for file in folder.iterdir()} == {"one.txt", "two.txt"}
    assert not calls


def test_without_its_place_the_run_is_asked_for_once(run, calls):
    client, run, _ = run
    files = RunFiles(client, run.info.run_id)
    assert files.listed("some")
    with files.local("top.txt") as path:
        assert path.read_text() == "top"
    assert calls == {"get_run": 1}


def test_a_copy_is_the_callers_own(run, tmp_path):
    client, run, _ = run
    files = RunFiles(client, run.info.run_id, run.info.artifact_uri)
    (tmp_path / "part").mkdir(), (tmp_path / "whole").mkdir()
    copy = files.copy("some/folder", tmp_path / "part")
    assert copy.is_relative_to(tmp_path / "part")
    (copy / "one.txt").write_text("changed")
    files.copy("", tmp_path / "whole")
    assert (tmp_path / "whole" / "some/folder/one.txt").read_text() == "one"
    assert (tmp_path / "whole" / "top.txt").read_text() == "top"


@pytest.mark.parametrize("path", ["none.txt", "some/none", "../../mlflow.db"])
def test_what_is_not_there_is_an_error_of_mlflows(run, path, tmp_path):
    client, run, _ = run
    files = RunFiles(client, run.info.run_id, run.info.artifact_uri)
    with pytest.raises(MlflowException), files.local(path):
        pass
    with pytest.raises(MlflowException):
        files.copy(path, tmp_path)


def test_places_of_many_runs_are_asked_for_together(tracking, calls):
    runs = [tracking.create_run("1") for _ in range(103)]
    elsewhere = tracking.create_run(tracking.create_experiment("elsewhere"))
    tracking.delete_run(runs[0].info.run_id)
    wanted = [run.info.run_id for run in (*runs, elsewhere)]
    homes = homes_of(tracking, wanted, "1")
    assert homes == {run.info.run_id: run.info.artifact_uri for run in runs}
    assert calls == {"search_runs": 2}
    assert homes_of(tracking, [], "1") == {}
