"""A registry as most have it: autologging, whose data sets are scripts. Both remedies that the error names work."""

import re
import shlex

import mlflow
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import mlflow_privacy
from mlflow_privacy.cli import main
from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage import resolve_target


@pytest.fixture(scope="module")
def frames():
    frame = load_breast_cancer(as_frame=True).frame.sample(frac=1, random_state=0)
    columns = [*frame.columns[:5], "target"]
    return frame[columns][:280], frame[columns][280:]


@pytest.fixture
def autologged(tracking, frames):
    """Run id of a model that autologging alone recorded, registered by hand afterwards."""
    train, holdout = frames
    mlflow.sklearn.autolog(silent=True)
    try:
        with mlflow.start_run() as run:
            model = LogisticRegression(max_iter=500).fit(train.drop(columns="target"), train["target"])
            model.score(holdout.drop(columns="target"), holdout["target"])
    finally:
        mlflow.sklearn.autolog(disable=True)
    (logged,) = tracking.get_run(run.info.run_id).outputs.model_outputs
    mlflow.register_model(f"models:/{logged.model_id}", "tumour")
    sources = [item.dataset.source_type for item in tracking.get_run(run.info.run_id).inputs.dataset_inputs]
    assert set(sources) == {"code"}
    return run.info.run_id


def error_of(uri):
    with pytest.raises(LineageError) as error:
        resolve_target(uri)
    return str(error.value)


def test_the_first_remedy_is_one_line_for_a_shell_and_it_works(autologged, frames, tmp_path):
    line = re.search(
        r"mlflow-privacy (audit models:/tumour/1 --train FILE --holdout FILE)", error_of("models:/tumour/1")
    )
    for frame, name in zip(frames, ("train", "holdout")):
        frame.to_csv(tmp_path / f"{name}.csv")  # with the index, as people write it
    words = shlex.split(
        line[1].replace("FILE", str(tmp_path / "train.csv"), 1).replace("FILE", str(tmp_path / "holdout.csv"))
    )
    result = CliRunner().invoke(main, [*words, "--num-ref-models", "2"])
    assert result.exit_code == 0, result.output
    assert "rmia" in result.stdout


def test_the_second_remedy_logs_on_a_run_that_is_over_and_the_script_is_no_complaint(autologged, frames):
    text = error_of("models:/tumour/1")
    assert "log_lineage(train=..., holdout=...) in the training run, or now, though the run is over" in text
    assert f'run_id="{autologged}"' in text
    mlflow_privacy.log_lineage(train=frames[0], holdout=frames[1], targets="target", run_id=autologged)
    target = resolve_target("models:/tumour/1")
    assert target.warnings == ()
    assert {source.status for source in target.sources} == {"verified"}
    assert target.quality.name == "training_accuracy_score"


def test_another_input_that_loads_wins_over_the_script_of_autologging(autologged, frames, tmp_path, tracking):
    with mlflow.start_run(run_id=autologged):
        for frame, name, context in ((frames[0], "a", "training"), (frames[1], "b", "testing")):
            frame = frame.reset_index(drop=True)
            frame.to_parquet(tmp_path / f"{name}.parquet")
            data = mlflow.data.from_pandas(frame, source=str(tmp_path / f"{name}.parquet"), name=name)
            mlflow.log_input(data, context=context)
    target = resolve_target("models:/tumour/1")
    assert [source.name for source in target.sources] == ["a", "b"]
    assert target.warnings == ()
