"""The examples run, and show what they say they show."""

import importlib.util
import inspect
from pathlib import Path

import mlflow
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sklearn_example_tells_the_version_that_memorises(tracking):
    aucs = load("audit_sklearn").main()
    assert aucs["memorises"] > 0.65
    assert aucs["generalises"] < 0.6


def test_torch_example_audits_a_module_by_its_recipe(tracking):
    if "serialization_format" not in inspect.signature(mlflow.pytorch.log_model).parameters:
        pytest.skip("this MLflow has no serialization_format")
    assert load("audit_torch").main() > 0.5
