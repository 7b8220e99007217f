"""The page of a comparison: `Comparison` to one HTML file without scripts, fonts or anything from elsewhere."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Any

from mlflow_privacy.decide.compare_text import p_text, pair_sentence, signed, tpr_sentences
from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.report import svg
from mlflow_privacy.report.palette import SERIES, variables
from mlflow_privacy.report.sections.attacks import thin_roc
from mlflow_privacy.report.text import format_estimate, plain_text
from mlflow_privacy.types import Estimate, to_json

if TYPE_CHECKING:
    from mlflow_privacy.decide.comparison import Comparison, Pair
    from mlflow_privacy.store.audits import StoredAudit


def comparison_html(comparison: Comparison) -> str:
    """The page, self-contained.

    Names, labels and row ids come from whoever may log a run; the template escapes all of them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("mlflow_privacy.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tied"] = tied
    environment.globals |= {"variables": lambda theme: Markup(variables(theme)), "n_series": len(SERIES["light"])}
    return environment.get_template("compare.html.j2").render(**page_values(comparison))


def tied(text: str) -> str:
    """Figures that no line break tears apart: no-break spaces in intervals, p-values and percentages.

    >>> tied("0.5 [0.4, 0.6] (p = 0.20), 5 %").split(" ")
    ['0.5', '[0.4,\\xa00.6]', '(p\\xa0=\\xa00.20),', '5\\xa0%']
    """
    text = re.sub(r", (?=[+−]?[\d.]+\])", ",\u00a0", text)
    return re.sub(r"\bp ([=<]) ", "p\u00a0\\1\u00a0", text).replace(" %", "\u00a0%")


def page_values(comparison: Comparison) -> dict[str, Any]:
    """Everything the template prints, as text."""
    from markupsafe import Markup

    labels = [plain_text(audit.label) for audit in comparison.audits]
    pairs = [
        {
            "title": f"{labels[pair.second]} against {labels[pair.first]}",
            "sentence": pair_sentence(comparison, pair),
            "more": tpr_sentences(comparison, pair),
            "basis": _basis(pair),
            "first": labels[pair.first],
            "second": labels[pair.second],
            "rows": _difference_rows(pair, comparison),
            # `report.svg` escapes what it draws.
            "curves": [(kind, Markup(drawn)) for kind, drawn in _figures(pair, labels)],
            "legend": [
                (Markup(svg.swatch(i, labels[k], f"k{pair.second}-{i}")), labels[k])
                for i, k in enumerate((pair.first, pair.second))
            ],
            "worse": [
                (plain_text(r.row_id, 60), plain_text(r.label, 40), _rate(r.before, pair), _rate(r.after, pair))
                for r in pair.worse
            ],
        }
        for pair in comparison.pairs
    ]
    attack = comparison.audits[0].findings["attacks"][comparison.attack]
    return {
        "title": f"Privacy of {' and '.join(labels) if len(labels) == 2 else ', '.join(labels)} compared",
        "labels": labels,
        "attack": plain_text(attack.get("title") or comparison.attack, 60),
        "confidence": f"{100 * comparison.confidence:g} %",
        "many": len(pairs) > 1,
        "unfair": [(plain_text(s.name, 60), [plain_text(v, 80) for v in s.values]) for s in comparison.unfair],
        "other": [
            (plain_text(s.name, 60), [plain_text(v, 120) for v in s.values])
            for s in comparison.settings
            if not s.unfair
        ],
        "notes": [plain_text(note, 600) for note in comparison.notes],
        "pairs": pairs,
        "audits": _audit_rows(comparison),
        "fidelity": _fidelity_rows(comparison),
    }


def _difference_rows(pair: Pair, comparison: Comparison) -> list[tuple[str, str, str, str, str]]:
    rows = [("AUC", pair.auc, pair.auc_difference, pair.auc_p_holm)]
    rows += [
        (f"TPR at {100 * fpr:g} % FPR", pair.tpr[fpr], gap, pair.tpr_p_holm[fpr])
        for fpr, gap in pair.tpr_differences.items()
    ]
    return [
        (name, format_estimate(a, 3), format_estimate(b, 3), signed(gap.estimate), _both_p(gap.p_value, adjusted))
        for name, (a, b), gap, adjusted in rows
    ]


def _both_p(p: float, adjusted: float) -> str:
    first, second = p_text(p), p_text(adjusted)
    return first if first == second else f"{first}; adjusted {second.removeprefix('p ').removeprefix('= ')}"


def _basis(pair: Pair) -> str:
    counts = f"{pair.n_members:,} members and {pair.n_nonmembers:,} non-members"
    if not pair.paired:
        return f"Unpaired, on all records of either; the smaller of the two has {counts}."
    left = f" {pair.n_moved:,} records that only one of them trained on are left out." if pair.n_moved else ""
    return f"Paired, on the {counts} that both audits hold with the same status.{left}"


def _figures(pair: Pair, labels: list[str]) -> list[tuple[str, str]]:
    """Both models' ROC, linear and log-log."""
    curves = [
        {"title": labels[k], "roc": to_json(thin_roc(roc, pair.n_nonmembers))}
        for k, roc in zip((pair.first, pair.second), pair.rocs)
    ]
    kinds = (("Linear", False), ("Log-log: what few false alarms allow", True))
    return [
        (title, svg.roc(curves, pair.n_members, pair.n_nonmembers, log=log, name=f"r{pair.second}-{int(log)}"))
        for title, log in kinds
    ]


def _rate(rate: float, pair: Pair) -> str:
    """A false-positive rate; 0 is only known to be below one non-member."""
    one = 1 / pair.n_nonmembers
    return (
        f"below {100 * one:.2g} %"
        if rate < one / 2
        else f"{100 * rate:.1f} %"
        if rate > 0.01
        else f"{100 * rate:.2g} %"
    )


def _audit_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Each audit's own figures, a column per audit."""
    columns = [_audit_column(audit, comparison.attack) for audit in comparison.audits]
    return [(name, [column[name] for column in columns]) for name in columns[0]]


def _audit_column(audit: StoredAudit, attack: str) -> dict[str, str]:
    rows, references = audit.record["rows"], audit.record["references"]
    when = datetime.datetime.fromtimestamp(audit.audited_at / 1000, datetime.timezone.utc)
    found = audit.findings["attacks"][attack]["metrics"]
    return {
        "audited": f"{when:%Y-%m-%d %H:%M} UTC",
        "members / non-members": f"{rows.get('members', 0):,} / {rows.get('nonmembers', 0):,}",
        "reference models": plain_text(references.get("n", "–")),
        "AUC": format_estimate(_estimate(found.get("auc"))),
        "TPR at 1 % FPR": format_estimate(_estimate(found.get(fpr_key(0.01)))),
        "blind baseline, AUC": format_estimate(_estimate(audit.findings.get("blind"))),
        "audit run": plain_text(audit.run_id, 40),
    }


def _fidelity_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Accuracy and loss of target and references on members and non-members, a column per audit."""
    each = [audit.findings["fidelity"] for audit in comparison.audits]
    rows = []
    for what in ("accuracy", "r2", "loss"):
        for who, title in (("target", "target"), ("reference", "references, mean")):
            cells = []
            for fidelity in each:
                values = [(fidelity.get(who) or {}).get(f"{side}_{what}") for side in ("member", "nonmember")]
                cells.append(" / ".join("–" if v is None else f"{v:.3f}" for v in values))
            if any(cell != "– / –" for cell in cells):
                rows.append((f"{what}, {title}", cells))
    return rows


def _estimate(value: Any) -> Estimate | None:
    """An estimate as metrics.json holds it."""
    if not isinstance(value, dict):
        return None
    figure, low, high = (float("nan") if value.get(k) is None else float(value[k]) for k in ("value", "low", "high"))
    return Estimate(figure, low, high, int(value["n"]), float(value["confidence"]), bool(value["resolvable"]))
