"""The command line: exit codes, one clean line per error, tables; started quickly."""

import json
import logging
import subprocess
import sys
import types

import pytest
from click.testing import CliRunner

from mlflow_privacy import __version__
from mlflow_privacy.cli import console, main
from mlflow_privacy.errors import LineageError

METRICS = {
    "privacy/rmia/auc": 0.7,
    "privacy/rmia/auc_low": 0.65,
    "privacy/rmia/auc_high": 0.75,
    "privacy/rmia/tpr_at_fpr_0.01": 0.04,
    "privacy/rmia/tpr_at_fpr_0.01_high": 0.08,
    "privacy/blind/auc": 0.51,
    "privacy/blind/auc_low": 0.45,
    "privacy/blind/auc_high": 0.56,
    "privacy/fidelity/target_member_accuracy": 1.0,
    "privacy/fidelity/target_nonmember_accuracy": 0.9,
}


@pytest.fixture
def call():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def audited(monkeypatch):
    """Stands in for the audit itself, which has tests of its own; keeps what it was asked."""
    asked = {}

    def evaluate(model_uri, **options):
        asked.update(options, model_uri=model_uri)
        artifact = types.SimpleNamespace(uri="runs:/r1/privacy/roc.png")
        return types.SimpleNamespace(metrics=METRICS, artifacts={"roc": artifact}, run_id="r1")

    monkeypatch.setattr("mlflow_privacy.evaluate", evaluate, raising=False)
    return asked


def test_starting_imports_nothing_heavy():
    code = (
        "import sys, mlflow_privacy.cli; "
        "heavy = {'mlflow', 'torch', 'numpy', 'pandas', 'sklearn', 'pydantic', 'matplotlib'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_and_help_with_examples(call):
    assert __version__ in call("--version").output
    for command in ("run", "audit", "gate"):
        result = call(command, "--help")
        assert result.exit_code == 0
        assert f"mlflow-privacy {command} " in result.output


def test_attacks_are_listed_with_their_threat_models(call):
    output = call("attacks").output
    assert "rmia: RMIA" in output
    assert "Black box" in output
    assert "arxiv.org" in output


def test_config_keys_are_listed(call):
    assert "`train.epochs`" in call("config").output


def test_audit_passes_options_and_prints_a_table(call, audited, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optimizer: SGD\nlearning_rate: 1e-2")
    dpia = tmp_path / "privacy_dpia.yaml"
    dpia.write_text('purposes: "Credit decisions."')
    result = call(
        *("audit", "models:/m/1", "--num-ref-models", 4, "--attack", "rmia", "--attack", "lira", "--train", "a.csv"),
        *("--holdout", "b.csv", "--targets", "y", "--recipe", recipe, "--seed", 3, "--batch-size", 64),
        *("--slice", "age", "--slice", "region", "--show-records", "--class", "yes", "--class", "no"),
        *("--auditor", "Ada", "--people", "120", "--dpia", dpia),
        *("--task", "classification", "--output", "p_yes", "--output", "p_no"),
    )
    assert result.exit_code == 0, result.output
    assert audited == {
        "model_uri": "models:/m/1",
        "num_ref_models": 4,
        "attacks": ["rmia", "lira"],
        "train": "a.csv",
        "holdout": "b.csv",
        "targets": "y",
        "recipe": {"optimizer": "SGD", "learning_rate": 0.01},
        "random_seed": 3,
        "batch_size": 64,
        "slices": ["age", "region"],
        "classes": ["yes", "no"],
        "show_records": True,
        "task": "classification",
        "output": ["p_yes", "p_no"],
        "auditor": "Ada",
        "people": 120,
        "dpia": {"purposes": "Credit decisions."},
        "device": "auto",
    }
    assert "0.700 [0.650, 0.750]" in result.output
    assert "not resolvable" in result.output  # TPR at 0.1 % FPR
    assert "Blind baseline" in result.output


def test_a_time_budget_is_passed_as_it_was_written(call, audited):
    assert call("audit", "models:/m/1", "--time-budget", "10 min").exit_code == 0
    assert audited["time_budget"] == "10 min"


def test_logits_are_said_in_a_word(call, audited):
    assert call("audit", "models:/m/1", "--output", "logits").exit_code == 0
    assert audited["output"] == "logits"


@pytest.fixture
def audited_weakly(monkeypatch):
    """An audit without references, as the library hands it to whoever listens."""
    import dataclasses

    from mlflow_privacy.evaluators.call import LISTENER
    from mlflow_privacy.report.example import example_result

    result = dataclasses.replace(
        example_result(n=400, warnings=["No reference models could be trained: 'learning_rate' is missing."]),
        references={"n": 0},
    )

    def evaluate(model_uri, **options):
        LISTENER.get()(result)
        return types.SimpleNamespace(metrics=METRICS, artifacts={}, run_id="r1")

    monkeypatch.setattr("mlflow_privacy.evaluate", evaluate, raising=False)


def test_a_weaker_audit_says_so_in_the_last_lines(call, audited_weakly):
    result = call("audit", "models:/m/1")
    assert result.stdout.strip().splitlines()[-1].startswith("Weaker audit: no reference models. Of ")
    assert result.stderr == "Warning: No reference models could be trained: 'learning_rate' is missing.\n"
    as_json = call("audit", "models:/m/1", "--json")
    assert json.loads(as_json.stdout)["run_id"] == "r1"
    assert as_json.stderr == result.stderr


def test_an_audit_ends_with_verdict_warnings_and_where_the_report_is(call, audited_weakly, tracking):
    run = tracking.create_run(tracking.create_experiment("credit"))
    where = run.info.run_id
    artifact = types.SimpleNamespace(uri="s3://bucket/r/privacy_report.html")
    import mlflow_privacy

    inner = mlflow_privacy.evaluate

    def evaluate(model_uri, **options):
        inner(model_uri, **options)
        return types.SimpleNamespace(metrics=METRICS, artifacts={"privacy/report": artifact}, run_id=where)

    mlflow_privacy.evaluate = evaluate  # `audited_weakly` puts it back
    result = call("audit", "models:/m/1")
    lines = result.output.strip().splitlines()
    assert lines[-5].startswith("Weaker audit: ")
    assert lines[-4].startswith("Warning: ")
    assert lines[-2] == "Report: s3://bucket/r/privacy_report.html"
    experiment = run.info.experiment_id
    assert f"/#/experiments/{experiment}/runs/{where}/artifacts/privacy_report.html" in lines[-1]


@pytest.mark.parametrize(
    ("args", "level"),
    [
        (["audit", "models:/m/1"], "INFO"),
        (["-q", "audit", "models:/m/1"], "WARNING"),
        (["audit", "models:/m/1", "-q"], "WARNING"),
        (["-v", "audit", "models:/m/1"], "DEBUG"),
        (["audit", "models:/m/1", "--verbose"], "DEBUG"),
        (["--debug", "audit", "models:/m/1"], "DEBUG"),
    ],
)
def test_logs_are_as_many_as_asked_for_before_or_after_the_command(call, audited, args, level):
    logger = logging.getLogger("mlflow_privacy")
    before = logger.level
    try:
        assert call(*args).exit_code == 0
        assert logging.getLevelName(logger.level) == level
    finally:
        logger.setLevel(before)


def test_a_gate_needs_to_be_told_that_a_weak_audit_will_do(call, monkeypatch):
    weak = {**METRICS, "privacy/fidelity/target_member_loss": 0.1}
    monkeypatch.setattr("mlflow_privacy.decide.gate.latest_metrics", lambda uri: weak)
    assert call("gate", "models:/m/1", "--max", "rmia/auc=0.8").exit_code == 1
    assert call("gate", "models:/m/1", "--max", "rmia/auc=0.8", "--allow-weak").exit_code == 0


def test_audit_leaves_out_what_was_not_asked(call, audited):
    call("audit", "models:/m/1")
    assert audited == {"model_uri": "models:/m/1", "device": "auto"}


def test_audit_as_json_is_json_alone(call, audited):
    record = json.loads(call("audit", "models:/m/1", "--json").stdout)
    assert record["metrics"] == METRICS
    assert record["run_id"] == "r1"
    assert record["artifacts"] == {"roc": "runs:/r1/privacy/roc.png"}


def test_an_error_is_one_clean_line_and_exit_code_2(call, monkeypatch):
    def fail(*args, **kwargs):
        raise LineageError("models:/m/1 has no training data.")

    monkeypatch.setattr("mlflow_privacy.evaluate", fail, raising=False)
    result = call("audit", "models:/m/1")
    assert (result.exit_code, result.stderr) == (2, "Error: models:/m/1 has no training data.\n")
    assert "Traceback" in call("--debug", "audit", "models:/m/1").stderr


def test_a_bug_shows_its_traceback_and_is_no_breach(call, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("mlflow_privacy.decide.gate.latest_metrics", fail)
    result = call("gate", "models:/m/1", "--max", "rmia/auc=0.6")
    assert result.exit_code == 2
    assert "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--max", "rmia/auc=0.8"], 0, "passes"),
        (["--max", "rmia/auc=0.7"], 0, "passes"),
        (["--max", "rmia/auc=0.6"], 1, "privacy/rmia/auc: 0.7 exceeds 0.6"),
        (["--max", "rmia/auc=0.72", "--upper"], 1, "the upper end of its interval, 0.75, exceeds 0.72"),
        (["--max", "rmia/auc=0.72", "--max", "rmia/tpr_at_fpr_0.01=0.05"], 0, "passes"),
    ],
)
def test_gate_exits_with_1_and_a_line_per_breach(call, monkeypatch, args, code, text):
    monkeypatch.setattr("mlflow_privacy.decide.gate.latest_metrics", lambda uri: METRICS)
    result = call("gate", "models:/m/1", *args)
    assert result.exit_code == code, result.output
    assert text in result.output


def test_gate_prints_every_breach(call, monkeypatch):
    monkeypatch.setattr("mlflow_privacy.decide.gate.latest_metrics", lambda uri: METRICS)
    result = call("gate", "models:/m/1", "--max", "rmia/auc=0.6", "--max", "rmia/tpr_at_fpr_0.01=0.01")
    assert len(result.stdout.strip().splitlines()) == 2


@pytest.mark.parametrize("limit", ["rmia/auc", "rmia/auc=x", "=0.5", "rmia/auc=nan", "rmai/auc=0.6"])
def test_a_gate_that_cannot_be_answered_exits_with_2(call, monkeypatch, limit):
    monkeypatch.setattr("mlflow_privacy.decide.gate.latest_metrics", lambda uri: METRICS)
    assert call("gate", "models:/m/1", "--max", limit).exit_code == 2


def test_a_gate_without_limits_is_a_usage_error(call):
    assert call("gate", "models:/m/1").exit_code == 2


@pytest.fixture
def ran(monkeypatch):
    """Stands in for the experiment: keeps the config that the command line made."""
    from mlflow_privacy.experiment import run as experiment

    seen = []

    def run_experiment(config):
        seen.append(config)
        return experiment.ExperimentReport(config.name, "r", "0", (), {"audit": 1.0})

    monkeypatch.setattr(experiment, "run_experiment", run_experiment)
    return seen


def test_run_takes_overrides_repeated_or_separated_by_blanks_and_tolerates_empty_ones(call, ran, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("data: {dataset: wine}")
    blanks = "train.epochs=1 audit.num_ref_models=2"
    result = call(
        *("run", path, "--device", "", "--seed", "", "--set", "", "--set", blanks),
        *("--set", "'run.experiment_name=two words'"),
    )
    assert result.exit_code == 0, result.output
    (config,) = ran
    assert (config.train.epochs, config.audit.num_ref_models, config.run.random_seed) == (1, 2, 0)
    assert config.run.experiment_name == "two words"
    assert "mlflow ui" in result.output or "/#/models/" in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seed", "x"], "--seed must be a whole number of at least 0, got 'x'"),
        (["--set", "'a=1"], "cannot be split into key=value"),
        (["--set", "train.epoch=1"], "unknown key train.epoch, did you mean train.epochs?"),
        (["--device", "gpu"], "train.device must be auto, cpu, mps, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_run_reports_wrong_arguments_and_trains_nothing(call, ran, tmp_path, args, message):
    path = tmp_path / "c.yaml"
    path.write_text("data: {dataset: wine}")
    result = call("run", path, *args)
    assert (result.exit_code, ran) == (2, [])
    assert message in result.stderr


def test_a_strong_blind_baseline_is_said():
    assert "read the AUCs above with care" in console.audit_text({**METRICS, "privacy/blind/auc_low": 0.6})
    assert "It should be near 0.5" in console.audit_text(METRICS)
