"""The report as one self-contained HTML page and as Markdown, both from one `Document` of plain values.

Nothing is loaded from anywhere: style and figures are inside, there is no script, and a content security policy says
so to the browser. What came with the model, its lineage or its data is escaped by the templates themselves; no
template trusts a value.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow_privacy.report import svg
from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.glossary import GLOSSARY
from mlflow_privacy.report.palette import SERIES, variables
from mlflow_privacy.report.sections import build_document
from mlflow_privacy.report.text import escape_markdown, format_estimate, interval_digits, metric_title, plain_text
from mlflow_privacy.types import AuditResult, Estimate, to_json

if TYPE_CHECKING:
    from jinja2 import Environment

_TEXT_LIMIT = 2000
_PAPER = re.compile(r"https://[\w./?=&%-]+")
STATUS = {"ok": ("✓", "fine"), "look": ("!", "caution"), "wrong": ("✗", "wrong"), "unknown": ("?", "not checked")}


def html_report(result: AuditResult, options: ReportOptions | None = None) -> str:
    """The audit as one HTML page for a data protection impact assessment.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> html_report(example_result(n=100))[:15]
      '<!DOCTYPE html>'
    """
    return render_html(to_json(build_document(result, options)))


def markdown_report(result: AuditResult, options: ReportOptions | None = None) -> str:
    """The same content as Markdown, without the figures.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> markdown_report(example_result(n=100)).splitlines()[0]
      '# Privacy audit of example v1'
    """
    return render_markdown(to_json(build_document(result, options)))


def render_html(document: Mapping[str, Any]) -> str:
    """The page of a document's JSON values, such as `json.loads(result_json(result))`."""
    count = itertools.count(1)
    return (
        _environment("html").get_template("report.html.j2").render(d=document, uid=lambda: f"f{next(count)}").strip()
        + "\n"
    )


def render_markdown(document: Mapping[str, Any]) -> str:
    """The Markdown of a document's JSON values."""
    text = _environment("markdown").get_template("report.md.j2").render(d=document)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def as_estimate(value: Mapping[str, Any] | None) -> Estimate | None:
    """An estimate from its JSON; null becomes NaN."""
    if value is None:
        return None
    middle, low, high = (_number(value[key]) for key in ("value", "low", "high"))
    return Estimate(middle, low, high, int(value["n"]), float(value["confidence"]), bool(value["resolvable"]))


def column_digits(estimates: Sequence[Mapping[str, Any] | None]) -> int:
    """Decimals for all figures of one column."""
    return max((interval_digits(as_estimate(e)) for e in estimates), default=2)


@functools.lru_cache(maxsize=2)
def _environment(kind: str) -> Environment:
    """Templates that escape every value: HTML by Jinja's own rules, Markdown by `escape_markdown`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    page = kind == "html"

    def finish(value: Any) -> Any:
        """Every value on its way out: one printable line, cut; in Markdown also escaped."""
        if value is None:
            return "–"
        if isinstance(value, Markup):
            return value
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            value = json.dumps(value, ensure_ascii=False)
        if isinstance(value, str):
            return plain_text(value, _TEXT_LIMIT) if page else Markup(escape_markdown(value, _TEXT_LIMIT))
        return value

    environment = Environment(
        loader=PackageLoader("mlflow_privacy.report", "templates"),
        autoescape=page,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finish,
        optimized=False,  # to look for constants takes as long as the rest of compiling, and each process compiles once
    )

    def ours(text: str) -> str:
        """Our own numbers and words, which Markdown need not protect."""
        return Markup(text) if not page else text

    environment.filters |= {
        "cut": lambda text, limit=120: plain_text(text, limit),
        "figure": lambda value, digits=None: ours(format_estimate(as_estimate(value), digits)),
        "share": lambda value: ours(_share(as_estimate(value))),
        "percent": lambda value: ours(_percent(value)),
        "thousands": lambda value: ours(f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"),
        "score": lambda value: ours(_score(value)),
        "mean": lambda value: ours("–" if value is None else f"{_number(value):,.3f}"),
        "plain": lambda value: ours(f"{value:.6g}"),
        "seconds": lambda value: ours(f"{_number(value):,.1f} s"),
        "metric_title": metric_title,
        "tpr_keys": _tpr_keys,
        "paper_parts": _paper_parts,
        "link": lambda paper: Markup(_markdown_paper(paper)),
        "code": lambda text: Markup(_code(text)) if not page else text,
        "ours": ours,
        "lines": lambda text: Markup("<br>" if page else " / ").join(map(finish, text.splitlines())),
    }
    environment.globals |= {
        "STATUS": STATUS,
        "GLOSSARY": GLOSSARY,
        "column_digits": column_digits,
        "as_estimate": as_estimate,
        "variables": lambda theme: Markup(variables(theme)),
        "n_series": len(SERIES["light"]),
        "auc_axis": _auc_axis,
        "svg": {
            name: _marked(getattr(svg, name)) for name in ("crowd", "roc", "histogram", "whisker", "swatch", "curve")
        },
    }
    return environment


def _marked(draw: Any) -> Any:
    """A function whose SVG, which it has escaped, goes into the page as it is."""
    from markupsafe import Markup

    return lambda *args, **kwargs: Markup(draw(*args, **kwargs))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _percent(value: float) -> str:
    """0.001 as "0.1%"."""
    return f"{100 * value:.4g}%"


def _score(value: Any) -> str:
    """Four decimals, or four digits of what is very large or small."""
    number = _number(value)
    if math.isnan(number):
        return "–"
    return f"{number:.4f}" if 0.001 <= abs(number) < 1000 or number == 0 else f"{number:.4g}"


def _share(estimate: Estimate | None) -> str:
    """A rate in per cent with its interval: "4.2% [3.1, 5.5]"."""
    if estimate is None:
        return "–"
    if not estimate.resolvable or not math.isfinite(estimate.value):
        return "not resolvable"
    digits = max(interval_digits(estimate) - 2, 1)
    value, low, high = (f"{100 * v:.{digits}f}" for v in (estimate.value, estimate.low, estimate.high))
    return f"{value}% [{low}, {high}]"


def _tpr_keys(attacks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of the TPRs that any attack has, in their order."""
    return list(dict.fromkeys(k for attack in attacks for k in attack["metrics"] if k.startswith("tpr_at_fpr_")))


def _paper_parts(paper: str) -> tuple[str, str]:
    """Words and address of a paper; the address is empty unless it is a plain https one."""
    found = _PAPER.search(paper)
    if not found:
        return paper, ""
    words = paper[: found.start()].strip(" ,") or found.group().removeprefix("https://")
    return words, found.group()


def _markdown_paper(paper: str) -> str:
    """Words, and the address as an autolink if it is a plain https one."""
    words, address = _paper_parts(paper)
    if not address:
        return escape_markdown(words)
    return f"<{address}>" if words in address else f"{escape_markdown(words)}, <{address}>"


def _code(text: object) -> str:
    from mlflow_privacy.report.text import code_span

    return code_span(text, _TEXT_LIMIT)


def _auc_axis(slicing: Mapping[str, Any], overall: Mapping[str, Any]) -> tuple[float, float]:
    """An axis that holds the AUCs of a slicing and 0.5."""
    ends = [_number(row["auc"][key]) for row in slicing["rows"] for key in ("low", "high")]
    ends = [e for e in [*ends, 0.5, _number(overall["value"])] if math.isfinite(e)]
    return min(ends), max(ends)
