"""The plan of the house: which room may import which, no circles, and what `import mlflow` may cost.

A room is a folder of `mlflow_privacy/`, or a part of one that stands at another height. Each may import itself, the
ground floor, and the rooms named beside it; every row names rows above it only, so the data goes one way.
"""

import ast
import subprocess
import sys
from pathlib import Path

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


GROUND = {"errors", "fields", "stats", "types", "fingerprint", "design", "text", "seeding", "plugins"}
GROUND |= {"_version", "_moved", ""}
DOORS = {"__main__", ""}  # the command line's, and the package's own, which names what is inside for type checkers
PLAN = {
    "attacks": set(),  # arrays → scores
    "metrics": set(),  # scores → estimates with intervals
    "privacy_meter.safe_pickle": set(),  # pickles as plain data
    "zoo": {"privacy_meter.safe_pickle"},  # named data sets and models
    "report": {"metrics"},  # a result → pages
    "store": {"metrics", "report"},  # reference runs, signals and results in MLflow
    "trainers": {"zoo"},  # a recipe → trained models
    "signals": {"attacks", "trainers"},  # a model and records → what it says of them
    "executor": {"trainers", "store"},  # who trains what, where
    "games": {"attacks", "metrics", "signals", "zoo"},  # the question that is asked
    "lineage": {"store", "trainers", "zoo"},  # a model URI → model, records, recipe
    "auditing": {
        *("attacks", "metrics", "report", "store", "trainers", "signals", "executor", "games", "lineage"),
    },  # the audit
    "evaluators": {"auditing", "games", "lineage", "report", "store"},  # MLflow's side of the door
    "privacy_meter.log_dir": {"report", "store", "zoo"},  # results in Privacy Meter's layout
    "experiment": {
        *("attacks", "metrics", "auditing", "evaluators", "games", "lineage", "privacy_meter.log_dir", "signals"),
        *("store", "trainers", "zoo"),
    },  # from a YAML file to audited versions
    "decide": {"experiment", "metrics", "report", "store"},  # what is made of finished audits
    "privacy_meter.importer": {
        *("auditing", "experiment", "lineage", "privacy_meter.safe_pickle", "report", "store", "trainers", "zoo"),
    },  # Privacy Meter's results into the registry
    "cli": {
        *("attacks", "decide", "evaluators", "experiment", "privacy_meter.importer", "report", "store"),
    },  # one module a command
}


def module_name(path):
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


NAMES = {module_name(path): path for path in MODULES}


def imported(path):
    """Our own modules that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in NAMES)
        elif isinstance(node, ast.ImportFrom) and node.module in NAMES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in NAMES else node.module


def room_of(name):
    inside = name.removeprefix("mlflow_privacy").removeprefix(".")
    return next((r for r in PLAN if inside == r or inside.startswith(f"{r}.")), inside.split(".")[0])


def test_rooms_import_only_what_the_plan_allows():
    wrong = []
    for name, path in NAMES.items():
        own = room_of(name)
        for other in imported(path):
            there = room_of(other)
            if there != own and there not in GROUND and there not in PLAN.get(own, set()) and own not in DOORS:
                wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_every_module_stands_in_a_room_of_the_plan():
    bare = {"privacy_meter", "__main__"}  # the folder itself, and the command line's door
    assert {room_of(name) for name in NAMES} - set(PLAN) - GROUND - bare == set()


def test_the_plan_itself_goes_one_way():
    above = set()
    for room, below in PLAN.items():
        assert below <= above, room
        above.add(room)


def test_the_ground_floor_imports_nothing_above_it():
    for name, path in NAMES.items():
        if room_of(name) in GROUND - {""}:
            assert {room_of(other) for other in imported(path)} <= GROUND, name


def test_no_two_modules_import_each_other_not_even_in_functions():
    graph = {name: set(imported(path)) - {name} for name, path in NAMES.items()}
    graph["mlflow_privacy"] = set()  # the front door names what it shows, and imports it when it is asked for
    while True:  # take away what imports nothing that is left, and what nothing that is left imports
        used = set().union(*graph.values())
        done = {name for name, others in graph.items() if not others & set(graph) or name not in used}
        if not done:
            break
        graph = {name: others - done for name, others in graph.items() if name not in done}
    assert graph == {}


def test_mlflow_appears_only_at_the_two_ends():
    allowed = {"evaluators", "lineage", "store", "experiment", "privacy_meter.importer", "privacy_meter.log_dir"}
    allowed |= {"cli", "decide"}
    guilty = {
        name
        for name, path in NAMES.items()
        if room_of(name) not in allowed and any(other.split(".")[0] == "mlflow" for other in imports(path))
    }
    assert guilty == set()


# Modules that are themselves imported only when they are needed.
LAZY = (
    *("trainers/torch/", "trainers/stacked/", "trainers/text/", "trainers/fast_resnet/", "trainers/sklearn.py"),
    *("signals/torch.py", "signals/sklearn.py", "signals/language/torch.py"),
    *(
        "zoo/layers.py",
        "zoo/wide_resnet.py",
        "zoo/vgg.py",
        "zoo/torchvision_models.py",
        "zoo/hlb_net.py",
        "zoo/fast_resnet.py",
    ),
)


def test_nothing_heavy_is_imported_at_the_top_of_a_module():
    for path in MODULES:
        if path.relative_to(ROOT).as_posix().startswith(LAZY):
            continue
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
            "mlflow_privacy.store",
            "mlflow_privacy.store.mlflow_private",
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
