"""The examples run, and show what they say they show."""

import importlib.util
from pathlib import Path

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
    assert load("audit_torch").main() > 0.5
