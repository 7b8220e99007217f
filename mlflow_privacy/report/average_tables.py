"""Tables of several targets: each target's figures and their averages as CSV, metrics and arrays."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.report.average import average_metrics, average_roc
from mlflow_privacy.report.text import headline_attack
from mlflow_privacy.types import AttackResult, AuditResult, Estimate, Roc, flat_estimate

Named = Sequence[tuple[str, AuditResult]]  # each target's variant and audit

WITHIN, ACROSS = "within target", "across targets"
NOT_RESOLVABLE = "not resolvable"
_LIMIT = 250  # characters of a metric's name in MLflow


def by_variant(named: Named) -> dict[str, list[AuditResult]]:
    """The audits of each variant, in their order."""
    groups: dict[str, list[AuditResult]] = {}
    for variant, result in named:
        groups.setdefault(variant, []).append(result)
    return groups


def attack_names(results: Sequence[AuditResult]) -> list[str]:
    """The attacks that ran on every target of a variant, the headline first."""
    names = [a.name for a in results[0].attacks if all(a.name in {b.name for b in r.attacks} for r in results)]
    return sorted(names, key=lambda name: name != headline_attack(results[0]).name)


def attack_of(result: AuditResult, name: str) -> AttackResult:
    """One attack of an audit by its name."""
    return next(attack for attack in result.attacks if attack.name == name)


def average_rows(named: Named) -> list[dict[str, Any]]:
    """One row per attack and target, and one per attack for the average over each variant's targets.

    Columns: attack, target (its number, or "average"), variant, "auc" and each "tpr_at_fpr_…" with "_low" and "_high",
    n_members, n_nonmembers (in the average's row of all its targets together), n_targets, interval ("within target":
    other records of the same model; "across targets": other models of the same recipe), confidence. What is not
    resolvable says so, with empty ends; so are the ends of an average over one target.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> rows = average_rows([("mlp", example_result(n=50)), ("mlp", example_result(n=50, seed=1))])
      >>> [(row["attack"], row["target"], row["interval"]) for row in rows[:3]]
      [('rmia', 0, 'within target'), ('rmia', 1, 'within target'), ('rmia', 'average', 'across targets')]
    """
    numbers = {id(result): number for number, (_, result) in enumerate(named)}
    rows = []
    for variant, results in by_variant(named).items():
        for name in attack_names(results):
            attacks = [attack_of(result, name) for result in results]
            averaged = average_metrics(attacks)
            sizes = [(int(r.membership.sum()), int((~r.membership).sum())) for r in results]
            for result, attack, size in zip(results, attacks, sizes, strict=True):
                own = {key: attack.metrics[key] for key in averaged}
                rows.append(_row(name, numbers[id(result)], variant, own, size, 1, WITHIN))
            total = (sum(n for n, _ in sizes), sum(n for _, n in sizes))
            rows.append(_row(name, "average", variant, averaged, total, len(results), ACROSS))
    return rows


def _row(
    attack: str,
    target: int | str,
    variant: str,
    estimates: Mapping[str, Estimate],
    sizes: tuple[int, int],
    n_targets: int,
    interval: str,
) -> dict[str, Any]:
    row: dict[str, Any] = {"attack": attack, "target": target, "variant": variant}
    for key, estimate in estimates.items():
        flat = flat_estimate(key, estimate) if estimate.resolvable else {key: NOT_RESOLVABLE}
        row |= {name: flat.get(name, "") for name in (key, f"{key}_low", f"{key}_high")}
    row |= {"n_members": sizes[0], "n_nonmembers": sizes[1], "n_targets": n_targets, "interval": interval}
    return {**row, "confidence": next(iter(estimates.values())).confidence}


def average_csv(named: Named) -> bytes:
    """`average_rows` as CSV."""
    rows = average_rows(named)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def average_flat_metrics(named: Named) -> dict[str, float]:
    """Metrics `average/<variant>/<attack>/auc`, `…/tpr_at_fpr_…`, each with `_low` and `_high`.

    Only `_low` and `_high` that exist: one target has no interval across targets.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> list(average_flat_metrics([("a b", example_result(n=50))]))[:2]
      ['average/a b/rmia/auc', 'average/a b/rmia/tpr_at_fpr_0.1']
    """
    flat: dict[str, float] = {}
    groups = by_variant(named)
    for variant, part in zip(groups, metric_parts(groups), strict=True):
        results = groups[variant]
        for name in attack_names(results):
            averaged = average_metrics([attack_of(result, name) for result in results])
            for key, estimate in averaged.items():
                if estimate.resolvable:
                    flat.update(flat_estimate(f"average/{part}/{name}/{key}", estimate))
    return flat


def metric_parts(names: Iterable[str], limit: int = _LIMIT - 100) -> list[str]:
    """Names as one part of a metric's name each: allowed characters, bounded length, still told apart.

    >>> metric_parts(["mlp", "org/model"])
    ['mlp', 'org_model-c87c0c64']
    """
    parts = []
    for name in names:
        safe = re.sub(r"[^\w .-]", "_", name)[:limit].strip(" .") or "_"
        parts.append(safe if safe == name else f"{safe[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}")
    return parts


def target_arrays(result: AuditResult, order: np.ndarray, row_ids: np.ndarray) -> dict[str, Any]:
    """The headline attack's result on one target, as arrays to be stored without pickles.

    Keys: fpr, tpr, tpr_low, tpr_high (vertices), auc, auc_low, auc_high, one_fpr, one_tenth_fpr, zero_fpr (TPR at 1 %,
    0.1 % and 0; NaN if not resolvable or not asked for), scores, memberships, row_ids, attack, confidence.

    Args:
      order: (n,) indices that bring the audited records into the order of `row_ids`.
    """
    attack = headline_attack(result)
    roc, auc = attack.roc, attack.metrics["auc"]
    return {
        **_numbers(roc, attack.metrics),
        "scores": np.asarray(attack.scores.value, np.float64)[order],
        "memberships": np.asarray(result.membership, bool)[order],
        "row_ids": np.asarray(row_ids, str),
        "attack": np.array(attack.name),
        "confidence": np.array(auc.confidence),
    }


def average_arrays(named: Named) -> dict[str, Any]:
    """The headline attack's average over each variant's targets; keys are those of one target.

    `n_targets` beside. With several variants, each key has the variant's name and a "/" in front.
    """
    groups = by_variant(named)
    arrays: dict[str, Any] = {}
    for variant, results in groups.items():
        prefix = f"{variant}/" if len(groups) > 1 else ""
        attacks = [headline_attack(result) for result in results]
        averaged = average_metrics(attacks)
        confidence = averaged["auc"].confidence
        roc = average_roc([a.roc for a in attacks], fewest_nonmembers(results), confidence=confidence)
        own = {
            **_numbers(roc, averaged),
            "attack": np.array(attacks[0].name),
            "confidence": np.array(confidence),
            "n_targets": np.array(len(results)),
        }
        arrays |= {prefix + key: value for key, value in own.items()}
    return arrays


def fewest_nonmembers(results: Sequence[AuditResult]) -> int:
    """Of all targets the smallest number of non-members: what every one of them resolves."""
    return min(int((~result.membership).sum()) for result in results)


def _numbers(roc: Roc, metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    """A curve, its AUC, and the three TPRs that Privacy Meter's files hold."""
    auc = metrics["auc"]
    tprs = {"one_fpr": 0.01, "one_tenth_fpr": 0.001, "zero_fpr": 0.0}
    named = {name: metrics.get(fpr_key(fpr)) for name, fpr in tprs.items()}
    return {
        "fpr": roc.fpr,
        "tpr": roc.tpr,
        "tpr_low": roc.tpr_low,
        "tpr_high": roc.tpr_high,
        "auc": np.array(auc.value),
        "auc_low": np.array(auc.low),
        "auc_high": np.array(auc.high),
        **{name: np.array(math.nan if e is None or not e.resolvable else e.value) for name, e in named.items()},
    }
