"""Why data that was found may not be the data that was logged, though nothing contradicts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_privacy.lineage.parts import Part

if TYPE_CHECKING:
    from mlflow import MlflowClient


def weakly_verified(client: MlflowClient, run: Any, parts: Sequence[Part]) -> tuple[list[str], list[str]]:
    """Sentences for the report about data that MLflow's digest covers in part, and those of them about the members."""
    notes, doubts = [], []
    for part in parts:
        if part.status != "weakly verified" or part.complete:
            continue
        text = f'The data "{part.name}" at {part.source} is verified weakly, by {part.compared}. '
        earlier = _first_run(client, run, part)
        if earlier:
            text += (
                f"Run {earlier} logged a data set of this name and digest before, and MLflow keeps the source of the "
                "first one only: if the two differ where the digest does not look, this is the other run's data. "
            )
        text += "mlflow_privacy.log_lineage keeps a SHA-256 of all values, and a source of its own."
        notes.append(text)
        if part.role == "train":
            doubts.append(text)
    return notes, doubts


def _first_run(client: MlflowClient, run: Any, part: Part) -> str:
    """The first run that logged a data set of this name and digest, "" if it is this one or cannot be found."""
    from mlflow.exceptions import MlflowException

    if run is None or "'" in part.name or "'" in str(part.digest):
        return ""
    query = f"dataset.name = '{part.name}' and dataset.digest = '{part.digest}'"
    try:
        found = client.search_runs(
            [run.info.experiment_id], query, order_by=["attributes.start_time ASC"], max_results=1
        )
    except MlflowException:  # a store that cannot search by data sets
        return ""
    return "" if not found or found[0].info.run_id == run.info.run_id else str(found[0].info.run_id)
