"""Results to bytes: figures, tables and the verdict in words, made from an `AuditResult` alone.

Sections of one's own are added with `report_section`, or by an installed package; see `report.added`.
"""

from mlflow_privacy.report.added import report_section
from mlflow_privacy.report.document import Section, Table

__all__ = ["Section", "Table", "report_section"]
