"""A change of code that a recipe runs, wherever it lies, changes the recipe's key."""

import importlib
import subprocess
import sys
import textwrap
import types

import cloudpickle
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mlflow_privacy.fingerprint import digest, recipe_digest
from mlflow_privacy.trainers import TRAINERS, make_recipe
from mlflow_privacy.trainers.canonical import Walk, canonical, own_code, untold
from mlflow_privacy.trainers.identity.origins import library_version, origin, source_files

MINE = ("project", "helpers", "deeper")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes modules, loads them anew, and gives the recipe of `project.train_fn` or of what is asked for."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in MINE]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def load(files, thing=lambda module: module.train_fn, fresh=True):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        if fresh:
            forget()
        found = thing(importlib.import_module("project"))
        if isinstance(found, types.FunctionType):
            return make_recipe(None, {}, train_fn=found, task="classification")
        return make_recipe(found, None, task="classification")

    yield load
    forget()


INSIDE = "def train_fn(x, y, seed):\n    import helpers\n    return helpers.build(x)\n"
ON_TOP = "import helpers\ndef train_fn(x, y, seed):\n    return helpers.build(x)\n"
NAMED = "from helpers import build\ndef train_fn(x, y, seed):\n    return build(x)\n"
BUILD = "def build(x):\n    return x + {}\n"


def both(template, one=1, other=2):
    return template.replace("{}", str(one)), template.replace("{}", str(other))


def project_only(template, one=1, other=2):
    return tuple({"project": text} for text in both(template, one, other))


def helper(project, template, one=1, other=2):
    return tuple({"project": project, "helpers": text} for text in both(template, one, other))


CHANGES = {
    "a helper that is imported inside": helper(INSIDE, BUILD),
    "a helper that is imported on top": helper(ON_TOP, BUILD),
    "a helper that is imported by name": helper(NAMED, BUILD),
    "a constant of a helper": helper(INSIDE, "C = {}\ndef build(x):\n    return x * C\n"),
    "a dictionary of a helper": helper(ON_TOP, "C = {'a': {}}\ndef build(x):\n    return x * C['a']\n"),
    "a constant that the function takes of a module": helper(
        "import helpers\ndef train_fn(x, y, seed):\n    return helpers.C\n", "C = {}\n"
    ),
    "the helper's helper": tuple(
        {"project": INSIDE, "helpers": "import deeper\ndef build(x):\n    return deeper.f(x)\n", "deeper": text}
        for text in both("def f(x):\n    return x + {}\n")
    ),
    "a helper that is imported by its name in text": helper(
        "import importlib\ndef train_fn(x, y, seed):\n    return importlib.import_module('helpers').build(x)\n", BUILD
    ),
    "a module of the same package": tuple(
        {"project.__init__": "from project.fit import train_fn\n", "project.fit": fit, "project.net": net}
        for fit, net in zip(
            ["def train_fn(x, y, seed):\n    from .net import f\n    return f(x)\n"] * 2,
            both("def f(x):\n    return {}\n"),
        )
    ),
    "a base class elsewhere": tuple(
        {
            "project": "import helpers\nclass A(helpers.B):\n    pass\ndef train_fn(x, y, seed):\n    return A().f()\n",
            "helpers": text,
        }
        for text in both("class B:\n    def f(self):\n        return {}\n")
    ),
    "a helper function": project_only("def f(x):\n    return {}\ndef train_fn(x, y, seed):\n    return f(x)\n"),
    "a module constant": project_only("C = {}\ndef train_fn(x, y, seed):\n    return C\n"),
    "a computed constant": project_only("C = {} ** 2\ndef train_fn(x, y, seed):\n    return C\n", 3, 4),
    "an inner function": project_only("def train_fn(x, y, seed):\n    return (lambda v: v + {})(x)\n"),
    "a default": project_only("def train_fn(x, y, seed, more={}):\n    return more\n"),
    "a keyword default": project_only("def train_fn(x, y, seed, *, more={}):\n    return more\n"),
    "an enclosed value": project_only(
        "def make(w):\n    def train_fn(x, y, seed):\n        return w\n    return train_fn\ntrain_fn = make({})\n"
    ),
    "a decorator": project_only(
        "import functools\ndef times(f):\n    @functools.wraps(f)\n    def g(*a):\n        return f(*a) * {}\n"
        "    return g\n@times\ndef train_fn(x, y, seed):\n    return x\n"
    ),
    "what a cached function does": project_only(
        "import functools\n@functools.lru_cache\ndef f(x):\n    return {}\ndef train_fn(x, y, seed):\n    return f(x)\n"
    ),
    "names of arguments": project_only(
        "def f({}):\n    return a - b\ndef train_fn(x, y, seed):\n    return f(a=x, b=y)\n", "a, b", "b, a"
    ),
    "what an exception is caught around": project_only(
        "def train_fn(x, y, seed):\n    try:\n        {}\n    except ValueError:\n        return 1\n", "f(x)", "g(x)"
    ),
    "a method": project_only(
        "class A:\n    def f(self):\n        return {}\ndef train_fn(x, y, seed):\n    return A().f()\n"
    ),
    "a property": project_only(
        "class A:\n    @property\n    def f(self):\n        return {}\ndef train_fn(x, y, seed):\n    return A().f\n"
    ),
    "a static method": project_only(
        "class A:\n    @staticmethod\n    def f():\n        return {}\ndef train_fn(x, y, seed):\n    return A.f()\n"
    ),
    "a class method": project_only(
        "class A:\n    @classmethod\n    def f(cls):\n        return {}\ndef train_fn(x, y, seed):\n    return A.f()\n"
    ),
    "a class attribute": project_only("class A:\n    c = {}\ndef train_fn(x, y, seed):\n    return A.c\n"),
    "a base class": project_only(
        "class B:\n    def f(self):\n        return {}\nclass A(B):\n    pass\n"
        "def train_fn(x, y, seed):\n    return A().f()\n"
    ),
    "a metaclass": project_only(
        "class M(type):\n    def f(cls):\n        return {}\nclass A(metaclass=M):\n    pass\n"
        "def train_fn(x, y, seed):\n    return A.f()\n"
    ),
    "a field's default": project_only(
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    c: int = {}\n"
        "def train_fn(x, y, seed):\n    return A()\n"
    ),
    "a field's factory": project_only(
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n"
        "    c: list = dataclasses.field(default_factory=lambda: [{}])\ndef train_fn(x, y, seed):\n    return A()\n"
    ),
    "an object of a module": project_only(
        "class A:\n    def __init__(self, c):\n        self._c = c\nA0 = A({})\n"
        "def train_fn(x, y, seed):\n    return A0._c\n"
    ),
    "the function that is passed on": project_only(
        "import torch\nF = torch.{}\ndef train_fn(x, y, seed):\n    return F(x)\n", "relu", "tanh"
    ),
    "a generator's body": project_only(
        "def f():\n    yield {}\ndef train_fn(x, y, seed):\n    return next(f())\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_code_changes_the_key(name, project):
    one, other = CHANGES[name]
    keys = [recipe_digest(project(files)) for files in (one, other, one)]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


ESTIMATOR = """
    from sklearn.base import BaseEstimator, ClassifierMixin
    import helpers
    C = {constant}
    def scaled(x):
        return x * {helper}
    class Own(helpers.Base, ClassifierMixin, BaseEstimator):
        def __init__(self, a=1):
            self.a = a
        def fit(self, x, y):
            self.classes_ = scaled(C + {method})
            return self
"""
BASE = "class Base:\n    def inherited(self):\n        return {}\n"


@pytest.mark.parametrize("part", ["constant", "helper", "method", "base"])
def test_a_change_of_an_own_estimator_changes_its_key(part, project):
    def load(**changed):
        parts = {"constant": 1, "helper": 1, "method": 1, "base": 1, **changed}
        files = {"project": ESTIMATOR.format(**parts), "helpers": BASE.format(parts["base"])}
        return project(files, lambda module: make_pipeline(module.Own()))

    one, other, again = load(), load(**{part: 2}), load()
    assert recipe_digest(one) != recipe_digest(other)
    assert recipe_digest(one) == recipe_digest(again)
    assert "project.Own" in own_code(one)
    assert set(one.rests_on["packages"]) == {"project", "helpers"}


def test_a_value_that_is_set_while_the_program_runs_counts(project):
    files = {
        "project": "import helpers\nC = 1\ndef train_fn(x, y, seed):\n    return C, helpers.D\n",
        "helpers": "D = [1]\n",
    }
    before = project(files)
    sys.modules["project"].C = 2
    after = project(files, fresh=False)
    sys.modules["project"].C = 1
    sys.modules["helpers"].D = [2]
    further = project(files, fresh=False)
    assert len({recipe_digest(recipe) for recipe in (before, after, further)}) == 3


def test_whether_a_helper_is_loaded_already_does_not_count(project):
    files = {"project": INSIDE, "helpers": BUILD.format(1)}
    before = recipe_digest(project(files))
    assert "helpers" not in sys.modules
    importlib.import_module("helpers")
    assert recipe_digest(project(files, fresh=False)) == before


@pytest.mark.parametrize(
    ("one", "other"), [("def build(x):\n    return 1\n", "def build(x):\n    return 2\n"), ("C = 1\n", "C = 10**2\n")]
)
def test_a_module_that_changed_after_it_was_loaded_makes_references_unsharable(one, other, project):
    """Training would run the loaded one; the next process would take its references for those of the file."""
    files = {"project": INSIDE, "helpers": one}
    project(files)
    importlib.import_module("helpers")
    assert untold(project(files, fresh=False)) == ()
    stale = project({"helpers": other}, fresh=False)
    assert "helpers." in untold(stale)[0]
    assert "reload the module" in untold(stale)[0]
    assert untold(project({"helpers": other})) == ()


def test_comments_of_a_loaded_module_do_not_make_it_another(project):
    text = "import os\nC = (1, 2.5)\nclass A:\n    def f(self):\n        return {1, 2, 'x'}\n"
    project({"project": INSIDE, "helpers": text})
    importlib.import_module("helpers")
    assert untold(project({"helpers": f"# more\n\n{text}"}, fresh=False)) == ()


def test_state_that_a_module_sets_itself_is_no_change(project):
    text = "N = 0\nSEEN = {}\ndef build(x):\n    global N\n    N += 1\n    SEEN[N] = x\n"
    files = {"project": INSIDE, "helpers": text}
    project(files)
    helpers = importlib.import_module("helpers")
    helpers.build(1)
    assert (helpers.N, untold(project(files, fresh=False))) == (1, ())


def test_where_a_project_lies_and_what_is_compiled_of_it_do_not_count(tmp_path):
    script = (
        "import project\nfrom mlflow_privacy.trainers import make_recipe\n"
        "from mlflow_privacy.fingerprint import recipe_digest\n"
        "print(recipe_digest(make_recipe(None, {}, train_fn=project.train_fn, task='classification')))"
    )
    found = set()
    for folder, seed in (("one", "1"), ("two", "2"), ("two", "3")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "project.py").write_text(
            "import helpers\nW = {'b', 'a', 'c'}\nclass A(helpers.B):\n    names = frozenset(W)\n"
            "def train_fn(x, y, seed):\n    return A() if x in {'u', 'v', 'w'} else W\n"
        )
        (tmp_path / folder / "helpers.py").write_text("class B:\n    x: int = 3\n")
        env = {"PYTHONPATH": f"{tmp_path / folder}:{':'.join(sys.path)}", "PYTHONHASHSEED": seed}
        out = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        found.add(out.stdout.strip())
    assert len(found) == 1


# Classes and functions by value, as `mlflow.*.log_model` keeps those of a script or a notebook.

NET = """
import functools
import torch
from sklearn.base import BaseEstimator

SCALE = {constant}

def helper(x):
    return x * {helper}

class Base(torch.nn.Module):
    def inherited(self, x):
        return x + {base}

class Net(Base):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(helper(x) * SCALE) + {method}

class Estimator(BaseEstimator):
    def fit(self, x, y):
        return helper(x) + {method}
"""
SETTINGS = {"optimizer": "sgd", "lr": 0.1, "epochs": 1, "batch_size": 4}


def in_main(source):
    space = {"__name__": "__main__"}
    exec(textwrap.dedent(source), space)
    return space


@pytest.mark.parametrize("name", [name for name, (one, _) in CHANGES.items() if set(one) == {"project"}])
def test_a_change_of_code_without_a_file_changes_the_key(name):
    """As in a notebook: nothing but what the function itself holds tells."""
    keys = []
    for files in (*CHANGES[name], CHANGES[name][0]):
        train_fn = in_main(files["project"])["train_fn"]
        keys.append(recipe_digest(make_recipe(None, {}, train_fn=train_fn, task="classification")))
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]


def by_value(thing):
    return cloudpickle.loads(cloudpickle.dumps(thing))


@pytest.mark.parametrize("part", ["constant", "helper", "base", "method"])
@pytest.mark.parametrize("kind", ["Net", "Estimator"])
def test_a_class_by_value_is_told_by_its_byte_code(kind, part):
    settings = SETTINGS if kind == "Net" else None

    def recipe(**changed):
        source = NET.format(**{"constant": 1, "helper": 1, "base": 1, "method": 1, **changed})
        return make_recipe(by_value(in_main(source)[kind]()), settings, task="classification")

    one, other, again = recipe(), recipe(**{part: 2}), recipe()
    used = not (kind == "Estimator" and part in ("constant", "base"))
    assert (recipe_digest(one) != recipe_digest(other)) is used
    assert recipe_digest(one) == recipe_digest(again)
    assert untold(one) == ()
    assert own_code(one)[0].startswith("__main__.")
    assert "packages" not in one.rests_on  # the script that audits is not the one that made the class


def test_a_live_class_and_its_pickle_have_one_key():
    space = in_main(NET.format(constant=1, helper=1, base=1, method=1))
    live = make_recipe(space["Net"](), SETTINGS, task="classification")
    stored = make_recipe(by_value(space["Net"]()), SETTINGS, task="classification")
    assert recipe_digest(live) == recipe_digest(stored)


def test_names_that_are_no_globals_are_not_taken_for_such():
    """`self.weight` in a method and a variable `weight` of the script have nothing to do with one another."""
    source = (
        "weight = {}\nclass A:\n    def f(self):\n        return self.weight\n"
        "def train_fn(x, y, seed):\n    return A()\n"
    )
    keys = {digest(canonical(in_main(source.format(value))["train_fn"])) for value in (1, 2)}
    assert len(keys) == 1


def test_an_own_function_in_a_library_estimator_is_told():
    keys = []
    for amount in (1, 2, 1):
        function = in_main(f"def add(x):\n    return x + {amount}\n")["add"]
        keys.append(
            recipe_digest(
                make_recipe(
                    make_pipeline(FunctionTransformer(function), LogisticRegression()), None, task="classification"
                )
            )
        )
    assert keys[0] == keys[2] != keys[1]


def test_a_copy_of_an_estimator_has_the_same_key():
    own = make_pipeline(FunctionTransformer(in_main("def add(x):\n    return x + 1\n")["add"]), LogisticRegression())
    keys = {recipe_digest(make_recipe(m, None, task="classification")) for m in (own, clone(own), by_value(own))}
    assert len(keys) == 1


# Where code comes from.


def test_origin_is_a_matter_of_place_not_of_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "catboost" not in sys.modules
    (tmp_path / "catboost.py").write_text("def f():\n    return 1\n")
    (tmp_path / "wheel_like").mkdir()
    (tmp_path / "wheel_like" / "__init__.py").write_text("")
    (tmp_path / "wheel_like-1.0.dist-info").mkdir()
    importlib.invalidate_caches()
    found = {
        root: origin(root) for root in ("catboost", "wheel_like", "sklearn", "os", "mlflow_privacy", "nobody_has_this")
    }
    assert found == {
        "catboost": "own",
        "wheel_like": "library",
        "sklearn": "library",
        "os": "python",
        "mlflow_privacy": "this package",
        "nobody_has_this": "own",
    }


def test_source_files_are_code_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in (
        "helpers/__init__.py",
        "helpers/a/b.py",
        "helpers/.hidden/c.py",
        "helpers/__pycache__/d.py",
        "helpers/e.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    importlib.invalidate_caches()
    assert sorted(source_files("helpers")) == ["__init__.py", "a/b.py"]


def test_versions_of_libraries_count_where_own_code_uses_them(monkeypatch):
    from mlflow_privacy.trainers import canonical as module

    def train_fn(x, y, seed):
        return LogisticRegression().fit(x, y)

    before = make_recipe(None, {}, train_fn=train_fn, task="classification")
    assert before.rests_on["libraries"]["sklearn"] == library_version("sklearn")
    monkeypatch.setattr(module, "library_version", lambda root: "0.0")
    assert recipe_digest(make_recipe(None, {}, train_fn=train_fn, task="classification")) != recipe_digest(before)


def test_an_installed_library_is_told_by_its_files():
    version, _, files = library_version("cloudpickle").partition(" ")
    assert version == cloudpickle.__version__
    assert len(files) == 32


def test_code_that_calls_code_to_any_depth_is_told(project):
    chain = "\n".join(f"def f{i}(x):\n    return f{i + 1}(x)" for i in range(400))
    text = f"{chain}\ndef f400(x):\n    return {{}}\ndef train_fn(x, y, seed):\n    return f0(x)\n"
    one, other = (project({"project": part}) for part in both(text))
    assert untold(one) == ()
    assert one.spec["train_fn"] == {"function": "project.train_fn", "code": 0}
    assert one.rests_on["digest"] != other.rests_on["digest"]


def test_recipes_stay_short(project):
    recipe = project(CHANGES["a base class elsewhere"][0])
    assert len(str(recipe.spec)) < 200
    assert len(str(recipe.rests_on)) < 1000


def test_a_walk_over_nothing_of_the_callers_rests_on_nothing():
    walk = Walk()
    walk([len, LogisticRegression, {"a": 1}])
    assert walk.code() == {}


TRAINER = """
from mlflow_privacy.trainers.base import OneByOne
from mlflow_privacy.types import Recipe

class Model:
    pass

class Trainer(OneByOne):
    def recipe_for(self, model, settings, *, task, source="", data=None):
        return Recipe("theirs", {"task": task}) if isinstance(model, Model) else None

    def train_one(self, recipe, data, seed, *, device):
        return {}
"""


def test_a_trainer_of_others_is_told_by_its_code():
    keys = []
    for amount in (1, 2, 1):
        space = in_main(TRAINER.replace("{}", str(amount)))
        TRAINERS["theirs"] = space["Trainer"]
        try:
            recipe = make_recipe(space["Model"](), None, task="classification")
        finally:
            del TRAINERS["theirs"]
        assert recipe.spec == {"task": "classification"}
        keys.append(recipe_digest(recipe))
    assert keys[0] == keys[2] != keys[1]


FAST = """
from mlflow_privacy.zoo.fast_resnet import FastResNet

class Net(FastResNet):
    def forward(self, x):
        return super().forward(x) * {}
"""


def test_a_subclass_of_our_fast_network_is_told_by_its_code():
    from mlflow_privacy.zoo.fast_resnet import FastResNet

    nets = [in_main(FAST.replace("{}", str(factor)))["Net"]((1, 28, 28), 3) for factor in (1, 2)]
    recipes = [make_recipe(net, {}, task="classification") for net in (*nets, FastResNet((1, 28, 28), 3))]
    assert len({recipe_digest(recipe) for recipe in recipes}) == 3
    assert own_code(recipes[0])
    assert recipes[2].rests_on == {}
