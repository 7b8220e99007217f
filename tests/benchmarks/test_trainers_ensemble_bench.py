"""The benchmark of stacked training runs, and counts what it says it counts."""

import doctest
import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("bench_ensemble")
    sys.modules.pop("bench_ensemble", None)


def test_examples_in_the_docstrings_hold(bench):
    result = doctest.testmod(bench)
    assert result.attempted >= 2
    assert result.failed == 0


def test_the_floor_of_the_mlp_is_that_of_its_products(bench):
    shape, build = bench.NETS["mlp"]
    assert bench.flops(build(), shape) == 2 * (2 * 600 * 128 + 3 * 128 * 100)


def test_a_small_run_prints_a_row_a_network(bench, capsys):
    sizes = ["--models", "2", "--records", "64", "--epochs", "1", "--batch-size", "32", "--repeats", "1"]
    bench.main(["--nets", "mlp", "lenet", *sizes])
    lines = capsys.readouterr().out.splitlines()
    (mlp,) = [line for line in lines if line.startswith("| mlp |")]
    (lenet,) = [line for line in lines if line.startswith("| lenet |")]
    assert "stacked, up to 2" in mlp
    assert "one by one: on a CPU convolutions" in lenet
