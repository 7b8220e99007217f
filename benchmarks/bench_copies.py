"""Audits of models that saw neither side: how often intervals hold one half, and how often the baseline alarms.

    python benchmarks/bench_copies.py --trials 400

Splits of 50/50 and 80/20: of records that are all different; of tables in which 24 % of 1,000 records occur more than
once, 37 % of 2,000; of members that were copied after the split. In every trial the truth is one half, for the attacks
and for the blind baseline.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

LEVELS = (10, 9, 7, 5, 2, 2)
DATA = ("different", "copies", "oversampled")


def records(rng: np.random.Generator, n: int, data: str) -> tuple[np.ndarray, np.ndarray]:
    """n records and labels: six questions with few answers each, or six numbers."""
    if data == "copies":
        shares = [(1 / np.arange(1, k + 1)) / (1 / np.arange(1, k + 1)).sum() for k in LEVELS]
        x = np.stack([rng.choice(k, n, p=p) for k, p in zip(LEVELS, shares)], axis=1).astype(float)
    else:
        x = rng.normal(size=(n, len(LEVELS)))
    return x, (x @ np.linspace(1, -1, len(LEVELS)) / 2 + rng.logistic(size=n) > 0).astype(int)


def null_target(seed: int, share: float, data: str, n: int) -> AuditTarget:
    """A model that trained on a third part, audited on n records of which `share` are said to be its members."""
    rng = np.random.default_rng(seed)
    x, y = records(rng, n, data)
    others = records(rng, round(n * share), data)
    model = LogisticRegression(C=1.0, max_iter=300).fit(*others)
    rows, member = np.arange(n), np.arange(n) < round(n * share)
    if data == "oversampled":  # each member one to four times
        rows = np.repeat(rows, np.where(member, rng.integers(1, 5, n), 1))
    pool = Records(x[rows], y[rows], np.array([f"row:{k}" for k in range(len(rows))]))
    audited = AuditedModel("memory", None, None, None, None, "sklearn", model)
    recipe = make_recipe(model, task="classification")
    return AuditTarget(audited, pool, member[rows], "classification", recipe=recipe)


def trial(seed: int, share: float, data: str, n: int) -> dict[str, tuple[float, float, float]]:
    """Value and ends of each figure of one audit."""
    options = AuditOptions(
        num_ref_models=4,
        reference_fraction=0.5,
        attacks=["rmia", "lira", "population"],
        random_seed=seed,
        progress=False,
        allow_unfamiliar_members=True,
    )
    result = audit(null_target(seed, share, data, n), options)
    named = {attack.name: attack.metrics["auc"] for attack in result.attacks} | {"blind": result.blind}
    return {name: (found.value, found.low, found.high) for name, found in named.items() if found is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--data", choices=DATA, nargs="*", default=DATA)
    parser.add_argument("--shares", type=float, nargs="*", default=(0.5, 0.8), help="of members")
    given = parser.parse_args()
    for data in given.data:
        for share in given.shares:
            found: dict[str, list[tuple[float, float, float]]] = {}
            for seed in range(given.trials):
                for name, values in trial(seed, share, data, given.records).items():
                    found.setdefault(name, []).append(values)
            for name, rows in found.items():
                value, low, high = np.array(rows).T
                held = np.mean((low <= 0.5) & (high >= 0.5))
                print(
                    f"{data:12s} {share:.0%} members  {name:11s} mean AUC {value.mean():.4f} ± "
                    f"{value.std() / math.sqrt(len(rows)):.4f}, holds 0.5 in {held:.1%}, lies above in "
                    f"{np.mean(low > 0.5):.1%} of {len(rows)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
