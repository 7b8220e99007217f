"""Findings as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow_privacy.experiment.run import ExperimentReport

_AUC = re.compile(r"privacy/([^/]+)/auc")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by blanks.

    >>> print(table(["a", "bc"], [["1", "2"], ["345", "6"]]))
    a    bc
    1    2
    345  6
    """
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def interval(metrics: Mapping[str, float], name: str, digits: int = 3) -> str:
    """A metric with its interval.

    >>> interval({"x": 0.5, "x_low": 0.41234, "x_high": 0.6}, "x")
    '0.500 [0.412, 0.600]'
    >>> interval({}, "x")
    'not resolvable'
    """
    if name not in metrics:
        return "not resolvable"
    text = f"{metrics[name]:.{digits}f}"
    if f"{name}_low" in metrics and f"{name}_high" in metrics:
        text += f" [{metrics[f'{name}_low']:.{digits}f}, {metrics[f'{name}_high']:.{digits}f}]"
    return text


def attack_names(metrics: Mapping[str, float]) -> list[str]:
    """The attacks that metrics are about, in their order.

    >>> attack_names({"privacy/rmia/auc": 0.6, "privacy/blind/auc": 0.5, "privacy/rmia/auc_low": 0.5})
    ['rmia']
    """
    found = [match[1] for key in metrics if (match := _AUC.fullmatch(key))]
    return [name for name in found if name not in ("blind", "headline", "range")]


def audit_text(metrics: Mapping[str, float]) -> str:
    """One audit: a row an attack, then what it should be read beside."""
    header = ["attack", "AUC", "TPR at 10 % FPR", "TPR at 1 % FPR", "TPR at 0.1 % FPR"]
    rows = [
        [
            name,
            interval(metrics, f"privacy/{name}/auc"),
            *(interval(metrics, f"privacy/{name}/tpr_at_fpr_{fpr}") for fpr in ("0.1", "0.01", "0.001")),
        ]
        for name in attack_names(metrics)
    ]
    lines = [table(header, rows)]
    if "privacy/blind/auc" in metrics:
        lines.append(
            f"\nBlind baseline (records alone, no model): AUC {interval(metrics, 'privacy/blind/auc')}. "
            + ("Members differ from non-members by themselves: read the AUCs above with care."
               if metrics.get("privacy/blind/auc_low", 0) > 0.5 else "It should be near 0.5.")
        )  # fmt: skip
    for key, title in (("accuracy", "Accuracy"), ("loss", "Mean loss")):
        who = {name: f"privacy/fidelity/{name}" for name in ("target", "reference")}
        shown = [
            f"{name} {metrics[f'{prefix}_member_{key}']:.3f} / {metrics[f'{prefix}_nonmember_{key}']:.3f}"
            for name, prefix in who.items()
            if f"{prefix}_member_{key}" in metrics and f"{prefix}_nonmember_{key}" in metrics
        ]
        if shown:
            lines.append(f"{title} on members / non-members: {', '.join(shown)}.")
    return "\n".join([*lines, *game_lines(metrics)])


def game_lines(metrics: Mapping[str, float]) -> list[str]:
    """A line a game.

    >>> game_lines({"privacy/dp/epsilon": 1.25, "privacy/dp/claimed_epsilon": 8.0})
    ['Lower bound on ε: 1.250 (claimed: 8).']
    """
    lines = []
    if "privacy/dp/epsilon" in metrics or "privacy/dp/epsilon_gaussian" in metrics:
        value = metrics.get("privacy/dp/epsilon", metrics.get("privacy/dp/epsilon_gaussian", 0.0))
        claimed = metrics.get("privacy/dp/claimed_epsilon")
        lines.append(f"Lower bound on ε: {value:.3f}{'' if claimed is None else f' (claimed: {claimed:.4g})'}.")
    if "privacy/range/auc" in metrics:
        lines.append(f"Membership of a range: AUC {interval(metrics, 'privacy/range/auc')}.")
    if "privacy/usage/share" in metrics:
        lines.append(f"Share of the data set that was used: {interval(metrics, 'privacy/usage/share')}.")
    return lines


def experiment_text(report: ExperimentReport) -> str:
    """The targets of an experiment side by side."""
    is_regression = any("train_r2" in target.metrics for target in report.targets)
    quality, title = ("r2", "R²") if is_regression else ("accuracy", "accuracy")
    header = [
        "version",
        "variant",
        f"{title} train / holdout",
        "attack",
        "AUC",
        "TPR at 1 % FPR",
        "blind AUC",
    ]
    rows = []
    for target in report.targets:
        shown = [target.metrics.get(f"{part}_{quality}") for part in ("train", "holdout")]
        prefix = f"privacy/{target.headline}"
        rows.append(
            [
                target.version,
                target.variant,
                " / ".join("-" if value is None else f"{value:.3f}" for value in shown),
                target.headline,
                interval(target.audit, f"{prefix}/auc"),
                interval(target.audit, f"{prefix}/tpr_at_fpr_0.01"),
                interval(target.audit, "privacy/blind/auc") if "privacy/blind/auc" in target.audit else "-",
            ]
        )
    seconds = sum(report.timings.values())
    count = f"{len(rows)} version{'' if len(rows) == 1 else 's'}"
    return f"Registered model {report.name}: {count}, {seconds:.0f} s\n\n{table(header, rows)}"
