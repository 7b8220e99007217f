"""Finds the reference models of a design, and trains the missing ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlflow_privacy.auditing.agreement import Verify, disagreement, is_due
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.price import Price, left_out, mean_seconds, reference_bytes
from mlflow_privacy.auditing.questions import Asking
from mlflow_privacy.auditing.said import tell_progress
from mlflow_privacy.auditing.training import Budget, How, expected_seconds, train
from mlflow_privacy.design import Design, fraction_like
from mlflow_privacy.errors import StoreError
from mlflow_privacy.executor import Job, Outputs, Trained, split_means
from mlflow_privacy.fingerprint import data_digest, digest, recipe_digest, record_keys
from mlflow_privacy.store.keys import ReferenceKey, StoredReference, imported_fingerprint, members_digest
from mlflow_privacy.trainers.canonical import own_code, untold
from mlflow_privacy.types import AuditTarget, ModelOutputs, Recipe, Records, to_json

__all__ = ["NoStore", "References", "Store", "ensure", "imported_key", "reference_key", "split_means"]
_logger = logging.getLogger(__name__)


class Store(Protocol):
    """Where references live; `store.references.ReferenceStore` keeps them in MLflow."""

    def find(self, fingerprint: str) -> Mapping[int, StoredReference]: ...
    def find_imported(self, fingerprint: str) -> Sequence[StoredReference]: ...
    def members(self, reference: StoredReference) -> np.ndarray: ...
    def save(
        self,
        key: ReferenceKey,
        members: np.ndarray,
        *,
        outputs: Mapping[str, ModelOutputs],
        write_weights: Callable[[Path], bool],
        metrics: Mapping[str, float],
        recipe: Mapping[str, Any],
        started: float,
    ) -> StoredReference: ...
    def read(self, reference: StoredReference, data_digest: str) -> ModelOutputs | None: ...
    def weights(self, reference: StoredReference) -> Path | None: ...
    def retire(self, reference: StoredReference) -> None: ...
    def add(self, reference: StoredReference, data_digest: str, outputs: ModelOutputs) -> None: ...
    def elsewhere(self) -> Callable[[], Any] | None: ...
    def recall(self, name: str, key: str) -> Mapping[str, Any] | None: ...
    def remember(self, name: str, key: str, values: Mapping[str, Any]) -> None: ...
    def pace_of(self, recipe: Mapping[str, Any], n_members: int) -> float | None: ...


class NoStore:
    """Keeps nothing: for a notebook or a test without a tracking server."""

    def find(self, fingerprint: str) -> Mapping[int, StoredReference]:
        return {}

    def find_imported(self, fingerprint: str) -> Sequence[StoredReference]:
        return ()

    def members(self, reference: StoredReference) -> np.ndarray:
        raise StoreError(f"Run {reference.run_id!r} is not stored.")

    def save(self, key: ReferenceKey, members: np.ndarray, **kwargs: Any) -> StoredReference:
        return StoredReference(key, "")

    def read(self, reference: StoredReference, data_digest: str) -> ModelOutputs | None:
        return None

    def weights(self, reference: StoredReference) -> Path | None:
        return None

    def retire(self, reference: StoredReference) -> None:
        return None

    def add(self, reference: StoredReference, data_digest: str, outputs: ModelOutputs) -> None:
        return None

    def elsewhere(self) -> Callable[[], Any] | None:
        return None

    def recall(self, name: str, key: str) -> Mapping[str, Any] | None:
        return None

    def remember(self, name: str, key: str, values: Mapping[str, Any]) -> None:
        return None

    def pace_of(self, recipe: Mapping[str, Any], n_members: int) -> float | None:
        return None


@dataclasses.dataclass(frozen=True)
class References:
    """The reference models of an audit, m of them.

    Attributes:
      member: (n, m) bool, whether each trained on an audited record, or on a copy of it.
      pool: outputs of each on the audited records of the pool.
      population: outputs of each on the population; empty where there is none.
      run_ids: of each.
      n_loaded, n_trained: m = n_loaded + n_trained.
      n_wanted: how many there were to be; more than m where the time did not suffice.
      fingerprint: under which they are found again.
      rows: (m, n_pool) bool, who of the whole pool each trained on.
      n_imported: how many of the loaded ones were trained elsewhere; they come first.
      further: outputs of each on the data that only a game asks about.
      notes: sentences for the report.
    """

    member: np.ndarray
    pool: tuple[ModelOutputs, ...]
    population: tuple[ModelOutputs, ...]
    run_ids: tuple[str, ...]
    n_loaded: int
    n_trained: int
    fingerprint: str
    rows: np.ndarray
    n_imported: int = 0
    further: tuple[tuple[ModelOutputs, ...], ...] = ()
    notes: tuple[str, ...] = ()
    n_wanted: int = 0

    @functools.cached_property
    def quality(self) -> tuple[dict[str, float], ...]:
        """Mean loss and accuracy of each on its own members and non-members among the audited records."""
        return tuple(split_means(values, self.member[:, j]) for j, values in enumerate(self.pool))


def reference_key(design: Design, recipe: Recipe, index: int) -> ReferenceKey:
    """The key of reference `index`: SHA-256 of recipe, pool digest, members and seed."""
    parts: dict[str, Any] = {
        "recipe": recipe_digest(recipe),
        "pool": design.pool_digest,
        "seed": design.seed,
        "fraction": design.fraction,
    }
    if design.always is not None:
        parts["always"] = members_digest(design.always)
    if design.copies is not None:
        parts["copies"] = "together"
    fingerprint = digest(parts)
    return ReferenceKey(fingerprint, index, members_digest(design.members(index)), design.train_seed(index))


def design_for(target: AuditTarget, options: AuditOptions) -> Design:
    """Which reference trains on which record; by default on as large a share of the pool as the target did."""
    always = target.always if target.always is not None and target.always.any() else None
    copies = None
    if target.copies is not None:
        copies = np.unique(record_keys(target.pool), return_inverse=True)[1].reshape(-1)
        always = None if always is None else np.isin(copies, copies[always])
    fraction = options.reference_fraction
    if fraction == "auto":
        fraction = fraction_like(target_share(target))
    return Design(data_digest(target.pool), len(target.pool), options.random_seed, fraction, always, copies)


def target_share(target: AuditTarget) -> float:
    """The share of the pool that the target trained on, without records that every model trains on."""
    free = slice(None) if target.always is None else ~target.always
    return float(np.mean(np.asarray(target.membership, bool)[free]))


def number_of_references(target: AuditTarget, design: Design, options: AuditOptions) -> int:
    """How many references there are to be; whole groups where the fraction was left to us."""
    wanted = options.num_ref_models if target.recipe is not None else 0
    if options.reference_fraction != "auto" or not wanted:
        return wanted
    count = design.whole_groups(wanted)
    if count != wanted and "num_ref_models" in options.model_fields_set:
        _logger.info(
            "%d instead of %d reference models: at a share of %.3g of the pool, %d of them make a group in which every "
            "record has one that trained on it and one that did not.",
            *(count, wanted, design.fraction, design.group),
        )
    return count


def too_big(target: AuditTarget, design: Design, options: AuditOptions, store: Store) -> str:
    """Why references cannot be trained on this machine; "" if they can, are there already, or were asked for."""
    asked_for = options.attacks is not None or "num_ref_models" in options.model_fields_set
    if asked_for or target.recipe is None or target.recipe.kind != "transformers":
        return ""
    from mlflow_privacy.trainers.text.memory import shortage

    key = reference_key(design, target.recipe, 0)
    if len(store.find(key.fingerprint)) >= options.num_ref_models:
        return ""
    return "" if store.find_imported(imported_key(target.recipe, design)) else shortage(target.recipe, options.device)


def reference_models(
    target: AuditTarget, design: Design, count: int, ask: Asking, options: AuditOptions, store: Store, least: int = 1
) -> References | None:
    """`count` reference models of a design with their answers, found or trained; None where there are to be none.

    Args:
      least: groups of them that there are whatever the time budget is.
    """
    if not count or target.recipe is None:
        return None
    return ensure(
        target.pool,
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
        verify=options.verify_references,
        time_budget=options.time_budget,
        least=least,
        size=one_reference(target, ask),
    )


def foresee(
    recipe: Recipe,
    pool: Records,
    design: Design,
    how: How,
    device: str,
    store: Store,
    *,
    stored: Sequence[StoredReference],
    imported: int,
    missing: int,
    size: int | None,
) -> tuple[Price, How]:
    """What references cost, and how they are trained with the seconds that one is known to take.

    Args:
      stored: those of the design that are found.
      size: bytes of one.
    """
    each, told_by = mean_seconds([one.seconds for one in stored]), "those found"
    if each is None and missing:
        each = store.pace_of(to_json(recipe), int(design.members(0).sum()))
        told_by = "models of this recipe on other data"
    how = dataclasses.replace(how, each=each)
    seconds = expected_seconds(recipe, pool, missing, device, how) if missing else None
    size = None if size is None else size * missing
    return Price(imported + len(stored), missing, seconds, told_by, size), how


def one_reference(target: AuditTarget, ask: Asking) -> int:
    """About how many bytes one reference model of this target takes on the store."""
    from mlflow_privacy.trainers import trainer_for

    asked = sum(len(part) for part in ask.data)
    assert target.recipe is not None
    return reference_bytes(target.recipe, target.model.native, asked, len(target.pool), trainer_for(target.recipe))


def ensure(
    pool: Records,
    recipe: Recipe,
    design: Design,
    count: int,
    *,
    data_digests: Sequence[str],
    outputs: Outputs,
    store: Store,
    audited: np.ndarray | None = None,
    target_members: np.ndarray | None = None,
    exactly: bool = True,
    n_further: int = 0,
    device: str = "auto",
    executor: str = "auto",
    n_workers: int | None = None,
    progress: bool | str = "auto",
    verify: Verify = "auto",
    time_budget: float | None = None,
    least: int = 1,
    size: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> References:
    """Takes imported references, then loads the first ones of a design, and trains those that are missing.

    With a time budget, which runs from this call on, there may be fewer: whole groups of the design, as many as fit.

    Args:
      data_digests: of the pool, of the population if there is one, and of what a game asks about besides.
      outputs: a model's outputs on the data behind `data_digests`, in that order.
      store: where references are found and kept; each is stored as soon as it is trained.
      audited: indices of the pool's records that `outputs` is about; None for all.
      target_members: (n,) bool of the whole pool; imported models that trained on just these or just the other
        records are no references. None uses no imported ones.
      exactly: `count` references, whatever was imported; else imported ones alone where each record has IN and OUT.
      n_further: how many of `data_digests`, the last ones, belong to a game.
      executor: what trains the missing ones: "auto", "local", "ray" or a joblib backend. The models stay the same.
      n_workers: how many at a time; None leaves it to the plan.
      progress: "auto" shows a bar on a terminal.
      verify: whether one stored reference is trained again, to see that it still agrees; "auto" where the recipe runs
        code of the caller's.
      time_budget: seconds.
      least: groups of the design that there are whatever the budget is.
      size: about how many bytes one reference takes on the store.
      clock: seconds, rising.
    """
    from mlflow_privacy.trainers import trainer_for

    trainer, budget = trainer_for(recipe), Budget(time_budget, clock)
    for reason in untold(recipe):
        _logger.warning("No other audit finds these reference models: what they depend on cannot be told. %s.", reason)
    rows_asked = slice(None) if audited is None else audited
    imported: list[_Ready] = []
    if target_members is not None:
        most = count if exactly else None
        imported = _load_imported(store, trainer, recipe, design, target_members, data_digests, outputs, most)
    if exactly:
        count -= len(imported)
    elif imported and covers(design.together(_rows_of(imported))[:, rows_asked]):
        count = 0
    if imported:
        _logger.info("%d imported reference model(s) are used, %d more of the design.", len(imported), count)
    if not count:
        return _together(imported, [], design, rows_asked, 0, imported_key(recipe, design), n_further, len(imported))
    keys = [reference_key(design, recipe, index) for index in range(count)]
    fingerprint = keys[0].fingerprint
    stored = {i: ref for i, ref in store.find(fingerprint).items() if i < count and ref.key == keys[i]}
    done: dict[int, _Ready] = {}
    for index, reference in sorted(stored.items()):
        values = _load(store, reference, trainer, recipe, data_digests, outputs)
        if values is not None:
            done[index] = _Ready(values, reference.run_id, design.members(index))
    notes: list[str] = []
    if done and is_due(verify, bool(own_code(recipe))):
        notes = _set_aside(done, store, recipe, pool, design, outputs, rows_asked, keys, device)
        if notes:
            stored, done = {}, {}
    missing = [index for index in range(count) if index not in done]
    price, how = foresee(
        *(recipe, pool, design, How(executor, n_workers, progress), device, store),
        stored=[stored[index] for index in done],
        imported=len(imported),
        missing=len(missing),
        size=size,
    )
    tell_progress(_logger, str(price))
    _logger.debug("Reference models are found by the fingerprint %s.", fingerprint)
    n_trained = 0
    if missing:
        job = Job(
            recipe=recipe,
            pool=pool,
            rows=design.rows(missing),
            keys=tuple(keys[index] for index in missing),
            outputs=outputs,
            data_digests=tuple(data_digests),
            asked=rows_asked,
            device=device,
            open_store=store.elsewhere(),
        )

        def recover(positions: Sequence[int]) -> list[Trained]:
            """References that a worker kept before it died."""
            found = store.find(fingerprint)
            ours = {i: found[missing[i]] for i in positions if missing[i] in found}
            ours = {i: one for i, one in ours.items() if one.key == job.keys[i] and one != stored.get(missing[i])}
            values = {i: _load(store, one, trainer, recipe, data_digests, outputs) for i, one in ours.items()}
            return [Trained(i, value, ours[i].run_id, 0.0, 0.0) for i, value in values.items() if value is not None]

        there = _whole_groups(done, design, count)
        if not there and imported and covers(design.together(_rows_of(imported))[:, rows_asked]):
            least -= 1
        how = dataclasses.replace(how, least=max(least - len(there), 0))
        groups = _by_group(missing, design)
        with contextlib.closing(train(job, groups, how, budget, store=store, recover=recover)) as trained:
            for one in trained:
                index, n_trained = missing[one.position], n_trained + 1
                if index in stored:  # only now that its successor is safe
                    store.retire(stored[index])
                done[index] = _Ready(one.outputs, one.run_id or "", job.rows[one.position])
    whole = [index for group in _whole_groups(done, design, count) for index in group]
    ready = [done[index] for index in whole]
    wanted = len(imported) + count
    if len(whole) < count and time_budget is not None:
        notes.append(left_out(len(imported) + len(whole), wanted, time_budget))
        _logger.info("The time budget ends here, with %d of %d reference models.", len(imported) + len(whole), wanted)
    together = _together(imported, ready, design, rows_asked, n_trained, fingerprint, n_further, wanted)
    return dataclasses.replace(together, notes=tuple(notes))


def _by_group(indices: Sequence[int], design: Design) -> list[tuple[int, ...]]:
    """Positions in `indices`, those of one group of the design together."""
    numbers = [index // design.group for index in indices]
    return [tuple(i for i, own in enumerate(numbers) if own == number) for number in dict.fromkeys(numbers)]


def _whole_groups(done: Collection[int], design: Design, count: int) -> list[tuple[int, ...]]:
    """The groups of the first `count` references of which all are done; the last one may be smaller."""
    starts = range(0, count, design.group)
    groups = [tuple(range(start, min(start + design.group, count))) for start in starts]
    return [group for group in groups if all(index in done for index in group)]


def _rows_of(ready: Sequence[_Ready]) -> np.ndarray:
    return np.stack([one.row for one in ready])


def _set_aside(
    done: Mapping[int, _Ready],
    store: Store,
    recipe: Recipe,
    pool: Records,
    design: Design,
    outputs: Outputs,
    rows_asked: Any,
    keys: Sequence[ReferenceKey],
    device: str,
) -> list[str]:
    """Sets all stored references of a fingerprint aside if one of them, trained again, does not agree; says so."""
    from mlflow_privacy.trainers import trainer_for

    def retrain(index: int, reseed: bool) -> np.ndarray:
        seed = design.train_seed(index) ^ int(reseed)
        trained = trainer_for(recipe).train(recipe, pool, design.rows([index]), [seed], device=device)
        return outputs(next(iter(trained)))[0].signal

    fingerprint = keys[0].fingerprint
    problem = disagreement(
        {index: ready.outputs[0].signal for index, ready in done.items()},
        {index: ready.row[rows_asked] for index, ready in done.items()},
        retrain,
        fingerprint=fingerprint,
        seed=design.seed,
    )
    if not problem:
        return []
    note = (
        f"{len(done)} stored reference models are of another training than the one that runs now: {problem}. They are "
        "set aside, and all are trained again. What has changed is nothing that a fingerprint can see, such as a file "
        "that the training reads; put its version into the recipe's settings."
    )
    _logger.warning("%s", note)
    gone: set[str] = set()
    while stale := [one for one in store.find(fingerprint).values() if one.run_id not in gone]:  # doubles come next
        for reference in stale:
            store.retire(reference)
        gone |= {reference.run_id for reference in stale}
    return [note]


@dataclasses.dataclass(frozen=True)
class _Ready:
    """One reference: its outputs on pool and population, its run, and its membership row (n_pool,) bool."""

    outputs: tuple[ModelOutputs, ...]
    run_id: str
    row: np.ndarray


def _together(
    imported: Sequence[_Ready],
    designed: Sequence[_Ready],
    design: Design,
    rows_asked: Any,
    n_trained: int,
    fingerprint: str,
    n_further: int,
    n_wanted: int,
) -> References:
    """All references side by side, imported ones first."""
    ready = [*imported, *designed]
    main = len(ready[0].outputs) - n_further
    rows = _rows_of(ready)
    return References(
        member=design.together(rows).T[rows_asked],
        pool=tuple(one.outputs[0] for one in ready),
        population=tuple(one.outputs[1] for one in ready if main > 1),
        run_ids=tuple(one.run_id for one in ready),
        n_loaded=len(ready) - n_trained,
        n_trained=n_trained,
        fingerprint=fingerprint,
        rows=rows,
        n_imported=len(imported),
        further=tuple(one.outputs[main:] for one in ready) if n_further else (),
        n_wanted=n_wanted,
    )


def imported_key(recipe: Recipe, design: Design) -> str:
    """The fingerprint under which imported references of this recipe and pool are stored."""
    return imported_fingerprint(recipe_digest(recipe), design.pool_digest)


def covers(rows: np.ndarray) -> bool:
    """Whether each record (column) has a model (row) that trained on it and one that did not."""
    return bool((rows.any(axis=0) & ~rows.all(axis=0)).all())


def _load_imported(
    store: Store,
    trainer: Any,
    recipe: Recipe,
    design: Design,
    target_members: np.ndarray,
    data_digests: Sequence[str],
    outputs: Outputs,
    most: int | None,
) -> list[_Ready]:
    """At most `most` models that were trained elsewhere on this pool by this recipe; a damaged one is left out."""
    ready: list[_Ready] = []
    for reference, row in usable_imported(store, recipe, design, target_members):
        if len(ready) == most:
            break
        values = _load(store, reference, trainer, recipe, data_digests, outputs)
        if values is None:
            _logger.warning("Imported reference run %s has no weights that load; it is left out.", reference.run_id)
        else:
            ready.append(_Ready(values, reference.run_id, row))
    return ready


def usable_imported(
    store: Store, recipe: Recipe, design: Design, target_members: np.ndarray
) -> Iterator[tuple[StoredReference, np.ndarray]]:
    """Models that were trained elsewhere, with their membership rows (n_pool,): those that tell no attack the answer.

    The target itself may be among them, imported as a reference of another target, and so may the model that trained
    on just the records that it did not.
    """
    for reference in sorted(store.find_imported(imported_key(recipe, design)), key=lambda found: found.key.index):
        try:
            row = store.members(reference)
            if len(row) != design.n:
                raise StoreError(f"its membership row has {len(row)} records, the pool {design.n}.")
        except StoreError as error:
            _logger.warning("Imported reference run %s is damaged and left out: %s", reference.run_id, error)
            continue
        if not ((row == target_members).all() or (row != target_members).all()):
            yield reference, row


def _load(
    store: Store,
    reference: StoredReference,
    trainer: Any,
    recipe: Recipe,
    data_digests: Sequence[str],
    outputs: Outputs,
) -> tuple[ModelOutputs, ...] | None:
    """A stored reference's outputs; inferred from its weights where some are missing; None if it must be retrained."""
    try:
        values = [store.read(reference, data_digest) for data_digest in data_digests]
        if all(value is not None for value in values):
            return tuple(value for value in values if value is not None)
        folder = store.weights(reference)
        if folder is None:
            _logger.info("Reference %d has no stored weights; training it again.", reference.key.index)
            return None
        fresh = outputs(trainer.load(recipe, folder))
    except StoreError as error:
        _logger.warning("Reference run %s is damaged and will not be used: %s", reference.run_id, error)
        return None
    for key, before, now in zip(data_digests, values, fresh, strict=True):
        if before is None:
            store.add(reference, key, now)
    return fresh
