"""The game "range": scores of ranges from signals of the points sampled in them, tuned on references only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.attacks import ATTACKS, available, loadable_attacks, run_attack
from mlflow_privacy.attacks.stand_ins import groups_of, stand_in
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.fingerprint import data_digest, digest
from mlflow_privacy.games.game import Game, GameEvidence, Question
from mlflow_privacy.games.range.membership import RANGE_SCORES, Trim, evaluate_ranges, trimmed_mean, tune_trim
from mlflow_privacy.games.range.options import RangeOptions
from mlflow_privacy.games.range.points import default_function, drawer, half_distance, hits_of
from mlflow_privacy.types import AuditTarget, Estimate, GameResult, ModelOutputs, Records, Roc, Scores, Signals

TITLE = "Membership of a range"
_WAYS = {"trimmed_mean": "trimmed mean", "max": "largest", "mean": "mean"}
_POINTS = 200  # of the figure
_CENTRES = "moved centres"


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
        options={**options.model_dump(), "function": function, "attack": attack, "used": used},
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
    groups = groups_of(np.asarray(part.signals.member, bool))
    for j, own in ((j, group) for group in groups for j in group):
        signals = stand_in(part.signals, j, own)
        name = next((a for a in (attack, "rmia_offline") if signals and not available(a, signals)), None)
        row = part.reference_member[:, j]
        if signals is None or name is None or row.all() or not row.any():
            continue
        scores = run_attack(name, signals, **(given if name == attack else {}))[0]
        columns.append(np.asarray(scores.value, np.float64).reshape(len(part.member), -1))
        kept.append(row)
    return tune_trim(np.stack(columns, axis=2), np.stack(kept, axis=1)) if columns else None


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


class RangeGame(Game):
    """Membership of ranges (RaMIA): does this range of records hold one that the model trained on?"""

    Options = RangeOptions
    name = "range"
    uses_references = True

    def check(self, target: AuditTarget, n_references: int, attacks: Sequence[str] | None) -> None:
        wanted = self.options.attack
        if attacks is not None and wanted is not None and (wanted not in ATTACKS or ATTACKS[wanted].extras):
            usable = ", ".join(name for name, attack in loadable_attacks().items() if not attack.extras)
            raise ConfigError(
                f"game_options attack={wanted!r} cannot score the samples of a range; there are {usable}, without "
                "further signals."
            )

    def questions(self, target: AuditTarget, pool: Records) -> tuple[Question, ...]:
        """Samples around each record, and around a centre moved off it; by pool, options and seed alone."""
        chosen, seed = self.options, self.setting.seed
        function = chosen.function or default_function(pool)
        radius = chosen.radius
        if function == "l2" and radius is None:
            radius = half_distance(pool, seed)
        draw = drawer(function, chosen, target, pool, radius, self.setting)
        asked = {"own": draw(pool, chosen.n_samples, 1)}
        if chosen.moved:
            centres = dataclasses.replace(draw(pool, 1, 0), row_ids=pool.row_ids)
            asked |= {"moved": draw(centres, chosen.n_samples, 2), _CENTRES: centres}
        about = {"function": function, "radius": radius}
        return tuple(
            Question(name, records, digest({"game": self.name, "data": data_digest(records)}), about)
            for name, records in asked.items()
        )

    def answer(self, evidence: GameEvidence) -> GameResult:
        function = evidence.questions[0].about["function"]
        parts = _parts(evidence)
        name = _attack_of(self.options, evidence, parts[0].signals)
        near = "A range counts as a member if a record of the pool that was trained on lies in it"
        centre = "A range counts as a member if its own record was trained on; others that may lie in it do not count"
        return play_range(
            parts,
            self.options,
            attack=name,
            attack_options=self.setting.attack_options.get(name, {}),
            function=function,
            fprs=self.setting.fprs,
            confidence=self.setting.confidence,
            seed=self.setting.seed,
            assumption=f"{near if function == 'l2' else centre}.",
        )


def _parts(evidence: GameEvidence) -> list[RangePart]:
    """Signals of all samples with who trained on a point of their range."""
    signals, pool = evidence.signals, evidence.pool
    rows = np.concatenate([evidence.member[:, None], np.asarray(signals.member, bool)], axis=1)  # (n, 1 + m)
    # A ball may hold records that nobody asked about: those of a pool of which a part is audited, and copies.
    whole = (pool, rows) if evidence.trained_on is None else (evidence.target.pool, evidence.trained_on)
    place = {question.name: i for i, question in enumerate(evidence.questions)}

    def answers(name: str, repeat: int) -> Signals:
        i = place[name]
        return _signals_of(signals, evidence.own[i], [each[i] for each in evidence.further], repeat)

    parts = []
    for question in evidence.questions:
        if question.name == _CENTRES:
            continue
        centres = pool if question.name == "own" else evidence.questions[place[_CENTRES]].records
        is_ball = question.about["function"] == "l2"
        hits = hits_of(centres, *whole, float(question.about["radius"])) if is_ball else rows
        points = answers(question.name, len(question.records) // len(centres))
        centre = signals if question.name == "own" else answers(_CENTRES, 1)
        parts.append(RangePart(question.name, points, centre, hits[:, 0], hits[:, 1:]))
    return parts


def _signals_of(signals: Signals, own: ModelOutputs, further: Sequence[ModelOutputs], repeat: int) -> Signals:
    """The signals of other points about the same records, each `repeat` times."""
    n = len(own.signal)
    reference = np.stack([values.signal for values in further], axis=1) if further else np.zeros((n, 0), np.float32)
    return dataclasses.replace(
        signals, target=own.signal, reference=reference, member=np.repeat(signals.member, repeat, axis=0), extra={}
    )


def _attack_of(chosen: RangeOptions, evidence: GameEvidence, signals: Signals) -> str:
    """The attack that scores the samples: one that needs no extra signals."""
    if chosen.attack is not None:
        attack = ATTACKS.get(chosen.attack)
        reason = "there is no such attack" if attack is None else available(chosen.attack, signals)
        if reason:
            raise ConfigError(f"game_options attack={chosen.attack!r} cannot score the samples of a range: {reason}")
        return chosen.attack
    for name in ("rmia", evidence.headline, *(attack.name for attack in evidence.attacks), "loss", "gap"):
        if name in ATTACKS and not ATTACKS[name].extras and not available(name, signals):
            return name
    raise DesignError("No attack can score the samples of a range with these signals.")
