"""The verdict as a piece of HTML for a notebook's cell: no script, no style sheet, everything escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.report.sections.verdict import finding
from mlflow_privacy.report.text import format_estimate, interval_digits, plain_text
from mlflow_privacy.types import AuditResult

_FPRS = (0.1, 0.01, 0.001)
_CELL = 'style="text-align:left;padding:2px 14px 2px 0"'


def notebook_html(result: AuditResult, *, path: str = "", address: str = "") -> str:
    """Verdict, table of attacks, warnings and the way to the report.

    Args:
      path: of the report; address: of its page, "" for none.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> notebook_html(example_result(n=100), path="/tmp/report.html").count("<tr>")
      5
    """
    found = finding(result, {})
    parts = [f"<p>{_bold('Privacy audit of ' + plain_text(result.model.label, 120))}</p>"]
    if found.caution:
        parts.append(f"<p>{_bold(found.caution)}</p>")
    parts.append(f"<p>{_bold(found.sentence)} {escape(found.meaning)}</p>")
    parts.append(_table(result))
    if result.warnings:
        items = "".join(f"<li>{escape(plain_text(warning, 600))}</li>" for warning in result.warnings)
        parts.append(f"<p>What limits this audit:</p><ul>{items}</ul>")
    if path:
        parts.append(f"<p>Report: <code>{escape(path)}</code></p>")
    if address.startswith(("https://", "http://")):
        parts.append(f'<p><a href="{escape(address)}" rel="noopener" target="_blank">Open it in MLflow</a></p>')
    return f"<div>{''.join(parts)}</div>"


def _table(result: AuditResult) -> str:
    """One row an attack, with the rates that the audit was asked for."""
    fprs = [fpr for fpr in _FPRS if any(fpr_key(fpr) in attack.metrics for attack in result.attacks)]
    columns = [("AUC", "auc"), *((f"TPR at {100 * fpr:g}% FPR", fpr_key(fpr)) for fpr in fprs)]
    digits = {key: max(interval_digits(attack.metrics.get(key)) for attack in result.attacks) for _, key in columns}
    rows = [
        [plain_text(attack.title, 60), *(format_estimate(attack.metrics.get(key), digits[key]) for _, key in columns)]
        for attack in result.attacks
    ]
    head = _row(["Attack", *(title for title, _ in columns)], "th")
    return f"<table><thead>{head}</thead><tbody>{''.join(_row(row, 'td') for row in rows)}</tbody></table>"


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag} {_CELL}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _bold(text: str) -> str:
    return f"<b>{escape(text)}</b>"
