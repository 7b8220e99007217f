"""Time and peak memory of scoring, the fast RMIA beside the pairwise definition in one run.

    OMP_NUM_THREADS=1 python benchmarks/bench_scoring.py [--records 50000] [--population 10000] [--references 64]

Peak memory is what each step allocates on top of its inputs (tracemalloc sees NumPy's buffers).
"""

from __future__ import annotations

import argparse
import platform
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from mlflow_privacy.attacks import run_attack
from mlflow_privacy.attacks.rmia import log_average, rmia, tune_a
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.stats import log_sigmoid
from mlflow_privacy.types import Signals


def make_signals(n: int, z: int, m: int, seed: int = 0) -> Signals:
    """φ in float32 of a leaking model: every record has its own difficulty, members gain 1.5."""
    rng = np.random.default_rng(seed)
    half = rng.random((n, (m + 1) // 2)) < 0.5
    member = np.stack([half, ~half], axis=2).reshape(n, -1)[:, :m]
    difficulty, hard_z = rng.normal(3, 3, (n, 1)), rng.normal(3, 3, (z, 1))
    noise = rng.standard_normal((n, m), np.float32)
    truth = rng.random(n) < 0.5
    return Signals(
        target=(difficulty[:, 0] + 1.5 * truth + rng.normal(size=n)).astype(np.float32),
        reference=(difficulty + 1.5 * member + noise).astype(np.float32),
        member=member,
        population=(hard_z[:, 0] + rng.normal(size=z)).astype(np.float32),
        population_reference=(hard_z + rng.standard_normal((z, m), np.float32)).astype(np.float32),
        population_member=np.zeros((z, m), bool),
    )


def pairwise_rmia(s: Signals, rows: int = 500) -> np.ndarray:
    """The definition: n × z comparisons, 500 records at a time so that it fits in memory at all."""
    x = log_sigmoid(s.target) - log_average(s.reference, s.member, online=True)
    z = log_sigmoid(s.population) - log_average(s.population_reference, s.population_member, online=True)
    parts = [x[i : i + rows, None] - z >= 0.0 for i in range(0, len(x), rows)]
    return np.concatenate([part.mean(axis=1) for part in parts])


def measure(title: str, call: Callable[[], object], repeats: int = 3) -> object:
    """Prints the best time of `repeats` calls and the peak of one more."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{title:<34}{min(seconds) * 1e3:10.1f} ms{peak / 2**20:12.1f} MiB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--population", type=int, default=10_000)
    parser.add_argument("--references", type=int, default=64)
    parser.add_argument("--no-pairwise", action="store_true", help="leave the n × z twin out")
    args = parser.parse_args()
    n, z, m = args.records, args.population, args.references
    print(
        f"{n:,} records × {z:,} population × {m} references; Python {platform.python_version()}, NumPy {np.__version__}"
    )
    s = make_signals(n, z, m)
    arrays = (s.target, s.reference, s.member, s.population, s.population_reference, s.population_member)
    fast = measure("rmia, φ float32 to scores", lambda: rmia(*arrays))
    measure("rmia, γ = 2", lambda: rmia(*arrays, gamma=2.0))
    if not args.no_pairwise:
        naive = measure("rmia, pairwise definition", lambda: pairwise_rmia(s), repeats=1)
        print(f"{'':4}equal scores: {bool((naive == fast.value).all())}")
    measure("tune a, 11 values", lambda: tune_a(s.reference, s.member), repeats=1)
    for name, options in (("rmia_offline", {"a": 0.3}), ("lira", {}), ("reference", {}), ("population", {})):
        measure(name, lambda: run_attack(name, s, **options))  # noqa: B023
    truth = np.random.default_rng(1).random(n) < 0.5
    measure("ROC and metrics with intervals", lambda: evaluate_scores(fast, truth))


if __name__ == "__main__":
    main()
