"""The machine that trains: its cores, their threads, and its free memory. Imports no framework."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Machine:
    """What there is to train on.

    Attributes:
      cores: that this process may use, by affinity and by the container's quota.
      threads: that one process may use at most; `OMP_NUM_THREADS` lowers it.
      memory: free bytes, None if unknown.
      accelerators: names of the devices that the recipe could use, such as ("cuda:0", "cuda:1"); () for the CPU.
    """

    cores: int
    threads: int
    memory: int | None = None
    accelerators: tuple[str, ...] = ()


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its container.

    Args:
      root: where the control groups are mounted.
    """
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    quota = _quota(root)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def _quota(root: Path) -> float | None:
    """CPUs that a control group allows, of version 2 or 1; None for no limit."""
    try:
        words = (root / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [(root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]
        except OSError:
            return None
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return None  # "max", or -1
    return int(words[0]) / int(words[1])


def free_memory(meminfo: Path = Path("/proc/meminfo"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Free bytes of the machine or, if less, of the container; None where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    try:
        limit, used = (int((root / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no such group, or "max"
        return free
    return min(free, max(limit - used, 0))


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch, if it is loaded, computes with so many CPU threads, here and in threads that begin meanwhile."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
