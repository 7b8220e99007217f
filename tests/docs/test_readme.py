"""README's blocks run as they are printed, from top to bottom, in a new folder without a server, a network or data."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^( *)```(python|sh)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Installs, serves or tests the project itself; `test_run_end_to_end` runs the config of the second.
ELSEWHERE = ("pip install", "mlflow ui")
# What the registry of "You have a registry already" holds: two more versions without lineage, and their data as files.
REGISTRY = """
for _ in range(2):
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="model", registered_model_name="credit-scorer", serialization_format="cloudpickle"
        )
train.to_csv("train.csv", index=False)
holdout.to_csv("test.csv", index=False)
"""
# Commands run in the process of the Python blocks: to start one takes longer than what it does.
DRIVER = """
import contextlib, json, shlex, sys
from mlflow_privacy.cli import main
space, done = {"__name__": "__main__"}, []

def command(line):
    words = shlex.split(line)
    assert words.pop(0) == "mlflow-privacy", line
    try:
        main(words, standalone_mode=False)
    except SystemExit as end:
        return end.code
    return 0

for kind, code in json.load(open(sys.argv[1])):
    with contextlib.redirect_stdout(sys.stderr):
        if kind == "python":
            exec(compile(code, "README.md", "exec"), space)
            done.append(0)
        else:
            done.append(max(command(line) for line in code.splitlines()))
print(json.dumps(done))
"""


def blocks():
    """(kind, code, the heading it stands below) of each block, in order; those that run elsewhere left out."""
    found = []
    for match in BLOCK.finditer(README):
        heading = re.findall(r"^## (.+)$", README[: match.start()], re.MULTILINE)
        code = textwrap.dedent(match[3])
        if not code.startswith(ELSEWHERE):
            found.append((match[2], code, heading[-1] if heading else ""))
    return found


def test_the_blocks_of_the_readme_are_found():
    headings = [heading for _, _, heading in blocks()]
    assert headings == ["", *["Audit your own model"] * 5, *["You have a registry already"] * 2]


@pytest.mark.filterwarnings("ignore")
def test_the_blocks_run_as_printed(tmp_path):
    own = [(kind, code) for kind, code, heading in blocks() if heading == "Audit your own model"]
    later = [(kind, code) for kind, code, heading in blocks() if heading == "You have a registry already"]
    teaser = [(kind, code) for kind, code, heading in blocks() if not heading]
    net = ("python", 'assert "privacy/rmia/auc" in mlflow_privacy.evaluate("models:/credit-net/1").metrics')
    told = ("python", 'assert result.metrics["privacy/rmia/auc"] > 0.6')  # a forest of whole trees
    program = [*own, net, told, ("python", REGISTRY), *later, *teaser]
    (tmp_path / "program.json").write_text(json.dumps(program))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, "program.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    gate = [i for i, (kind, code) in enumerate(program) if "mlflow-privacy gate" in code and kind == "sh"]
    assert [codes[i] for i in gate] == [1]  # "exits with 1 and a line per breach"
    assert {program[i][1]: code for i, code in enumerate(codes) if code and i not in gate} == {}, done.stderr[-4000:]
