"""Trains missing references by a plan for this machine: with a bar, the time left, and no more than a budget pays."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from mlflow_privacy.auditing.bar import Pace, model_bar
from mlflow_privacy.auditing.price import lasting
from mlflow_privacy.auditing.said import tell_progress
from mlflow_privacy.executor import Job, Recover, Trained, keep_in, train_missing
from mlflow_privacy.executor.plan import after_first, describe_work, make_plan, this_machine
from mlflow_privacy.trainers.machine import Machine
from mlflow_privacy.types import Recipe, Records

_logger = logging.getLogger(__name__)
Moved = Callable[[float], None]
Group = tuple[int, ...]  # positions in a job, of references that are trained together or not at all
_WRONG = 0.25  # by so much of it may all the time that was told be off before it is told anew
_SOON = 2.0  # seconds that nobody needs to be told of
_SILENT = 10.0  # seconds between two such lines


class Budget:
    """Seconds for reference models, which run from when it is made; without a number there is no end."""

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self._end = math.inf if seconds is None else clock() + seconds

    @property
    def left(self) -> float:
        """Seconds.

        >>> Budget(10.0, lambda: 3.0).left, Budget().left
        (10.0, inf)
        """
        return max(self._end - self.clock(), 0.0)


@dataclasses.dataclass(frozen=True)
class How:
    """How missing references are trained; none of it changes a model.

    Attributes:
      executor, n_workers, progress: as in the options of an audit.
      each: seconds that one of them takes, by those of before; None if nobody knows.
      least: groups that are trained whatever they take.
    """

    executor: str = "auto"
    n_workers: int | None = None
    progress: bool | str = "auto"
    each: float | None = None
    least: int = 1


def train(
    job: Job, groups: Sequence[Group], how: How, budget: Budget, *, store: Any, recover: Recover
) -> Generator[Trained, None, None]:
    """Trains references of a job and yields each once it is kept: whole groups, as long as another one fits.

    Args:
      groups: all positions of the job, in the order in which they are wanted.
      store: keeps them, see `executor.keep_in`.
      recover: finds those that a worker kept before it died.
    """
    machine = this_machine(job.recipe, job.device)
    work = describe_work(job.recipe, job.pool, len(job.keys), job.device)
    plan = make_plan(work, machine, how.executor, how.n_workers)
    at_once = max(work.at_once, 1 if plan.executor == "local" else plan.workers)
    expected = expected_seconds(job.recipe, job.pool, work.n, job.device, how)
    how = dataclasses.replace(how, each=None if expected is None else expected / work.n)
    pace = Pace(work.n, budget.clock, expected=expected, most=lambda: budget.left)
    with model_bar(work.n, how.progress, pace) as bar:
        parts = _Parts(job, how, machine, store, recover, bar, Outlook(work.n, pace, expected))
        in_order = plan.executor == "local" and not plan.measure and work.together == at_once == 1
        if in_order:
            yield from _one_by_one(parts, groups, how, budget)
        else:
            yield from _many_at_once(parts, groups, how, budget, at_once)


def expected_seconds(recipe: Recipe, pool: Records, n: int, device: str, how: How) -> float | None:
    """How long n references take on this machine, by `how.each`; None if nobody knows."""
    if how.each is None:
        return None
    machine, work = this_machine(recipe, device), describe_work(recipe, pool, n, device)
    plan = make_plan(work, machine, how.executor, how.n_workers)
    if plan.measure:
        known = {"seconds": how.each, "cpu_seconds": how.each}
        plan = after_first(plan, dataclasses.replace(work, n=n + 1), machine, how.n_workers, **known)
    return how.each * n / (1 if plan.executor == "local" else max(plan.workers, 1))


def _one_by_one(parts: _Parts, groups: Sequence[Group], how: How, budget: Budget) -> Generator[Trained, None, None]:
    """In this process, one after another: after each group the budget decides about the next one."""
    each, least = how.each, how.least
    with contextlib.closing(parts.train(groups)) as trained:
        for number, group in enumerate(groups):
            if not groups_that_fit(groups[number:], budget.left, each, least=least, at_once=1):
                return
            since = budget.clock()
            yield from itertools.islice(trained, len(group))
            each, least = (budget.clock() - since) / len(group), least - 1
        yield from trained  # nothing; but a trainer runs to its end


def _many_at_once(
    parts: _Parts, groups: Sequence[Group], how: How, budget: Budget, at_once: int
) -> Generator[Trained, None, None]:
    """Workers and stacks get as many groups at a time as fit by what the last ones took: none waits for a decision."""
    each, least, waiting = how.each, how.least, list(groups)
    while count := groups_that_fit(waiting, budget.left, each, least=least, at_once=at_once):
        since, now = budget.clock(), waiting[:count]
        with contextlib.closing(parts.train(now)) as trained:
            yield from trained
        each = (budget.clock() - since) / sum(map(len, now))
        waiting, least = waiting[count:], least - count


def groups_that_fit(groups: Sequence[Group], left: float, each: float | None, *, least: int, at_once: int) -> int:
    """How many of the next groups are trained now.

    Args:
      left: seconds of the budget.
      each: seconds that a reference takes; None if nobody knows: then as few groups as can be, to learn it.
      least: groups that are trained whatever they take.
      at_once: references that train at the same time: so many take no longer than one.

    Example:
      >>> pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]
      >>> groups_that_fit(pairs, 50.0, 10.0, least=1, at_once=1), groups_that_fit(pairs, 5.0, 10.0, least=1, at_once=1)
      (2, 1)
      >>> groups_that_fit(pairs, 50.0, None, least=1, at_once=6), groups_that_fit(pairs, 5.0, 10.0, least=0, at_once=1)
      (3, 0)
    """
    if math.isinf(left):
        return len(groups)
    totals = list(itertools.accumulate(map(len, groups)))
    if each is None:
        fitting = max(1, sum(total <= at_once for total in totals)) if left > 0 else 0
    else:
        fitting = sum(total * each <= left for total in totals)
    return min(max(fitting, least), len(groups))


class Outlook:
    """Logs about how long is left: once the first reference is trained, and again where that turns out wrong.

    Args:
      total: references in all.
      pace: tells how many are trained, and how long the others take.
      told: seconds that were told for all of them before; None if nothing was.
      tell: takes the line.

    Example:
      >>> now = [0.0]
      >>> pace = Pace(8, clock=lambda: now[0])
      >>> outlook = Outlook(8, pace, tell=print)
      >>> now[0] = 3.0; pace.move(1.0); outlook.look()
      Reference models: 12 % done in 3 s, about 21 s left.
      >>> now[0] = 30.0; pace.move(4.0); outlook.look()
      Reference models: 50 % done in 30 s, about 30 s left.
    """

    def __init__(
        self, total: int, pace: Pace, told: float | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        self._total, self._pace, self._told, self._when = total, pace, told, 0.0
        self._tell = tell or functools.partial(tell_progress, _logger)

    def look(self) -> None:
        """Tells what has changed, if anything has."""
        done, spent, left = self._pace.done, self._pace.spent, self._pace.rest
        if left is None or left < _SOON or not 1 <= done < self._total:
            return
        whole = spent + left
        right = self._told is not None and abs(whole - self._told) <= _WRONG * self._told
        if right or (self._told is not None and spent - self._when < _SILENT):
            return
        self._told, self._when = whole, spent
        share = f"{100 * done / self._total:.0f} % done in {lasting(spent)}"
        ends = f"; the time budget ends in {lasting(self._pace.budget)}" if self._pace.budget < left else ""
        self._tell(f"Reference models: {share}, about {lasting(left)} left{ends}.")


class _Parts:
    """Trains some of a job's references at a time, by a plan of their own."""

    def __init__(
        self, job: Job, how: How, machine: Machine, store: Any, recover: Recover, bar: Moved, outlook: Outlook
    ) -> None:
        self._job, self._how, self._machine, self._store = job, how, machine, store
        self._recover, self._bar, self._outlook = recover, bar, outlook
        self._first: Trained | None = None
        self._done = 0

    def train(self, groups: Sequence[Group]) -> Generator[Trained, None, None]:
        """The references of these groups; each has its position in the whole job."""
        job, positions, before = self._job, [position for group in groups for position in group], self._done
        part = dataclasses.replace(job, rows=job.rows[positions], keys=tuple(job.keys[i] for i in positions))
        work = describe_work(job.recipe, job.pool, len(positions), job.device)
        plan = make_plan(work, self._machine, self._how.executor, self._how.n_workers)
        if plan.measure and self._first is not None:  # the first one has told already
            spent = {"seconds": self._first.seconds, "cpu_seconds": self._first.cpu_seconds}
            one_more = dataclasses.replace(work, n=work.n + 1)
            plan = after_first(plan, one_more, self._machine, self._how.n_workers, **spent)

        def moved(models: float) -> None:
            self._bar(before + models)
            self._outlook.look()

        def recover(lost: Sequence[int]) -> list[Trained]:
            place = {position: i for i, position in enumerate(positions)}
            found = self._recover([positions[i] for i in lost])
            return [dataclasses.replace(one, position=place[one.position]) for one in found]

        trained = train_missing(
            part,
            plan,
            keep=keep_in(self._store, part),
            recover=recover,
            moved=moved,
            work=work,
            machine=self._machine,
            n_workers=self._how.n_workers,
        )
        with contextlib.closing(trained):
            for count, one in enumerate(trained, start=1):
                self._first, self._done = self._first or one, before + count
                _logger.info("Reference %d trained in %.2f s.", part.keys[one.position].index, one.seconds)
                moved(count)
                yield dataclasses.replace(one, position=positions[one.position])
