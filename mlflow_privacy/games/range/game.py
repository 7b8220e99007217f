"""The game "range": scores of ranges from signals of the points sampled in them, tuned on references only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.attacks import available, run_attack
from mlflow_privacy.errors import DesignError
from mlflow_privacy.games.options import RangeOptions
from mlflow_privacy.games.range.membership import RANGE_SCORES, Trim, evaluate_ranges, trimmed_mean, tune_trim
from mlflow_privacy.types import Estimate, GameResult, Roc, Scores, Signals

TITLE = "Membership of a range"
_WAYS = {"trimmed_mean": "trimmed mean", "max": "largest", "mean": "mean"}
_POINTS = 200  # of the figure


@dataclasses.dataclass(frozen=True)
class RangePart:
    """One set of ranges.

    Attributes:
      name: "own" (the centre is the record) or "moved" (a point of the record's range is).
      signals: of the r · s samples, range after range; `member` of a sample is its centre record's.
      point: of the r centres themselves.
      member: (r,) bool, whether the target trained on a point of the range.
      reference_member: (r, m) bool, the same of each reference.
    """

    name: str
    signals: Signals
    point: Signals
    member: np.ndarray
    reference_member: np.ndarray


def play_range(
    parts: Sequence[RangePart],
    options: RangeOptions | None = None,
    *,
    attack: str = "rmia",
    attack_options: Mapping[str, Any] | None = None,
    function: str = "",
    fprs: Sequence[float] = (0.1, 0.01, 0.001, 0.0),
    confidence: float = 0.95,
    seed: int = 0,
    assumption: str = "",
) -> GameResult:
    """How well an attacker tells ranges that hold a training record from those that hold none.

    Each sample is scored by a membership attack, a range by all its samples. A trimmed mean is tuned on the references
    alone, each standing in for the target; where they are too few for that, the plain mean is taken.

    Args:
      parts: at least one; the first gives the headline figures.
      attack: a key of `ATTACKS` without extra signals.
      function: which range function drew the samples, for the title.

    Raises: DesignError: all ranges are members or none is; or the attack cannot run.
    """
    options = options or RangeOptions()
    rows: list[tuple[str, Estimate]] = []
    metrics: dict[str, Estimate] = {}
    used: dict[str, Any] = {}
    roc: Roc | None = None
    for part in parts:
        _check(part)
        given = dict(attack_options or {})
        shape = (len(part.member), -1)
        scores, in_use = run_attack(attack, part.signals, **given)
        samples = np.asarray(scores.value, np.float64).reshape(shape)
        if in_use.get("a") is not None:
            given["a"] = in_use["a"]  # tuned on references; not again for each of them
        trim = _trim(part, attack, given, options)
        ways = _ways(samples, trim)
        head = options.score if options.score in ways else "mean"
        prefix = "" if part is parts[0] else f"{part.name}_"
        where = "" if part.name == "own" else ", centre moved"
        point = run_attack(attack, part.point, **given)[0]
        for way, value in {head: ways[head], **ways}.items():
            curve, found = evaluate_ranges(Scores(value), part.member, fprs=fprs, confidence=confidence, seed=seed)
            if way == head:
                roc = curve if roc is None else roc
                metrics |= {f"{prefix}{key}": estimate for key, estimate in found.items()}
            else:
                metrics[f"{prefix}{way}_auc"] = found["auc"]
            rows.append((f"AUC of ranges by the {_label(way, trim)} of their samples{where}", found["auc"]))
        found = evaluate_ranges(point, part.member, fprs=fprs, confidence=confidence, seed=seed)[1]
        metrics[f"{prefix}point_auc"] = found["auc"]
        rows.append((f"AUC of the centre alone, without a range{where}", found["auc"]))
        used[part.name] = {"score": head, **({} if trim is None else {"trim": dataclasses.asdict(trim)})}
    assert roc is not None
    auc, n = metrics["auc"], len(parts[0].member)
    return GameResult(
        name="range",
        title=TITLE,
        sentence=_sentence(parts, metrics, n),
        summary=f"AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]",
        rows=tuple(rows),
        metrics=metrics,
        options={**dataclasses.asdict(options), "function": function, "attack": attack, "used": used},
        assumption=assumption,
        figure=_figure(roc),
    )


def _check(part: RangePart) -> None:
    """Raises `DesignError` if there is nothing to tell apart."""
    n_in = int(part.member.sum())
    if 0 < n_in < len(part.member):
        return
    which = "hold a training record" if n_in else "hold none"
    raise DesignError(
        f"All {len(part.member)} ranges ({part.name}) {which}, so there is nothing to tell apart. "
        f"{'Make the ranges smaller (radius).' if n_in else 'Audit records of both kinds.'}"
    )


def _trim(part: RangePart, attack: str, given: Mapping[str, Any], options: RangeOptions) -> Trim | None:
    """As asked for, else tuned on the references; None where they are too few."""
    if options.trim_ratio is not None:
        return Trim(options.trim_ratio, options.trim_direction)
    if options.score != "trimmed_mean":
        return None
    columns, kept = [], []
    for j in range(part.signals.reference.shape[1]):
        signals = _stand_in(part.signals, j)
        name = next((a for a in (attack, "rmia_offline") if signals and not available(a, signals)), None)
        row = part.reference_member[:, j]
        if signals is None or name is None or row.all() or not row.any():
            continue
        scores = run_attack(name, signals, **(given if name == attack else {}))[0]
        columns.append(np.asarray(scores.value, np.float64).reshape(len(part.member), -1))
        kept.append(row)
    return tune_trim(np.stack(columns, axis=2), np.stack(kept, axis=1)) if columns else None


def _stand_in(signals: Signals, j: int) -> Signals | None:
    """Reference j as the target of the others; its complement is left out, because the target has none."""
    member = np.asarray(signals.member, bool)
    others = [i for i in range(member.shape[1]) if i != j and not (member[:, i] ^ member[:, j]).all()]
    if not others:
        return None
    outside = ~np.asarray(signals.population_member, bool)[:, j]
    if not outside.any():
        return None
    return Signals(
        target=signals.reference[:, j],
        reference=signals.reference[:, others],
        member=member[:, others],
        population=signals.population_reference[outside, j],
        population_reference=signals.population_reference[outside][:, others],
        population_member=signals.population_member[outside][:, others],
        link=signals.link,
    )


def _ways(samples: np.ndarray, trim: Trim | None) -> dict[str, np.ndarray]:
    ways = {} if trim is None else {"trimmed_mean": trimmed_mean(samples, trim.ratio, trim.direction)}
    return {**ways, "max": RANGE_SCORES["max"](samples), "mean": RANGE_SCORES["mean"](samples)}


def _label(way: str, trim: Trim | None) -> str:
    if way != "trimmed_mean" or trim is None:
        return _WAYS[way]
    if not trim.ratio:
        return "trimmed mean (nothing is left out)"
    end = {"low": "lowest", "high": "highest", "both": "extreme"}[trim.direction]
    return f"trimmed mean (without the {end} {100 * trim.ratio:.0f} %)"


def _sentence(parts: Sequence[RangePart], metrics: Mapping[str, Estimate], n: int) -> str:
    auc = metrics["auc"]
    text = (
        f"Shown a range around a training record and one that holds none, an attacker picks the right one in "
        f"{100 * auc.low:.0f} to {100 * auc.high:.0f} of 100 cases ({100 * auc.confidence:g} % confidence, {n:,} "
        "ranges); guessing would be right in 50."
    )
    if len(parts) > 1:
        moved, point = metrics[f"{parts[1].name}_auc"], metrics[f"{parts[1].name}_point_auc"]
        text += (
            f" Where the centre is not the record itself but a point near it, the range gives AUC {moved.value:.3f}, "
            f"and the centre alone {point.value:.3f}."
        )
    return text


def _figure(roc: Roc) -> dict[str, Any]:
    """The ROC of ranges, thinned."""
    index = np.unique(np.linspace(0, len(roc.fpr) - 1, min(_POINTS, len(roc.fpr))).round().astype(int))
    return {
        "x": roc.fpr[index].tolist(),
        "y": roc.tpr[index].tolist(),
        "low": roc.tpr_low[index].tolist(),
        "high": roc.tpr_high[index].tolist(),
        "x_label": "false-positive rate of ranges",
        "y_label": "true-positive rate of ranges",
        "label": "ranges",
        "diagonal": True,
    }
