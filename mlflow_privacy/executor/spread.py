"""Missing references by a plan: in this process, or spread over workers with those of the dead tried again."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from mlflow_privacy.errors import StoreError
from mlflow_privacy.executor.parcel import Unsendable
from mlflow_privacy.executor.plan import Plan, Work, after_first, groups_of
from mlflow_privacy.executor.pools import Lost, Outcomes, run_joblib, run_processes, run_threads
from mlflow_privacy.executor.work import Job, Keep, Trained, WriteWeights, log_lines, shares, take_weights, train_group
from mlflow_privacy.trainers import trainer_for
from mlflow_privacy.trainers.machine import Machine

_logger = logging.getLogger(__name__)
_TRIES = 3  # of one reference, before it is given up
Moved = Callable[[float], None]  # called with how many references are trained so far, parts of them included
Recover = Callable[[Sequence[int]], "list[Trained]"]  # of some positions, those that their worker kept before it died
Run = Callable[[Job, Plan, "Sequence[tuple[int, ...]]", Callable[[], None]], Outcomes]

_LOCAL: dict[str, Run] = {"loky": run_processes, "multiprocessing": run_processes, "threading": run_threads}


def train_missing(
    job: Job,
    plan: Plan,
    *,
    keep: Keep,
    recover: Recover,
    moved: Moved,
    work: Work,
    machine: Machine,
    n_workers: int | None = None,
) -> Generator[Trained, None, None]:
    """Trains all references of a job and yields each once it is kept, in the order in which they are finished.

    Args:
      job: the missing references.
      plan: how; one that measures is decided anew after the first reference.
      keep: keeps one in this process.
      recover: finds those that a worker kept before it died.
      moved: of a progress bar.
      work, machine, n_workers: what the plan was made of.

    Raises:
      StoreError: workers died again and again over the same references; all others are kept.
    """
    positions = list(range(len(job.keys)))
    _logger.info("Training %d reference model(s) %s", len(positions), plan)
    measured = plan.measure
    if plan.executor == "local":
        with contextlib.closing(train_group(job, positions, keep, _report(moved, 0, len(positions)))) as trained:
            if plan.measure:
                first = next(trained)
                yield first
                # Without what it took to keep it: this process keeps them all, whoever trains them.
                spent = {"seconds": first.seconds, "cpu_seconds": first.cpu_seconds}
                plan = after_first(plan, work, machine, n_workers, **spent)
                _logger.info("The other reference models are trained %s", plan)
            if plan.executor == "local":
                yield from trained
                return
        positions = positions[1:]
    left = dict.fromkeys(positions)
    try:
        with contextlib.closing(_spread(job, plan, positions, keep, recover, moved)) as spread:
            for one in spread:
                del left[one.position]
                yield one
    except (Unsendable, OSError) as error:
        if not measured:
            raise
        # The caller did not ask for workers: where none can be had, he need not know what to set instead.
        _logger.info("Workers cannot be used (%s); the rest is trained in this process.", error)
        report = _report(moved, len(job.keys) - len(left), len(left))
        with contextlib.closing(train_group(job, list(left), keep, report)) as trained:
            yield from trained


def _report(moved: Moved, before: int, count: int) -> Callable[[int, int], None]:
    """A trainer's steps as models: `before` are done, and it trains `count` more."""
    return lambda step, steps: moved(before + count * step / max(steps, 1))


def _spread(
    job: Job, plan: Plan, positions: Sequence[int], keep: Keep, recover: Recover, moved: Moved
) -> Generator[Trained, None, None]:
    before = len(job.keys) - len(positions)
    with _prepared(job, plan) as (ready, tick):
        run = _runner(plan)
        waiting, tries, lost = list(positions), collections.Counter[int](), list[int]()
        why = ""
        while waiting:
            again: list[int] = []
            outcomes = run(ready, plan, groups_of(waiting, plan.together), functools.partial(tick, moved, before))
            with contextlib.closing(outcomes):
                for group, result in outcomes:
                    if isinstance(result, Lost):
                        why = result.why
                        _logger.warning("The worker of reference model(s) %s died: %s", _names(job, group), why)
                        again += group
                        continue
                    log_lines(result[1])
                    yield from (_kept(job, one, keep) for one in result[0])
            found = recover(again) if again and ready.open_store is not None else []
            yield from found
            waiting = sorted(set(again) - {one.position for one in found})
            tries.update(waiting)
            lost += [position for position in waiting if tries[position] >= _TRIES]
            waiting = [position for position in waiting if tries[position] < _TRIES]
            if waiting:
                _logger.warning("Reference model(s) %s are trained again.", _names(job, waiting))
                plan = _smaller(plan)
    if lost:
        raise StoreError(
            f"Reference model(s) {_names(job, lost)} could not be trained: their worker died {_TRIES} times, the last "
            f"time so: {why} All others are stored, and a new call trains these alone. Most often memory ran out: "
            "use fewer workers (n_workers), or executor='local'."
        )


def _smaller(plan: Plan) -> Plan:
    """The second round trains one at a time, and with half the workers: one cause may have killed a whole round."""
    return dataclasses.replace(plan, together=1, workers=-(-plan.workers // 2))


def _runner(plan: Plan) -> Run:
    if plan.executor == "ray":
        from mlflow_privacy.executor.on_ray import run_ray

        return run_ray
    return _LOCAL.get(plan.executor, run_joblib)


@contextlib.contextmanager
def _prepared(job: Job, plan: Plan) -> Iterator[tuple[Job, Callable[[Moved, int], None]]]:
    """The job as workers get it, and what looks at their progress.

    Workers of this machine leave weights in a folder of it, and the caller keeps them: they need no MLflow. Others
    keep theirs themselves.
    """
    if plan.executor not in _LOCAL:
        with contextlib.ExitStack() as stack:
            if plan.executor == "ray":
                from mlflow_privacy.executor.on_ray import session

                stack.enter_context(session())
            yield dataclasses.replace(job, threads=plan.threads), lambda moved, before: None
        return
    with tempfile.TemporaryDirectory(prefix="mlflow-privacy-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        table = shares(folder, len(job.keys), new=True)
        ready = dataclasses.replace(job, threads=plan.threads, folder=folder, open_store=None)
        yield ready, lambda moved, before: moved(before + float(table.sum()))


def _kept(job: Job, one: Trained, keep: Keep) -> Trained:
    """A worker's reference, kept in this process unless the worker did."""
    if one.run_id is not None:
        return one
    write: WriteWeights = functools.partial(take_weights, one.weights)
    if one.model is not None:
        write = functools.partial(trainer_for(job.recipe).save, job.recipe, one.model)
    return dataclasses.replace(
        one, run_id=keep(one.position, one.outputs, write, one.started), weights=None, model=None
    )


def _names(job: Job, positions: Sequence[int]) -> str:
    return ", ".join(str(job.keys[position].index) for position in positions)
