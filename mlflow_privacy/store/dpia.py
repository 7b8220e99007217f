"""The fields of an impact assessment that a controller filled in, kept with the audit that they were given to."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_privacy.report.dpia import form_text, kept_texts
from mlflow_privacy.store.quiet import no_artifact_bars
from mlflow_privacy.store.tags import DPIA, MODEL_ID, MODEL_NAME
from mlflow_privacy.types import AuditedModel

_logger = logging.getLogger(__name__)
FORM = "privacy_dpia.yaml"  # beside the report, where whoever opens the run sees it
_PAGE = 100


def write_form(texts: Mapping[str, str], folder: Path) -> str:
    """Writes the form, with what is filled in; its name."""
    (folder / FORM).write_text(form_text(texts), encoding="utf-8")
    return FORM


def kept_form(client: MlflowClient, model: AuditedModel) -> dict[str, str]:
    """What the newest audit of this model, of whichever version, kept; {} if nothing, or nothing that can be read."""
    query = _query(model)
    if query is None:
        return {}
    try:
        run_id = _newest(client, query)
        if run_id is None:
            return {}
        with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as folder, no_artifact_bars():
            path = Path(client.download_artifacts(run_id, FORM, folder))
            return kept_texts(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (MlflowException, OSError, ValueError, yaml.YAMLError) as error:
        _logger.warning("What was filled into the last impact assessment cannot be read: %s", error)
        return {}


def _query(model: AuditedModel) -> str | None:
    """A search for audits of the registered model, or else of the logged model, whose form holds something."""
    tag, value = (MODEL_NAME, model.name) if model.name else (MODEL_ID, model.model_id)
    if not value or "'" in value:
        return None
    return f"tags.`{DPIA}` = 'filled' and tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"


def _newest(client: MlflowClient, query: str) -> str | None:
    """The newest run of any experiment that the query finds."""
    found, token = [], None
    while True:
        experiments = client.search_experiments(page_token=token, max_results=_PAGE)
        runs = client.search_runs(
            [e.experiment_id for e in experiments], query, max_results=1, order_by=["attributes.start_time DESC"]
        )
        found += [(run.info.start_time, run.info.run_id) for run in runs]
        token = experiments.token
        if not token:
            return max(found)[1] if found else None
