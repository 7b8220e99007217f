"""The audit, from a resolved target to a result: a newcomer reads this first.

    target ─▶ design ─▶ questions ─▶ the target's answers ─▶ references ─▶ scores, estimates ─▶ game ─▶ result

Plain functions over arrays; MLflow is touched only by the `store` that is passed in. Config ends here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mlflow_privacy.auditing import fidelity, findings
from mlflow_privacy.auditing.afford import least_groups, that_run
from mlflow_privacy.auditing.blind_memory import baseline_for
from mlflow_privacy.auditing.choice import ask_target, needs_references
from mlflow_privacy.auditing.clock import Clock
from mlflow_privacy.auditing.familiar import check_familiar, check_logged_quality
from mlflow_privacy.auditing.label_order import check_label_order
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.prepare import prepare
from mlflow_privacy.auditing.records_view import column, shown_labels
from mlflow_privacy.auditing.references import NoStore, Store, reference_models
from mlflow_privacy.auditing.repeated import score_repeated
from mlflow_privacy.auditing.scores import measured, stack_signals
from mlflow_privacy.auditing.screening import loss_tnr
from mlflow_privacy.auditing.steady import check_steady
from mlflow_privacy.games.game import GameEvidence
from mlflow_privacy.metrics.groups import slicings_of
from mlflow_privacy.types import AuditResult, AuditTarget

_HIDDEN = {"train", "holdout", "population", "train_fn", "recipe", "base", "masked", "prefix"}  # live objects


def audit(
    target: AuditTarget,
    options: AuditOptions | None = None,
    store: Store | None = None,
    *,
    timings: Mapping[str, float] | None = None,
) -> AuditResult:
    """Audits a resolved target with membership inference.

    Args:
      target: model, pool, membership and recipe, as `resolve_target` gives them.
      options: the defaults if None.
      store: where reference models are found and kept; None keeps nothing.
      timings: seconds of stages that ran before.

    Returns:
      Everything found, as one frozen record.

    Raises:
      ConfigError: an attack cannot run with these options or this model.
      LineageError: the members are not the records that the model was trained on, and that is not allowed.
      DesignError: the pool is too small, or `num_ref_models` does not fit `reference_fraction`.
      SignalError: the model gives nothing that an attack can use.
    """
    options, store, clock = options or AuditOptions(), store or NoStore(), Clock(timings)
    target, design, count, game, ask, further, aside = prepare(target, options, store)
    asked, member = ask.pool, np.asarray(target.membership, bool)[ask.rows]
    clock.lap("digests")

    groups = -(-count // design.group)
    names, answers = ask_target(target, ask, options, groups=groups)
    own, own_further = ask.split(answers)
    game.check(target, count, names)
    check_label_order(target, ask, own[0], member)
    allow = options.allow_unfamiliar_members
    doubts = check_logged_quality(target, own[0], member, asked.y, allow=allow)
    doubts += check_steady(target, ask)
    clock.lap("target signals")

    if not (game.uses_references or needs_references(names)):
        count = 0
    least = least_groups(options, own[0].link, groups)
    references = reference_models(target, design, count, ask, options, store, least)
    doubts += check_familiar(target, own[0], member, references, allow=allow)
    clock.lap("references")

    signals = stack_signals(own, references, member)
    names, left_out = that_run(names, signals, references, options)
    slices = {name: column(asked, name) for name in options.slices}
    slicings = slicings_of(target.task, asked.y, slices)
    attacks, named, choice = measured(names, signals, member, slicings, options)
    clock.lap("attacks")

    of_game = slice(len(further))
    reference_further = () if references is None else tuple(each[of_game] for each in references.further)
    said = (own_further[of_game], reference_further, findings.trained_on(target, references).T)
    evidence = GameEvidence(target, asked, member, signals, attacks, named, further, *said)
    answer = game.answer(evidence)
    if answer is not None:
        clock.lap(f"game {game.name}")

    repeated = score_repeated(aside, own_further, references, signals, target, design, names, options)

    blind = baseline_for(asked, member, ask.keys[0], options, store)
    clock.lap("blind baseline")

    result = AuditResult(
        model=target.model,
        task=target.task,
        membership=member,
        row_ids=asked.row_ids,
        y=shown_labels(asked.y),
        attacks=attacks,
        headline=named if choice is None else choice.name,
        choice=choice,
        blind=blind,
        screening=loss_tnr(own[0], member, references, options.confidence),
        fidelity=fidelity.fidelity_of(own[0], member, references, asked.y),
        references=findings.describe_references(references, design, target, ask.queries),
        sources=target.sources,
        n_population=int((~member).sum()) if target.population is None else len(target.population),
        population_is_nonmembers=target.population is None,
        n_duplicates=target.n_duplicates,
        copies=target.copies,
        repeated=repeated,
        label_name=target.label_name,
        options=options.model_dump(exclude=_HIDDEN, mode="python"),
        pool_digest=design.pool_digest,
        timings=clock.laps,
        environment=findings.environment(options.device),
        games={} if answer is None else {game.name: answer},
        evidence=findings.evidence_of(target, signals, references),
        slices=slices,
        content=findings.exposed_content(asked, attacks) if options.show_records else None,
    )
    return dataclasses.replace(result, warnings=(*doubts, *left_out, *findings.find_warnings(result, target)))
