"""Signals of target and references side by side, and what each attack makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_privacy.attacks import ATTACKS, run_attack
from mlflow_privacy.attacks._arrays import side_by_side
from mlflow_privacy.auditing.headline import headline_of, worse_of
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.references import References
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.metrics.groups import Groups, by_group
from mlflow_privacy.types import AttackResult, HeadlineChoice, ModelOutputs, Signals


def stack_signals(own: Sequence[ModelOutputs], references: References | None, member: np.ndarray) -> Signals:
    """Signals of target and references side by side; the non-members stand in for a missing population.

    Args:
      own: the target's outputs on the pool and, if there is one, on the population.
      member: (n,) bool, the target's membership.
    """
    n = len(member)
    if references is None:
        reference, trained_on = np.zeros((n, 0), np.float32), np.zeros((n, 0), bool)
        of_population: tuple[ModelOutputs, ...] = ()
    else:
        reference = side_by_side([values.signal for values in references.pool])
        trained_on, of_population = np.ascontiguousarray(references.member), references.population
    if len(own) > 1:
        z = len(own[1].signal)
        population = own[1].signal
        columns = [values.signal for values in of_population]
        population_reference = side_by_side(columns) if columns else np.zeros((z, 0), np.float32)
        population_member = np.zeros(population_reference.shape, bool)
    else:
        outside = ~member
        population = own[0].signal[outside]
        population_reference, population_member = reference[outside], trained_on[outside]
    return Signals(
        target=own[0].signal,
        reference=reference,
        member=trained_on,
        population=population,
        population_reference=population_reference,
        population_member=population_member,
        link=own[0].link,
        extra=own[0].extra,
    )


def measured(
    names: Sequence[str], signals: Signals, member: np.ndarray, slicings: Mapping[str, Groups], options: AuditOptions
) -> tuple[tuple[AttackResult, ...], str, HeadlineChoice | None]:
    """Every attack with its figures, on all records and on each group; the attack that the verdict is about.

    Returns: the results, the attack that was named or chosen before the target was scored, and how the verdict's was
      chosen; that is another one where the worse of a pair counts.
    """
    named, choice = headline_of(names, signals, options)
    each = options.confidence if choice is None else choice.confidence_each(options.confidence)
    confidence = {name: each if choice and name in choice.pair else options.confidence for name in names}
    attacks = [attack_result(name, signals, member, options, confidence[name]) for name in names]
    if choice is not None and choice.pair:
        choice = worse_of(choice, attacks)
    headline = named if choice is None else choice.name
    by_groups = (
        by_group(
            attack,
            member,
            slicings,
            fprs=options.fprs,
            confidence=confidence[attack.name],
            compare=attack.name == headline,
        )
        for attack in attacks
    )
    return tuple(by_groups), named, choice


def attack_result(
    name: str, signals: Signals, member: np.ndarray, options: AuditOptions, confidence: float | None = None
) -> AttackResult:
    """Runs one attack and measures it."""
    attack = ATTACKS[name]
    scores, used = run_attack(name, signals, **options.attack_options.get(name, {}))
    roc, metrics = evaluate_scores(
        scores, member, fprs=options.fprs, confidence=confidence or options.confidence, seed=options.random_seed
    )
    return AttackResult(name, attack.title, attack.threat_model, attack.paper, scores, roc, metrics, used)
