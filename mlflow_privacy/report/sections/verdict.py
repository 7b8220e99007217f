"""The verdict in words and as a crowd, and the organisation's limits beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.metrics.names import guessing
from mlflow_privacy.report.document import ExposedGroup, Finding, Limit, LimitState, People
from mlflow_privacy.report.sections.checks import far_off, turned_round
from mlflow_privacy.report.sections.meaning import meaning
from mlflow_privacy.report.text import (
    blind_differs,
    crowd_size,
    format_estimate,
    group_sentence,
    headline_attack,
    headline_rate,
    metric_title,
    overall_verdict,
    verdict,
    worst_group,
)
from mlflow_privacy.types import AuditResult, Estimate

_PREFIX = "privacy/"


def finding(result: AuditResult, thresholds: Mapping[str, float]) -> Finding:
    """The verdict; `thresholds` by metric, such as "rmia/auc"."""
    attack = headline_attack(result)
    found = headline_rate(result)
    fpr, tpr = found if found else (None, None)
    return Finding(
        sentence=verdict(result),
        overall=overall_verdict(result),
        group=_group(result),
        caution=_caution(result),
        meaning=meaning(result),
        attack=attack.title,
        fpr=fpr,
        tpr=tpr,
        auc=attack.metrics.get("auc"),
        people=None if fpr is None or tpr is None else _people(fpr, tpr),
        limits=limits(result, thresholds),
    )


def _group(result: AuditResult) -> ExposedGroup | None:
    """The group that the verdict names."""
    group, parts = worst_group(result), group_sentence(result)
    if group is None or parts is None:
        return None
    key = group.worse[0]
    return ExposedGroup(
        name=parts[1],
        slicing=group.slicing,
        label=group.label,
        n_members=group.n_members,
        n_nonmembers=group.n_nonmembers,
        fpr=None if key == "auc" else guessing(key),
        figure=group.metrics[key],
        others=group.others[key],
        begin=parts[0],
        end=parts[2],
    )


def limits(result: AuditResult, thresholds: Mapping[str, float]) -> tuple[Limit, ...]:
    """What was measured beside each limit.

    Raises: ConfigError: a limit names no metric of this audit, or is no finite number; all of them together.
    """
    known = _metrics(result)
    check_thresholds(thresholds, list(known))
    out = []
    for given, limit in thresholds.items():
        title, measured = known[given.removeprefix(_PREFIX)]
        out.append(Limit(given.removeprefix(_PREFIX), title, float(limit), measured, _state(measured, float(limit))))
    return tuple(out)


def check_thresholds(thresholds: Mapping[str, float], known: list[str]) -> None:
    """Raises ConfigError for limits that name none of `known`, or that are no finite number."""
    faults = []
    for given, limit in thresholds.items():
        name = given.removeprefix(_PREFIX)
        if name not in known:
            hint = nearest(name, known, cutoff=0.5, listed=True)
            faults.append(f"thresholds has {given!r}, which is no metric of this audit{hint}")
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
            faults.append(f"thresholds[{given!r}] must be a finite number such as 0.6, got {limit!r}.")
    if faults:
        raise ConfigError("The limits of the report cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults))


def _metrics(result: AuditResult) -> dict[str, tuple[str, Estimate | None]]:
    """Title and estimate of every metric with an interval, by name."""
    known: dict[str, tuple[str, Estimate | None]] = {}
    for attack in result.attacks:
        for key, estimate in attack.metrics.items():
            known[f"{attack.name}/{key}"] = (f"{attack.title}, {metric_title(key)}", estimate)
        for key, estimate in attack.worst_group.items():
            title = f"{attack.title}, {metric_title(key)} of the worst group"
            known[f"{attack.name}/worst_group/{key}"] = (title, estimate)
    known["blind/auc"] = ("Blind baseline, AUC", result.blind)
    return known


def _state(measured: Estimate | None, limit: float) -> LimitState:
    if measured is None or not measured.resolvable or not math.isfinite(measured.value):
        return "not measured"
    if measured.low > limit:
        return "exceeded"
    return "within" if measured.high <= limit else "undecided"


def _people(fpr: float, tpr: Estimate) -> People:
    """Counts rounded outwards, as in `text.verdict`."""
    base = crowd_size(fpr)
    low, high = math.floor(base * tpr.low + 1e-9), math.ceil(base * tpr.high - 1e-9)
    return People(base, low, high, round(base * fpr))


def _caution(result: AuditResult) -> str:
    more = [part for part in (turned_round(result), far_off(result)) if part]
    if not blind_differs(result):
        return " ".join(more)
    blind = (
        "Members and non-members differ even without the model: a classifier that sees only the records separates "
        f"them with AUC {format_estimate(result.blind)}. The figures of this report cannot be put down to the model "
        "alone; audit again with a holdout from the same source as the training data."
    )
    return " ".join((blind, *more))
