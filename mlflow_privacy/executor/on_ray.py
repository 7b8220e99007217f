"""Groups of references as tasks of a Ray cluster, whose workers keep what they have trained themselves."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.executor.parcel import unsendable
from mlflow_privacy.executor.plan import Plan
from mlflow_privacy.executor.pools import Group, Lost, Outcomes
from mlflow_privacy.executor.work import Job, work
from mlflow_privacy.trainers.machine import usable_cores

_logger = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 10.0


def run_ray(job: Job, plan: Plan, groups: Sequence[Group], tick: Callable[[], None]) -> Outcomes:
    """Groups as tasks; a task whose worker or machine is gone is a lost group, which the caller tries again.

    The job is put into the cluster's shared memory once; each machine maps it from there.
    """
    ray = _ray()
    _check_reach(ray, job)
    task = ray.remote(**task_options(plan.threads, job.device, ray.cluster_resources()))(_work)
    try:
        handle = ray.put(job)
    except Exception as error:  # whatever an object's own __reduce__ raises
        raise unsendable("cannot be sent to the cluster", error) from error
    waiting, running = deque(groups), dict[Any, Group]()
    most = plan.workers or len(groups)
    try:
        while waiting or running:
            while waiting and len(running) < most:
                group = waiting.popleft()
                running[task.remote(handle, group)] = group
            done, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS)
            tick()
            for reference in done:
                yield running.pop(reference), _result(ray, reference)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def task_options(threads: int, device: str, resources: Mapping[str, float]) -> dict[str, Any]:
    """What one task asks of the cluster: its cores, and a GPU of its own where there are any and one is wanted.

    Ray's own retries are off: a group is tried again by the caller, without what is stored already.

    >>> task_options(1, "auto", {"CPU": 8.0, "GPU": 2.0})
    {'num_cpus': 1, 'num_gpus': 1, 'max_retries': 0}
    """
    wanted = device.startswith(("auto", "cuda")) and resources.get("GPU", 0) >= 1
    return {"num_cpus": threads, "num_gpus": int(wanted), "max_retries": 0}


def _work(job: Job, group: Group) -> Any:
    import warnings

    # The pool lies in shared memory that nobody may write to; torch warns of writing, which nobody does.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
    return work(job, group)


def _result(ray: Any, reference: Any) -> Any:
    """What a task gave, or that it is lost; what training itself raised travels on."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, MemoryError):
            return Lost(f"out of memory: {cause}")
        raise (cause if isinstance(cause, Exception) else error) from error
    except ray.exceptions.RayError as error:
        return Lost(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "executor='ray' needs Ray, which is not installed: pip install 'mlflow-privacy[ray]'."
        ) from error
    return ray


@contextlib.contextmanager
def session() -> Iterator[None]:
    """A connection to the running cluster; where there is none, to a local one that ends with the block.

    Raises:
      ConfigError: Ray is not installed, or RAY_ADDRESS names no cluster.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    _check_address(address)
    # Ray takes SIGTERM for itself; the audit's own handler closes its run.
    handler = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        ray.init(address=address or "auto", **quiet)
        _logger.info("Connected to the Ray cluster %s.", address or "that runs on this machine")
    except ConnectionError as error:
        if address:
            raise ConfigError(f"RAY_ADDRESS={address!r} names no cluster that answers: {error}") from error
        cores = usable_cores()
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        _logger.info("No Ray cluster runs here and RAY_ADDRESS is unset: started one on this machine, %d cores.", cores)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Raises `ConfigError` if nobody listens there; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", "local", or a name that Ray knows
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"RAY_ADDRESS={address!r} names no cluster that answers: {error}. Unset it for a cluster of this machine."
        ) from error


def _check_reach(ray: Any, job: Job) -> None:
    """Raises `ConfigError` where workers on other machines would write into a store that is only here."""
    uri = str(getattr(job.open_store, "uri", ""))
    machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(machines) > 1 and uri and not uri.startswith(("http://", "https://", "databricks", "mysql", "postgres")):
        raise ConfigError(
            f"The Ray cluster has {len(machines)} machines, and the tracking URI {uri!r} is a file of this one. Use a "
            "tracking server (mlflow server), which all of them reach."
        )
