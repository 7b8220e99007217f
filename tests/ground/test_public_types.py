"""The public names are typed: `py.typed` holds for whoever checks strictly."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlflow_privacy

pytest.importorskip("mypy", reason="pip install -e '.[test]'")

ROOT = Path(__file__).parents[2]
# Our own types are read; those of frameworks, which would take a minute, are not needed for the names below.
CONFIG = """
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true

[mypy-torch.*,torchvision.*,transformers.*,peft.*,mlflow.*,sklearn.*,pandas.*,scipy.*,matplotlib.*,datasets.*,tqdm.*]
follow_imports = skip

[mypy-rich.*,IPython.*,jinja2.*,joblib.*,pyarrow.*,opacus.*,safetensors.*,skops.*,PIL.*,ray.*]
follow_imports = skip
"""
USE = """
import numpy as np

from mlflow_privacy import ATTACKS, AuditOptions, AuditResult, AuditTarget, Estimate, Recipe, Records
from mlflow_privacy import audit, evaluate, log_lineage, resolve_target
from mlflow_privacy.attacks import attack, rmia
from mlflow_privacy.report import Section, Table, report_section


@attack("mine", title="Mine", threat_model="Black box.", paper="Mine", inputs=("target", "reference"))
def mine(target: np.ndarray, reference: np.ndarray, *, scale: float = 1.0) -> np.ndarray:
    scores: np.ndarray = scale * (target - reference.mean(axis=1))
    return scores


@report_section("mine")
def section(result: AuditResult) -> Section | None:
    blind: Estimate | None = result.blind
    return None if blind is None else Section("Mine", ("Text.",), (Table(("auc",), ((str(blind.value),),)),))


def use(records: Records, recipe: Recipe | None) -> float:
    log_lineage(train=records.x, targets="y")
    target: AuditTarget = resolve_target("models:/credit/3")
    result = audit(target, AuditOptions(num_ref_models=4, attacks=["rmia"]))
    title: str = ATTACKS["rmia"].title
    evaluate("models:/credit/3", num_ref_models=4)
    ranks = mine(np.zeros(3), np.zeros((3, 2)), scale=2.0)
    return len(title) + float(ranks[0]) + result.attacks[0].metrics["auc"].low
"""
WRONG = """
from mlflow_privacy import AuditOptions, audit, log_linage
audit(3)
AuditOptions(num_ref_models="many")
"""


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Runs `mypy --strict` on a program; its lines."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "mypy.ini").write_text(CONFIG)

    def run(**programs):
        for name, text in programs.items():
            (folder / f"{name}.py").write_text(text)
        command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *(f"{name}.py" for name in programs)]
        environment = {"MYPYPATH": str(ROOT), "PATH": ""}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.stdout.splitlines()

    return run


def test_a_program_of_every_public_name_is_typed_and_a_wrong_one_is_told(check):
    names = mlflow_privacy.__all__
    every = f"from mlflow_privacy import {', '.join(names)}\n" + "".join(f"reveal_type({name})\n" for name in names)
    said = check(every=every, use=USE, wrong=WRONG)
    revealed = [re.search(r'every\.py:(\d+): note: Revealed type is "(.*)"', line) for line in said]
    types = {names[int(found[1]) - 2]: found[2] for found in revealed if found}
    assert set(types) == set(names)
    assert [name for name, kind in types.items() if kind == "Any"] == []
    errors = [line for line in said if ": error:" in line]
    assert [line for line in errors if not line.startswith("wrong.py:")] == []
    for number, words in ((2, '"log_linage"'), (3, 'Argument 1 to "audit"'), (4, '"num_ref_models"')):
        assert any(line.startswith(f"wrong.py:{number}: error") and words in line for line in errors), (number, errors)
