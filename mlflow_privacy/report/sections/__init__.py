"""An `AuditResult` to the `Document` of its report, section by section. Arrays to plain values; no templates here."""

from mlflow_privacy.report.sections.build import build_document, check_thresholds

__all__ = ["build_document", "check_thresholds"]
