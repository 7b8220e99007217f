"""Whole audits where there is nothing to find: how often the verdict's intervals say that there is.

    OMP_NUM_THREADS=1 python benchmarks/bench_null.py --trials 400 [--output null.json]

The audited model trained on records of its own, so the members and the non-members that it is audited on are
exchangeable: the true AUC is one half and the true TPR at 1 % FPR is 1 %, whatever attack is chosen. The references
train on halves (or four fifths) of the pool; "memorise": they tell members well, so that the choice of the attack and
the learned attack have all that they can be misled by; "generalise": they hardly tell them. Default attacks, and the
attack of the verdict as an audit takes it. Nominal: 5 % of the AUC's intervals exclude one half; 2.5 % of the TPR's
lie above 1 %, 2.5 % below.
"""

from __future__ import annotations

import argparse
import collections
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

KINDS = {"memorise": (60, 1e3), "generalise": (6, 0.1)}  # columns, C of the logistic regression
# kind, records, share of members and of the references' training, references
CASES = (
    ("memorise", 400, 0.5, 2),
    ("memorise", 400, 0.5, 4),
    ("memorise", 400, 0.5, 8),
    ("memorise", 1000, 0.8, 10),
    ("generalise", 400, 0.5, 2),
    ("generalise", 400, 0.5, 8),
)
TPR = "tpr_at_fpr_0.01"
_TITLES = ("TPR at 1 %: interval above 1 %, %", "below", "attack taken", "CPU s an audit")


def null_target(seed: int, kind: str, n: int, share: float) -> AuditTarget:
    """A model that trained on other records, audited on n of which a share are said to be its members."""
    from sklearn.linear_model import LogisticRegression

    columns, c = KINDS[kind]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * n, columns))
    y = (x[:, 0] + rng.logistic(size=2 * n) > 0).astype(int)
    size = round(share * n)
    model = LogisticRegression(C=c, max_iter=300).fit(x[n : n + size], y[n : n + size])
    pool = Records(x[:n], y[:n], np.array([f"row:{i}" for i in range(n)]))
    audited = AuditedModel("memory", None, None, None, None, "sklearn", model)
    recipe = make_recipe(model, task="classification")
    return AuditTarget(audited, pool, np.arange(n) < size, "classification", recipe=recipe)


def trial(seed: int, kind: str, n: int, share: float, references: int) -> dict[str, Any]:
    """The verdict's attack and its two intervals, of one audit by defaults."""
    options = AuditOptions(
        num_ref_models=references, headline="auto", random_seed=seed, progress=False, blind_baseline=False,
        device="cpu", n_workers=1, allow_unfamiliar_members=True,
    )  # fmt: skip
    began = time.process_time()
    result = audit(null_target(seed, kind, n, share), options)
    metrics = next(attack for attack in result.attacks if attack.name == result.headline).metrics
    ends = {key: [metrics[key].low, metrics[key].high] for key in ("auc", TPR) if metrics[key].resolvable}
    return {"attack": result.headline, "s": time.process_time() - began, **ends}


def rates(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Shares of intervals that lie above and below the truth.

    >>> rates([{"auc": [0.51, 0.6]}, {"auc": [0.4, 0.6]}])
    {'auc above': 0.5, 'auc below': 0.0}
    """
    out = {}
    for key, truth in (("auc", 0.5), (TPR, 0.01)):
        ends = np.array([row[key] for row in rows if key in row])
        if len(ends):
            name = "auc" if key == "auc" else "tpr"
            out |= {
                f"{name} above": float((ends[:, 0] > truth).mean()),
                f"{name} below": float((ends[:, 1] < truth).mean()),
            }
    return out


def line(case: tuple[Any, ...], rows: Sequence[dict[str, Any]]) -> str:
    """A row of the table."""
    kind, n, share, references = case
    found = {key: f"{100 * value:.1f}" for key, value in rates(rows).items()}
    taken = collections.Counter(row["attack"] for row in rows).most_common()
    cells = [
        kind, f"{n:,}", f"{share:g}", str(references), str(len(rows)),
        f"{100 * sum(value for key, value in rates(rows).items() if key.startswith('auc')):.1f}",
        found["auc above"], found.get("tpr above", "–"), found.get("tpr below", "–"),
        ", ".join(f"{name} {count}" for name, count in taken), f"{np.mean([row['s'] for row in rows]):.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))), help="numbers of CASES")
    parser.add_argument("--output", type=Path, help="every interval, as JSON; what is in it is not audited again")
    given = parser.parse_args()
    kept = json.loads(given.output.read_text()) if given.output is not None and given.output.is_file() else {}
    titles = ("references", "records", "share", "number", "audits", "AUC: interval excludes ½, %", "above", *_TITLES)
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    for number in given.cases:
        case = CASES[number]
        rows = kept.setdefault(" ".join(map(str, case)), [])
        for seed in range(len(rows), given.trials):
            rows.append(trial(seed, *case))
            if given.output is not None and (seed % 20 == 19 or seed + 1 == given.trials):
                given.output.write_text(json.dumps(kept))
        print(line(case, rows[: given.trials]), flush=True)


if __name__ == "__main__":
    main()
