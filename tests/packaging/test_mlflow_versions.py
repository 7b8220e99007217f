"""The lowest MLflow that is supported, in an environment of its own. The newest is the one the suite runs on."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOWEST = "3.1.0"


@pytest.mark.slow
def test_the_plugin_passes_its_tests_on_the_lowest_supported_mlflow(tmp_path):
    config = (ROOT / "setup.cfg").read_text()
    assert f"mlflow>={LOWEST.removesuffix('.0')}" in config  # what is promised is what is tested
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    # MLflow 3.1 itself does not cap SQLAlchemy, whose 2.1 removed a class that it imports.
    # torchvision loads only beside the torch it was built for.
    requirements = [f"mlflow=={LOWEST}", "sqlalchemy<2.1", "torch==2.14.1", "torchvision==0.29.1"]
    install = [python, "-m", "pip", "install", "--quiet", *requirements, "-e", f"{ROOT}[test]"]
    subprocess.run(install, check=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTHON"))}
    folders = ["tests/evaluators", "tests/store", "tests/lineage", "tests/cli"]
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", *folders]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    sys.stdout.write(process.stdout[-4000:])
    assert process.returncode == 0
