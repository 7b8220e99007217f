"""Which way imports go, and what `import mlflow` may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mlflow_privacy"
MODULES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "torchvision", "sklearn", "matplotlib", "transformers", "datasets", "peft"}


def imports(path, *, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_mlflow_appears_only_at_the_two_ends():
    allowed = {
        "evaluators",
        "lineage",
        "store",
        "experiment",
        "experiment_models",
        "importer",
        "log_dir",
        "cli",
        "gate",
        "compare",
        "__init__",
    }
    guilty = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if room(path) not in allowed and any(name.split(".")[0] == "mlflow" for name in imports(path))
    }
    assert guilty - {"trainers/project.py"} == set()


@pytest.mark.parametrize("inner", ["attacks", "metrics", "stats", "types", "errors", "design", "fingerprint", "config"])
def test_inner_rooms_do_not_know_outer_ones(inner):
    inner_rooms = {"attacks", "metrics", "stats", "types", "errors", "design", "fingerprint", "config", "_version"}
    for path in MODULES:
        if room(path) == inner:
            ours = {name.split(".")[1] for name in imports(path) if name.startswith("mlflow_privacy.")}
            assert ours <= inner_rooms, path


def test_nothing_heavy_is_imported_at_the_top_of_a_module():
    for path in MODULES:
        if path.parent.name in {"trainers", "signals"} and path.stem.split("_")[0] in {"torch", "sklearn", "fast"}:
            continue  # imported lazily themselves
        if path.parent.name == "zoo" and path.stem in {"layers", "wide_resnet", "vgg", "torchvision_models", "hlb_net"}:
            continue  # modules, imported when one is built
        heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
        assert not heavy, (path, heavy)


def test_nothing_unpickles_or_evaluates_code():
    banned = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    # Local workers get the caller's own live objects (never what came from a file); joblib is a backend there.
    senders = {"executor/parcel.py": {"cloudpickle"}, "executor/pools.py": {"joblib"}}
    calls = {"eval", "exec", "compile", "__import__"}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        allowed = senders.get(path.relative_to(ROOT).as_posix(), set())
        assert not {name.split(".")[0] for name in imports(path)} & (banned - allowed), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                assert name not in calls, (path, node.lineno)
                attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                owner = (
                    node.func.value.id
                    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
                    else ""
                )
                assert (owner, attribute) not in {("yaml", "load"), ("yaml", "unsafe_load")}, (path, node.lineno)
                if (owner, attribute) == ("torch", "load"):
                    assert any(k.arg == "weights_only" and k.value.value is True for k in node.keywords), (
                        path,
                        node.lineno,
                    )
                if (owner, attribute) == ("np", "load"):
                    assert any(k.arg == "allow_pickle" and k.value.value is False for k in node.keywords), (
                        path,
                        node.lineno,
                    )


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_import_mlflow_loads_the_hook_and_nothing_heavy():
    code = (
        "import sys, mlflow; print(sorted(m for m in sys.modules if m.startswith('mlflow_privacy')));"
        "print(sorted(set(sys.modules) & {'torch', 'sklearn', 'matplotlib', 'skops', 'transformers'}))"
    )
    ours, heavy = run(code).splitlines()
    assert ours == str(
        [
            "mlflow_privacy",
            "mlflow_privacy._version",
            "mlflow_privacy.evaluators",
            "mlflow_privacy.evaluators.hook",
            "mlflow_privacy.evaluators.plugin",
        ]
    )
    assert heavy == "[]"


def test_first_evaluate_loads_no_torch_for_others():
    code = (
        "import sys, mlflow, mlflow.models.evaluation.evaluator_registry as r;"
        "r._model_evaluation_registry.get_evaluator('privacy_meter');"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'skops'}))"
    )
    assert run(code).strip() == "[]"


def test_importing_our_own_modules_first_loads_the_plugin_without_a_warning():
    code = (
        "import mlflow_privacy.evaluators.hook, mlflow_privacy.evaluators.api, mlflow_privacy.evaluators.call;"
        "import mlflow.data; print(callable(mlflow.data.from_model_lineage),"
        "hasattr(mlflow.models.evaluate, '_mlflow_privacy_original'))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["True", "True"]
    assert "from_model_lineage" not in process.stderr
