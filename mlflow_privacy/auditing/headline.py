"""Which attack the verdict is about: the strongest one on the references, chosen before the target is scored.

References of one group have nothing to be compared on: the verdict is then about the worse of RMIA and LiRA, whose
intervals hold together.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.attacks import ATTACKS, available, run_attack
from mlflow_privacy.attacks.stand_ins import groups_of, stand_in
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.metrics.roc import tally, tpr_value
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import AttackResult, AttackStrength, HeadlineChoice, Scores, Signals

_logger = logging.getLogger(__name__)
_FPR = 0.01
_RESOLVES = 2 / _FPR  # non-members of a stand-in, from which the TPR at 1 % tells attacks apart; else the AUC
_STAND_INS = 8
_RECORDS = 20_000  # on which attacks are compared: their standard errors come from the stand-ins, not from these
_PAIR = ("rmia", "lira")
# Simpler first: among attacks that the references do not tell apart the verdict is about the first of these.
_SIMPLER = (
    "gap", "loss", "population", "reference", "rmia_offline", "lira_offline", "bavaria_offline", "rmia", "lira",
    "bavaria", "learned",
)  # fmt: skip


def headline_of(names: Sequence[str], signals: Signals, options: AuditOptions) -> tuple[str, HeadlineChoice | None]:
    """The attack of the verdict, and how it was chosen; None where it was named, or where nothing could be compared.

    With `headline="auto"` each attack attacks references in the target's place, whole groups of the design left out, at
    most eight of them. The largest mean TPR at 1 % FPR wins (the AUC, where a stand-in has fewer than 200 non-members);
    of attacks within one standard error of it those with the largest mean AUC, and of these, within one standard error
    again, the simplest. The target's signals are not looked at.

    References of one group cannot tell attacks apart. Where RMIA and LiRA both run, the choice is a pair: `worse_of`
    takes one of them when the target is scored, and the name here is RMIA.

    Args:
      names: of the attacks that run, the first of which is taken where there is nothing to compare.
    """
    if options.headline not in (None, "auto"):
        return str(options.headline), None
    first = names[0]
    if options.headline is None or len(names) == 1 or not signals.member.shape[1]:
        return first, None
    member = np.asarray(signals.member, bool)
    resolved = (~member).sum(axis=0).min() >= _RESOLVES
    metric = "tpr_at_fpr_0.01" if resolved else "auc"
    found = {name: _on_references(name, signals, options) for name in names}
    compared = {name: values for name, values in found.items() if len(values)}
    if not compared and set(_PAIR) <= set(names):
        return _PAIR[0], HeadlineChoice(_PAIR[0], metric, pair=_PAIR)
    if len(compared) < 2:
        return first, None
    by_auc, by_tpr = ([_strength(name, values[:, k]) for name, values in compared.items()] for k in (0, 1))
    rows = by_tpr if resolved else by_auc
    near = _near_best(rows)
    near = _near_best([row for row in by_auc if row.name in near])
    chosen = min(near, key=lambda name: _SIMPLER.index(name) if name in _SIMPLER else len(_SIMPLER))
    _logger.info("The verdict is about %s, the strongest attack on the reference models.", chosen)
    return chosen, HeadlineChoice(chosen, metric, tuple(sorted(rows, key=lambda row: -row.mean)))


def worse_of(choice: HeadlineChoice, attacks: Sequence[AttackResult]) -> HeadlineChoice:
    """The choice with that attack of its pair that finds more of the target; the first if both find the same."""
    found = {attack.name: attack.metrics for attack in attacks}
    resolved = all(choice.metric in found[name] and found[name][choice.metric].resolvable for name in choice.pair)
    metric = choice.metric if resolved else "auc"
    worse = max(choice.pair, key=lambda name: found[name][metric].value)
    return dataclasses.replace(choice, name=worse, metric=metric)


def _strength(name: str, values: np.ndarray) -> AttackStrength:
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return AttackStrength(name, float(values.mean()), error, len(values))


def _near_best(rows: Sequence[AttackStrength]) -> list[str]:
    """The attacks within one standard error of the best one."""
    best = max(rows, key=lambda row: row.mean)
    return [row.name for row in rows if row.mean >= best.mean - best.error]


def _on_references(name: str, signals: Signals, options: AuditOptions) -> np.ndarray:
    """(k, 2): AUC and TPR at 1 % FPR of each reference in the target's place; empty if it cannot be run on one."""
    attack, given = ATTACKS[name], options.attack_options.get(name, {})
    if attack.extras or available(name, signals, given):
        return np.empty(0)
    if attack.on_references is not None:
        scored = list(attack.on_references(signals, **given))
    else:
        signals = _fewer(signals)
        member = np.asarray(signals.member, bool)
        groups = groups_of(member)
        picked = np.unique(np.linspace(0, len(groups) - 1, min(len(groups), _STAND_INS)).round().astype(int))
        scored = []
        for position, k in enumerate(picked):
            j = int(groups[k][position % len(groups[k])])
            one = stand_in(signals, j, groups[k])
            if one is not None and not available(name, one, given):
                scored.append((run_attack(name, one, **given)[0], member[:, j]))
    return np.array([_found(scores, truth) for scores, truth in scored if 0 < truth.sum() < len(truth)])


def _fewer(signals: Signals) -> Signals:
    """The same of 20,000 records drawn at random, and of as many of the population."""
    rng = np.random.default_rng(0)
    rows, others = (
        np.sort(rng.permutation(len(member))[:_RECORDS]) if len(member) > _RECORDS else slice(None)
        for member in (signals.member, signals.population_member)
    )
    return dataclasses.replace(
        signals,
        target=signals.target[rows],
        reference=signals.reference[rows],
        member=signals.member[rows],
        population=signals.population[others],
        population_reference=signals.population_reference[others],
        population_member=signals.population_member[others],
        extra={},
    )


def _found(scores: Scores, truth: np.ndarray) -> tuple[float, float]:
    ranks = scores.rank()
    return mann_whitney(ranks[truth], ranks[~truth]), tpr_value(tally(ranks, truth), _FPR)
