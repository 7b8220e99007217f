"""Privacy Meter's `run_rmia` and `tune_offline_a` beside ours on the same signals: a helper of compare.py."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.types import Scores

RECORDS, POPULATION = 50_000, 10_000
A = 0.3


def scoring(checkout: Path, *, repeats: int) -> dict[str, Any]:
    """Prints a table of scoring at 4 and 64 OUT references and of tuning `a`; each tool in processes of its own.

    In one process the gigabytes that theirs frees would make ours wait for memory: 123 ms instead of 20.
    """
    found: dict[str, Any] = {"numpy": np.__version__}
    print(
        f"{RECORDS:,} records × {POPULATION:,} population, NumPy {np.__version__}; "
        f"wall seconds of {repeats} processes, median (least)"
    )
    print(
        "| step | references | theirs, s | ours, s | ratio of medians (of least) | of CPU seconds "
        "| theirs, peak MB | ours, peak MB | AUC, theirs / ours |"
    )
    print("| --- " * 9 + "|", flush=True)
    for step, references in (("score", 4), ("score", 64), ("tune a", 4)):  # theirs tunes with one reference anyway
        runs: dict[str, list[dict[str, float]]] = {"theirs": [], "ours": []}
        for repeat in range(repeats):
            for tool in sorted(runs, reverse=repeat % 2 == 0):
                command = [sys.executable, __file__, str(checkout), step, str(references), tool]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs[tool].append(json.loads(done.stdout))
        row = {
            tool: {key: statistics.median(run[key] for run in each) for key in each[0]}
            | {"least_s": min(run["least_s"] for run in each)}
            for tool, each in runs.items()
        }
        found[f"{step} {references}"] = row
        theirs, ours = row["theirs"], row["ours"]
        print(
            f"| {step} | {references} | {theirs['s']:.3f} ({theirs['least_s']:.3f}) "
            f"| {ours['s']:.4f} ({ours['least_s']:.4f}) "
            f"| {theirs['s'] / ours['s']:.0f} × ({theirs['least_s'] / ours['least_s']:.0f} ×) "
            f"| {theirs['cpu_s'] / ours['cpu_s']:.0f} × "
            f"| {theirs['mb']:.0f} | {ours['mb']:.0f} | {theirs['auc']:.4f} / {ours['auc']:.4f} |",
            flush=True,
        )
    return found


def one_step(checkout: Path, step: str, references: int, tool: str) -> dict[str, float]:
    """Wall and CPU seconds, peak memory above the inputs (tracemalloc) and AUC of one step by one tool.

    Of a tuned `a` the AUC is that of our scoring with it, on the target.
    """
    import torch  # noqa: F401 (both tools have loaded it by now; ours takes exponentials from it)
    from sklearn.metrics import roc_auc_score

    from mlflow_privacy.attacks.rmia import rmia_offline, tune_a

    signals, member = signals_of(RECORDS, references)
    population, _ = signals_of(POPULATION, references, seed=1, outside=True)
    own = [np.ascontiguousarray(array[:, 2:]) for array in (signals, member, population)]  # without the target's pair
    p, p_z = (1 / (1 + np.exp(-phi.astype(np.float64))) for phi in (signals, population))
    attacks = _their_attacks(checkout) if tool == "theirs" else None

    def scores(a: float = A) -> Any:
        return rmia_offline(signals[:, 0], own[0], own[1], population[:, 0], own[2], a=a)

    calls: dict[tuple[str, str], Callable[[], Any]] = {
        ("theirs", "score"): lambda: attacks.run_rmia(0, p, p_z, member, references, A),
        ("theirs", "tune a"): lambda: attacks.tune_offline_a(0, p, p_z, member, _Quiet())[0],
        ("ours", "score"): scores,
        ("ours", "tune a"): lambda: tune_a(own[0], own[1]),
    }
    call = calls[tool, step]
    wall, cpu = timed(call, 3 if tool == "theirs" else 15)
    found = call()
    scored = scores(found) if step == "tune a" else found
    rank = scored.rank() if isinstance(scored, Scores) else scored
    seconds = {"s": statistics.median(wall), "least_s": min(wall), "cpu_s": statistics.median(cpu)}
    return {**seconds, "mb": peak(call), "auc": float(roc_auc_score(member[:, 0], rank))}


class _Quiet:
    """A logger that says nothing."""

    def info(self, *words: object) -> None:
        """Takes what it is told."""


def _their_attacks(checkout: Path) -> Any:
    """The checkout's `attacks.py`, which imports nothing else of it."""
    spec = importlib.util.spec_from_file_location("their_attacks", checkout / "attacks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signals_of(n: int, references: int, *, seed: int = 0, outside: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """φ (n, 2k + 2) float32 of complementary pairs of models, and who trained on what; members gain 1.5."""
    rng = np.random.default_rng(seed)
    half = rng.random((n, references + 1)) < 0.5
    member = np.stack([half, ~half], axis=2).reshape(n, -1)
    if outside:
        member = np.zeros_like(member)
    noise = rng.standard_normal(member.shape, np.float32)
    return (rng.normal(1, 2, (n, 1)) + 1.5 * member + noise).astype(np.float32), member


def timed(call: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of some calls, after one that does not count."""
    call()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return wall, cpu


def peak(call: Callable[[], object]) -> float:
    """MB allocated at most while it runs (tracemalloc sees NumPy's buffers)."""
    import tracemalloc

    tracemalloc.start()
    call()
    found = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return found


if __name__ == "__main__":
    where, what, count, who = sys.argv[1:]
    print(json.dumps(one_step(Path(where), what, int(count), who)))
