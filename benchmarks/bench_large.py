"""Memory and time of an audit from many references at a large pool: everything but the training.

    OMP_NUM_THREADS=1 python benchmarks/bench_large.py [--records 1000000] [--references 256]

The pool has four columns, the target is a real logistic regression on it, and the references' answers are drawn, by the
membership that the design gives each. From there it is the audit itself: signals side by side, four attacks, metrics
with their intervals, then the report, its figures and tables. Peak memory is the process's (resident set).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.auditing.references import References
from mlflow_privacy.design import Design
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditResult, AuditTarget, ModelOutputs, Records


def drawn_references(n: int, count: int, design: Design) -> References:
    """`count` references whose φ is a record's difficulty, plus 1.5 for members, plus noise."""
    difficulty = np.random.default_rng(0).normal(2, 2, n).astype(np.float32)
    rows = design.rows(range(count))
    outputs = []
    for index, row in enumerate(rows):
        noise = np.random.default_rng((1, index)).standard_normal(n, np.float32)
        phi = difficulty + np.float32(1.5) * row + noise
        outputs.append(ModelOutputs(phi, phi > 0, np.logaddexp(np.float32(0), -phi), "logit"))
    return References(
        member=rows.T,
        pool=tuple(outputs),
        population=(),
        run_ids=tuple(f"drawn-{i}" for i in range(count)),
        n_loaded=count,
        n_trained=0,
        fingerprint="0" * 64,
        rows=rows,
    )


def make_target(n: int) -> AuditTarget:
    """A logistic regression on half of n records of four columns."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    x = rng.standard_normal((n, 4), np.float32)
    y = (x[:, 0] + rng.standard_normal(n) > 0).astype(np.int64)
    member = rng.permutation(n) < n // 2
    model = LogisticRegression().fit(x[member], y[member])
    pool = Records(x, y, np.array([f"train:{i}" for i in range(n)]))
    audited = AuditedModel("memory", None, None, None, None, "sklearn", model)
    return AuditTarget(audited, pool, member, "classification", recipe=make_recipe(model, task="classification"))


def peak_mb() -> float:
    """Largest resident set of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


def report(result: AuditResult, folder: Path) -> dict[str, Callable[[], Any]]:
    """What `store.results` writes of an audit, one step at a time."""
    from mlflow_privacy.report.figures import roc_figure, score_histograms
    from mlflow_privacy.report.html import render_html, render_markdown
    from mlflow_privacy.report.schema import result_json
    from mlflow_privacy.report.tables import roc_csv, scores_table

    return {
        "roc.png": lambda: roc_figure(result),
        "scores_histogram.png": lambda: score_histograms(result),
        "roc.csv": lambda: (folder / "roc.csv").write_bytes(roc_csv(result)),
        "scores.parquet": lambda: scores_table(result).to_parquet(folder / "scores.parquet", index=False),
        "report": lambda: [render(json.loads(result_json(result))) for render in (render_html, render_markdown)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--references", type=int, default=256)
    parser.add_argument("--blind", action="store_true", help="with the blind baseline, which takes 20,000 records")
    args = parser.parse_args()
    print(
        f"{args.records:,} records × {args.references} references; {platform.python_version()}, NumPy {np.__version__}"
    )
    print("| step | s | peak MB |\n| --- | --- | --- |", flush=True)

    def row(step: str, seconds: float) -> None:
        print(f"| {step} | {seconds:.2f} | {peak_mb():,.0f} |", flush=True)

    started = time.perf_counter()
    target = make_target(args.records)
    row("(pool and target)", time.perf_counter() - started)

    def ensure(pool: Records, recipe: Any, design: Design, count: int, **_: Any) -> References:
        return drawn_references(len(pool), count, design)

    options = AuditOptions(num_ref_models=args.references, blind_baseline=args.blind, progress=False, data_size="all")
    with mock.patch("mlflow_privacy.auditing.references.ensure", ensure):
        started = time.perf_counter()
        result = audit(target, options)
    for step, seconds in result.timings.items():
        row(f"({step}, drawn)" if step == "references" else step, seconds)
    row("audit in all", time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as folder:
        for step, write in report(result, Path(folder)).items():
            started = time.perf_counter()
            write()
            row(step, time.perf_counter() - started)
    print("AUC " + ", ".join(f"{attack.name} {attack.metrics['auc'].value:.4f}" for attack in result.attacks))


if __name__ == "__main__":
    main()
