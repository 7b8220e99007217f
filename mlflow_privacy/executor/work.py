"""What a worker does: trains references of a job one after another, asks each its questions, and keeps it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.store.keys import ReferenceKey
from mlflow_privacy.trainers import trainer_for
from mlflow_privacy.trainers.machine import torch_threads
from mlflow_privacy.types import ModelOutputs, Recipe, Records, to_json

Outputs = Callable[[Any], tuple[ModelOutputs, ...]]
WriteWeights = Callable[[Path], bool]
# Called with (position, outputs, what writes the weights, when training began); gives the id of the run, if any.
Keep = Callable[[int, tuple[ModelOutputs, ...], WriteWeights, float], "str | None"]
Line = tuple[str, int, str]  # logger, level, message


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that a worker needs to train any of the k missing references.

    Attributes:
      recipe: what to train, with its live template.
      pool: n records.
      rows: (k, n) bool, the members of each.
      keys: of each; they hold the seeds.
      outputs: the questions to a model.
      data_digests: of the data that these are about.
      asked: (m,) indices of the pool's records that the first of them is about, or a slice of all.
      device: as the caller named it.
      threads: of one worker; None leaves them alone.
      folder: where a worker leaves weights and its progress; None if it shares no disk.
      open_store: opens the store from any process, so that a worker keeps its references itself; else the caller does.
    """

    recipe: Recipe
    pool: Records
    rows: np.ndarray
    keys: tuple[ReferenceKey, ...]
    outputs: Outputs
    data_digests: tuple[str, ...]
    asked: Any
    device: str = "auto"
    threads: int | None = None
    folder: Path | None = None
    open_store: Callable[[], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Trained:
    """One trained reference.

    Attributes:
      position: among the missing ones of the job.
      outputs: of the model.
      run_id: of the run that keeps it; None if nobody has kept it yet.
      started, seconds: of training and questions, without what it takes to keep it.
      cpu_seconds: that all threads of the process spent in that time.
      weights: folder with the files of a worker's model; None if it has no safe form, or is kept.
      model: a worker's estimator, which the caller writes: to import what writes it takes longer than many trainings.
    """

    position: int
    outputs: tuple[ModelOutputs, ...]
    run_id: str | None
    started: float
    seconds: float
    weights: Path | None = None
    model: Any = None
    cpu_seconds: float = 0.0


def split_means(outputs: ModelOutputs, members: np.ndarray) -> dict[str, float]:
    """Mean loss and accuracy of one model on its own members and non-members."""
    means = {}
    for name, rows in (("member", members), ("nonmember", ~members)):
        means[f"{name}_loss"] = float(np.mean(outputs.loss[rows], dtype=np.float64))
        if outputs.correct is not None:
            means[f"{name}_accuracy"] = float(np.mean(outputs.correct[rows], dtype=np.float64))
    return means


def keep_in(store: Any, job: Job) -> Keep:
    """Keeps references of a job in a store, each as a finished run."""

    def keep(position: int, outputs: tuple[ModelOutputs, ...], write_weights: WriteWeights, started: float) -> str:
        members = job.rows[position]
        reference = store.save(
            job.keys[position],
            members,
            outputs=dict(zip(job.data_digests, outputs, strict=True)),
            write_weights=write_weights,
            metrics=split_means(outputs[0], members[job.asked]),
            recipe=to_json(job.recipe),
            started=started,
        )
        return reference.run_id

    return keep


def train_group(
    job: Job,
    positions: Sequence[int],
    keep: Keep,
    progress: Callable[[int, int], None] | None = None,
    *,
    with_model: bool = False,
) -> Generator[Trained, None, None]:
    """Trains the references at `positions` in this process; each is kept before the next one is asked for."""
    trainer = trainer_for(job.recipe)
    seeds = [job.keys[position].train_seed for position in positions]
    rows = job.rows[list(positions)]
    models = trainer.train(job.recipe, job.pool, rows, seeds, device=job.device, progress=progress)
    started, cpu = time.time(), time.process_time()
    for position, model in zip(positions, models, strict=True):
        outputs = job.outputs(model)
        spent = time.time() - started, time.process_time() - cpu
        run_id = keep(position, outputs, functools.partial(trainer.save, job.recipe, model), started)
        own = model if with_model else None
        yield Trained(position, outputs, run_id, started, spent[0], model=own, cpu_seconds=spent[1])
        started, cpu = time.time(), time.process_time()


def work(job: Job, positions: Sequence[int], *, collect: bool = True) -> tuple[list[Trained], list[Line]]:
    """Trains a group in a worker; gives the references and what was logged meanwhile.

    Args:
      collect: in a process of its own, where nobody sees the log.
    """
    lines: list[Line] = []
    with contextlib.ExitStack() as stack:
        if collect:
            stack.enter_context(_collected(lines))
        stack.enter_context(few_threads(job.threads))
        job = dataclasses.replace(job, recipe=with_threads(job.recipe, job.threads))
        send = job.folder is not None and job.recipe.kind == "sklearn"
        keep: Keep = _send if send else functools.partial(_leave, job)
        if job.open_store is not None:
            keep = _at_once(stack.enter_context(job.open_store()), job)
        trained = [
            dataclasses.replace(one, weights=_weights_folder(job, one.position))
            for one in train_group(job, positions, keep, _share(job, positions), with_model=send)
        ]
    return trained, lines


def _at_once(store: Any, job: Job) -> Keep:
    """Keeps a reference before the next one is trained, whatever the store would do in the background."""
    keep = keep_in(store, job)

    def kept(*args: Any) -> str | None:
        run_id = keep(*args)
        store.flush()
        return run_id

    return kept


def _send(*_: Any) -> None:
    """The model goes to the caller as it is."""


def _leave(
    job: Job, position: int, outputs: tuple[ModelOutputs, ...], write_weights: WriteWeights, started: float
) -> None:
    """Leaves the weights in the job's folder, for the caller to keep."""
    if job.folder is not None:
        folder = job.folder / f"weights-{position}"
        shutil.rmtree(folder, ignore_errors=True)  # left by a worker that was killed here
        folder.mkdir()
        if not write_weights(folder):
            folder.rmdir()


def _weights_folder(job: Job, position: int) -> Path | None:
    folder = None if job.folder is None else job.folder / f"weights-{position}"
    return folder if folder is not None and folder.is_dir() else None


def take_weights(source: Path | None, folder: Path) -> bool:
    """Moves what a worker left into a folder; False if it left nothing."""
    if source is None:
        return False
    for file in source.iterdir():
        shutil.move(str(file), folder / file.name)
    source.rmdir()
    return True


def shares(folder: Path, n: int, *, new: bool = False) -> np.ndarray:
    """(n,) how much of each reference is trained, in a file that workers write and the caller reads."""
    return np.memmap(folder / "progress", np.float32, "w+" if new else "r+", shape=(n,))


def _share(job: Job, positions: Sequence[int]) -> Callable[[int, int], None] | None:
    """Writes how far a group is."""
    if job.folder is None:
        return None
    table = shares(job.folder, len(job.keys))

    def report(step: int, steps: int) -> None:
        table[list(positions)] = step / max(steps, 1)

    return report


class _Collector(logging.Handler):
    def __init__(self, lines: list[Line]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append((record.name, record.levelno, record.getMessage()))


@contextlib.contextmanager
def _collected(lines: list[Line]) -> Iterator[None]:
    """This package's log, as lines that can be sent; nothing is printed here."""
    logger = logging.getLogger("mlflow_privacy")
    handler, level, propagate = _Collector(lines), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextlib.contextmanager
def few_threads(threads: int | None) -> Iterator[None]:
    """At most so many threads of BLAS, OpenMP and torch."""
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads), torch_threads(threads):
        yield


def with_threads(recipe: Recipe, threads: int | None) -> Recipe:
    """The recipe with an estimator that starts no more threads or processes than it may; the same model comes out."""
    if threads is None or recipe.kind != "sklearn" or recipe.template is None:
        return recipe
    from mlflow_privacy.trainers.sklearn import with_jobs

    return dataclasses.replace(recipe, template=with_jobs(recipe.template, threads))


def log_lines(lines: Sequence[Line]) -> None:
    """Logs in this process what a worker has logged."""
    for name, level, message in lines:
        logging.getLogger(name).log(level, "%s", message)
