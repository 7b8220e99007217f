"""Undocumented names of MLflow, torch, transformers and peft stand in one module each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mlflow_privacy"
MODULES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
HOMES = {"store/mlflow_private.py", "trainers/torch/private.py", "trainers/text/private.py"}
# Modules of MLflow that its documentation does not mention; of the others those whose name begins with an underscore.
INNER = (
    "mlflow.store",
    "mlflow.utils",
    "mlflow.tracking",
    "mlflow.data.digest_utils",
    "mlflow.data.dataset_source_registry",
    "mlflow.models.evaluation.base",
    "mlflow.models.evaluation.deprecated",
)
# Underscores that are no library's secret, or another's whose absence is provided for where they stand.
KNOWN = {
    ("executor/pools.py", "_exit"),  # os._exit is documented
    ("lineage/tasks.py", "_model"),  # of MLflow's wrappers of keras and statsmodels; without it the labels decide
    ("trainers/identity/objects.py", "_inst"),  # the generator behind the functions of `random`
    ("trainers/identity/objects.py", "_rand"),  # and of `numpy.random`
    ("trainers/identity/objects.py", "_lru_cache_wrapper"),
    ("trainers/text/peft.py", "_planned"),  # ours, on a configuration of peft's
    ("zoo/estimators.py", "_param_validation"),  # scikit-learn's own check of parameters
    ("zoo/estimators.py", "_validate_params"),
    ("zoo/hub.py", "_indices"),  # of a data set of datasets
}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def own_names():
    """Every private attribute that a class of this package has: its methods, fields, and what is set on `self`."""
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    targets = getattr(part, "targets", None) or [getattr(part, "target", None)]
                    yield from (ast.unparse(target) for target in targets if target)
                    yield getattr(part, "name", "")
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and own_self(node.value):
                yield node.attr


def own_self(node):
    return ast.unparse(node) in ("self", "cls", "super()")


def foreign_privates(tree, own):
    """Private names of others in a module: imported, as attributes, or asked for by name."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names = [] if isinstance(node, ast.Import) else [alias.name for alias in node.names]
            if modules[0].partition(".")[0] in ("mlflow_privacy", "__future__", ""):
                continue
            yield from (part for module in modules for part in module.split(".") if is_private(part))
            yield from filter(is_private, names)
            full = [*modules, *(f"{modules[0]}.{name}" for name in names)]
            yield from {inner for inner in INNER for name in full if f"{name}.".startswith(f"{inner}.")}
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if node.attr not in own and not own_self(node.value):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            asked = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            by_name = node.func.id in ("getattr", "hasattr", "setattr", "delattr") and isinstance(asked, str)
            if by_name and is_private(asked) and asked not in own:
                yield asked


def test_private_names_of_libraries_stand_in_one_module_each():
    own = set(own_names()) - set().union(*(foreign_privates(MODULES[home], set()) for home in HOMES))
    found = {(path, name) for path, tree in MODULES.items() for name in foreign_privates(tree, own)}
    assert {name for path, name in found if path in HOMES} >= {"_inputs", "_n_gpu", "_orig_mod", "mlflow.store"}
    elsewhere = {pair for pair in found if pair[0] not in HOMES} - KNOWN
    assert not elsewhere, f"put them into one of {sorted(HOMES)}: {sorted(elsewhere)}"
    assert found >= KNOWN, f"no longer there: {sorted(KNOWN - found)}"


@pytest.mark.parametrize(
    "text",
    [
        "from mlflow.store.artifact import artifact_repo",
        "from mlflow import utils",
        "import mlflow.utils.uri",
        "from torch._utils import _rebuild_tensor_v2",
        "from torch import _foreach_add_",
        "torch.nn.modules.conv._ConvNd",
        "module._orig_mod",
        "run._inputs = 1",
        "getattr(model, '_tied_weights_keys', None)",
    ],
)
def test_each_way_to_a_private_name_is_seen(text):
    assert list(foreign_privates(ast.parse(text), set()))


@pytest.mark.parametrize(
    "text", ["self._x", "x.__dict__", "from mlflow_privacy.a import _b", "from mlflow.data import x"]
)
def test_what_is_ones_own_or_documented_is_not_meant(text):
    assert not list(foreign_privates(ast.parse(text), set()))


def test_names_that_are_near_are_looked_for_in_one_place():
    users = [path for path, tree in MODULES.items() for node in ast.walk(tree) if "difflib" in imported(node)]
    assert users == ["errors.py"]


def imported(node):
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {node.module} if isinstance(node, ast.ImportFrom) else set()
