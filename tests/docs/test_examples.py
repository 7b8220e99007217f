"""The examples run, and show what they say they show."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

import mlflow_privacy
from mlflow_privacy.decide.policy import load_policy

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_credit_scoring_tells_the_version_that_memorises_and_the_policy_stops_it(tracking):
    comparison, breaches = load("credit_scoring").main()
    gap = comparison.pairs[0].auc_difference.estimate
    assert comparison.pairs[0].paired
    assert gap.high < -0.2  # the second version gives away less
    assert not comparison.unfair
    assert "exceeds 0.7" in breaches["memorises"][0]
    assert breaches["generalises"] == []


def test_a_network_for_images_is_audited_by_its_recipe(tracking):
    assert load("images").main() > 0.5


def test_a_lora_adapter_remembers_its_messages_and_references_find_it_out(tracking):
    metrics = load("text_lora").main()
    assert metrics["privacy/rmia/auc_low"] > 0.6
    assert metrics["privacy/rmia/auc"] > metrics["privacy/loss/auc"]
    assert abs(metrics["privacy/blind/auc"] - 0.5) < 0.15


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # committed without results
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    assert "models:/tumour-classifier/1 gives away more" in printed[-2] or "v1 gives away more" in printed[-2]
    first, second = printed[-1].strip().splitlines()
    assert "exceeds 0.65" in first
    assert "keeps the policy" in second


# --- the GitHub Actions workflow ---------------------------------------------------------------------------------


@pytest.fixture
def workflow_steps():
    """The shell steps of the workflow between installation and upload, by name."""
    job = yaml.safe_load((EXAMPLES / "github_actions" / "privacy_gate.yml").read_text())["jobs"]["gate"]
    return job, {step["name"]: step["run"] for step in job["steps"] if "run" in step and step["name"] != "Install"}


@pytest.mark.slow
def test_the_workflow_makes_a_version_the_champion_only_if_its_gate_passes(tracking, tmp_path, workflow_steps):
    """Runs the workflow's own commands as its runner would, stopping at the first that fails."""
    job, steps = workflow_steps
    policy = yaml.safe_load((EXAMPLES / "github_actions" / "privacy_policy.yaml").read_text())
    (tmp_path / "privacy_policy.yaml").write_text(yaml.safe_dump({**policy, "min_nonmembers": 100}))
    register_versions()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MODEL": "workflow",
        "POLICY": job["env"]["POLICY"],
    }
    ran = {}
    for version in ("1", "2", "3"):
        for name, command in steps.items():
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", command],
                env={**environment, "VERSION": version},
                cwd=tmp_path,
                capture_output=True,
                text=True,
            )
            ran.setdefault(version, {})[name] = done
            if done.returncode:
                break
    codes = {version: {name: done.returncode for name, done in each.items()} for version, each in ran.items()}
    audit, compare, gate, champion = steps
    assert codes["1"] == {audit: 0, compare: 0, gate: 0, champion: 0}
    assert codes["2"] == {audit: 0, compare: 0, gate: 1}  # it memorises, so the champion stays
    assert codes["3"] == {audit: 0, compare: 0, gate: 0, champion: 0}
    assert "no audited champion yet" in ran["1"][compare].stdout
    assert "gives away more" in ran["2"][compare].stdout
    assert "exceeds 0.6" in ran["2"][gate].stdout
    assert (tmp_path / "compare.html").exists()
    assert str(tracking.get_model_version_by_alias("workflow", "champion").version) == "3"
    verdicts = [tracking.get_model_version("workflow", v).tags["privacy.gate"] for v in "123"]
    assert verdicts == ["pass", "fail", "pass"]


def register_versions():
    """Three versions: the second memorises, the others do not."""
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 4))
    y = (x[:, 0] > 0).astype(int) ^ (rng.random(1200) < 0.2)
    for depth in (2, None, 1):
        with mlflow.start_run():
            model = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(x[:600], y[:600])
            mlflow_privacy.log_lineage(train=(x[:600], y[:600]), holdout=(x[600:], y[600:]))
            mlflow.sklearn.log_model(
                model,
                name="model",
                registered_model_name="workflow",
                serialization_format="cloudpickle",
                pip_requirements=["scikit-learn"],
            )


def test_the_workflow_gives_inputs_to_the_shell_as_variables_only(workflow_steps):
    """What somebody types into the form must not become part of a command."""
    job, steps = workflow_steps
    for command in steps.values():
        assert "${{" not in command
    assert {"MODEL", "VERSION", "POLICY"} <= set(job["env"])


def test_the_sample_policy_is_valid():
    policy = load_policy(EXAMPLES / "github_actions" / "privacy_policy.yaml")
    assert [rule.key for rule in policy.rules] == ["privacy/headline/auc_high", "privacy/headline/tpr_at_fpr_0.1"]
