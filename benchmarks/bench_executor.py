"""References one by one and spread over workers, side by side: the same models, how much sooner?

    python benchmarks/bench_executor.py [--references 8] [--workers 2] [--rows 20000] [--repeat 3] [--only NAME ...]

One by one uses the threads that the libraries take by themselves; workers have one core each and are started anew each
time. Both keep nothing. The two take turns; the table has the least time of each and the largest difference of signals.
On a machine that others use too the clock says little; the core seconds of both ways do.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.auditing.references import NoStore, References, ensure
from mlflow_privacy.design import Design
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import Recipe, Records


def table(n: int, columns: int = 30) -> Records:
    """(n, columns) numbers of five classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=n)
    centres = rng.normal(size=(5, columns))
    return Records(centres[y] + 2 * rng.normal(size=(n, columns)), y, np.arange(n).astype(str))


def pictures(n: int) -> Records:
    """(n, 3, 32, 32) numbers of ten classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=n)
    x = rng.normal(size=(n, 3, 32, 32)).astype(np.float32) + rng.normal(size=(10, 3, 1, 1)).astype(np.float32)[y]
    return Records(x.astype(np.float32), y, np.arange(n).astype(str))


def forest(n: int) -> tuple[Recipe, Records]:
    from sklearn.ensemble import RandomForestClassifier

    return make_recipe(RandomForestClassifier(100), task="classification"), table(n)


def forest_jobs(n: int) -> tuple[Recipe, Records]:
    """The same forest, told to use all cores."""
    from sklearn.ensemble import RandomForestClassifier

    return make_recipe(RandomForestClassifier(100, n_jobs=-1), task="classification"), table(n)


def boosting(n: int) -> tuple[Recipe, Records]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return make_recipe(HistGradientBoostingClassifier(), task="classification"), table(n)


def logistic(n: int) -> tuple[Recipe, Records]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    steps = make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression(max_iter=200))
    return make_recipe(steps, task="classification"), table(n)


def cnn(n: int) -> tuple[Recipe, Records]:
    from mlflow_privacy import zoo

    pool = pictures(n // 4)
    net = zoo.build_model("cnn", (3, 32, 32), 10, {}, task="classification")
    settings = {"epochs": 3, "batch_size": 128, "optimizer": "adam", "learning_rate": 1e-3, "loss": "cross_entropy"}
    return make_recipe(net, settings, task="classification", data=pool), pool


WORKLOADS: Mapping[str, Callable[[int], tuple[Recipe, Records]]] = {
    "forest": forest,
    "forest, n_jobs=-1": forest_jobs,
    "boosting": boosting,
    "logistic": logistic,
    "cnn": cnn,
}


def train(
    recipe: Recipe, pool: Records, count: int, executor: str, workers: int | None
) -> tuple[float, float, References]:
    """Seconds on the clock, seconds of all cores, and the references."""
    design = Design(data_digest(pool), len(pool), 0, 0.5, None)
    asked = functools.partial(model_outputs, records=pool, task="classification", device="cpu")
    options: dict[str, Any] = {"executor": executor, "n_workers": workers, "device": "cpu", "progress": False}
    start, cpu = time.perf_counter(), sum(os.times()[:4])  # of this process and its ended workers
    found = ensure(
        pool, recipe, design, count, data_digests=["pool"], outputs=lambda m: (asked(m),), store=NoStore(), **options
    )
    return time.perf_counter() - start, sum(os.times()[:4]) - cpu, found


def compare(name: str, n: int, count: int, workers: int, repeat: int) -> dict[str, float]:
    """Least seconds one by one and spread, on the clock and of all cores, and the largest difference of a signal."""
    recipe, pool = WORKLOADS[name](n)
    times: dict[str, list[float]] = {"local": [], "loky": []}
    work: dict[str, list[float]] = {"local": [], "loky": []}
    found: dict[str, References] = {}
    for _ in range(repeat):
        for executor, many in (("local", None), ("loky", workers)):
            seconds, cpu, found[executor] = train(recipe, pool, count, executor, many)
            times[executor].append(seconds)
            work[executor].append(cpu)
    pairs = zip(found["local"].pool, found["loky"].pool, strict=True)
    apart = max(float(np.abs(a.signal - b.signal).max()) for a, b in pairs)
    local, spread = min(times["local"]), min(times["loky"])
    cores = {"cpu one by one": min(work["local"]), "cpu spread": min(work["loky"])}
    return {"one by one": local, "spread": spread, "ratio": local / spread, **cores, "apart": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--references", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(WORKLOADS), default=list(WORKLOADS))
    given = parser.parse_args()
    print(f"{given.references} references, {given.workers} workers, load {os.getloadavg()[0]:.1f}")
    print("| recipe | one by one, s | spread, s | ratio | core seconds | signals apart |\n|---|---|---|---|---|---|")
    for name in given.only:
        found = compare(name, given.rows, given.references, given.workers, given.repeat)
        print(
            f"| {name} | {found['one by one']:.1f} | {found['spread']:.1f} | {found['ratio']:.2f} × "
            f"| {found['cpu one by one']:.1f} → {found['cpu spread']:.1f} | {found['apart']:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
