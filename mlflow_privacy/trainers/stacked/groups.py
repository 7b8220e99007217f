"""Which models train in one stack, stacks in threads, and smaller stacks where memory runs out."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.trainers.machine import torch_threads

_logger = logging.getLogger(__name__)
Run = Callable[[Sequence[int]], Mapping[int, torch.nn.Module]]


def blocks(lengths: Sequence[int], together: int, workers: int = 1) -> Iterator[list[list[int]]]:
    """Models that train before the first of them is handed on, by their indices, as groups of equally many records.

    An odd pool splits into halves that differ by one record, so that a block holds at least two groups.

    Args:
      lengths: (n_models,) how many records each trains on.
      together: largest size of a group.
      workers: groups that train at the same time.

    >>> list(blocks([5, 6, 5, 6, 5], 2))
    [[[0, 2], [1, 3]], [[4]]]
    """
    size = together * (max(workers, 2) if together > 1 else workers)
    for start in range(0, len(lengths), size):
        by_length: dict[int, list[int]] = {}
        for i in range(start, min(start + size, len(lengths))):
            by_length.setdefault(lengths[i], []).append(i)
        yield [same[j : j + together] for same in by_length.values() for j in range(0, len(same), together)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: a GPU's, or what the CPU's allocator asked for.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    >>> out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    told = ("DefaultCPUAllocator", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(part in str(error) for part in told)


class Halving:
    """Runs groups, each in halves where it does not fit into memory; what did not fit is not tried again.

    Attributes:
      most: models that a group may hold; None until memory ran out.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self._lock = threading.Lock()

    def __call__(self, group: Sequence[int], run: Run) -> dict[int, torch.nn.Module]:
        """The trained models of a group, by index.

        Raises:
          RecipeError: a single model does not fit.
        """
        if self.most is None or len(group) <= self.most:
            with contextlib.ExitStack() as stack:  # an error that is kept would keep its tensors
                stack.push(self._shrink(group))
                return dict(run(group))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        half = (len(group) + 1) // 2
        return {**self(group[:half], run), **self(group[half:], run)}

    def _shrink(self, group: Sequence[int]) -> Callable[..., bool]:
        def leave(kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
            if error is None or not out_of_memory(error):
                return False
            if len(group) == 1:
                raise RecipeError(
                    f"There is not enough memory to train one reference model by itself: {error} Free memory, or "
                    "train on another device, such as device='cpu'. A smaller batch_size would be another recipe."
                ) from error
            with self._lock:
                self.most = min(self.most or len(group), (len(group) + 1) // 2)
            _logger.warning("Out of memory with %d models at once; going on with halves.", len(group))
            return True

        return leave


def run_groups(
    groups: Sequence[Sequence[int]], run: Run, workers: int, halving: Halving, *, share: bool = False
) -> dict[int, torch.nn.Module]:
    """The trained models of all groups, by index; groups in threads of their own if `workers` is more than 1.

    Args:
      share: such a thread computes with its part of the CPU's threads, where there are more than groups; else with one.
    """
    trained: dict[int, torch.nn.Module] = {}
    if workers == 1 or len(groups) == 1:
        for group in groups:
            trained.update(halving(group, run))
        return trained
    workers = min(workers, len(groups))
    each = max(1, torch.get_num_threads() // workers) if share else 1
    with torch_threads(each), ThreadPoolExecutor(workers, thread_name_prefix="stack") as pool:
        for models in pool.map(lambda group: halving(group, run), groups):
            trained.update(models)
    return trained


class Meter:
    """Adds up the steps of models that train at the same time.

    Args:
      report: called with the steps done by all models together; None for nobody.
    """

    def __init__(self, report: Callable[[int], None] | None) -> None:
        self._report, self._lock = report, threading.Lock()
        self._steps: dict[int, int] = {}

    def of(self, group: Sequence[int]) -> Callable[[int], None]:
        """What a group calls with the steps that each of its models has done."""

        def report(step: int) -> None:
            if self._report is None:
                return
            with self._lock:
                self._steps.update(dict.fromkeys(group, step))
                self._report(sum(self._steps.values()))

        return report
