"""Signals of target and references side by side, and what each attack makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlflow_privacy.attacks import ATTACKS, run_attack
from mlflow_privacy.attacks._arrays import side_by_side
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.references import References
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.metrics.groups import Groups, by_group
from mlflow_privacy.types import AttackResult, ModelOutputs, Signals


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


def attack_result(name: str, signals: Signals, member: np.ndarray, options: AuditOptions) -> AttackResult:
    """Runs one attack and measures it."""
    attack = ATTACKS[name]
    scores, used = run_attack(name, signals, **options.attack_options.get(name, {}))
    roc, metrics = evaluate_scores(
        scores, member, fprs=options.fprs, confidence=options.confidence, seed=options.random_seed
    )
    return AttackResult(name, attack.title, attack.threat_model, attack.paper, scores, roc, metrics, used)


def each_by_group(
    attacks: Sequence[AttackResult],
    member: np.ndarray,
    slicings: Mapping[str, Groups],
    headline: str,
    options: AuditOptions,
) -> tuple[AttackResult, ...]:
    """The attacks with the figures of each group; that of the verdict also with those that are significantly worse."""
    return tuple(
        by_group(
            attack,
            member,
            slicings,
            fprs=options.fprs,
            confidence=options.confidence,
            compare=attack.name == headline,
        )
        for attack in attacks
    )
