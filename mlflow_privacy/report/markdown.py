"""The verdict as Markdown for a model version's description, and the block in it that this package owns."""

from __future__ import annotations

import json
import re

from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.report.sections.checks import far_off, turned_round
from mlflow_privacy.report.text import (
    blind_differs,
    code_span,
    escape_markdown,
    format_estimate,
    group_verdict,
    headline_attack,
    interval_digits,
    overall_verdict,
)
from mlflow_privacy.types import AuditResult

# The version list prints the first line of a description as it stands, so that line begins with words.
TITLE = "Privacy audit"
BEGIN, END = "<!-- mlflow-privacy:begin -->", "<!-- mlflow-privacy:end -->"
# A complete block. A begin marker inside it means that the first one lost its end: then only the last one is ours.
_BEGIN = r"<!--[ \t]*mlflow-privacy:begin[ \t]*-->"
_BLOCK = re.compile(rf"(?:{TITLE} )?{_BEGIN}(?:(?!{_BEGIN}).)*?<!--[ \t]*mlflow-privacy:end[ \t]*-->", re.DOTALL)
# The registry's SQL column; counted in characters.
DESCRIPTION_LIMIT = 5000
_REPORT = "privacy_report.html"  # at the root of the run's files
_TABLE_FPRS = (0.1, 0.01, 0.001)


def markdown_verdict(
    result: AuditResult, *, experiment_id: str | None = None, run_id: str | None = None, max_warnings: int = 4
) -> str:
    """A short Markdown text: verdict, table of attacks, what limits them, where to find more and how to repeat it.

    If members and non-members differ without the model, that comes first, since every figure below then rests on
    it. No line holds a break, because MLflow's page renders each as one. Whatever came with the model or its
    lineage is escaped.

    Args:
      experiment_id, run_id: of the audit run, for a link inside MLflow's pages; no link without them.
      max_warnings: how many of the result's warnings to print; further ones are counted.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> print(markdown_verdict(example_result(n=400)).splitlines()[0])
      **Of 100 records used in training, an attacker who accepts one false alarm in 10 recognises between 23 ...**
    """
    # The result's own warning about the blind baseline would only repeat the alarm above the table.
    warnings = [w for w in result.warnings if not (blind_differs(result) and str(result.blind) in w)]
    warnings = [w for w in warnings if w not in (far_off(result), turned_round(result))]  # they stand above, too
    parts = [*_head(result), *_games(result), _table(result), "\n".join(f"- {line}" for line in _limits(result))]
    if warnings:
        listed = [f"- {escape_markdown(w, 600)}" for w in warnings[:max_warnings]]
        if len(warnings) > max_warnings:
            listed.append(f"- … and {len(warnings) - max_warnings} more, in privacy/audit.json of the audit run")
        parts.append("What limits this audit:\n\n" + "\n".join(listed))
    parts.append(_footer(result, experiment_id, run_id))
    return "\n\n".join(parts)


def brief_verdict(result: AuditResult, *, experiment_id: str | None = None, run_id: str | None = None) -> str:
    """`markdown_verdict` without its table and lists, for a description that has little room left."""
    link = _link(experiment_id, run_id)
    return "\n\n".join([*_head(result), *_games(result), *([link] if link else [])])


def replace_block(description: str | None, blocks: tuple[str, ...], limit: int = DESCRIPTION_LIMIT) -> str | None:
    """Puts the first of `blocks` that fits into the description, and touches nothing that a person wrote.

    The text between this package's two markers is its own: the first such block is replaced, further ones are
    emptied (their markers stay, lest markers around them pair up anew); without one, the new block goes to the end.
    A marker that lost its partner counts as a person's text, and stays.

    Args:
      description: as the registry has it; None counts as empty.
      blocks: contents to try, the fullest first.
      limit: characters the description may have.

    Returns: the new description, or None if not even the last block fits.

    Example:
      >>> text = replace_block("Ours since May.", ("AUC 0.6",))
      >>> replace_block(text, ("AUC 0.7",)) == text.replace("0.6", "0.7")
      True
    """
    description = description or ""
    newline = "\r\n" if "\r\n" in description else "\n"
    found = list(_BLOCK.finditer(description))
    if found:
        before, after = description[: found[0].start()], _BLOCK.sub(BEGIN + END, description[found[0].end() :])
    else:
        before, after = description + (2 * newline if description.strip() else ""), ""
    for content in blocks:
        block = f"{TITLE} {BEGIN}\n\n{content.strip()}\n\n{END}".replace("\n", newline)
        if len(before) + len(block) + len(after) <= limit:
            return before + block + after
    return None


def _head(result: AuditResult) -> list[str]:
    """The verdict; below what undoes it, if members and non-members differ without the model."""
    said = group_verdict(result, lambda name: escape_markdown(name, 130))
    group = [said] if said else []
    for caution in filter(None, (turned_round(result), far_off(result))):
        begin, sign, rest = caution.partition(": ")
        group = [*group, f"**{begin}{sign}**{escape_markdown(rest, 700)}"]
    if not blind_differs(result):
        return [f"**{overall_verdict(result)}**", *group]
    alarm = (
        "**Members and non-members differ even without the model:** a classifier that sees only the records separates "
        f"them with AUC {format_estimate(result.blind)}. What follows cannot be put down to the model alone."
    )
    return [alarm, overall_verdict(result), *group]


def _games(result: AuditResult) -> list[str]:
    """One line a game: its question and its answer."""
    return [
        f"**{escape_markdown(game.title)}:** {escape_markdown(game.sentence, 900)}" for game in result.games.values()
    ]


def _table(result: AuditResult) -> str:
    """One row per attack, the verdict's in bold; a column per FPR that was asked for, its cells of like digits."""
    fprs = [fpr for fpr in _TABLE_FPRS if any(fpr_key(fpr) in attack.metrics for attack in result.attacks)]
    columns = [("AUC", "auc"), *((f"TPR at {100 * fpr:g}% FPR", fpr_key(fpr)) for fpr in fprs)]
    rows = [["Attack", *(title for title, _ in columns)], ["---"] * (len(columns) + 1)]
    titles = [escape_markdown(attack.title, 60) for attack in result.attacks]
    marked = headline_attack(result).name if len(titles) > 1 else None
    rows += [[f"**{title}**" if attack.name == marked else title] for title, attack in zip(titles, result.attacks)]
    for _, key in columns:
        estimates = [attack.metrics.get(key) for attack in result.attacks]
        digits = max(map(interval_digits, estimates))
        for row, estimate in zip(rows[2:], estimates):
            row.append(format_estimate(estimate, digits))
    # MLflow's page sets cells without any space between; a no-break space is not trimmed away.
    padded = [[cell if i == 1 else f"{cell}&nbsp;&nbsp;" for cell in row[:-1]] + row[-1:] for i, row in enumerate(rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def _limits(result: AuditResult) -> list[str]:
    """What the figures rest on: records, blind baseline, references and their fidelity."""
    n_members = int(result.membership.sum())
    lines = [f"Records: {n_members:,} members, {len(result.membership) - n_members:,} non-members."]
    if result.blind is None:
        lines.append("Blind baseline: not run.")
    else:
        chance = "" if blind_differs(result) else " (0.5 is what it should be)"
        lines.append(f"Blind baseline, records without the model: AUC {format_estimate(result.blind)}{chance}.")
    target, reference, spread = result.fidelity.target, result.fidelity.reference, result.fidelity.reference_std
    what = next((w for w in ("accuracy", "r2", "loss") if f"member_{w}" in target), None)
    if what is not None:
        keys = (f"member_{what}", f"nonmember_{what}")
        line = f"Mean {what} on members / non-members: target " + " / ".join(f"{target[k]:.3f}" for k in keys)
        if all(key in reference for key in keys):
            means = " / ".join(f"{reference[k]:.3f} ± {spread.get(k, float('nan')):.3f}" for k in keys)
            count, imported = result.references.get("n", 0), result.references.get("n_imported")
            line += f", {count} reference models{f' ({imported} imported)' if imported else ''} {means}"
        lines.append(f"{line}.")
    if not reference:
        lines.append("No reference models: this is the weaker audit.")
    return lines


def _footer(result: AuditResult, experiment_id: str | None, run_id: str | None) -> str:
    link = _link(experiment_id, run_id)
    call = f'mlflow.evaluate({json.dumps(result.model.uri)}, evaluators=["privacy_meter"])'
    repeat = f"Repeat it: {code_span(call)}; options and seeds are in privacy/audit.json."
    return f"{link} · {repeat}" if link else repeat


def _link(experiment_id: str | None, run_id: str | None) -> str:
    """A link that MLflow's own pages resolve, wherever the server is."""
    if not (experiment_id and run_id and re.fullmatch(r"[\w-]+", experiment_id) and re.fullmatch(r"[\w-]+", run_id)):
        return ""
    run = f"#/experiments/{experiment_id}/runs/{run_id}"
    return f"[Report]({run}/artifacts/{_REPORT}) · [Audit run]({run})"
