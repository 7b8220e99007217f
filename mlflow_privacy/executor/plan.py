"""How missing reference models are trained: one by one, stacked, or spread over workers; with the reason."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.trainers.machine import Machine, free_memory, usable_cores
from mlflow_privacy.types import Recipe, Records

# Seconds until a fresh worker process has imported what it needs, on an idle core.
_START_SECONDS = {"sklearn": 2.0, "booster": 2.0}
_START_SECONDS_TORCH = 3.0
_GAIN = 0.8  # workers must promise at least a fifth less time, or they are not worth their start
_WORKER_BYTES = 2**29  # an interpreter with torch
# Of what a second core could add to a convolution, the share that a second thread does: threads mostly wait there.
_CONVOLUTION_EFFICIENCY = 0.3
_ON_ACCELERATORS = frozenset({"torch", "fast_resnet", "transformers"})
_OURS = _ON_ACCELERATORS | {"sklearn", "booster", "callable"}  # what recipes of other kinds use, nobody knows


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be trained.

    Attributes:
      kind: of the recipe.
      n: how many references are missing.
      together: how many of them the trainer trains at once on one device; 1 if one by one.
      at_once: how many networks, or stacks, the trainer trains at the same time in threads of this process.
      pool_bytes: size of the pool's features.
      convolutions: whether the time goes into convolutions, which use threads badly.
      way: the trainer's own, in words.
    """

    kind: str
    n: int
    together: int = 1
    at_once: int = 1
    pool_bytes: int = 0
    convolutions: bool = False
    way: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the missing references are trained.

    Attributes:
      executor: "local" (in this process), a joblib backend, or "ray".
      workers: how many at a time; 0 leaves it to the cluster.
      threads: of each worker.
      together: references that a worker takes at a time.
      devices: one accelerator a worker; () where the workers share what there is.
      reason: a sentence for the log.
      measure: train the first reference in this process, and decide by the time that it took.
    """

    executor: str
    workers: int
    threads: int
    together: int
    devices: tuple[str, ...]
    reason: str
    measure: bool = False

    def __str__(self) -> str:
        if self.executor == "local":
            return f"in this process: {self.reason}"
        many = f"{self.workers} worker(s)" if self.workers else "the cluster's workers"
        return f"by {self.executor}, {many} of {self.threads} thread(s): {self.reason}"


def make_plan(work: Work, machine: Machine, executor: str = "auto", n_workers: int | None = None) -> Plan:
    """The way to train the missing references.

    Args:
      work: what is to be trained.
      machine: what there is to train on.
      executor: "auto", "local", "ray", or a joblib backend.
      n_workers: the caller's; with "auto" the most that are used. None leaves it to the plan.

    Raises:
      ConfigError: threads were asked for where models would draw from one another's random numbers, or workers
        where there are none.

    Example:
      >>> print(make_plan(Work("torch", 8, together=8), Machine(cores=4, threads=4)))
      in this process: stacked, up to 8; they use all cores.
      >>> make_plan(Work("torch", 8), Machine(8, 8, None, ("cuda:0", "cuda:1"))).devices
      ('cuda:0', 'cuda:1')
    """
    if executor == "threading" and work.kind != "sklearn":
        raise ConfigError(
            f"executor='threading' cannot train references of a {work.kind} recipe: threads of one process share its "
            "random generators, and no model would be what its seed says. Use executor='loky', which takes processes."
        )
    if executor == "ray":
        limit = n_workers or 0
        size = max(1, min(work.together, math.ceil(work.n / limit) if limit else work.together))
        return Plan("ray", limit, 1, size, (), "asked for.")
    if executor == "local":
        if n_workers not in (None, 1):
            raise ConfigError(
                f"executor='local' trains in this process, without workers, but n_workers={n_workers}. Leave one of "
                "them out, or use executor='loky'."
            )
        return _here(machine, work, "asked for.")
    if executor != "auto":
        devices = machine.accelerators if len(machine.accelerators) > 1 else ()
        default = len(machine.accelerators) or machine.cores
        return _spread(work, machine, executor, min(work.n, n_workers or default), devices, "asked for.")
    if work.n == 1 or n_workers == 1:
        return _here(machine, work, "one reference is missing." if work.n == 1 else "n_workers=1.")
    if len(machine.accelerators) > 1 and work.kind in _ON_ACCELERATORS:
        many = min(work.n, len(machine.accelerators), n_workers or work.n)
        return _spread(work, machine, "loky", many, machine.accelerators, "one worker an accelerator.")
    if machine.accelerators and work.kind in _ON_ACCELERATORS:
        return _here(machine, work, f"one accelerator, {machine.accelerators[0]}{work.way and '; '}{work.way}.")
    if work.together > 1 or work.at_once > 1:
        return _here(machine, work, f"{work.way or f'stacked, up to {work.together}'}; they use all cores.")
    if work.kind == "callable":
        return _here(machine, work, "a train_fn may use anything; ask for executor='loky' if copies of it may run.")
    if work.kind == "transformers":
        return _here(machine, work, "a language model uses all cores and much memory.")
    if work.kind == "keras":
        return _here(machine, work, "Keras uses all cores itself.")
    if work.kind not in _OURS:
        return _here(machine, work, "another package trains; ask for executor='loky' if copies of it may run.")
    if _most_workers(work, machine, work.n - 1, n_workers) < 2:
        why = "one core." if machine.cores < 2 else "no second worker would have work, or memory."
        return _here(machine, work, why)
    here = _here(machine, work, "the first one tells whether workers are worth their start.")
    return dataclasses.replace(here, measure=True)


def after_first(
    plan: Plan, work: Work, machine: Machine, n_workers: int | None, *, seconds: float, cpu_seconds: float
) -> Plan:
    """The plan for the rest, once the first reference is trained.

    Workers get one thread each, so that a model takes longer there by what threads gained here.

    Args:
      seconds: that the first one took.
      cpu_seconds: that all threads of the process spent in that time.

    Example:
      >>> work, machine = Work("sklearn", 9), Machine(cores=4, threads=4)
      >>> plan = make_plan(work, machine)
      >>> after_first(plan, work, machine, None, seconds=10.0, cpu_seconds=10.0).workers
      4
      >>> after_first(plan, work, machine, None, seconds=0.1, cpu_seconds=0.1).executor
      'local'
    """
    rest = work.n - 1
    workers = _most_workers(work, machine, rest, n_workers)
    if workers < 2:
        return dataclasses.replace(plan, measure=False)
    busy = min(max(cpu_seconds / max(seconds, 1e-9), 1.0), float(machine.cores))
    gained = 1 + (busy - 1) * (_CONVOLUTION_EFFICIENCY if work.convolutions else 1.0)
    start = _START_SECONDS.get(work.kind, _START_SECONDS_TORCH)
    here, spread = rest * seconds, start + math.ceil(rest / workers) * seconds * gained
    told = (
        f"the first took {seconds:.1f} s on {busy:.1f} core(s); {rest} more: {here:.0f} s here, {spread:.0f} s there."
    )
    if spread > _GAIN * here:
        return dataclasses.replace(plan, reason=told, measure=False)
    return _spread(dataclasses.replace(work, n=rest), machine, "loky", workers, (), told)


def _here(machine: Machine, work: Work, reason: str) -> Plan:
    return Plan("local", 1, machine.threads, work.n, (), reason)


def _spread(work: Work, machine: Machine, executor: str, workers: int, devices: tuple[str, ...], reason: str) -> Plan:
    threads = max(1, min(machine.threads, machine.cores // max(workers, 1)))
    size = max(1, min(work.together, math.ceil(work.n / max(workers, 1))))
    return Plan(executor, workers, threads, size, devices[:workers], reason)


def _most_workers(work: Work, machine: Machine, n: int, n_workers: int | None) -> int:
    """How many single-threaded workers have a core, work, and memory."""
    most = min(n, machine.cores, n_workers or n)
    if machine.memory is not None:
        # The pool is mapped from one file; each worker copies the part that it trains on, and what it makes of it.
        most = min(most, machine.memory // (_WORKER_BYTES + 2 * work.pool_bytes))
    return max(1, most)


def groups_of(positions: list[int], size: int) -> list[tuple[int, ...]]:
    """What workers take at a time, in order.

    >>> groups_of([3, 4, 5], 2)
    [(3, 4), (5,)]
    """
    return [tuple(positions[start : start + size]) for start in range(0, len(positions), size)]


def describe_work(recipe: Recipe, pool: Records, n: int, device: str = "auto") -> Work:
    """The missing references of a recipe, as a plan sees them."""
    work = Work(recipe.kind, n, pool_bytes=_bytes(pool.x), convolutions=recipe.kind == "fast_resnet")
    return _torch_work(work, recipe, pool, device) if recipe.kind == "torch" and recipe.template is not None else work


def _torch_work(work: Work, recipe: Recipe, pool: Records, device: str) -> Work:
    """The work, completed by how many modules of the recipe train at once, and whether they are convolutional."""
    from mlflow_privacy.trainers.stacked.way import choose, has_convolutions
    from mlflow_privacy.trainers.torch.reinit import plain_module
    from mlflow_privacy.trainers.torch.tensors import resolve_device
    from mlflow_privacy.trainers.torch.trainer import settings_of

    module = plain_module(recipe.template)
    shape = tuple(getattr(pool.x, "shape", ()))[1:]
    way = choose(module, settings_of(recipe), resolve_device(device), n_models=work.n, record_shape=shape or None)
    convolutions = has_convolutions(module)
    return dataclasses.replace(
        work, together=way.together, at_once=way.workers, convolutions=convolutions, way=str(way)
    )


def _bytes(x: Any) -> int:
    """Size of features; of a table as its columns lie in memory."""
    if hasattr(x, "memory_usage"):
        return int(x.memory_usage(index=False).sum())
    return int(getattr(x, "nbytes", 0))


def this_machine(recipe: Recipe, device: str = "auto") -> Machine:
    """Cores, threads, free memory, and the accelerators that a recipe of this kind could use."""
    cores = usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    most = int(threads) if threads.isdigit() and int(threads) else cores
    return Machine(cores, min(most, cores), free_memory(), _accelerators(recipe, device))


def _accelerators(recipe: Recipe, device: str) -> tuple[str, ...]:
    """The accelerators; none for a recipe that trains on the CPU, without importing torch to find out."""
    if recipe.kind not in _ON_ACCELERATORS or device == "cpu":
        return ()
    if device == "mps":
        return (device,)
    import torch

    if not torch.cuda.is_available():
        return ()
    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) if device in ("auto", "cuda") else (device,)
