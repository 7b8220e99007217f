"""The benchmark of the store: that it runs and counts right; what it measures takes minutes."""

import doctest
import importlib
import sys
from pathlib import Path

import mlflow
import pytest
import requests

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("bench_store")
    finally:
        sys.path.remove(str(FOLDER))


def test_examples_in_the_docstrings_hold(bench):
    result = doctest.testmod(bench)
    assert result.attempted >= 4
    assert result.failed == 0


def test_the_parts_of_storing_are_measured_and_all_references_come_back(bench, tracking):
    found = bench.save_references(2, n_records=50)
    assert set(found) == {"save", "finished", *bench.METHODS, "find all", "read one"}
    assert all(value > 0 for value in found.values())
    assert len(tracking.search_runs(["1"], "tags.`privacy.role` = 'reference'")) == 3


def test_a_repeated_audit_finds_the_same_and_its_stages_add_up(bench, tracking):
    uri = bench.register("logistic", 200, 5, 2, 1)
    first, again = bench.audit(uri, 2), bench.audit(uri, 2)
    assert first["metrics"] == again["metrics"]
    assert sum(again["stages"].values()) == pytest.approx(again["total"])
    assert first["stages"]["references: storing"] > 0 == again["stages"]["references: storing"]
    table = bench.stage_table(["first", "again"], [first, again])
    assert table.count("\n") == 2 + len(first["stages"])


def test_requests_are_counted_while_the_block_runs(bench, server):
    with bench.counted_requests() as counts:
        mlflow.MlflowClient(server).search_experiments()
    requests.get(f"{server}/health", timeout=10)
    assert counts["POST experiments/search"] == 1
    assert all("health" not in name for name in counts)
