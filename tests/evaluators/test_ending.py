"""What a person sees of an audit when it ends: log lines from Python, a table in a notebook."""

import logging
from pathlib import Path

import mlflow
import pytest

from mlflow_privacy.auditing.said import told_quiet
from mlflow_privacy.evaluators.ending import PrivacyEvaluationResult
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.notebook import notebook_html
from mlflow_privacy.types import AuditedModel

CONFIG = {"privacy_meter": {"num_ref_models": 2, "blind_baseline": False, "progress": False}}


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append((record.levelname, record.getMessage()))


@pytest.fixture
def mlflow_lines(monkeypatch):
    """What MLflow's own logger and the root logger show in a plain script after a migration."""
    handler, root = Lines(), logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # as alembic leaves it
    for logger in (root, logging.getLogger("mlflow")):
        logger.addHandler(handler)
    yield handler.records
    root.setLevel(before)
    for logger in (root, logging.getLogger("mlflow")):
        logger.removeHandler(handler)


def test_evaluate_ends_with_verdict_warnings_and_report(registered, mlflow_lines, tracking):
    result = mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=CONFIG)
    ours = [(level, text) for level, text in mlflow_lines if "tree v1" in text or "privacy_report.html" in text]
    assert ours[0][0] == "INFO"
    assert "Privacy audit of tree v1: Shown one record used in training" in ours[0][1]
    warnings = [text for level, text in ours if level == "WARNING"]
    assert any("Only 2 reference models" in text for text in warnings)
    assert [level for level, _ in ours[-2:]] == ["INFO", "INFO"]
    path = ours[-2][1].removeprefix("Report: ")
    assert Path(path).read_text().startswith("<!DOCTYPE html>")
    experiment = tracking.get_run(result.run_id).info.experiment_id
    assert f"#/experiments/{experiment}/runs/{result.run_id}/artifacts/privacy_report.html" in ours[-1][1]
    assert "mlflow ui --backend-store-uri" in ours[-1][1]


def test_the_result_shows_itself_in_a_notebook_and_is_still_mlflows(registered):
    result = mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=CONFIG)
    assert isinstance(result, mlflow.models.EvaluationResult)
    assert isinstance(result, PrivacyEvaluationResult)
    page = result._repr_html_()
    assert "<table>" in page
    assert "Privacy audit of tree v1" in page
    assert "privacy_report.html" in page
    assert "Only 2 reference models" in page
    assert "privacy/rmia/auc_low" in result.metrics


def test_nothing_of_a_model_or_its_data_is_markup_in_a_notebook():
    evil = "<script>x</script>"
    model = AuditedModel(f"models:/{evil}/1", evil, "1", None, None, "sklearn")
    page = notebook_html(example_result(n=100, model=model, warnings=[evil]), path=evil, address=f"javascript:{evil}")
    assert "<script" not in page
    assert "javascript" not in page
    assert page.count("&lt;script&gt;") == 3


def test_a_plain_script_hears_what_the_references_cost_before_they_train(registered, mlflow_lines, monkeypatch):
    logger = logging.getLogger("mlflow_privacy")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.setattr(logger, "disabled", False)
    mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=CONFIG)
    told = [line for line in mlflow_lines if line[1].startswith("2 reference models:")]
    assert [level for level, _ in told] == ["INFO"]
    assert told[0][1].startswith("2 reference models: 0 found in the store, 2 to train. How long they take is told")
    mlflow_lines.clear()
    mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=CONFIG)
    assert [text for _, text in mlflow_lines if text.startswith("2 reference models:")] == [
        "2 reference models: found in the store, none to train."
    ]
    mlflow_lines.clear()
    more = {"privacy_meter": {**CONFIG["privacy_meter"], "num_ref_models": 4}}
    mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=more)
    (line,) = [text for _, text in mlflow_lines if text.startswith("4 reference models:")]
    assert "2 found in the store, 2 to train. About " in line  # by what their runs have recorded
    mlflow_lines.clear()
    monkeypatch.setattr(logger, "level", logging.WARNING)  # whoever wants no progress
    mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=CONFIG)
    assert not [text for _, text in mlflow_lines if text.startswith("2 reference models:")]


def test_a_terminal_shows_the_bar_in_a_plain_script_too(registered, monkeypatch):
    from mlflow_privacy.auditing import training

    shown = []
    original = training.model_bar

    def model_bar(total, progress, pace):
        shown.append(progress == "auto" and not told_quiet())
        return original(total, False, pace)

    monkeypatch.setattr(training, "model_bar", model_bar)
    config = {"privacy_meter": {"num_ref_models": 2, "blind_baseline": False}}
    for level, expected in ((logging.NOTSET, True), (logging.WARNING, False)):
        monkeypatch.setattr(logging.getLogger("mlflow_privacy"), "level", level)
        options = {**config["privacy_meter"], "random_seed": int(expected)}
        mlflow.models.evaluate(
            "models:/tree/1", evaluators=["privacy_meter"], evaluator_config={"privacy_meter": options}
        )
        assert shown.pop() is expected
