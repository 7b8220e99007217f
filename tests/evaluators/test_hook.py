"""The hook changes nothing for those who do not name privacy_meter."""

import inspect
import subprocess
import sys
import types

import mlflow
import mlflow.models.evaluation.base as base
import mlflow.models.evaluation.deprecated as deprecated
import pytest

from mlflow_privacy.evaluators.hook import _MARK, install_privacy_meter_hook, names_privacy_meter
from mlflow_privacy.evaluators.privacy_meter import PrivacyMeterEvaluator

STOCK = getattr(base.evaluate, _MARK)


def test_every_public_name_is_the_same_wrapper():
    for evaluate in (
        mlflow.models.evaluate,
        mlflow.models.evaluation.evaluate,
        base.evaluate,
        deprecated.model_evaluate,
    ):
        assert evaluate is base.evaluate
        assert getattr(evaluate, _MARK) is STOCK


def test_signature_and_documentation_are_mlflows_own():
    assert inspect.signature(base.evaluate) == inspect.signature(STOCK)
    assert base.evaluate.__doc__ == STOCK.__doc__


@pytest.mark.parametrize(
    "arguments",
    [
        {"evaluators": None},
        {"evaluators": "default"},
        {"evaluators": ["default"]},
        {"evaluators": ("privacy_meter",)},
        {"evaluators": {"privacy_meter"}},
        {"evaluators": "privacy_meters"},
        {},
        {"model_type": "classifier"},
        {"unknown": 1},
    ],
)
def test_calls_that_do_not_name_it_fail_exactly_as_in_stock_mlflow(arguments, tracking):
    errors = []
    for function in (STOCK, base.evaluate):
        with pytest.raises(Exception) as caught:
            function("models:/none/1", **arguments)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_calls_that_do_not_name_it_go_straight_through(monkeypatch):
    seen = []
    fake = types.ModuleType("fake")
    fake.evaluate = lambda *args, **kwargs: seen.append((args, kwargs)) or "result"
    install_privacy_meter_hook(fake)
    assert fake.evaluate("model", "data", model_type="classifier", evaluators=["default"]) == "result"
    assert seen == [(("model", "data"), {"model_type": "classifier", "evaluators": ["default"]})]


def test_installing_twice_wraps_once():
    install_privacy_meter_hook(base)
    assert getattr(base.evaluate, _MARK) is STOCK
    assert not hasattr(STOCK, _MARK)


def test_names_bound_before_the_hook_are_repointed():
    code = """
import importlib.metadata as metadata
load = metadata.EntryPoint.load
def without_us(self):
    if self.value.startswith("mlflow_privacy"):
        raise ImportError("not now")
    return load(self)
metadata.EntryPoint.load = without_us
import mlflow, mlflow.models
early = mlflow.models.evaluate
assert not hasattr(early, "_mlflow_privacy_original")
import mlflow_privacy.evaluators.plugin
for function in (mlflow.models.evaluate, mlflow.models.evaluation.evaluate, mlflow.models.evaluation.base.evaluate):
    assert function._mlflow_privacy_original is early, function
print("repointed")
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "repointed", out.stderr


def test_it_never_offers_itself():
    for model_type in ("classifier", "regressor", "privacy", None):
        for config in ({}, {"num_ref_models": 4}, None):
            assert not PrivacyMeterEvaluator.can_evaluate(model_type=model_type, evaluator_config=config)


def test_a_list_that_names_it_among_others_counts():
    assert names_privacy_meter(["default", "privacy_meter"])
    assert not names_privacy_meter(["default", "privacy"])
