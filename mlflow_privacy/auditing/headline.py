"""Which attack the verdict is about: the strongest one on the references, chosen before the target is scored.

References of one group have nothing to be compared on: the verdict is then about the worse of RMIA and LiRA, whose
intervals hold together.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_privacy.attacks import ATTACKS, available, run_attack
from mlflow_privacy.attacks.stand_ins import groups_of, some_of, stand_in
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.metrics.roc import tally, tpr_value
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import AttackResult, AttackStrength, HeadlineChoice, Scores, Signals

_logger = logging.getLogger(__name__)
_FPR = 0.01
_RESOLVES = 2 / _FPR  # non-members of a stand-in, from which the TPR at 1 % tells attacks apart; else the AUC
_GROUPS = 4
_RECORDS = 20_000  # on which attacks are compared: their standard errors come from the stand-ins, not from these
_PAIR = ("rmia", "lira")
# Simpler first: among attacks that the references do not tell apart the verdict is about the first of these.
_SIMPLER = (
    "gap", "loss", "population", "reference", "rmia_offline", "lira_offline", "bavaria_offline", "rmia", "lira",
    "bavaria", "learned",
)  # fmt: skip


def headline_of(names: Sequence[str], signals: Signals, options: AuditOptions) -> tuple[str, HeadlineChoice | None]:
    """The attack of the verdict, and how it was chosen; None where it was named, or where nothing could be compared.

    With `headline="auto"` each attack attacks references in the target's place, whole groups of the design left out:
    all references of four groups. The largest mean TPR at 1 % FPR wins (the AUC, where a stand-in has fewer than 200
    non-members); of attacks within one standard error of it those with the largest mean AUC, and of these, within one
    standard error again, the simplest. Standard errors are those of differences on the same references. The target's
    signals are not looked at.

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
    compared = _on_references(names, signals, options)
    if not compared and set(_PAIR) <= set(names):
        return _PAIR[0], HeadlineChoice(_PAIR[0], metric, pair=_PAIR)
    if len(compared) < 2:
        return first, None
    rows = [_strength(name, values, int(resolved)) for name, values in compared.items()]
    near = _near_best(compared, 1) if resolved else list(compared)
    near = _near_best({name: compared[name] for name in near}, 0)
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


def _strength(name: str, values: Mapping[int, tuple[float, float]], k: int) -> AttackStrength:
    """Mean and standard error over the stand-ins of one of the two figures."""
    mean, error = _mean_and_error([figures[k] for figures in values.values()])
    return AttackStrength(name, mean, error, len(values))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; no error of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _near_best(found: Mapping[str, Mapping[int, tuple[float, float]]], k: int) -> list[str]:
    """The attacks that are behind the best one by no more than a standard error, by one of the two figures.

    The error is that of the difference on the same stand-ins: these differ from each other by more than attacks do.
    """
    best = max(found, key=lambda name: _strength(name, found[name], k).mean)
    near = []
    for name, values in found.items():
        behind, error = _mean_and_error([found[best][j][k] - values[j][k] for j in values if j in found[best]] or [0.0])
        if behind <= error:
            near.append(name)
    return near


def _on_references(
    names: Sequence[str], signals: Signals, options: AuditOptions
) -> dict[str, dict[int, tuple[float, float]]]:
    """AUC and TPR at 1 % FPR of references in the target's place, by attack and column, of attacks that run on them.

    They are all references of a few groups: those that an attack takes which scores them by itself, else four.
    """
    given = {name: options.attack_options.get(name, {}) for name in names}
    names = [name for name in names if not ATTACKS[name].extras and not available(name, signals, given[name])]
    found: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in names}
    for name in names:
        run = ATTACKS[name].on_references
        if run is not None:
            found[name] = {j: _found(*scored) for j, *scored in run(signals, **given[name]) if _both(scored[1])}
    fewer = _fewer(signals)
    member = np.asarray(fewer.member, bool)
    groups = groups_of(member)
    taken = {j for values in found.values() for j in values}
    if not taken:
        taken = {int(j) for group in some_of(groups, _GROUPS) for j in group}
    for group in groups:
        for j in sorted(taken & set(group.tolist())):
            one = stand_in(fewer, j, group)
            for name in names if one is not None and _both(member[:, j]) else ():
                if ATTACKS[name].on_references is None and not available(name, one, given[name]):
                    found[name][j] = _found(run_attack(name, one, **given[name])[0], member[:, j])
    return {name: values for name, values in found.items() if values}


def _both(truth: np.ndarray) -> bool:
    return bool(0 < truth.sum() < len(truth))


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
