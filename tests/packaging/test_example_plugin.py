"""The example package of `examples/plugin/`, installed into a fresh environment, and an audit that uses all it adds."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "examples" / "plugin"
PROGRAM = """
import json, sys
import mlflow
import mlflow_privacy
from mlflow_privacy.attacks import ATTACKS
from mlflow_privacy.games import GAMES
from mlflow_privacy.report.added import SECTIONS
from mlflow_privacy.signals import SIGNALS
from mlflow_privacy.trainers import TRAINERS

tables = (ATTACKS, GAMES, SECTIONS, SIGNALS, TRAINERS)
known = [name for table in tables for name in ("beats_all", "blurred", "label_balance", "scorecard") if name in table]
early = "privacy_example" in sys.modules
sys.path.insert(0, sys.argv[1])
import audit_scorecard
metrics = audit_scorecard.main()
client = mlflow.MlflowClient()
tags = client.get_model_version("scorecard", "1").tags
folder = client.download_artifacts(tags["privacy.audit_run"], "")
print(json.dumps({"known": known, "early": early, "metrics": metrics, "tags": tags, "folder": folder}))
"""


@pytest.fixture
def python(tmp_path):
    """An interpreter of a new environment in which the example is installed, beside all that is installed here."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    (site / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    source = shutil.copytree(PLUGIN, tmp_path / "source")  # building leaves files beside the source
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(source)]
    subprocess.run(install, check=True, capture_output=True)
    assert (site / "privacy_example.py").is_file()
    return python


def test_an_installed_package_adds_attack_trainer_signals_game_and_section(python, tmp_path, empty_database):
    (tmp_path / "run").mkdir()
    shutil.copy(empty_database, tmp_path / "run" / "mlflow.db")
    # Not the experiment that a test before this one left in this process's environment: it is of another store.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_EXPERIMENT")}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/run/mlflow.db"
    command = [python, "-W", "ignore", "-c", PROGRAM, str(PLUGIN)]
    done = subprocess.run(command, cwd=tmp_path / "run", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # Known by name before anything of the package is imported.
    assert found["known"] == ["beats_all", "blurred", "label_balance", "scorecard", "scorecard"]
    assert not found["early"]
    metrics = found["metrics"]
    assert metrics["privacy/beats_all/auc_low"] > 0.5  # the scorecard memorises
    assert metrics["privacy/rmia/auc_low"] > 0.5
    assert 0.5 < metrics["privacy/blurred/auc"] < metrics["privacy/rmia/auc"]
    assert found["tags"]["privacy.blurred"].startswith("AUC ")
    folder = Path(found["folder"])
    page, text = (folder / "privacy_report.html").read_text(), (folder / "privacy_report.md").read_text()
    for form in (page, text):
        assert "Beats all references" in form
        assert "Records known roughly" in form
        assert "Labels of members and non-members" in form
        assert "Added by privacy-example 0.1.0" in form
    values = json.loads((folder / "privacy_result.json").read_text())
    (section,) = values["sections"]
    assert (section["name"], section["problem"]) == ("label_balance", "")
    assert sum(int(cell) for row in section["section"]["tables"][0]["rows"] for cell in row[1:]) == 400
    assert values["references"]["n_trained"] == 8
    assert any(fact == {**fact, "name": "Kind", "value": "scorecard"} for fact in values["recipe"])
