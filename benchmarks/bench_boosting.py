"""Where the time and the memory of an audit of a large table go: gradient boosting on 400,000 records × 50 columns.

    python benchmarks/bench_boosting.py                  # the default: 50,000 records are audited
    python benchmarks/bench_boosting.py --data-size all

The data is drawn, half of it members. The audit is the one line, with its own store (SQLite in a temporary folder).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=400_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--data-size", default="auto")
    args = parser.parse_args()
    size = int(args.data_size) if args.data_size.isdigit() else args.data_size
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), args.n, args.columns, args.references, size)


def run(folder: Path, n: int, columns: int, references: int, size: int | str) -> None:
    import mlflow
    from sklearn.ensemble import HistGradientBoostingClassifier

    import mlflow_privacy

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("large", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("large")
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(n, columns)), columns=[f"x{i}" for i in range(columns)])
    score = table["x0"] + table["x1"] * table["x2"] + rng.normal(size=n)
    table["label"] = (score > 0).astype(int)
    train, holdout = table[: n // 2], table[n // 2 :]
    started = time.perf_counter()
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(
        train.drop(columns="label"), train["label"]
    )
    print(f"training of the target: {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="m", registered_model_name="large", pip_requirements=[], serialization_format="cloudpickle"
        )
        mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="label")
    print(f"log_lineage and log_model: {time.perf_counter() - started:.1f} s")
    del table, train, holdout, score, model
    before, peak = _now(), _Peak()
    started = time.perf_counter()
    with peak:
        result = mlflow_privacy.evaluate("models:/large/1", num_ref_models=references, data_size=size)
    total = time.perf_counter() - started
    print(f"audit: {total:.1f} s; memory {before:.2f} GB before, at most {peak.most:.2f} GB, workers included")
    found = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/privacy_result.json")
    for name, seconds in sorted(found["timings"].items(), key=lambda item: -item[1]):
        print(f"  {name:20s} {seconds:8.1f} s")
    print(f"RMIA, AUC: {result.metrics['privacy/rmia/auc']:.4f}")
    print(f"peak of this process since its start: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


def _now() -> float:
    """GB of this process and of its children, in physical memory."""
    import psutil

    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**30


class _Peak:
    """The most of `_now` while its block runs, looked at ten times a second."""

    most = 0.0

    def __enter__(self) -> _Peak:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            self.most = max(self.most, _now())

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


if __name__ == "__main__":
    main()
