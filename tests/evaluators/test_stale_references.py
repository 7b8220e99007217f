"""References of another training are never taken for this one's, and never without a word."""

import importlib
import sys

import mlflow
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import mlflow_privacy

FAST = {"num_ref_models": 4, "blind_baseline": False}


@pytest.fixture
def registered(tracking, tmp_path, monkeypatch):
    """A registered model, and `tmp_path` to import helpers from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 30)), rng.integers(0, 2, 200)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=(x[:100], y[:100]), holdout=(x[100:], y[100:]))
        model = LogisticRegression(C=1e3, max_iter=500).fit(x[:100], y[:100])
        mlflow.sklearn.log_model(model, name="model", registered_model_name="m", pip_requirements=["scikit-learn"])
    yield tmp_path
    sys.modules.pop("stale_helpers", None)


def audit(train_fn, **options):
    """How many references were loaded and trained, the metric, and the audit itself."""
    result = mlflow_privacy.evaluate("models:/m/1", train_fn=train_fn, **FAST, **options)
    content = result.artifacts["privacy/audit"].content
    found = content["references"]
    return (found["n_loaded"], found["n_trained"]), result.metrics["privacy/lira/auc"], content


def write_helper(folder, c):
    (folder / "stale_helpers.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n"
        f"def build():\n    return LogisticRegression(C={c}, max_iter=500)\n"
    )
    importlib.invalidate_caches()
    sys.modules.pop("stale_helpers", None)


def with_helper(x, y, seed):
    import stale_helpers

    return stale_helpers.build().fit(x, y)


def test_a_helper_that_changed_trains_references_anew(registered):
    found = {}
    for c in (0.001, 1000.0):
        write_helper(registered, c)
        found[c] = audit(with_helper)
        assert found[c][0] == (0, 4)
    assert found[0.001][1] != found[1000.0][1]


def with_file(x, y, seed):
    """Reads a file, which no fingerprint sees."""
    from pathlib import Path

    return LogisticRegression(C=float(Path("c.txt").read_text()), max_iter=500).fit(x, y)


def test_references_that_no_longer_agree_are_set_aside(registered, caplog):
    (registered / "c.txt").write_text("0.001")
    counts, first, content = audit(with_file)
    assert counts == (0, 4)
    assert not any("set aside" in warning for warning in content["warnings"])
    (registered / "c.txt").write_text("1000")
    counts, fresh, content = audit(with_file)
    assert counts == (0, 4)
    assert abs(fresh - first) > 0.02
    (said,) = [warning for warning in content["warnings"] if "set aside" in warning]
    assert said.startswith("4 stored reference models are of another training than the one that runs now: reference ")
    assert said in caplog.text
    counts, again, content = audit(with_file)
    assert (counts, again) == ((4, 0), fresh)
    assert not any("set aside" in warning for warning in content["warnings"])
