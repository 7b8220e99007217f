"""What becomes of sixty kinds of models and lineage: docs/models.md, from real audits.

    python benchmarks/bench_models.py --write docs/models.md

Each kind of `model_kinds.py` is trained, logged, registered and audited. Beside it stands the AUC of the loss attack as
computed there, from the model in memory and its framework's own outputs. Kinds whose packages are not installed
(xgboost, lightgbm, catboost, keras, onnxruntime, skorch, statsmodels) are left out, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import mlflow
import numpy as np
from model_kinds import KINDS, Kind, N

import mlflow_privacy
from mlflow_privacy.errors import PrivacyAuditError

TOLERANCE = 0.006  # half a non-member's share, and rounding of float32


_HEAD = """\
# Kinds of models, and what becomes of them

Made by `benchmarks/bench_models.py`, which trains, logs, registers and audits each of these with four reference models.
**works**: with reference models; **weaker**: without, and the verdict says so; **error**: one sentence with the remedy,
printed below; **with an alarm**: members and non-members differ in themselves, and the verdict says so first. *AUC,
loss* is that of the audit's attack by the loss alone (or by the population, which ranks alike), *computed apart* the
same from the model in memory and the outputs of its own framework.

| | kind | outcome | AUC, loss | computed apart | AUC, RMIA |
|---|---|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Row:
    kind: Kind
    outcome: str  # "works" | "weaker" | "clear error" | "raw error" | "differs" | "not made"
    loss_auc: float | None = None
    expected: float | None = None
    rmia_auc: float | None = None
    words: str = ""
    seconds: float = 0.0


def audited(each: Kind) -> Row:
    """One kind, from training to the audit, in a store of its own."""
    began = time.time()
    try:
        made = each.make()
    except Exception as error:  # whatever a framework raises is this script's fault, not the audit's
        return Row(each, "not made", words=f"{type(error).__name__}: {error}")
    options = {"num_ref_models": 4, "progress": False, "device": "cpu", **made.options}
    try:
        result = mlflow_privacy.evaluate(made.uri, **options)
    except PrivacyAuditError as error:
        return Row(each, "clear error", words=str(error), seconds=time.time() - began)
    except Exception as error:  # the very thing that is looked for
        return Row(each, "raw error", words=f"{type(error).__name__}: {error}", seconds=time.time() - began)
    metrics = result.metrics
    loss = metrics.get("privacy/loss/auc", metrics.get("privacy/population/auc"))
    if loss is None:  # no default where there are references
        loss = mlflow_privacy.evaluate(made.uri, **{**options, "attacks": ["loss"]}).metrics.get("privacy/loss/auc")
    expected = None if made.losses is None else auc(made.losses)
    outcome = "works" if "privacy/rmia/auc" in metrics else "weaker"
    if metrics.get("privacy/blind/auc_low", 0.0) > 0.5:
        outcome += ", with an alarm"
    if loss is not None and expected is not None and abs(loss - expected) > TOLERANCE:
        outcome = "differs"
    return Row(each, outcome, loss, expected, metrics.get("privacy/rmia/auc"), seconds=time.time() - began)


def auc(losses: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.arange(2 * N) < N, -losses))


def missing(each: Kind) -> list[str]:
    return [name for name in each.needs if importlib.util.find_spec(name) is None]


def as_markdown(rows: list[Row]) -> str:
    """The table, group by group, and the words of each error below."""
    out = _HEAD.splitlines()
    said = []
    for row in rows:
        outcome = row.outcome
        if row.words:
            said.append(row)
            outcome = f"{outcome.replace('clear ', '')} [{len(said)}](#{len(said)})"
        cells = [row.kind.group, row.kind.name, outcome]
        cells += ["" if value is None else f"{value:.3f}" for value in (row.loss_auc, row.expected, row.rmia_auc)]
        out.append("| " + " | ".join(cells) + " |")
    out += ["", "## What the errors say", ""]
    for i, row in enumerate(said, 1):
        words = " ".join(row.words.replace(str(Path.cwd()), "FOLDER").split())
        out.append(f'{i}. <a id="{i}"></a>{row.kind.name}: {words}')
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", help="the page")
    parser.add_argument("--only", nargs="*", default=(), help="words of the kinds' names or groups")
    given = parser.parse_args()
    page = None if given.write is None else Path(given.write).resolve()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("models", artifact_location=f"{folder}/artifacts")
        mlflow.set_experiment(experiment_id=experiment)
        for each in KINDS:
            if given.only and not any(word in f"{each.group} {each.name}" for word in given.only):
                continue
            if missing(each):
                print(f"{each.group}: {each.name}: needs {', '.join(missing(each))}", flush=True)
                continue
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                row = audited(each)
            rows.append(row)
            shown = [f"{v:.3f}" for v in (row.loss_auc, row.expected, row.rmia_auc) if v is not None]
            print(
                f"{row.seconds:5.1f} s {row.outcome:12} {each.group}: {each.name} {' '.join(shown)} {row.words[:300]}",
                flush=True,
            )
        if page is not None:
            page.write_text(as_markdown(rows), encoding="utf-8")
        os.chdir("/")
    if any(row.outcome in ("raw error", "differs", "not made") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
