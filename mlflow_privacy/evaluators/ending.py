"""What an audit ends with: log lines of verdict, warnings and where the report is, and a result that notebooks show."""

from __future__ import annotations

import logging
from typing import Any

from mlflow import MlflowClient
from mlflow.models.evaluation import EvaluationResult

from mlflow_privacy.auditing.said import tell
from mlflow_privacy.report.notebook import notebook_html
from mlflow_privacy.report.text import verdict
from mlflow_privacy.store.places import is_served, readable_path, run_page, where_report
from mlflow_privacy.types import AuditResult

_logger = logging.getLogger(__name__)
_REPORT = "privacy/report"


class PrivacyEvaluationResult(EvaluationResult):
    """MLflow's `EvaluationResult` that notebooks show as verdict, table and warnings."""

    def __init__(self, result: EvaluationResult, html: str) -> None:
        super().__init__(result.metrics, result.artifacts, result.run_id)
        self._html = html

    def _repr_html_(self) -> str:
        return self._html


def shown_result(result: EvaluationResult, audit: AuditResult, run_id: str, experiment_id: str) -> EvaluationResult:
    """The result with all metrics of the audit, and what a notebook shows of it."""
    others = {key: value for key, value in result.metrics.items() if key not in audit.metrics}
    result.metrics.clear()
    result.metrics.update({**others, **audit.metrics})
    uri = _report_uri(result)
    tracking = MlflowClient().tracking_uri
    address = run_page(tracking, experiment_id, run_id, uri.rsplit("/", 1)[-1]) if is_served(tracking) else ""
    return PrivacyEvaluationResult(result, notebook_html(audit, path=readable_path(uri), address=address))


def tell_ending(result: EvaluationResult, audit: AuditResult, run_id: str, experiment_id: str) -> None:
    """Logs verdict, warnings, and where the report is: each line once, by whichever logger is heard."""
    about = f"Privacy audit of {audit.model.label}"
    _tell(logging.INFO, f"{about}: {verdict(audit)}")
    for warning in audit.warnings:
        _tell(logging.WARNING, f"{about}: {warning}")
    if uri := _report_uri(result):
        for line in where_report(MlflowClient().tracking_uri, experiment_id, run_id, uri).splitlines():
            _tell(logging.INFO, line)


def _tell(level: int, line: str) -> None:
    tell(_logger, level, line)


def _report_uri(result: Any) -> str:
    artifact = result.artifacts.get(_REPORT)
    return "" if artifact is None else str(artifact.uri)
