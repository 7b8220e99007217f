"""The benchmark of the training loop: its table, and that it runs."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("bench_loop")
    finally:
        sys.path.remove(str(FOLDER))


def test_the_examples_hold(bench):
    result = doctest.testmod(bench)
    assert result.attempted >= 1
    assert result.failed == 0


def test_the_ratio_is_that_of_our_best_to_the_best_bare_network(bench):
    row = {
        "bare": 4.0,
        "bare, channels_last": 5.0,
        "loop, default format": 9.0,
        "loop": 8.0,
        "loop, recorded step": 2.0,
    }
    assert bench.table({"net": row}).splitlines()[-1] == "| net | 4.0 | 5.0 | 9.0 | 8.0 | 2.0 | 0.50 |"


def test_it_runs_and_each_way_takes_time(tmp_path):
    command = [sys.executable, str(FOLDER / "bench_loop.py"), "--models", "CNN", "--batch-size", "8", "--batches", "2"]
    path = tmp_path / "table.md"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--repeats", "1", "--augment", "--markdown", path], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    cells = path.read_text().splitlines()[-1].split("|")[2:-1]
    assert len(cells) == 5  # no recorded step on a CPU
    assert all(float(cell) > 0 for cell in cells)
