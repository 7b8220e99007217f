"""A comparison of audits as an MLflow run: page, numbers, verdict."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from mlflow_privacy.decide.compare_html import comparison_html
from mlflow_privacy.decide.compare_text import comparison_lines, comparison_markdown
from mlflow_privacy.report.text import plain_text
from mlflow_privacy.store.experiments import experiment_named
from mlflow_privacy.store.results import FOLDER, NOTE_TAG
from mlflow_privacy.store.tags import HEADLINE, ROLE
from mlflow_privacy.store.turns import taking_turns
from mlflow_privacy.types import to_json

if TYPE_CHECKING:
    from mlflow_privacy.decide.comparison import Comparison


@taking_turns()
def publish_comparison(
    comparison: Comparison, *, experiment: str | None = None, client: MlflowClient | None = None
) -> str:
    """Writes a comparison as a run of its own; the audited versions stay as they are.

    Args:
      experiment: its name, created if there is none; default: the experiment of the first audit.

    Returns: the run's id.
    """
    client = client or MlflowClient()
    if experiment is None:
        experiment_id = client.get_run(comparison.audits[0].run_id).info.experiment_id
    else:
        experiment_id = experiment_named(client, experiment)
    labels = [audit.label for audit in comparison.audits]
    name = plain_text(f"compare {', '.join(labels)}", 200)
    run_id = client.create_run(experiment_id, run_name=name).info.run_id
    try:
        now = int(time.time() * 1000)
        tags = {
            ROLE: "comparison",
            "privacy.models": plain_text(" ".join(audit.uri for audit in comparison.audits), 4000),
            "privacy.audit_runs": " ".join(audit.run_id for audit in comparison.audits),
            HEADLINE: plain_text(comparison_lines(comparison)[0], 1000),
            "privacy.fair": "no" if comparison.unfair else "yes",
            NOTE_TAG: comparison_markdown(comparison)[:5000],
        }
        client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, 0) for key, value in comparison.metrics.items()],
            params=[Param("attack", comparison.attack), Param("confidence", f"{comparison.confidence:g}")],
            tags=[RunTag(key, value) for key, value in tags.items()],
            synchronous=True,
        )
        with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as local:
            folder = Path(local) / FOLDER
            folder.mkdir()
            (folder / "compare.html").write_text(comparison_html(comparison), encoding="utf-8")
            text = json.dumps(comparison_json(comparison), indent=2, allow_nan=False, ensure_ascii=False)
            (folder / "compare.json").write_text(text, encoding="utf-8")
            client.log_artifacts(run_id, local)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return run_id


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Everything but the curves, as plain JSON values."""
    pairs = []
    for pair in comparison.pairs:
        values = to_json(pair)
        del values["rocs"]
        pairs.append(values)
    return {
        "schema_version": 1,
        "verdict": comparison_lines(comparison),
        "attack": comparison.attack,
        "confidence": comparison.confidence,
        "audits": [
            {"uri": a.uri, "label": a.label, "run_id": a.run_id, "audited_at": a.audited_at} for a in comparison.audits
        ],
        "settings": to_json(comparison.settings),
        "pairs": pairs,
    }
