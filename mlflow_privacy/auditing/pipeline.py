"""The audit, from a resolved target to a result: a newcomer reads this first.

    lineage ─▶ references ─▶ signals ─▶ attacks ─▶ metrics

Plain functions over arrays; MLflow is touched only by the `store` that is passed in. Config ends here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.attacks import ATTACKS, available, check_options, default_attacks, extra_signals, run_attack
from mlflow_privacy.attacks._arrays import side_by_side
from mlflow_privacy.auditing.findings import environment, find_warnings
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.questions import Asking, questions
from mlflow_privacy.auditing.records_view import check_slices, column, record_texts
from mlflow_privacy.auditing.references import (
    NoStore,
    References,
    Store,
    ensure,
    imported_key,
    reference_key,
    split_means,
)
from mlflow_privacy.design import Design
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.fingerprint import data_digest, record_keys
from mlflow_privacy.games.audit import check_game, check_game_attack, plan_game, play
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.metrics.evaluation import fpr_key
from mlflow_privacy.types import (
    AttackResult,
    AuditResult,
    AuditTarget,
    Evidence,
    Fidelity,
    Link,
    ModelOutputs,
    Records,
    Signals,
)

_logger = logging.getLogger(__name__)
# Live objects, or reported elsewhere.
_SHOWN = 200
_HIDDEN = {"train", "holdout", "population", "train_fn", "recipe", "base", "masked", "prefix"}


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
      DesignError: the pool is too small, or `num_ref_models` does not fit `reference_fraction`.
      SignalError: the model gives nothing that an attack can use.
    """
    options, store, clock = options or AuditOptions(), store or NoStore(), _Clock(timings or {})
    target = in_canonical_order(target)
    pool, population, member = target.pool, target.population, np.asarray(target.membership, bool)
    always = target.always if target.always is not None and target.always.any() else None
    design = Design(data_digest(pool), len(pool), options.random_seed, options.reference_fraction, always)
    count = options.num_ref_models if target.recipe is not None else 0
    problem = _too_big(target, design, options, store) if count else ""
    if problem:
        target, count = dataclasses.replace(target, recipe_problem=problem), 0
    design.check_count(count)
    check_game(target, options, count)
    ask = questions(target, design, options)
    check_slices(ask.data[0], options.slices)
    asked, member = ask.data[0], member[ask.rows]
    game = plan_game(target, asked, options)
    ask = ask.also(game.data, game.keys)
    clock.lap("digests")
    names, own = _ask_target(target, ask, options, has_references=count > 0)
    check_game_attack(game, names)
    clock.lap("target signals")
    if options.game not in ("usage", "range") and not any("reference" in ATTACKS[name].needs for name in names):
        count = 0
    references = None
    if count and target.recipe is not None:
        references = ensure(
            pool,
            target.recipe,
            design,
            count,
            data_digests=ask.keys,
            outputs=ask,
            audited=ask.rows,
            target_members=np.asarray(target.membership, bool),
            exactly="num_ref_models" in options.model_fields_set,
            n_further=ask.n_further,
            store=store,
            device=options.device,
            executor=options.executor,
            n_workers=options.n_workers,
            progress=options.progress,
        )
    clock.lap("references")
    own, of_game = own[: len(own) - ask.n_further], own[len(own) - ask.n_further :]
    signals = stack_signals(own, references, member)
    attacks = tuple(_attack(name, signals, member, options) for name in names)
    clock.lap("attacks")
    headline = options.headline or names[0]
    games = play(
        game,
        target,
        options,
        pool=asked,
        member=member,
        signals=signals,
        attacks=attacks,
        headline=headline,
        own=of_game,
        further=() if references is None else references.further,
    )
    if games:
        clock.lap(f"game {game.name}")
    blind = None
    if options.blind_baseline:
        from mlflow_privacy.auditing.blind_memory import remembered_baseline

        seed, confidence = options.random_seed, options.confidence
        blind = remembered_baseline(
            asked, member, data_digest=ask.keys[0], seed=seed, confidence=confidence, memory=store
        )
    clock.lap("blind baseline")
    result = AuditResult(
        model=target.model,
        task=target.task,
        membership=member,
        row_ids=asked.row_ids,
        y=asked.y,
        attacks=attacks,
        headline=headline,
        blind=blind,
        fidelity=_fidelity(own[0], member, references),
        references={**_describe(references, design, target), "n_pool": len(pool), "num_queries": ask.queries},
        sources=target.sources,
        n_population=int((~member).sum()) if population is None else len(population),
        population_is_nonmembers=population is None,
        n_duplicates=target.n_duplicates,
        options=options.model_dump(exclude=_HIDDEN, mode="python"),
        pool_digest=design.pool_digest,
        timings=clock.laps,
        environment=environment(options.device),
        games=games,
        evidence=_evidence(target, signals, references),
        slices={name: column(asked, name) for name in options.slices},
        content=_exposed_content(asked, attacks) if options.show_records else None,
    )
    return dataclasses.replace(result, warnings=find_warnings(result, target))


def in_canonical_order(target: AuditTarget) -> AuditTarget:
    """The target with its pool in the order of the records' keys, whoever is a member.

    Models trained on different parts of one pool so share its digest, and with it their reference models.
    """
    order = np.argsort(record_keys(target.pool), kind="stable")
    always = None if target.always is None else np.asarray(target.always, bool)[order]
    return dataclasses.replace(target, pool=target.pool.take(order), membership=target.membership[order], always=always)


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


def _too_big(target: AuditTarget, design: Design, options: AuditOptions, store: Store) -> str:
    """Why references cannot be trained on this machine; "" if they can, are there already, or were asked for."""
    asked_for = options.attacks is not None or "num_ref_models" in options.model_fields_set
    if asked_for or target.recipe is None or target.recipe.kind != "transformers":
        return ""
    from mlflow_privacy.trainers.text.memory import shortage

    key = reference_key(design, target.recipe, 0)
    if len(store.find(key.fingerprint)) >= options.num_ref_models:
        return ""
    return "" if store.find_imported(imported_key(target.recipe, design)) else shortage(target.recipe, options.device)


def _ask_target(
    target: AuditTarget, ask: Asking, options: AuditOptions, *, has_references: bool
) -> tuple[tuple[str, ...], tuple[ModelOutputs, ...]]:
    """The attacks to run, and the target's outputs with all that they need of it."""
    native = target.model.native
    if ask.aids is None:
        own = ask(native)
        names = default_attacks(has_references, own[0].link) if options.attacks is None else tuple(options.attacks)
        _check_attacks(names, options, has_references=has_references, link=own[0].link)
        return names, own
    from mlflow_privacy.signals.language.outputs import computable, has_base

    names = default_attacks(has_references, "log", language=True, has_base=has_base(native, ask.aids))
    names = names if options.attacks is None else tuple(options.attacks)
    known = [name for name in names if name in ATTACKS]
    extras = computable(_wanted(known, options), native, ask.aids)
    _check_attacks(names, options, has_references=has_references, link="log", extras=extras)
    return names, ask(native, extras)


def _wanted(names: Sequence[str], options: AuditOptions) -> tuple[str, ...]:
    """Extra signals of attacks whose options are valid; the faults of the others are told with all the rest."""
    wanted: list[str] = []
    for name in names:
        with contextlib.suppress(ConfigError):
            wanted += extra_signals([name], options.attack_options)
    return tuple(dict.fromkeys(wanted))


def _check_attacks(
    names: Sequence[str], options: AuditOptions, *, has_references: bool, link: Link, extras: Sequence[str] = ()
) -> None:
    """Raises one `ConfigError` of all that the caller asked for and cannot be had, before anything is trained."""
    rows = np.array([[True, False]])[:, : 2 * has_references]  # one record with an IN and an OUT reference, or none
    one = np.zeros(1)
    probe = Signals(one, np.zeros(rows.shape), rows, one, np.zeros(rows.shape), ~rows, link, dict.fromkeys(extras, one))
    problems = []
    for name in names:
        given = options.attack_options.get(name, {})
        try:
            check_options(name, given)
            problems += [f"{name}: {reason}" for reason in [available(name, probe, given)] if reason]
        except ConfigError as error:
            problems.append(str(error))
    from mlflow_privacy.report.sections import check_thresholds

    try:
        check_thresholds(options.thresholds, _metric_names(names, options))
    except ConfigError as error:
        problems.append(str(error))
    running = f"running are {', '.join(names)}."
    if not names:
        problems.append(f"attacks=[] leaves nothing to run; choose from {', '.join(ATTACKS)}.")
    if options.headline is not None and options.headline not in names:
        problems.append(f"headline={options.headline!r} is not among the attacks; {running}")
    problems += [
        f"attack_options has {name!r}, which does not run; {running}"
        for name in options.attack_options
        if name not in names
    ]
    if problems:
        raise ConfigError("The audit cannot run:\n" + "\n".join(f"  {problem}" for problem in problems))


def _metric_names(names: Sequence[str], options: AuditOptions) -> list[str]:
    """What thresholds may be set on: `<attack>/<metric>` of the attacks that run, and the blind baseline."""
    metrics = ["auc", *(fpr_key(fpr) for fpr in options.fprs), "balanced_accuracy", "advantage"]
    return [f"{name}/{metric}" for name in names for metric in metrics] + ["blind/auc"]


def _attack(name: str, signals: Signals, member: np.ndarray, options: AuditOptions) -> AttackResult:
    """Runs one attack and measures it."""
    attack = ATTACKS[name]
    scores, used = run_attack(name, signals, **options.attack_options.get(name, {}))
    roc, metrics = evaluate_scores(
        scores, member, fprs=options.fprs, confidence=options.confidence, seed=options.random_seed
    )
    return AttackResult(name, attack.title, attack.threat_model, attack.paper, scores, roc, metrics, used)


def _fidelity(own: ModelOutputs, member: np.ndarray, references: References | None) -> Fidelity:
    """Accuracy and loss of target and references on members and non-members."""
    if references is None:
        return Fidelity(split_means(own, member), {}, {})
    each = references.quality
    columns = {key: np.array([values[key] for values in each]) for key in each[0]}
    return Fidelity(
        target=split_means(own, member),
        reference={key: float(values.mean()) for key, values in columns.items()},
        reference_std={key: float(values.std()) for key, values in columns.items()},
    )


def _exposed_content(asked: Records, attacks: Sequence[AttackResult]) -> dict[str, str]:
    """The content of the records that any attack ranks highest: more than a report lists."""
    top = {int(i) for attack in attacks for i in np.argsort(-attack.scores.rank(), kind="stable")[:_SHOWN]}
    return record_texts(asked.take(np.array(sorted(top))))


def _evidence(target: AuditTarget, signals: Signals, references: References | None) -> Evidence:
    """What the scores were made of, over the whole pool."""
    rows = np.zeros((0, len(target.pool)), bool) if references is None else references.rows
    return Evidence(
        pool_ids=target.pool.row_ids,
        membership=np.concatenate([np.asarray(target.membership, bool)[None], rows]),
        signals=signals,
        population_ids=np.array([], str) if target.population is None else target.population.row_ids,
        quality=() if references is None else references.quality,
    )


def _describe(references: References | None, design: Design, target: AuditTarget) -> dict[str, Any]:
    """What the report says of the references."""
    return {
        "n": 0 if references is None else len(references.run_ids),
        "n_loaded": 0 if references is None else references.n_loaded,
        "n_trained": 0 if references is None else references.n_trained,
        "n_imported": 0 if references is None else references.n_imported,
        "fraction": design.fraction,
        "target_fraction": float(np.mean(target.membership[slice(None) if design.always is None else ~design.always])),
        "n_always": 0 if design.always is None else int(design.always.sum()),
        "seed": design.seed,
        "run_ids": [] if references is None else list(references.run_ids),
        "fingerprint": None if references is None else references.fingerprint,
        "recipe": None if target.recipe is None else {"kind": target.recipe.kind, "spec": target.recipe.spec},
        "recipe_source": "" if target.recipe is None else target.recipe.source,
        "problem": target.recipe_problem,
    }


class _Clock:
    """Seconds per stage, in order."""

    def __init__(self, laps: Mapping[str, float]) -> None:
        self.laps, self._last = dict(laps), time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage], self._last = round(now - self._last, 4), now
        _logger.info("%s: %.2f s", stage, self.laps[stage])
