"""Values of a recipe that differ in one thing have different forms; if nothing that counts differs, equal ones."""

import collections
import dataclasses
import enum
import functools
import logging
import operator
import pathlib
import random
import re
import subprocess
import sys
import threading
import types
import weakref

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.fingerprint import canonical_json, digest, recipe_digest
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.trainers.canonical import Walk, canonical, own_code, untold


def key(value):
    return canonical_json(canonical(value))


@dataclasses.dataclass
class Config:
    width: int = 4
    more: tuple = ()


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a, b=0):
        self.a, self.b = a, b


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Number(int):
    pass


class Words(list):
    pass


Point, Pair = collections.namedtuple("Point", "x y"), collections.namedtuple("Pair", "x y")


def array_of(*values, **options):
    return np.array(values, **options)


def dated(text):
    return np.array([text], "datetime64[D]")


def masked(where):
    return np.ma.MaskedArray([1.0, 2.0], mask=[where == 0, where == 1])


def slotted(a, b):
    return Slotted(a, b)


def with_attribute(function, **attributes):
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__)
    vars(copy).update(attributes)
    return copy


def constant():
    return 0


DIFFERENT = {
    "types of keys": ({0: 1}, {"0": 1}),
    "types of keys inside": ({"a": [{1: 2}]}, {"a": [{"1": 2}]}),
    "a key called device": ({"device": 1}, {"device": 9}),
    "a key called memory": ({"a": {"memory": 1}}, {"a": {"memory": 2}}),
    "number and truth": (1, True),
    "whole number and float": (1, 1.0),
    "number and text": (1, "1"),
    "zeros of two signs": (0.0, -0.0),
    "the next float": (0.1, float(np.nextafter(0.1, 1))),
    "missing number and none": (float("nan"), None),
    "infinities": (float("inf"), float("-inf")),
    "none and its text": (None, "None"),
    "list and tuple": ([1, 2], (1, 2)),
    "list and set": ([1], {1}),
    "text and bytes": ("a", b"a"),
    "order of a list": ([1, 2], [2, 1]),
    "nesting": ([[1], 2], [[1, 2]]),
    "float and float32": (0.5, np.float32(0.5)),
    "types of scalars": (np.int8(1), np.uint8(1)),
    "complex numbers": (1j, 2j),
    "order of an OrderedDict": (
        collections.OrderedDict([("a", 1), ("b", 2)]),
        collections.OrderedDict([("b", 2), ("a", 1)]),
    ),
    "defaults of a dictionary": (collections.defaultdict(int, a=1), collections.defaultdict(list, a=1)),
    "length of a deque": (collections.deque([1], 3), collections.deque([1], 4)),
    "counts": (collections.Counter("aab"), collections.Counter("abb")),
    "a list of another class": (Words([1]), [1]),
    "a number of another class": (Number(1), 1),
    "fields of tuples": (Point(1, 2), Point(1, 3)),
    "classes of tuples": (Point(1, 2), Pair(1, 2)),
    "members of an enumeration": (Color.RED, Color.BLUE),
    "fields of a dataclass": (Config(4), Config(5)),
    "a value deep in a dataclass": (Config(more=({"a": [1]},)), Config(more=({"a": [2]},))),
    "slots": (slotted(1, 2), slotted(1, 3)),
    "an attribute with an underscore": (types.SimpleNamespace(_x=1), types.SimpleNamespace(_x=2)),
    "slices": (slice(0, 1), slice(0, 2)),
    "ranges": (range(3), range(4)),
    "patterns": (re.compile("a"), re.compile("a", re.I)),
    "paths": (pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b")),
    "arrays by value": (array_of(1.0), array_of(2.0)),
    "arrays by type": (array_of(1, dtype="int64"), array_of(1, dtype="int32")),
    "arrays by shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "text arrays": (array_of("a"), array_of("b")),
    "text and object arrays": (array_of("a"), array_of("a", dtype=object)),
    "bytes and text arrays": (array_of("a"), array_of(b"a")),
    "objects in arrays": (array_of(1, "1", dtype=object), array_of("1", "1", dtype=object)),
    "none and missing number in arrays": (array_of(None, dtype=object), array_of(np.nan, dtype=object)),
    "dates": (dated("2020-01-01"), dated("2020-01-02")),
    "units of dates": (dated("2020-01-01"), dated("2020-01-01").astype("datetime64[s]")),
    "fields of records": (np.zeros(2, [("a", "f8")]), np.zeros(2, [("b", "f8")])),
    "masks": (masked(0), masked(1)),
    "masked and plain arrays": (np.ma.MaskedArray([1.0]), array_of(1.0)),
    "matrix and array": (np.asmatrix(np.eye(2)), np.eye(2)),
    "sparse matrices": (scipy.sparse.csr_matrix(np.eye(2)), scipy.sparse.csr_matrix(2 * np.eye(2))),
    "formats of sparse matrices": (scipy.sparse.csr_matrix(np.eye(2)), scipy.sparse.csc_matrix(np.eye(2))),
    "tensors by value": (torch.zeros(2), torch.ones(2)),
    "tensors by type": (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
    "bfloat16 tensors": (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([2.0], dtype=torch.bfloat16)),
    "tensors that learn": (torch.zeros(2), torch.zeros(2, requires_grad=True)),
    "tensor and array": (torch.zeros(2), np.zeros(2, "float32")),
    "names of columns": (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    "types of columns": (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1.0]})),
    "values of a table": (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})),
    "index of a table": (pd.DataFrame({"a": [1]}, index=[0]), pd.DataFrame({"a": [1]}, index=[1])),
    "name of a series": (pd.Series([1], name="a"), pd.Series([1], name="b")),
    "categories": (pd.Series(pd.Categorical(["a"], ["a"])), pd.Series(pd.Categorical(["a"], ["a", "b"]))),
    "order of categories": (
        pd.Series(pd.Categorical(["a"], ["a", "b"])),
        pd.Series(pd.Categorical(["a"], ["a", "b"], ordered=True)),
    ),
    "state of a generator": (np.random.default_rng(0), np.random.default_rng(1)),
    "kinds of generators": (np.random.Generator(np.random.PCG64(0)), np.random.Generator(np.random.MT19937(0))),
    "state of Python's generator": (random.Random(0), random.Random(1)),
    "arguments of a partial": (functools.partial(int, base=2), functools.partial(int, base=8)),
    "function of a partial": (functools.partial(int), functools.partial(float)),
    "builtin functions": (len, sum),
    "compiled functions of torch": (torch.relu, torch.tanh),
    "functions of torch": (torch.nn.functional.relu, torch.nn.functional.gelu),
    "functions that torch makes": (torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d),
    "functions of NumPy": (np.mean, np.median),
    "universal functions": (np.log1p, np.expm1),
    "what np.vectorize wraps": (np.vectorize(lambda x: x + 1), np.vectorize(lambda x: x + 2)),
    "methods of a type": (str.lower, str.upper),
    "items to get": (operator.itemgetter(1), operator.itemgetter(2)),
    "attributes to get": (operator.attrgetter("a"), operator.attrgetter("b")),
    "object of a bound method": (Config(1).__eq__, Config(2).__eq__),
    "list of a bound builtin": ([1].count, [2].count),
    "attributes of a function": (with_attribute(constant, scale=1), with_attribute(constant, scale=2)),
    "classes": (StandardScaler, LogisticRegression),
    "modules": (re, random),
    "types of torch": (torch.float32, torch.float64),
    "types of NumPy": (np.dtype("f4"), np.dtype("f8")),
    "fitted estimators beside a function": (
        StandardScaler().fit([[0.0], [1.0]]),
        StandardScaler().fit([[0.0], [3.0]]),
    ),
    "targets of a weak reference": (weakref.ref(Color.RED), weakref.ref(Color.BLUE)),
    "which of two functions comes again": (
        (lambda f, g: [f, g, f])(lambda: 1, lambda: 2),
        (lambda f, g: [f, g, g])(lambda: 1, lambda: 2),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_values_that_differ_in_one_thing_differ(name):
    one, other = DIFFERENT[name]
    assert key(one) != key(other)
    assert key(one) == key(one)


def nested(x):
    return {"a": [x, {"b": (x, 1)}], "c": x}


GRID = np.arange(12.0).reshape(3, 4)
EQUAL = {
    "order of keys": ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
    "order of keys of many types": ({1: 2, "a": 3, (1, 2): 4}, {(1, 2): 4, "a": 3, 1: 2}),
    "order of a set": ({"a", "b", "c"}, {"c", "b", "a"}),
    "memory layout": (GRID, np.asfortranarray(GRID)),
    "contiguity": (GRID, np.repeat(GRID, 2, axis=1)[:, ::2]),
    "byte order": (GRID, GRID.astype(">f8")),
    "layout of tensors": (torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3).T.contiguous().T),
    "a view of a tensor": (torch.arange(4.0), torch.arange(8.0).reshape(4, 2)[:, 0] / 2),
    "a dense and a sparse tensor": (torch.eye(2), torch.eye(2).to_sparse()),
    "float64 and float": (0.25, np.float64(0.25)),
    "int64 and int": (3, np.int64(3)),
    "where torch computes": (torch.device("cpu"), torch.device("cuda:1")),
    "locks": (threading.Lock(), threading.Lock()),
    "level of a logger": (logging.getLogger("a"), logging.getLogger("b")),
    "equal objects": (nested(Config(3)), nested(Config(3))),
    "equal functions": ((lambda x: x + 1), (lambda x: x + 1)),
    "order in a table's making": (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2, 3]}).iloc[:2]),
    "seeded generators of the process": (random.random, random.random),
}


@pytest.mark.parametrize("name", EQUAL)
def test_values_that_differ_in_nothing_that_counts_are_equal(name):
    one, other = EQUAL[name]
    assert key(one) == key(other)


def test_drawing_from_the_generators_that_are_seeded_anyway_changes_nothing():
    before = key([random.random, np.random.rand])
    random.random(), np.random.rand()  # noqa: NPY002
    assert key([random.random, np.random.rand]) == before


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(json_like, json_like)
def test_plain_values_are_equal_exactly_where_their_form_is(one, other):
    def typed(value):
        if isinstance(value, dict):
            return "dict", sorted(((repr(k), typed(v)) for k, v in value.items()))
        if isinstance(value, (list, tuple)):
            return type(value).__name__, [typed(item) for item in value]
        return type(value).__name__, repr(value)

    assert (key(one) == key(other)) is (typed(one) == typed(other))


# What cannot be told.


def told(value):
    walk = Walk()
    walk(value)
    return walk.code()


class Handle:
    def __init__(self, connection):
        self.connection = connection


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (
            lambda: Handle(open(__file__)),  # noqa: SIM115
            "'connection' of a Handle: a _io.TextIOWrapper",
        ),
        (lambda: [(i for i in range(3))], "a builtins.generator"),
        (lambda: np.frompyfunc(lambda x: x + 1, 1, 1), "a numpy.ufunc; it was made from a function"),
        (lambda: sys._getframe(), "a builtins.frame"),
        (lambda: torch.empty(2, device="meta"), "a torch.Tensor; its values cannot be read"),
    ],
)
def test_what_cannot_be_told_is_named_and_gets_a_number_of_its_own(make, named):
    value = make()
    first, second = told(value), told(value)
    assert any(named in reason for reason in first["untold"]), first["untold"]
    assert first["untold"] == second["untold"]
    assert first["nonce"] != second["nonce"]


def test_a_function_over_a_live_object_names_both():
    file = open(__file__)  # noqa: SIM115

    def train_fn(x, y, seed):
        return file.read()

    recipes = [make_recipe(None, {}, train_fn=train_fn, task="classification") for _ in range(2)]
    assert untold(recipes[0])[0].startswith("'file', which ")
    assert "train_fn encloses: a _io.TextIOWrapper" in untold(recipes[0])[0]
    assert recipe_digest(recipes[0]) != recipe_digest(recipes[1])
    file.close()


def test_too_many_objects_are_not_told_instead_of_taking_for_ever():
    deep = []
    for _ in range(5000):
        deep = [deep]
    assert any("too many inside one another" in reason for reason in told(deep)["untold"])
    again = [1]
    for _ in range(40):
        again = [again, again]
    assert told(again)["untold"]


def test_plain_values_rest_on_nothing():
    assert told({"a": [1, np.zeros(3), LogisticRegression, np.log1p]}) == {}


# Estimators.


def spec_key(estimator):
    return recipe_digest(make_recipe(estimator, None, task="classification"))


class Own(ClassifierMixin, BaseEstimator):
    def __init__(self, memory=None, verbose=0, device="cpu", n_jobs=None, random_state=None):
        self.memory, self.verbose, self.device, self.n_jobs, self.random_state = memory, verbose, device, n_jobs, 0

    def get_params(self, deep=True):
        return {"memory": self.memory, "verbose": self.verbose, "device": self.device, "n_jobs": self.n_jobs}

    def fit(self, x, y):
        return self


def weighted(weight):
    return SVC(class_weight=weight)


def transformed(function, **options):
    return make_pipeline(FunctionTransformer(function, **options), LogisticRegression())


DIFFERENT_ESTIMATORS = {
    "a weight called device": (weighted({"device": 1}), weighted({"device": 9})),
    "a weight called verbose": (weighted({"verbose": 1}), weighted({"verbose": 9})),
    "a weight called memory": (weighted({"memory": 1, "b": 2}), weighted({"memory": 3, "b": 2})),
    "a weight called random_state": (weighted({"random_state": 1}), weighted({"random_state": 2})),
    "a weight called n_jobs": (weighted({"n_jobs": 1}), weighted({"n_jobs": 2})),
    "labels that are numbers or texts": (weighted({0: 1.0, 1: 2.0}), weighted({"0": 1.0, "1": 2.0})),
    "folds that are shuffled otherwise": (
        GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=KFold(2, shuffle=True, random_state=0)),
        GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=KFold(2, shuffle=True, random_state=1)),
    ),
    "arguments called verbose": (
        transformed(np.clip, kw_args={"a_min": 0, "verbose": 1}),
        transformed(np.clip, kw_args={"a_min": 0, "verbose": 2}),
    ),
    "columns by slice": (
        ColumnTransformer([("a", StandardScaler(), slice(0, 1))]),
        ColumnTransformer([("a", StandardScaler(), slice(0, 2))]),
    ),
    "categories of two types": (
        OneHotEncoder(categories=[np.array([0, 1], object)]),
        OneHotEncoder(categories=[np.array(["0", "1"], object)]),
    ),
    "parameters called device of an own class": (Own(device="a"), Own(device="b")),
    "parameters called memory of an own class": (Own(memory=1), Own(memory=2)),
    "parameters called verbose of an own class": (Own(verbose=1), Own(verbose=2)),
    "output that is a table": (StandardScaler(), StandardScaler().set_output(transform="pandas")),
    "an estimator inside": (
        BaggingClassifier(LogisticRegression(C=1.0)),
        BaggingClassifier(LogisticRegression(C=2.0)),
    ),
    "an estimator in a dictionary": (
        GridSearchCV(make_pipeline(LogisticRegression()), {"logisticregression": [SVC(C=1.0)]}),
        GridSearchCV(make_pipeline(LogisticRegression()), {"logisticregression": [SVC(C=2.0)]}),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT_ESTIMATORS)
def test_estimators_that_differ_in_one_thing_differ(name):
    one, other = DIFFERENT_ESTIMATORS[name]
    assert spec_key(one) != spec_key(other)
    assert spec_key(one) == spec_key(one)


EQUAL_ESTIMATORS = {
    "jobs": (RandomForestClassifier(n_jobs=1), RandomForestClassifier(n_jobs=4)),
    "jobs inside": (
        BaggingClassifier(RandomForestClassifier(n_jobs=1, verbose=1)),
        BaggingClassifier(RandomForestClassifier(n_jobs=2, verbose=0), n_jobs=3),
    ),
    "memory of a pipeline": (
        make_pipeline(StandardScaler(), LogisticRegression(), memory=None),
        make_pipeline(StandardScaler(), LogisticRegression(), memory="somewhere", verbose=True),
    ),
    "jobs of an own class": (Own(n_jobs=1), Own(n_jobs=2)),
    "order of weights": (weighted({0: 1.0, 1: 2.0}), weighted({1: 2.0, 0: 1.0})),
    "layout of a parameter": (
        OneHotEncoder(categories=[GRID[0]]),
        OneHotEncoder(categories=[np.asfortranarray(GRID)[0]]),
    ),
    "what it learned": (LogisticRegression(), LogisticRegression().fit([[0.0], [1.0]], [0, 1])),
}


@pytest.mark.parametrize("name", EQUAL_ESTIMATORS)
def test_estimators_that_learn_the_same_are_equal(name):
    one, other = EQUAL_ESTIMATORS[name]
    assert spec_key(one) == spec_key(other)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_where_a_booster_computes_does_not_count(library):
    module = pytest.importorskip(library)
    make = module.XGBClassifier if library == "xgboost" else module.LGBMClassifier
    assert spec_key(make(device="cpu", n_jobs=1, verbosity=0)) == spec_key(make(device="cuda", n_jobs=4, verbosity=1))
    assert spec_key(make(max_depth=2)) != spec_key(make(max_depth=3))


def test_references_of_library_estimators_are_found_under_their_old_keys():
    """Digests that the rule before this one gave, of estimators that it could tell apart."""
    from mlflow_privacy.trainers.identity.estimators import estimator_form
    from mlflow_privacy.trainers.sklearn import harmless

    old = {
        "class": "sklearn.pipeline.Pipeline",
        "params": {
            "steps": [
                ["a", {"class": "sklearn.preprocessing._function_transformer.FunctionTransformer", "params": {}}],
            ],
        },
    }
    step = FunctionTransformer(np.log1p)
    form = estimator_form(make_pipeline(step), Walk(), harmless)
    assert form["class"] == old["class"]
    assert form["params"]["steps"][0][1]["params"]["func"] == {"function": "numpy.log1p"}
    assert form["params"]["steps"][0][0] == "functiontransformer"
    assert set(form["params"]) == {"steps", "transform_input"} or set(form["params"]) == {"steps"}
    logistic = estimator_form(LogisticRegression(C=2.0), Walk(), harmless)
    expected = {
        k: v for k, v in LogisticRegression(C=2.0).get_params().items() if k not in harmless(LogisticRegression())
    }
    assert logistic == {"class": "sklearn.linear_model._logistic.LogisticRegression", "params": expected}
    assert make_recipe(LogisticRegression(), None, task="classification").spec.keys() == {
        "estimator",
        "task",
        "versions",
    }


def test_settings_of_a_function_tell_keys_by_their_type():
    recipes = [
        make_recipe(None, settings, train_fn=constant_fn, task="classification")
        for settings in ({0: 1}, {"0": 1}, {"1": 1})
    ]
    assert len({recipe_digest(recipe) for recipe in recipes}) == 3
    assert recipes[1].spec["settings"] == {"0": 1}
    with pytest.raises(RecipeError, match="plain JSON"):
        make_recipe(None, {"a": object()}, train_fn=constant_fn, task="classification")


def constant_fn(x, y, seed):
    return constant


def test_own_code_is_named():
    recipe = make_recipe(None, {}, train_fn=constant_fn, task="classification")
    assert own_code(recipe) == (f"{__name__}.constant", f"{__name__}.constant_fn")
    assert untold(recipe) == ()
    assert own_code(make_recipe(LogisticRegression(), None, task="classification")) == ()


def test_another_process_gives_the_same_form(tmp_path):
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]);"
        "import test_fingerprint_values as t;"
        "print(json.dumps({n: [t.key(v) for v in p] for n, p in {**t.DIFFERENT, **t.EQUAL}.items()}))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, str(pathlib.Path(__file__).parent)],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert len(digest(runs.pop())) == 64
