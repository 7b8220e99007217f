"""Strength of every attack by the number of references, each reference as target in turn with its group left out.

    MLFLOW_PRIVACY_DATA=… python benchmarks/bench_power.py --models mlp logistic --targets 8

Location-30, 4,000 records, half (or `--share`) of them trained on. Nothing is tuned on what it is measured on: the
targets' memberships are seen by the AUC and the TPR alone. Prints a Markdown table: AUC / TPR at 1 % FPR, means over
the targets, with the largest standard error of each.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.attacks import run_attack
from mlflow_privacy.design import Design
from mlflow_privacy.metrics import auc, tpr_at_fpr
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.types import Records, Signals

ATTACKS = ("rmia", "lira", "bavaria", "learned", "rmia_offline")


def location(n: int) -> Records:
    folder = os.environ.get("MLFLOW_PRIVACY_DATA")
    if not folder:
        raise SystemExit("MLFLOW_PRIVACY_DATA names the folder with location30.npz.")
    with np.load(Path(folder) / "location30.npz") as data:
        x, y = data["features"].astype(np.float32), data["labels"].astype(np.int64)
    rows = np.random.default_rng(0).permutation(len(x))[:n]
    return Records(x[rows], y[rows], np.array([f"row:{i}" for i in rows]))


def recipe_of(model: str, records: Records) -> Any:
    if model == "logistic":
        from sklearn.linear_model import LogisticRegression

        return make_recipe(LogisticRegression(C=10.0, max_iter=200), task="classification")
    if model == "forest":
        from sklearn.ensemble import RandomForestClassifier

        return make_recipe(RandomForestClassifier(50), task="classification")
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(446, 64), torch.nn.ReLU(), torch.nn.Linear(64, 30))
    settings = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64, "epochs": 30}
    if model == "mlp_regularised":
        settings |= {"epochs": 8, "weight_decay": 1e-3}
    return make_recipe(net, settings, task="classification", data=records)


def signals_of(model: str, records: Records, count: int, share: float) -> tuple[np.ndarray, np.ndarray, int]:
    """(n, count) φ and memberships of models on whole groups of splits, and the size of a group."""
    recipe = recipe_of(model, records)
    design = Design("00" * 32, len(records), seed=1, fraction=share)
    count = design.whole_groups(count)
    rows = design.rows(range(count))
    seeds = [design.train_seed(i) for i in range(count)]
    classes = np.unique(records.y)
    phi = [
        model_outputs(trained, records, task="classification", classes=classes, device="cpu").signal
        for trained in trainer_for(recipe).train(recipe, records, rows, seeds, device="cpu")
    ]
    return np.stack(phi, axis=1), rows.T, design.group


def measured(name: str, phi: np.ndarray, member: np.ndarray, j: int, others: np.ndarray) -> tuple[float, float, float]:
    """AUC, TPR at 1 % FPR and seconds of one attack on model j with some references."""
    truth = member[:, j]
    signals = Signals(
        target=phi[:, j],
        reference=phi[:, others],
        member=member[:, others],
        population=phi[~truth, j],
        population_reference=phi[~truth][:, others],
        population_member=member[~truth][:, others],
    )
    began = time.process_time()
    ranks = run_attack(name, signals)[0].rank()
    seconds = time.process_time() - began
    return auc(ranks, truth).value, tpr_at_fpr(ranks, truth, 0.01).value, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["mlp", "mlp_regularised", "logistic"])
    parser.add_argument("--references", type=int, nargs="*", default=[2, 4, 8, 16])
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--share", type=float, default=0.5)
    given = parser.parse_args()
    records = location(given.records)
    print("| model | references | " + " | ".join(ATTACKS) + " |\n|" + "---|" * (len(ATTACKS) + 2))
    for model in given.models:
        phi, member, group = signals_of(model, records, max(given.references) + 8, given.share)
        targets = np.unique(np.linspace(0, phi.shape[1] - 1, given.targets).round().astype(int))
        for count in given.references:
            cells, errors = [], []
            for name in ATTACKS:
                found = []
                for j in targets:
                    others = np.flatnonzero(np.arange(phi.shape[1]) // group != j // group)[
                        : group * -(-count // group)
                    ]
                    if name != "learned" or len(others) >= 2 * group:
                        found.append(measured(name, phi, member, j, others))
                if not found:
                    cells.append("")
                    continue
                values = np.array(found)
                cells.append(f"{values[:, 0].mean():.3f} / {values[:, 1].mean():.3f} ({values[:, 2].mean():.1f} s)")
                errors.append(values[:, :2].std(axis=0, ddof=1) / np.sqrt(len(values)))
            worst = np.max(errors, axis=0)
            print(f"| {model} ± {worst[0]:.3f} / {worst[1]:.3f} | {count} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
