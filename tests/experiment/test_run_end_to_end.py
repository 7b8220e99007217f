"""`mlflow-privacy run` on real data and a real SQLite store: targets, versions, audits through the evaluator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_privacy.cli import main
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.load import load_config, parse_config
from mlflow_privacy.experiment.run import run_experiment

ROOT = Path(__file__).parents[2]
CONFIG = """
run: {random_seed: 1, register_as: tiny, log_dir: out}
data: {dataset: diabetes}
train:
  model_options: {hidden: [64]}
  learning_rate: 0.02
  epochs: 150
  device: cpu
  variants:
    overfitted: {}
    regularised: {epochs: 4, weight_decay: 0.1, model_options: {hidden: [8]}}
audit: {num_ref_models: 4, device: cpu, population_size: 40}
"""


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path / "tiny.yaml"


def test_two_variants_become_two_audited_versions_and_only_the_overfitted_one_leaks(tracking, config_file, tmp_path):
    result = CliRunner().invoke(main, ["run", str(config_file)])
    assert result.exit_code == 0, result.output + result.stderr
    versions = {v.tags["variant"]: v for v in tracking.search_model_versions("name = 'tiny'")}
    assert {name: int(v.version) for name, v in versions.items()} == {"overfitted": 1, "regularised": 2}
    report = json.loads((tmp_path / "out" / "experiment.json").read_text())
    leaky, tame = report["targets"]
    assert (leaky["variant"], tame["variant"]) == ("overfitted", "regularised")
    assert leaky["audit"]["privacy/rmia/auc_low"] > 0.6
    assert tame["audit"]["privacy/rmia/auc"] < leaky["audit"]["privacy/rmia/auc_low"]
    assert f"{leaky['audit']['privacy/rmia/auc']:.3f}" in result.output
    assert "http" in result.output

    runs = {run.info.run_id: run for run in tracking.search_runs([report["experiment_id"]])}
    parent = runs[report["run_id"]]
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert parent.data.params["train.epochs"] == "150"
    assert parent.data.metrics["time/audit"] > 0
    assert tracking.get_experiment(report["experiment_id"]).tags["mlflow.experimentKind"] == "custom_model_development"
    for target in (leaky, tame):
        for run_id in (target["run_id"], target["audit_run_id"]):
            assert runs[run_id].data.tags["mlflow.parentRunId"] == report["run_id"]
        trained = runs[target["run_id"]]
        assert trained.data.params["model_name"] == "mlp"
        assert trained.data.metrics["holdout_r2"] == target["metrics"]["holdout_r2"]
        assert {i.dataset.name for i in trained.inputs.dataset_inputs}
        references = [r for r in runs.values() if r.data.tags.get("mlflow.parentRunId") == target["audit_run_id"]]
        assert len(references) == 8
    assert (tmp_path / "out" / "report" / "v1" / "privacy" / "roc.png").stat().st_size > 0
    assert (tmp_path / "out" / "time.json").exists()

    again = load_config(tmp_path / "out" / "config.yaml")
    assert again.model_dump() == load_config(config_file).model_dump()

    gate = CliRunner().invoke(main, ["gate", "models:/tiny/1", "--max", "rmia/auc=0.6"])
    assert gate.exit_code == 1, gate.output + gate.stderr
    assert "privacy/rmia/auc" in gate.output
    assert CliRunner().invoke(main, ["gate", "models:/tiny/2", "--max", "rmia/auc=0.99"]).exit_code == 0

    # The audit from a shell is the same audit: it finds all references and trains none.
    audit = CliRunner().invoke(main, ["audit", "models:/tiny/1", "--num-ref-models", "8", "--seed", "1", "--json"])
    assert audit.exit_code == 0, audit.output + audit.stderr
    metrics = json.loads(audit.stdout)["metrics"]
    assert metrics["privacy/rmia/auc"] == pytest.approx(leaky["audit"]["privacy/rmia/auc"], abs=2e-3)


def test_estimators_and_several_experiments(tracking, tmp_path):
    values = {
        "run": {"num_experiments": 2, "register_as": "wine-forest"},
        "data": {"dataset": "wine"},
        "train": {"model_name": "RandomForestClassifier", "model_options": {"n_estimators": 5}},
        "audit": {"num_ref_models": 2, "blind_baseline": False},
    }
    report = run_experiment(parse_config(values))
    assert [(t.experiment, t.version) for t in report.targets] == [(0, "1"), (1, "2")]
    assert report.targets[0].metrics["train_accuracy"] > 0.9
    assert report.targets[0].metrics != report.targets[1].metrics  # another split
    assert "privacy/rmia/auc" in report.targets[1].audit


def test_labels_of_a_table_may_be_words(tracking, tmp_path):
    overrides = ["train.epochs=2", "audit.num_ref_models=2", "audit.blind_baseline=false"]
    report = run_experiment(load_config(ROOT / "configs" / "table.yaml", overrides, device="cpu"))
    (target,) = report.targets
    assert 0 < target.audit["privacy/rmia/auc"] < 1
    assert tracking.get_run(target.run_id).data.params["dataset"] == "synthetic_loans"


def test_what_does_not_fit_is_refused_before_any_run_is_opened(tracking):
    before = len(tracking.search_runs([e.experiment_id for e in tracking.search_experiments()]))
    for values, message in (
        ({"train": {"model_name": "cnn"}}, "takes images"),
        ({"train": {"model_name": "Ridge"}}, "cannot learn a classification"),
        ({"train": {"loss": "mse"}}, "loss must be one of"),
        ({"audit": {"data_size": 10_000}}, r"audit\.data_size is 10000, but the pool has 178 records"),
        ({"data": {"dataset": "wine", "size": 10_000}}, "data set has 178 records"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_experiment(parse_config({"data": {"dataset": "wine"}, **values}))
    assert len(tracking.search_runs([e.experiment_id for e in tracking.search_experiments()])) == before


@pytest.mark.slow
def test_mlflow_run_passes_its_parameters_and_its_run_is_the_parent(tracking, config_file, tmp_path):
    """From another folder than the project's, with a path of the caller's and values with blanks."""
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    experiment = tracking.get_experiment_by_name("test").experiment_id
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager=local", "-P", "config=tiny.yaml"]
    command += ["--experiment-id", experiment]
    command += ["-P", "set=train.epochs=1 audit.num_ref_models=2 run.log_dir=null", "-P", "seed=7"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (parent,) = tracking.search_runs([experiment], "tags.`privacy.role` = 'experiment'")
    assert parent.data.params["run.random_seed"] == "7"
    assert parent.data.params["train.epochs"] == "1"
    assert parent.data.params["seed"] == "7"  # MLflow's own, of the project
    assert parent.data.tags["mlflow.project.entryPoint"] == "main"
    children = tracking.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(children) == 4
