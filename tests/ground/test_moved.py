"""Import paths of before the package had rooms keep working, and say where to go."""

import ast
import importlib
import importlib.util
import io
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mlflow_privacy._moved import MODULES

ROOT = Path(__file__).parents[2]
PACKAGES = {old for old in MODULES if (ROOT / old.replace(".", "/")).is_dir()}  # of the same name as a former module
# Every import that the documentation and the examples showed when the modules moved, but for paths that stayed.
DOCUMENTED = {
    "mlflow_privacy.audit": ["audit"],
    "mlflow_privacy.compare": ["compare", "Comparison", "Pair"],
    "mlflow_privacy.config": ["AuditOptions"],
    "mlflow_privacy.experiment": ["run_experiment"],
    "mlflow_privacy.experiment_config": ["load_config"],
    "mlflow_privacy.games.usage": ["usage"],
    "mlflow_privacy.gate": ["check_gate", "check_policy", "latest_metrics", "policy_thresholds", "read_facts"],
    "mlflow_privacy.importer": ["import_log_dir"],
    "mlflow_privacy.policy": ["load_policy", "parse_policy"],
    "mlflow_privacy.report.compare_text": ["comparison_lines"],
}


@pytest.mark.parametrize("module", DOCUMENTED)
def test_what_was_documented_is_found_with_a_warning_that_names_the_new_path(module):
    for name in DOCUMENTED[module]:
        space = {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exec(f"from {module} import {name}", space)
        said = next(one for one in caught if str(one.message).startswith(f"{module}.{name} has moved to "))
        assert said.category is DeprecationWarning
        assert said.filename == "<string>"  # the importing line, the only one that Python shows by default
        new = str(said.message).split(" has moved to ")[1].split(";")[0].rpartition(".")[0]
        assert new in MODULES[module]
        assert space[name] is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize("old", MODULES)
def test_every_old_path_leads_to_modules_that_there_are(old):
    assert importlib.util.find_spec(old) is not None
    for new in MODULES[old]:
        assert importlib.util.find_spec(new) is not None, new


def test_the_module_audit_never_takes_the_place_of_the_function():
    code = (
        "import mlflow_privacy, mlflow_privacy.audit; assert callable(mlflow_privacy.audit);"
        "from mlflow_privacy import audit; from mlflow_privacy.audit import audit as before; assert audit is before;"
        "import mlflow_privacy.auditing.pipeline; assert mlflow_privacy.audit is audit;"
        "import mlflow_privacy.audit as old; assert old is audit; print(audit.__module__)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "mlflow_privacy.auditing.pipeline"


def test_models_that_were_pickled_before_load():
    pytest.importorskip("torch")
    from mlflow_privacy.zoo.fast_resnet import FastResNet

    old = b"cmlflow_privacy.trainers.fast_resnet_net\nFastResNet\n."
    with pytest.warns(DeprecationWarning, match=r"mlflow_privacy\.zoo\.fast_resnet"):
        assert pickle.Unpickler(io.BytesIO(old)).load() is FastResNet
    assert b"fast_resnet_net" not in pickle.dumps(FastResNet)


def test_names_that_never_were_are_not_found():
    for code in ("import mlflow_privacy.gates", "from mlflow_privacy.games.usage import no_such_name"):
        with pytest.raises(ImportError, match="no_such_name|gates"):
            exec(code)
    with pytest.raises(AttributeError, match=r"module 'mlflow_privacy\.games\.usage' has no attribute 'no_such_name'"):
        _ = importlib.import_module("mlflow_privacy.games.usage").no_such_name


def test_submodules_of_a_room_are_not_taken_for_moved_names():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from mlflow_privacy.experiment import load
        from mlflow_privacy.games.usage import estimate

    assert load.__name__ == "mlflow_privacy.experiment.load"
    assert estimate.__name__ == "mlflow_privacy.games.usage.estimate"


def imports_of(path):
    """(line, module) of every import; names taken from a package are given as its submodules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def test_nothing_of_ours_takes_an_old_path():
    folders = ("mlflow_privacy", "tests", "benchmarks", "docs", "examples")
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for line, name in imports_of(path):
            assert name not in set(MODULES) - PACKAGES, (path, line)
            if name.rpartition(".")[0] in PACKAGES:
                assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), (path, line)


def test_looking_for_moved_modules_costs_nothing_at_import():
    code = "import sys, mlflow_privacy; print('mlflow_privacy._moved' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
