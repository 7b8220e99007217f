"""The comparison with Privacy Meter: what is parsed, computed and refused; the runs themselves take minutes."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlflow_privacy.experiment.load import parse_config

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def compare():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("compare")
    finally:
        sys.path.remove(str(FOLDER))


def test_examples_in_the_docstrings_hold(compare):
    result = doctest.testmod(compare)
    assert result.attempted >= 8
    assert result.failed == 0


def test_help_and_a_missing_checkout(tmp_path):
    script = str(FOLDER / "compare.py")
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--privacy-meter" in shown.stdout
    refused = subprocess.run([sys.executable, script, "--privacy-meter", str(tmp_path)], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "run_mia.py" in refused.stderr


@pytest.mark.parametrize("name", ["purchase-mlp", "location-mlp", "cifar-cnn"])
def test_both_configs_ask_for_the_same_training(compare, name):
    made = compare.configs(compare.WORKLOADS[name], epochs=3, references=2, device="cpu", seed=1)
    theirs = made["theirs"]
    for tool in ("ours", "ours, same work"):
        config = parse_config({**made[tool], "data": {"dataset": "digits"}})  # "compare" is made in the run
        for key in ("optimizer", "learning_rate", "weight_decay", "batch_size", "epochs", "model_name"):
            assert getattr(config.train, key) == theirs["train"][key], key
        assert config.train.schedule == "privacy_meter"
        assert config.audit.num_ref_models == theirs["audit"]["num_ref_models"] == 2


def test_a_time_log_of_another_program_is_refused(compare):
    with pytest.raises(SystemExit, match="Loading dataset took"):
        compare.their_stages("nothing of the kind")


def test_stages_of_ours_add_up_to_the_whole(compare):
    stages = {"lineage": 0.2, "target signals": 0.1, "references": 3.0, "total": 3.3}
    log = "audit of m v1 (mlp)\n" + "".join(f"  {stage}   {seconds} s\n" for stage, seconds in stages.items())
    timings = {"load data": 0.5, "train targets": 1.5, "audit": 4.0}
    stages = compare.our_stages({"main": 7.0, "train_seconds": 1.25, "timings": timings}, log)
    assert sum(stages.values()) == pytest.approx(7.0)
    assert stages["training"] == 4.25
    assert stages["registry"] == pytest.approx(0.45)


def test_a_lower_auc_or_another_accuracy_is_a_fault_and_a_higher_auc_is_none(compare):
    theirs = {"train accuracy": 0.9, "test accuracy": 0.6, "AUC": 0.8}
    assert compare.faults({"theirs": theirs, "ours": {**theirs, "AUC": 0.85}}) == []
    (lower,) = compare.faults({"theirs": theirs, "ours": {**theirs, "AUC": 0.75}})
    assert "lower than theirs" in lower
    assert len(compare.faults({"theirs": theirs, "ours": {**theirs, "train accuracy": 0.8}})) == 1


def test_the_table_has_a_ratio_where_both_have_the_stage(compare):
    theirs = {"training": 20.0, "total": 30.0, "peak MB": 1.0, "train accuracy": 1, "test accuracy": 1, "AUC": 0.8}
    ours = {**theirs, "training": 2.0, "total": 6.0, "blind baseline": 1.0}
    text = compare.table({"theirs": theirs, "ours": ours})
    assert "| training | 20.00 | 2.00 | 10.0 × |" in text
    assert "| blind baseline | – | 1.00 | – |" in text
    assert "| total | 30.00 | 6.00 | 5.0 × |" in text


def test_the_figure_is_small_and_the_signals_are_of_pairs(compare, tmp_path):
    from compare_plot import plot
    from compare_scoring import signals_of

    figures = {"imports": 1.0, "training": 5.0, "total": 6.0}
    found = {"workload": "w", "size": "s", "medians": {"theirs": figures, "ours": figures, "ours, same work": figures}}
    plot(found, tmp_path / "a.png")
    assert 1_000 < (tmp_path / "a.png").stat().st_size < 100_000
    signals, member = signals_of(2000, 3)
    assert signals.shape == member.shape == (2000, 8)
    assert (member[:, ::2] ^ member[:, 1::2]).all()
    gain = signals[member].mean() - signals[~member].mean()
    assert gain == pytest.approx(1.5, abs=0.2)  # difficulty's s.d. of 2 over 2,000 records: 6 standard errors
    assert not signals_of(10, 3, outside=True)[1].any()
    assert np.isfinite(signals).all()


def test_the_executor_benchmark_trains_the_same_models_both_ways(compare):
    bench = importlib.import_module("bench_executor")
    found = bench.compare("logistic", n=200, count=2, workers=2, repeat=1)
    assert found["ratio"] == pytest.approx(found["one by one"] / found["spread"])
    assert found["apart"] < 1e-3
    recipe, pool = bench.WORKLOADS["cnn"](64)
    assert pool.x.shape == (16, 3, 32, 32)
    assert recipe.kind == "torch"
