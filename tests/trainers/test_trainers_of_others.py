"""A framework that is not known here: its trainer and its signals are registered, asked, and used in an audit."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.auditing.questions import questions
from mlflow_privacy.design import Design
from mlflow_privacy.errors import ConfigError, RecipeError, SignalError, StoreError
from mlflow_privacy.executor.plan import Work, describe_work, make_plan, this_machine
from mlflow_privacy.games.game import Question
from mlflow_privacy.lineage.recipe import resolve_recipe
from mlflow_privacy.signals import SIGNALS, model_outputs
from mlflow_privacy.signals.classification import columns_of, outputs_from_phi, phi_from_logits
from mlflow_privacy.trainers import TRAINERS, make_recipe, trainer_for
from mlflow_privacy.trainers.base import OneByOne
from mlflow_privacy.trainers.machine import Machine
from mlflow_privacy.trainers.recipe_keys import check_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, ModelOutputs, Recipe, Records


@dataclasses.dataclass(frozen=True)
class Memory:
    """Says of a record which class the nearest one that it has seen is of: it leaks. It has no predict and no fit."""

    x: np.ndarray
    y: np.ndarray
    width: float

    def logits(self, x):
        distance = ((x[:, None] - self.x[None]) ** 2).sum(2)
        return np.stack([-distance[:, self.y == label].min(1) for label in (0, 1)], 1) / self.width


class MemoryTrainer(OneByOne):
    recipe_keys = ("width", "epochs")

    def recipe_for(self, model, settings, *, task, source="", data=None):
        if not isinstance(model, Memory):
            return None
        return Recipe("memory", {"width": model.width, "task": task, **settings}, None, source)

    def train_one(self, recipe, data, seed, *, device):
        return Memory(data.x, data.y, recipe.spec["width"])


def memory_outputs(model, records, *, classes, **asked):
    if not isinstance(model, Memory):
        return None
    index = columns_of(records.y, np.array([0, 1]), classes)
    logits = model.logits(records.x)
    return outputs_from_phi(phi_from_logits(logits, index), logits.argmax(1) == index)


@pytest.fixture
def framework():
    """The trainer and the signals, registered for one test."""
    TRAINERS.register("memory")(MemoryTrainer)
    SIGNALS.register("memory")(memory_outputs)
    yield
    del TRAINERS["memory"], SIGNALS["memory"]


class PyFunc:
    """Stands for MLflow's wrapper around a model of a flavor that is not known here."""

    def __init__(self, raw):
        self.raw = raw

    def get_raw_model(self):
        return self.raw

    def predict(self, x):
        return self.raw.logits(x).argmax(1)


PyFunc.__module__ = "mlflow.pyfunc"


def make_pool(n=120):
    rng = np.random.default_rng(0)
    return Records(rng.normal(size=(n, 3)), rng.integers(2, size=n), np.array([f"row:{i}" for i in range(n)]))


POOL = make_pool()
MODEL = Memory(POOL.x[:60], POOL.y[:60], 2.0)


def test_without_its_trainer_such_a_model_has_no_recipe():
    with pytest.raises(RecipeError, match=r"like a .*Memory cannot be trained: .* no registered trainer knows it"):
        make_recipe(MODEL, task="classification")
    there_are = r"no trainer for recipes of kind 'memory'; there are \['booster', 'callable'.*Install"
    with pytest.raises(RecipeError, match=there_are):
        trainer_for(Recipe("memory", {}))


@pytest.mark.usefixtures("framework")
def test_a_registered_trainer_makes_the_recipe_of_a_model_that_none_of_ours_knows():
    recipe = make_recipe(PyFunc(MODEL), {"a": 1}, task="classification", source="here")
    assert recipe == Recipe("memory", {"width": 2.0, "task": "classification", "a": 1}, None, "here")
    assert make_recipe(LogisticRegression(), task="classification").kind == "sklearn"  # ours are asked first
    assert type(trainer_for(recipe)) is MemoryTrainer
    with pytest.raises(RecipeError, match="no registered trainer knows it"):
        make_recipe(object(), task="classification")


@pytest.mark.usefixtures("framework")
def test_a_module_that_names_a_trainer_goes_to_that_one():
    settings = {"optimizer": "sgd", "lr": 0.1, "epochs": 1, "batch_size": 4}
    module = torch.nn.Linear(3, 2)
    TRAINERS["named"] = NamedTrainer
    try:
        module.trainer_kind = "named"
        assert make_recipe(module, settings, task="classification").spec == {"seen": True}
        module.trainer_kind = "nobody's"
        assert make_recipe(module, settings, task="classification").kind == "torch"
    finally:
        del TRAINERS["named"]


class NamedTrainer(MemoryTrainer):
    recipe_keys = ()

    def recipe_for(self, model, settings, *, task, source="", data=None):
        return Recipe("named", {"seen": True}, model, source)


@pytest.mark.usefixtures("framework")
def test_models_come_in_row_order_and_are_trained_again_when_they_cannot_be_stored(tmp_path):
    recipe = make_recipe(MODEL, task="classification")
    members = np.arange(120) < np.array([[40], [80]])
    steps = []
    models = list(trainer_for(recipe).train(recipe, POOL, members, [0, 1], progress=lambda *step: steps.append(step)))
    assert [len(model.x) for model in models] == [40, 80]
    assert steps == [(1, 2), (2, 2)]
    assert trainer_for(recipe).save(recipe, models[0], tmp_path) is False
    with pytest.raises(StoreError, match="A memory model has no form to be stored in"):
        trainer_for(recipe).load(recipe, tmp_path)


@pytest.mark.usefixtures("framework")
def test_references_of_an_unknown_kind_are_trained_one_by_one_in_this_process():
    recipe = make_recipe(MODEL, task="classification")
    work = describe_work(recipe, POOL, 8)
    assert (work.together, work.at_once, this_machine(recipe).accelerators) == (1, 1, ())
    plan = make_plan(work, Machine(4, 4, 2**35))
    assert (plan.executor, plan.measure) == ("local", False)
    assert "another package trains" in str(plan)
    assert make_plan(Work("memory", 8), Machine(4, 4, 2**35), "loky").executor == "loky"  # the caller's word counts


@pytest.mark.usefixtures("framework")
def test_lineage_gives_the_recipe_with_what_was_logged():
    recipe, problem = resolve_recipe(
        PyFunc(MODEL), AuditOptions(), logged={"width": 3.0}, params={"lr": "1"}, task="classification", pool=POOL
    )
    assert (recipe.kind, recipe.spec["width"], recipe.source, problem) == ("memory", 3.0, "log_lineage", "")


@pytest.mark.usefixtures("framework")
def test_log_lineage_knows_the_settings_of_a_registered_trainer():
    settings = {"optimizer": "sgd", "epochs": 3, "width": 2.0}
    check_recipe(settings)
    with pytest.raises(RecipeError, match="unknown key 'wdith'"):
        check_recipe({**settings, "wdith": 2.0})
    TRAINERS["memory"] = NamedTrainer
    with pytest.raises(RecipeError, match="unknown key 'width'"):
        check_recipe(settings)


@pytest.mark.usefixtures("framework")
def test_registered_signals_come_before_predictions_and_after_ours():
    half = POOL.take(np.arange(60))
    direct = memory_outputs(MODEL, half, classes=[0, 1])
    for model in (MODEL, PyFunc(MODEL)):
        outputs = model_outputs(model, half, task="classification")
        np.testing.assert_array_equal(outputs.signal, direct.signal)
    assert model_outputs(lambda x: np.zeros(len(x)), half, task="classification").link == "label"
    estimator = LogisticRegression().fit(POOL.x, POOL.y)
    SIGNALS["all"] = lambda *args, **asked: pytest.fail("asked about an estimator")
    try:
        assert model_outputs(estimator, half, task="classification").link == "logit"
    finally:
        del SIGNALS["all"]
    del SIGNALS["memory"]
    assert model_outputs(PyFunc(MODEL), half, task="classification").link == "label"  # its predict alone
    SIGNALS["memory"] = memory_outputs


@pytest.mark.usefixtures("framework")
def test_signals_get_what_they_are_asked_with():
    seen = {}

    def note(model, records, **asked):
        seen.update(asked)
        return ModelOutputs(np.zeros(len(records), np.float32), None, np.ones(len(records), np.float32), "log")

    SIGNALS["memory"] = note
    model_outputs(MODEL, POOL, task="regression", device="cpu", batch_size=7, scale=2.0)
    assert seen == {"task": "regression", "classes": None, "device": "cpu", "batch_size": 7, "scale": 2.0}


def keys_of(native):
    """Under which answers of a model, and of a game about it, are stored."""
    model = AuditedModel("memory", None, None, None, None, "pyfunc", native)
    target = AuditTarget(model, POOL, np.arange(120) < 60, "classification")
    asked = questions(target, Design("0" * 64, 120, 0, 0.5), AuditOptions())
    return asked.also([Question("more", POOL, "1" * 64)]).keys


@pytest.mark.usefixtures("framework")
def test_what_a_function_said_is_not_taken_for_what_another_of_its_name_says():
    before, estimator, module = keys_of(PyFunc(MODEL)), keys_of(LogisticRegression()), torch.nn.Linear(3, 2)
    of_the_module = keys_of(module)
    assert keys_of(PyFunc(MODEL)) == keys_of(MODEL) == before

    def memory_outputs(model, records, *, classes, **asked):
        index = columns_of(records.y, np.array([0, 1]), classes)
        logits = model.logits(records.x) * 2
        return outputs_from_phi(phi_from_logits(logits, index), logits.argmax(1) == index)

    SIGNALS["memory"] = memory_outputs
    assert not set(keys_of(PyFunc(MODEL))) & set(before)
    assert keys_of(PyFunc(MODEL)) == keys_of(MODEL)
    assert keys_of(LogisticRegression()) == estimator  # ours are asked about it
    assert keys_of(module) == of_the_module
    del SIGNALS["memory"]
    assert keys_of(PyFunc(MODEL)) == estimator  # as before there were any
    SIGNALS["memory"] = memory_outputs


@pytest.mark.usefixtures("framework")
def test_an_audit_of_it_finds_its_leak():
    recipe = make_recipe(PyFunc(MODEL), task="classification")
    audited = AuditedModel("memory", None, None, None, None, "pyfunc", PyFunc(MODEL))
    target = AuditTarget(audited, POOL, np.arange(120) < 60, "classification", recipe=recipe)
    result = audit(target, AuditOptions(num_ref_models=4, blind_baseline=False, progress=False))
    assert result.references["n_trained"] == 4
    assert result.attacks[0].metrics["auc"].low > 0.6


@pytest.mark.usefixtures("framework")
def test_what_is_no_trainer_and_what_are_no_signals_is_named():
    with pytest.raises(ConfigError, match=r"trainer of 'x' recipes must be a class with train, save and load, got"):
        TRAINERS["x"] = object
    with pytest.raises(ConfigError, match=r"The signals 'x' must be a function .* got 3"):
        SIGNALS["x"] = 3
    assert "x" not in TRAINERS
    assert "x" not in SIGNALS
    SIGNALS["memory"] = lambda model, records, **asked: ModelOutputs(np.zeros((2, 2)), None, np.zeros(2), "logit")
    with pytest.raises(SignalError, match=r"signals 'memory' of a Memory must be .* got signals of shape \(2, 2\)"):
        model_outputs(MODEL, POOL, task="classification")


def test_an_installed_package_adds_both(tmp_path, monkeypatch):
    (tmp_path / "acme_nets.py").write_text(
        "from mlflow_privacy.trainers.base import OneByOne\n"
        "from mlflow_privacy.types import Recipe\n"
        "class AcmeTrainer(OneByOne):\n"
        "    def recipe_for(self, model, settings, *, task, source='', data=None):\n"
        "        return Recipe('acme', {'task': task}) if model == 'acme' else None\n"
        "    def train_one(self, recipe, data, seed, *, device):\n"
        "        return seed\n"
        "def outputs(model, records, **asked):\n"
        "    return None\n"
    )
    (tmp_path / "acme_nets-1.0.dist-info").mkdir()
    (tmp_path / "acme_nets-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: acme-nets\nVersion: 1.0\n")
    (tmp_path / "acme_nets-1.0.dist-info/entry_points.txt").write_text(
        "[mlflow_privacy.trainers]\nacme = acme_nets:AcmeTrainer\n[mlflow_privacy.signals]\nacme = acme_nets:outputs\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for table in (TRAINERS, SIGNALS):  # entry points are read once a process
        monkeypatch.setattr(table, "_of_packages", None)
        monkeypatch.setattr(table, "_entries", dict(table._entries))
    recipe = make_recipe("acme", task="classification")
    assert recipe.kind == "acme"
    assert list(trainer_for(recipe).train(recipe, POOL, np.ones((2, 120), bool), [4, 5])) == [4, 5]
    assert [*SIGNALS] == ["acme"]
    assert SIGNALS["acme"](None, POOL) is None
