"""Local workers: one process (or thread) a slot, so that one that dies takes nothing along but what it was training."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.executor.parcel import Parcel, pack, unpack
from mlflow_privacy.executor.plan import Plan
from mlflow_privacy.executor.work import Job, Line, Trained, few_threads, work

_logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.5  # between looks at the workers' progress
Group = tuple[int, ...]
Done = tuple[list[Trained], list[Line]]


@dataclasses.dataclass(frozen=True)
class Lost:
    """A group whose worker died; `why` in words."""

    why: str


Outcome = tuple[Group, "Done | Lost"]
Outcomes = Generator[Outcome, None, None]


def run_threads(job: Job, plan: Plan, groups: Sequence[Group], tick: Callable[[], None]) -> Outcomes:
    """Groups in threads of this process; the process's random generators are put back afterwards."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    pool = concurrent.futures.ThreadPoolExecutor(plan.workers, thread_name_prefix="privacy-worker")
    try:
        with few_threads(plan.threads):
            futures = {pool.submit(work, job, group, collect=False): group for group in groups}
            for future in _completed(futures, tick):
                try:
                    yield futures[future], future.result()
                except MemoryError as error:
                    yield futures[future], Lost(f"out of memory: {error}")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def run_processes(job: Job, plan: Plan, groups: Sequence[Group], tick: Callable[[], None]) -> Outcomes:
    """Groups in processes, each a pool of one worker; none outlives this generator, or this process.

    After a worker's death one fewer goes on, if there are others: where memory ran out once, it would again.
    """
    parcel = pack(job, job.folder)
    slots = [_Slot(plan, i) for i in range(min(plan.workers, len(groups)))]
    waiting, running = deque(groups), dict[Any, tuple[_Slot, Group]]()
    free = list(slots)
    try:
        while waiting or running:
            while waiting and free:
                slot, group = free.pop(0), waiting.popleft()
                try:
                    running[slot.submit(parcel, group)] = slot, group
                except concurrent.futures.BrokenExecutor as error:  # died between two groups
                    free += _bury(slot, slots)
                    yield group, Lost(str(error))
            if not running:
                continue
            done, _ = concurrent.futures.wait(running, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            tick()
            for future in done:
                slot, group = running.pop(future)
                try:
                    result: Done | Lost = unpack(future.result(), remember=False)
                    free.append(slot)
                except concurrent.futures.BrokenExecutor as error:
                    result = Lost(str(error).partition("\n")[0])
                    free += _bury(slot, slots)
                except MemoryError as error:
                    result = Lost(f"out of memory: {error}")
                    free += _bury(slot, slots)
                yield group, result
    finally:
        for slot in slots:
            slot.kill()


def _bury(slot: _Slot, slots: list[_Slot]) -> list[_Slot]:
    """Ends a slot whose worker died. It is used again only if it is the last one, or the only one of its device."""
    slot.kill()
    if len(slots) > 1 and not slot.device:
        slots.remove(slot)
        return []
    return [slot]


class _Slot:
    """A place for one worker process at a time, which is started with the first group."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.device = plan.devices[number % len(plan.devices)] if plan.devices else ""
        self._plan = plan
        self._pool: Any = None

    def submit(self, parcel: Parcel, group: Group) -> concurrent.futures.Future[Parcel]:
        if self._pool is None:
            from joblib.externals.loky import ProcessPoolExecutor

            # Started by fork and exec: nothing of this process's threads, locks and connections is copied, and a
            # script needs no `if __name__ == "__main__"`.
            environment = worker_environment(self._plan.threads, self.device, os.environ)
            self._pool = ProcessPoolExecutor(1, initializer=start_worker, initargs=(os.getpid(),), env=environment)
        return self._pool.submit(work_on, parcel, group)

    def kill(self) -> None:
        """Ends the worker at once; what it had finished is with the caller already."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=True)


def worker_environment(threads: int, device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of one worker: its threads, and the one accelerator that it sees.

    Args:
      threads: of BLAS and OpenMP.
      device: "cuda:N" among those that this process sees; "" for all.
      environment: of this process.

    >>> worker_environment(1, "cuda:1", {"CUDA_VISIBLE_DEVICES": "4,6"})["CUDA_VISIBLE_DEVICES"]
    '6'
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    chosen = dict.fromkeys(names, str(threads))
    if device.startswith("cuda:"):
        number = int(device.partition(":")[2])
        seen = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        chosen["CUDA_VISIBLE_DEVICES"] = seen[number] if seen else str(number)
    return chosen


def start_worker(parent: int) -> None:
    """First thing in a worker: Ctrl-C is the caller's to handle, and whoever loses the caller ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def work_on(parcel: Parcel, group: Group) -> Parcel:
    """In a worker: a group of the job in a parcel; what came out, packed for the way back."""
    return pack(work(unpack(parcel), group))


def _completed(futures: Mapping[Any, Group], tick: Callable[[], None]) -> Iterator[Any]:
    waiting = set(futures)
    while waiting:
        done, waiting = concurrent.futures.wait(waiting, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
        tick()
        yield from done


def run_joblib(job: Job, plan: Plan, groups: Sequence[Group], tick: Callable[[], None]) -> Outcomes:
    """Groups on any other backend that is registered with joblib, such as dask's; its workers may be anywhere.

    When such a backend loses a worker, it says no more than that: all groups that are not finished count as lost.
    """
    import joblib

    parcel, left = pack(job), set(groups)
    # As a setting, because only there joblib loads the backends of other packages by their names.
    with joblib.parallel_config(backend=plan.executor, n_jobs=plan.workers):
        parallel = joblib.Parallel(batch_size=1, return_as="generator_unordered")
    try:
        for group, result in parallel(joblib.delayed(_named)(parcel, group) for group in groups):
            tick()
            left.discard(group)
            yield group, unpack(result, remember=False)
    except Exception as error:
        if not died(error):
            raise
        yield from ((group, Lost(f"{type(error).__name__}: {error}")) for group in sorted(left))


def _named(parcel: Parcel, group: Group) -> tuple[Group, Parcel]:
    return group, work_on(parcel, group)


def died(error: BaseException) -> bool:
    """Whether an error of a joblib backend says that a worker died, rather than that training failed."""
    names = {"KilledWorker", "TerminatedWorkerError", "WorkerInterrupt", "CommClosedError"}
    return isinstance(error, (concurrent.futures.BrokenExecutor, MemoryError)) or type(error).__name__ in names
