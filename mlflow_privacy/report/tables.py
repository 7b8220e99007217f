"""Tables of an audit: `AuditResult` to rows, JSON, CSV bytes and DataFrames."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.report.sections.checks import far_off, turned_round
from mlflow_privacy.report.text import headline_attack, verdict
from mlflow_privacy.types import AttackResult, AuditResult, to_json

if TYPE_CHECKING:
    import pandas as pd

# Raised when a key of metrics.json or audit.json changes its meaning.
SCHEMA_VERSION = 1
_LONG_TEXT = 2000


def metrics_table(result: AuditResult) -> list[dict[str, Any]]:
    """One row per attack and metric, the blind baseline last.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> row = metrics_table(example_result(n=50))[0]
      >>> row["attack"], row["metric"], row["resolvable"]
      ('rmia', 'auc', True)
    """
    named = [(a.name, key, estimate) for a in result.attacks for key, estimate in a.metrics.items()]
    if result.blind is not None:
        named.append(("blind", "auc", result.blind))
    return [{"attack": attack, "metric": key, **to_json(estimate)} for attack, key, estimate in named]


def metrics_json(result: AuditResult) -> dict[str, Any]:
    """All metrics with their intervals as plain JSON values; what is not resolvable has the value None.

    "metrics" are the same numbers flat, `AuditResult.metrics`, which gates and comparisons read.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "model": to_json(result.model),
        "headline": result.headline,
        "verdict": verdict(result),
        "n_members": int(result.membership.sum()),
        "n_nonmembers": int((~result.membership).sum()),
        "attacks": {attack.name: _attack_json(attack) for attack in result.attacks},
        "blind": to_json(result.blind),
        **({"screening": {"loss_tnr": to_json(result.screening)}} if result.screening else {}),
        **({"games": to_json(result.games)} if result.games else {}),
        **({"repeated": to_json(result.repeated)} if result.repeated else {}),
        "fidelity": to_json(result.fidelity),
        "warnings": list(result.warnings),
        "metrics": to_json(result.metrics),
    }


def roc_csv(result: AuditResult) -> bytes:
    """The vertices of every attack's ROC as CSV: attack, fpr, tpr, tpr_low, tpr_high, threshold.

    Numbers survive the round trip; a curve starts at the threshold inf.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> roc_csv(example_result(n=50)).decode().splitlines()[0]
      'attack,fpr,tpr,tpr_low,tpr_high,threshold'
    """
    lines = ["attack,fpr,tpr,tpr_low,tpr_high,threshold"]
    for attack in result.attacks:
        roc = attack.roc
        columns = [roc.fpr, roc.tpr, np.round(roc.tpr_low, 6), np.round(roc.tpr_high, 6), roc.threshold]
        lines += map(",".join, zip(itertools.repeat(attack.name), *map(_number_texts, columns)))
    return ("\n".join(lines) + "\n").encode()


def _number_texts(values: np.ndarray) -> list[str]:
    """The shortest texts that read back as the same numbers, "" for a missing one.

    A run of equal numbers is made into text once: of two vertices of a curve, one rate is often the same.

    >>> _number_texts(np.array([0.1, 0.1, np.nan, 0.1]))
    ['0.1', '0.1', '', '0.1']
    """
    values = np.asarray(values)
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    texts = list(map(repr, values[first].tolist()))
    if np.isnan(values).any():
        texts = ["" if text == "nan" else text for text in texts]
    return texts if first.all() else list(map(texts.__getitem__, (np.cumsum(first) - 1).tolist()))


def scores_table(result: AuditResult) -> pd.DataFrame:
    """Every record with each attack's score, the most exposed first.

    Columns: `row_id`, `label`, `member`, one per attack (its name; dots become underscores, since a dot blanks a
    column in MLflow's table view), and `risk_rank` by the headline attack: 1 is the most exposed, equal scores
    share the smaller rank.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> scores_table(example_result(n=50)).columns.tolist()
      ['row_id', 'label', 'member', 'rmia', 'rmia_offline', 'lira', 'population', 'risk_rank']
    """
    import pandas as pd

    ascending = headline_attack(result).scores.rank()
    label = np.asarray(result.y)
    if label.dtype.hasobject:  # labels of mixed types have no Parquet column
        label = label.astype(str)
    columns: dict[str, Any] = {
        "row_id": np.asarray(result.row_ids).astype(str),
        "label": label,
        "member": np.asarray(result.membership, bool),
    }
    for attack in result.attacks:
        columns[_column(attack.name, columns)] = np.asarray(attack.scores.value)
    columns[_column("risk_rank", columns)] = _descending_rank(ascending)
    order = np.argsort(-ascending, kind="stable")
    return pd.DataFrame(columns).iloc[order].reset_index(drop=True)


def audit_json(result: AuditResult) -> dict[str, Any]:
    """Everything needed to repeat the audit, without per-record arrays.

    Model, data sources with their digests, pool digest, reference design and fingerprint, options and seeds,
    versions, hardware, seconds per stage, row counts, warnings, and what each attack ran with.
    """
    n_members = int(result.membership.sum())
    return {
        "schema_version": SCHEMA_VERSION,
        "model": to_json(result.model),
        "task": result.task,
        "verdict": verdict(result),
        "headline": result.headline,
        "rows": {
            "members": n_members,
            "nonmembers": len(result.membership) - n_members,
            "population": result.n_population,
            "population_is_nonmembers": result.population_is_nonmembers,
            "duplicates_left_out": result.n_duplicates,
        },
        **({"copies": to_json(result.copies)} if result.copies else {}),
        "sources": to_json(result.sources),
        "pool_digest": result.pool_digest,
        "references": _brief(result.references),
        "options": _brief(result.options),
        "attacks": {
            attack.name: {
                "title": attack.title,
                "threat_model": attack.threat_model,
                "paper": attack.paper,
                "options": _brief(attack.options),
            }
            for attack in result.attacks
        },
        "references_unlike": far_off(result),
        "turned_round": turned_round(result),
        "warnings": list(result.warnings),
        "timings_seconds": to_json(result.timings),
        "environment": to_json(result.environment),
    }


def _attack_json(attack: AttackResult) -> dict[str, Any]:
    return {
        "title": attack.title,
        "threat_model": attack.threat_model,
        "paper": attack.paper,
        "options": _brief(attack.options),
        "metrics": to_json(attack.metrics),
        "groups": to_json(attack.groups),
        "worst_group": to_json(attack.worst_group),
    }


def _column(name: str, taken: Mapping[str, Any]) -> str:
    """A column name without dots that is not taken yet."""
    name = name.replace(".", "_")
    return name if name not in taken else _column(f"{name}_", taken)


def _descending_rank(ascending: np.ndarray) -> np.ndarray:
    """(n,) int64 competition ranks, 1 for the highest; equal values share the smaller rank."""
    ordered = np.sort(ascending)
    return len(ordered) - np.searchsorted(ordered, ascending, side="right") + 1


def _brief(value: Any) -> Any:
    """JSON values of options that may hold live objects: data becomes its type and shape, a function its name."""
    if isinstance(value, Mapping):
        return {str(k): _brief(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_brief(v) for v in value]
    if hasattr(value, "shape") and getattr(value, "shape", ()) != ():
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    plain = to_json(value)
    if isinstance(plain, str) and len(plain) > _LONG_TEXT:
        return plain[:_LONG_TEXT] + "…"
    return plain
