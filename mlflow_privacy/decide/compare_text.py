"""A comparison in words: `Comparison` to sentences and Markdown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlflow_privacy.report.text import escape_markdown, plain_text
from mlflow_privacy.types import Estimate

if TYPE_CHECKING:
    from mlflow_privacy.decide.comparison import Comparison, Pair


def signed(estimate: Estimate, digits: int = 3) -> str:
    """A difference with its interval, signs written out.

    >>> signed(Estimate(0.0921, 0.06, 0.124, 900)), signed(Estimate(-0.01, -0.03, 0.01, 900), 2)
    ('+0.092 [+0.060, +0.124]', '−0.01 [−0.03, +0.01]')
    """
    if not estimate.resolvable:
        return "not resolvable"
    value, low, high = (_sign(v, digits) for v in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def p_text(p: float) -> str:
    """A p-value for people.

    >>> p_text(0.00001), p_text(0.0312), p_text(0.4), p_text(float("nan"))
    ('p < 0.001', 'p = 0.031', 'p = 0.40', '–')
    """
    if math.isnan(p):
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def pair_sentence(comparison: Comparison, pair: Pair) -> str:
    """Which of two models gives away more, or that no difference is shown and how large a one is ruled out."""
    one, two = (plain_text(comparison.audits[i].label) for i in (pair.first, pair.second))
    gap, level = pair.auc_difference.estimate, 1 - comparison.confidence
    adjusted = " after Holm's correction" if len(comparison.pairs) > 1 else ""
    figures = f"{signed(gap)} ({p_text(pair.auc_p_holm)}{adjusted})"
    if pair.auc_p_holm < level:
        more, less = (two, one) if gap.value > 0 else (one, two)
        return (
            f"{more} gives away more about its training data than {less}: AUC {pair.auc[0].value:.3f} of {one}, "
            f"{pair.auc[1].value:.3f} of {two}, a difference of {figures}."
        )
    if gap.value == gap.low == gap.high == 0:
        return f"{one} and {two} order these records in the same way: AUC {pair.auc[0].value:.3f} of both."
    most = max(abs(gap.low), abs(gap.high))
    return (
        f"No difference in AUC between {one} and {two} is shown: {figures}. A difference beyond {most:.3f} is "
        f"ruled out at {100 * comparison.confidence:g} % confidence."
    )


def tpr_sentences(comparison: Comparison, pair: Pair) -> list[str]:
    """One sentence per FPR at which the two models differ."""
    one, two = (plain_text(comparison.audits[i].label) for i in (pair.first, pair.second))
    out = []
    for fpr, gap in pair.tpr_differences.items():
        if pair.tpr_p_holm[fpr] < 1 - comparison.confidence:
            a, b = (100 * e.value for e in pair.tpr[fpr])
            out.append(
                f"At {100 * fpr:g} % false alarms an attacker recognises {a:.1f} % of the members of {one} and "
                f"{b:.1f} % of those of {two} ({p_text(pair.tpr_p_holm[fpr])})."
            )
        elif not gap.estimate.resolvable:
            out.append(f"At {100 * fpr:g} % false alarms the non-members are too few to compare.")
    return out


def unfair_sentence(comparison: Comparison) -> str:
    """What makes the comparison unfair, "" if nothing."""
    if not comparison.unfair:
        return ""
    named = "; ".join(
        f"{plain_text(s.name)} ({' / '.join(plain_text(v, 60) for v in s.values)})" for s in comparison.unfair
    )
    return (
        f"These audits were not made alike, so a difference may be theirs and not the models': {named}. Audit all "
        "versions with the same settings."
    )


def comparison_lines(comparison: Comparison) -> list[str]:
    """The whole verdict, what limits it first."""
    unfair = unfair_sentence(comparison)
    lines = [unfair] if unfair else []
    for pair in comparison.pairs:
        lines += [pair_sentence(comparison, pair), *tpr_sentences(comparison, pair)]
    return lines + list(comparison.notes)


def comparison_markdown(comparison: Comparison) -> str:
    """The verdict as the description of the run."""
    unfair = unfair_sentence(comparison)
    head = [f"**Not a fair comparison.** {escape_markdown(unfair, 1500)}"] if unfair else []
    for pair in comparison.pairs:
        head.append(f"**{escape_markdown(pair_sentence(comparison, pair), 600)}**")
        head += [escape_markdown(line, 600) for line in tpr_sentences(comparison, pair)]
    notes = "\n".join(f"- {escape_markdown(note, 600)}" for note in comparison.notes)
    return "\n\n".join([*head, *([notes] if notes else []), "The page is in the artifact privacy/compare.html."])


def _sign(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("−" if value < 0 else "+") + text
