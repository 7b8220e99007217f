"""Runs mlflow-privacy on the same arrays: a helper of compare.py, which starts it in processes of its own.

python benchmarks/compare_ours.py prepare|run SPEC.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from compare_theirs import peak_mb


def prepare(spec: Mapping[str, Any]) -> dict[str, Any]:
    """An empty tracking store: its tables are made once in the life of a server, not once an audit."""
    import mlflow

    started = time.perf_counter()
    _place(spec)
    mlflow.MlflowClient().create_experiment("compare")
    return {"store": time.perf_counter() - started}


def _place(spec: Mapping[str, Any]) -> None:
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for key, name in (("texts", "data"), ("gpt2", "gpt2")):
        if key in spec and not Path(name).exists():
            Path(name).symlink_to(spec[key])
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"


def run(spec: Mapping[str, Any]) -> dict[str, Any]:
    """One `mlflow-privacy run CONFIG`; returns seconds per stage, figures, and peak memory."""
    import yaml

    _place(spec)
    folder = Path(spec["folder"])
    started = time.perf_counter()
    from mlflow_privacy.cli import main
    from mlflow_privacy.cli.start import imports_ahead

    # All that the run loads anyway, at once and as the command does it, so that no stage pays for another's imports.
    with imports_ahead():
        import mlflow.models.evaluation.evaluator_registry  # scikit-learn's metrics and pyplot, for whatever evaluator
        import mlflow.pytorch
        import mlflow.store.tracking.sqlalchemy_store

        from mlflow_privacy.zoo import dataset, make_dataset

        loaded = [mlflow.pytorch, mlflow.store.tracking.sqlalchemy_store]
        if spec["config"]["audit"].get("blind_baseline", True):
            import sklearn.ensemble
            import sklearn.linear_model

            loaded += [sklearn.ensemble, sklearn.linear_model]
    imported = time.perf_counter()
    assert all(loaded)

    @dataset("compare")
    def same_arrays() -> Any:
        with np.load(spec["arrays"], allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return make_dataset(
            arrays["pool_x"],
            arrays["pool_y"],
            name="compare",
            task="classification",
            classes=[str(c) for c in range(spec["classes"])],
            population=(arrays["population_x"], arrays["population_y"]),
        )

    config = {**spec["config"], "run": {**spec["config"]["run"], "log_dir": spec["log_dir"]}}
    path = folder / f"{spec['log_dir']}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    profiler = _profiler(spec)
    main(["run", str(path)], standalone_mode=False)
    ended = time.perf_counter()
    if profiler is not None:
        profiler.disable()
        profiler.dump_stats(spec["profile"])
    report = json.loads((folder / spec["log_dir"] / "experiment.json").read_text())
    (target,) = report["targets"]
    found = {
        "imports": imported - started,
        "main": ended - imported,
        "peak_mb": peak_mb(),
        "timings": report["timings"],
        "train_seconds": target["metrics"]["train_seconds"],
        "audit": target["audit"],
    }
    if spec.get("every_epoch"):
        found["every_epoch"] = every_epoch(spec, np.load(spec["arrays"], allow_pickle=False))
    return found


def _profiler(spec: Mapping[str, Any]) -> Any:
    if not spec.get("profile"):
        return None
    import cProfile

    profiler = cProfile.Profile()
    profiler.enable()
    return profiler


def every_epoch(spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> float:
    """Seconds that testing every model on its other half after every epoch would add: that many real passes."""
    from mlflow_privacy.signals import model_outputs
    from mlflow_privacy.types import Records
    from mlflow_privacy.zoo import build_model, rescaled

    x, y = arrays["pool_x"], arrays["pool_y"]
    half = len(y) // 2
    train, audit = spec["config"]["train"], spec["config"]["audit"]
    options = train.get("model_options", {})
    model = build_model(train["model_name"], x.shape[1:], spec["classes"], options, task="classification")
    if x.ndim == 4:
        model = rescaled(model, np.full(3, 0.5, np.float32), np.full(3, 0.5, np.float32))
    records = Records(x[:half] if x.ndim == 4 else x[:half].astype(np.float32), y[:half], np.arange(half).astype(str))
    passes = train["epochs"] * (2 * audit["num_ref_models"] + 1)
    started = time.perf_counter()
    for _ in range(passes):
        model_outputs(
            model,
            records,
            task="classification",
            classes=np.arange(spec["classes"]),
            device=audit["device"],
            batch_size=audit["batch_size"],
        )
    return time.perf_counter() - started


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    result = {"prepare": prepare, "run": run}[sys.argv[1]](given)
    Path(given["result"]).write_text(json.dumps(result))
