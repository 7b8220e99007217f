"""How often each interval holds the truth, as the Markdown tables of docs/attacks.md.

    OMP_NUM_THREADS=1 python benchmarks/bench_coverage.py [--trials 2000] [--blind-trials 200]

Nominal confidence is 95 %; the standard error of a coverage near it is 0.5 % at 2,000 trials.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, ndtri

from mlflow_privacy.auditing.blind import blind_baseline
from mlflow_privacy.metrics import auc, balanced_accuracy, best_threshold, tally
from mlflow_privacy.metrics.delong import delong
from mlflow_privacy.metrics.roc import tpr_interval
from mlflow_privacy.stats import clopper_pearson, logit_interval
from mlflow_privacy.types import Records

Draw = Callable[[np.random.Generator, int], np.ndarray]
SIZES = [(20, 200), (200, 20), (100, 100), (1000, 1000)]
FPRS = np.array([0.1, 0.01, 0.001])


def shifted(delta: float, spread: float = 1.0) -> Draw:
    return lambda rng, n: rng.normal(delta, spread, n)


def exposed(share: float) -> Draw:
    return lambda rng, n: np.where(rng.random(n) < share, 9, 0) + rng.normal(size=n)


def percent(hits: float, trials: int) -> str:
    return f"{100 * hits / trials:.1f}"


def header(*cells: str) -> None:
    print("\n| " + " | ".join(cells) + " |\n|" + "---|" * len(cells))


def auc_table(trials: int, rng: np.random.Generator) -> None:
    models: list[tuple[str, Draw, float]] = [
        ("null", shifted(0.0), 0.5),
        ("shift", shifted(math.sqrt(2) * ndtri(0.6)), 0.6),
        ("shift", shifted(math.sqrt(2) * ndtri(0.8)), 0.8),
        ("shift", shifted(math.sqrt(2) * ndtri(0.95)), 0.95),
        ("shift", shifted(math.sqrt(2) * ndtri(0.99)), 0.99),
        ("wide shift (s.d. 3)", shifted(math.sqrt(10) * ndtri(0.95), 3.0), 0.95),
        ("a tenth exposed", exposed(0.1), 0.55),
        ("all but a tenth exposed", exposed(0.9), 0.95),
    ]
    header("members are", "true AUC", *(f"{a} + {b}: ours (DeLong alone)" for a, b in SIZES))
    for name, draw, truth in models:
        cells = []
        for n1, n0 in SIZES:
            member, ours, plain = np.arange(n1 + n0) < n1, 0, 0
            for _ in range(trials):
                ranks = np.concatenate([draw(rng, n1), rng.normal(size=n0)])
                estimate = auc(ranks, member)
                ours += estimate.low <= truth <= estimate.high
                value, parts = delong(tally(ranks, member))
                if 0 < value < 1 and sum(parts) > 0:
                    low, high = logit_interval(value, math.sqrt(sum(parts)))
                    plain += low <= truth <= high
            cells.append(f"{percent(ours, trials)} ({percent(plain, trials)})")
        print(f"| {name} | {truth} | " + " | ".join(cells) + " |", flush=True)


def tpr_table(trials: int, rng: np.random.Generator) -> None:
    models: list[tuple[str, Draw, Callable[[np.ndarray], np.ndarray]]] = [
        ("null", shifted(0.0), lambda a: a),
        ("shift 1", shifted(1.0), lambda a: ndtr(ndtri(a) + 1)),
        ("shift 3", shifted(3.0), lambda a: ndtr(ndtri(a) + 3)),
        ("wide (s.d. 3)", shifted(0.0, 3.0), lambda a: ndtr(ndtri(a) / 3)),
        ("a tenth exposed", exposed(0.1), lambda a: 0.1 * ndtr(ndtri(a) + 9) + 0.9 * a),
    ]
    header("members are", "sizes", *(f"FPR {f:g}: ours (CP alone), above" for f in FPRS))
    for name, draw, true_tpr in models:
        truth = true_tpr(FPRS)
        for n1, n0 in [(100, 1000), (1000, 1000), (5000, 500), (2000, 10_000)]:
            member, ours, plain, above = np.arange(n1 + n0) < n1, np.zeros(3), np.zeros(3), np.zeros(3)
            for _ in range(trials):
                t = tally(np.concatenate([draw(rng, n1), rng.normal(size=n0)]), member)
                value, low, high = tpr_interval(t, FPRS, 0.95)
                ours += (low <= truth) & (truth <= high)
                above += truth > high
                cp_low, cp_high = clopper_pearson(np.round(value * n1), n1)
                plain += (cp_low <= truth) & (truth <= cp_high)
            cells = [
                f"{percent(ours[i], trials)} ({percent(plain[i], trials)}), {percent(above[i], trials)}"
                if FPRS[i] * n0 >= 1
                else "not resolvable"
                for i in range(3)
            ]
            print(f"| {name} | {n1} + {n0} | " + " | ".join(cells) + " |", flush=True)


def groups_table(trials: int, rng: np.random.Generator) -> None:
    """k groups with thresholds of their own, each at 1 − 0.05 / k: how often do all k intervals hold?"""
    header("groups", "members + non-members of each", *(f"FPR {f:g}: all hold, mean width" for f in FPRS[:2]))
    for k, n1, n0 in [(2, 300, 150), (2, 1000, 1000), (10, 100, 100), (10, 500, 1000), (40, 50, 50)]:
        corrected, member = 1 - 0.05 / k, np.arange(n1 + n0) < n1
        shifts = np.linspace(0, 2, k)
        held, width = np.zeros(2), np.zeros(2)
        for _ in range(trials):
            all_hold = np.ones(2, bool)
            for shift in shifts:
                t = tally(np.concatenate([rng.normal(shift, 1, n1), rng.normal(size=n0)]), member)
                _, low, high = tpr_interval(t, FPRS[:2], corrected)
                truth = ndtr(ndtri(FPRS[:2]) + shift)
                all_hold &= (low <= truth) & (truth <= high)
                width += (high - low) / (trials * k)
            held += all_hold
        cells = [
            f"{percent(held[i], trials)}, {width[i]:.3f}" if FPRS[i] * n0 >= 1 else "not resolvable" for i in range(2)
        ]
        print(f"| {k} | {n1} + {n0} | " + " | ".join(cells) + " |", flush=True)


def balanced_table(trials: int, rng: np.random.Generator) -> None:
    header("shift", "sizes", "holds BA of the thresholds in use", "holds the best threshold's BA")
    for delta in (0.0, 0.5, 2.0):
        for n1, n0 in [(20, 20), (200, 200), (50, 1000)]:
            member, used, best = np.arange(n1 + n0) < n1, 0, 0
            for trial in range(trials):
                ranks = np.concatenate([rng.normal(delta, 1, n1), rng.normal(0, 1, n0)])
                estimate = balanced_accuracy(ranks, member, rng=np.random.default_rng(trial))
                replay, first = np.random.default_rng(trial), np.zeros(n1 + n0, bool)
                for group in (np.flatnonzero(member), np.flatnonzero(~member)):
                    first[replay.permutation(group)[: len(group) // 2]] = True
                cuts = np.array([best_threshold(ranks[half], member[half]) for half in (first, ~first)])
                used += estimate.low <= np.mean(ndtr(delta - cuts) + ndtr(cuts)) / 2 <= estimate.high
                best += estimate.low <= ndtr(delta / 2) <= estimate.high
            print(f"| {delta:g} | {n1} + {n0} | {percent(used, trials)} | {percent(best, trials)} |", flush=True)


def blind_table(trials: int, rng: np.random.Generator) -> None:
    header("records", "members", "columns", "holds ½", "alarms (low > ½)")
    for n, n1, d in [(40, 20, 3), (200, 100, 5), (300, 40, 4), (1000, 500, 10), (200, 100, 100)]:
        covered = alarms = 0
        for trial in range(trials):
            records = Records(rng.normal(size=(n, d)), rng.integers(0, 3, n), np.arange(n).astype(str))
            estimate = blind_baseline(records, np.arange(n) < n1, seed=trial)
            covered += estimate.low <= 0.5 <= estimate.high
            alarms += estimate.low > 0.5
        print(f"| {n} | {n1} | {d} | {percent(covered, trials)} | {percent(alarms, trials)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--blind-trials", type=int, default=200)
    args = parser.parse_args()
    for seed, (table, trials) in enumerate(
        [
            (auc_table, args.trials),
            (tpr_table, args.trials),
            (balanced_table, args.trials),
            (blind_table, args.blind_trials),
            (groups_table, args.trials),
        ]
    ):
        table(trials, np.random.default_rng(seed))


if __name__ == "__main__":
    main()
