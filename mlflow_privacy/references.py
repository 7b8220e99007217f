"""Finds the reference models of a design, and trains the missing ones."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlflow_privacy.design import Design
from mlflow_privacy.errors import StoreError
from mlflow_privacy.fingerprint import digest, recipe_digest
from mlflow_privacy.store.keys import ReferenceKey, StoredReference, members_digest
from mlflow_privacy.types import ModelOutputs, Recipe, Records, to_json

_logger = logging.getLogger(__name__)

Outputs = Callable[[Any], tuple[ModelOutputs, ...]]


class Store(Protocol):
    """Where references live; `store.references.ReferenceStore` keeps them in MLflow."""

    def find(self, fingerprint: str) -> Mapping[int, StoredReference]: ...
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


class NoStore:
    """Keeps nothing: for a notebook or a test without a tracking server."""

    def find(self, fingerprint: str) -> Mapping[int, StoredReference]:
        return {}

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


@dataclasses.dataclass(frozen=True)
class References:
    """The reference models of an audit, m of them.

    Attributes:
      member: (n, m) bool.
      pool: outputs of each on the pool.
      population: outputs of each on the population; empty where there is none.
      run_ids: of each.
      n_loaded, n_trained: m = n_loaded + n_trained.
      fingerprint: under which they are found again.
    """

    member: np.ndarray
    pool: tuple[ModelOutputs, ...]
    population: tuple[ModelOutputs, ...]
    run_ids: tuple[str, ...]
    n_loaded: int
    n_trained: int
    fingerprint: str


def reference_key(design: Design, recipe: Recipe, index: int) -> ReferenceKey:
    """The key of reference `index`: SHA-256 of recipe, pool digest, members and seed."""
    fingerprint = digest(
        {
            "recipe": recipe_digest(recipe),
            "pool": design.pool_digest,
            "seed": design.seed,
            "fraction": design.fraction,
        }
    )
    return ReferenceKey(fingerprint, index, members_digest(design.members(index)), design.train_seed(index))


def split_means(outputs: ModelOutputs, members: np.ndarray) -> dict[str, float]:
    """Mean loss and accuracy of one model on its own members and non-members."""
    means = {}
    for name, rows in (("member", members), ("nonmember", ~members)):
        means[f"{name}_loss"] = float(np.mean(outputs.loss[rows], dtype=np.float64))
        if outputs.correct is not None:
            means[f"{name}_accuracy"] = float(np.mean(outputs.correct[rows], dtype=np.float64))
    return means


def ensure(
    pool: Records,
    recipe: Recipe,
    design: Design,
    count: int,
    *,
    data_digests: Sequence[str],
    outputs: Outputs,
    store: Store,
    device: str = "auto",
    progress: bool | str = "auto",
) -> References:
    """Loads the first `count` references of a design, and trains those that are missing.

    Args:
      data_digests: of the pool and, if there is one, of the population.
      outputs: a model's outputs on the data behind `data_digests`, in that order.
      store: where references are found and kept; each is stored as soon as it is trained.
      progress: "auto" shows a bar on a terminal.
    """
    from mlflow_privacy.trainers import trainer_for

    trainer = trainer_for(recipe)
    keys = [reference_key(design, recipe, index) for index in range(count)]
    fingerprint = keys[0].fingerprint
    stored = {i: ref for i, ref in store.find(fingerprint).items() if i < count and ref.key == keys[i]}
    done: dict[int, tuple[tuple[ModelOutputs, ...], str]] = {}
    for index, reference in sorted(stored.items()):
        values = _load(store, reference, trainer, recipe, data_digests, outputs)
        if values is not None:
            done[index] = (values, reference.run_id)
    missing = [index for index in range(count) if index not in done]
    n_loaded = len(done)
    _logger.info(
        "%d reference model(s) loaded, %d to train (fingerprint %s).",
        n_loaded,
        len(missing),
        fingerprint[:12],
    )
    if missing:
        from tqdm import tqdm

        disable = None if progress == "auto" else not progress  # None: only on a terminal
        with tqdm(total=len(missing), desc="reference models", unit="model", disable=disable) as bar:
            rows = design.rows(missing)

            def report(step: int, steps: int) -> None:
                """Moves the bar by parts of a model."""
                bar.n = max(bar.n, round(len(missing) * step / max(steps, 1), 1))
                bar.refresh()

            seeds = [design.train_seed(index) for index in missing]
            models = trainer.train(recipe, pool, rows, seeds, device=device, progress=None if bar.disable else report)
            started = time.time()
            for index, members, model in zip(missing, rows, models, strict=True):
                values = outputs(model)
                reference = store.save(
                    keys[index],
                    members,
                    outputs=dict(zip(data_digests, values, strict=True)),
                    write_weights=functools.partial(trainer.save, recipe, model),
                    metrics=split_means(values[0], members),
                    recipe=to_json({"kind": recipe.kind, "spec": recipe.spec, "source": recipe.source}),
                    started=started,
                )
                if index in stored:  # only now that its successor is safe
                    store.retire(stored[index])
                done[index] = (values, reference.run_id)
                _logger.info("Reference %d trained in %.2f s.", index, time.time() - started)
                started = time.time()
                bar.n = max(bar.n, missing.index(index) + 1)
                bar.refresh()
    ordered = [done[index] for index in range(count)]
    return References(
        member=design.rows(range(count)).T,
        pool=tuple(values[0] for values, _ in ordered),
        population=tuple(values[1] for values, _ in ordered if len(values) > 1),
        run_ids=tuple(run_id for _, run_id in ordered),
        n_loaded=n_loaded,
        n_trained=len(missing),
        fingerprint=fingerprint,
    )


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
        _logger.warning("Reference run %s is damaged and will be trained again: %s", reference.run_id, error)
        return None
    for data_digest, before, now in zip(data_digests, values, fresh, strict=True):
        if before is None:
            store.add(reference, data_digest, now)
    return fresh
