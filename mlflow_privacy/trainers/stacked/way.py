"""Which way reference models of one recipe train fastest on a device: together in a stack, or one by one."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any, Literal

import torch

from mlflow_privacy.trainers.machine import free_memory
from mlflow_privacy.trainers.settings import TorchSettings
from mlflow_privacy.trainers.stacked.dense import is_linear
from mlflow_privacy.trainers.stacked.modules import why_not
from mlflow_privacy.trainers.torch.loop import WORK_FOR_THREADS
from mlflow_privacy.trainers.torch.private import CONVOLUTIONS

# Optimizers that treat each weight by itself, so that stacking changes nothing.
ELEMENTWISE = frozenset({"sgd", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "asgd"})
_MOST_ON_CPU = 16  # with more a step of 600-128-100 costs no less a model: 1.67 ms with 16 and with 24, 2.17 alone
_MOST_ON_ACCELERATOR = 64
_MAX_BYTES = 2**31  # of stacked parameters, their gradients and optimizer state
_SHARE = 0.5  # of free memory: an accelerator's for them, the rest is for activations; a CPU's for activations
_KEPT = 3  # copies of a layer's output while its net trains: itself, its gradient, and what the layer keeps
# Rough figures of a large GPU, not measured: what it reaches in float32, and what the kernels of one layer cost to
# launch, forward, backward and update.
_FLOPS, _LAUNCH_SECONDS = 1.5e13, 5e-5


@dataclasses.dataclass(frozen=True)
class Way:
    """How the reference models of one recipe train.

    Attributes:
      kind: "stacked", several as one network, or "one by one".
      together: models of a stack at most; 1 if one by one.
      workers: stacks, or single models, that train at the same time, each in a thread of its own.
      reason: why, as a sentence without a full stop.
    """

    kind: Literal["stacked", "one by one"]
    together: int
    workers: int
    reason: str

    def __str__(self) -> str:
        threads = f" in each of {self.workers} threads" if self.workers > 1 else ""
        if self.kind == "one by one":
            return f"one by one{threads}: {self.reason}"
        return f"stacked, up to {self.together}{threads}: {self.reason}"


def choose(
    module: torch.nn.Module,
    settings: TorchSettings,
    device: torch.device,
    *,
    n_models: int | None = None,
    record_shape: tuple[int, ...] | None = None,
    record_dtype: torch.dtype | None = None,
    threads: int | None = None,
) -> Way:
    """The way that is fastest on this kind of hardware among those that give the same models.

    Args:
      module: of the recipe.
      device: to train on.
      n_models: how many are to be trained; None if that is not known.
      record_shape: of one record, without the batch; convolutional nets are never stacked without it.
      record_dtype: in which the module takes it; None is that of its parameters.
      threads: of this process; None asks torch.

    Example:
      >>> settings = TorchSettings("sgd", 0.1, epochs=1, batch_size=256)
      >>> module = torch.nn.Sequential(torch.nn.Linear(600, 128), torch.nn.Tanh(), torch.nn.Linear(128, 100))
      >>> print(choose(module, settings, torch.device("cpu"), n_models=9, threads=2))
      stacked, up to 5 in each of 2 threads: layers are dense
      >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(5408, 10))
      >>> print(choose(net, settings, torch.device("cpu"), record_shape=(1, 28, 28), threads=2))
      one by one in each of 2 threads: on a CPU convolutions of a stack take longer than one after another
    """
    reason = _cannot(module, settings, device)
    if not reason and n_models == 1:
        reason = "there is one model"
    if reason:
        return Way("one by one", 1, 1, reason)
    most = _fitting(module, device)
    convolutions = has_convolutions(module)
    if device.type != "cpu":
        gain, reason = (
            _gain(module, settings, record_shape, record_dtype) if convolutions else (math.inf, "layers are dense")
        )
        together = int(min(most, _MOST_ON_ACCELERATOR, gain, n_models or math.inf))
        return Way("stacked", together, 1, reason) if together > 1 else Way("one by one", 1, 1, reason)
    threads = threads or torch.get_num_threads()
    if convolutions:
        workers = _single_workers(module, settings, threads, n_models, record_shape, record_dtype)
        return Way("one by one", 1, workers, "on a CPU convolutions of a stack take longer than one after another")
    if most == 1:
        return Way("one by one", 1, 1, "two of these models are too large for one stack")
    most = min(most, _MOST_ON_CPU)
    workers = _workers(module, settings, threads, most, n_models)
    if n_models is not None:
        rounds = math.ceil(n_models / (workers * most))
        most = math.ceil(n_models / (workers * rounds))
    return Way("stacked", most, workers, "layers are dense")


def group_size(module: torch.nn.Module, settings: TorchSettings, device: torch.device) -> int:
    """How many models of this recipe one stack holds at most; 1 if they cannot, or should not, be stacked."""
    return choose(module, settings, device).together


def has_convolutions(module: torch.nn.Module) -> bool:
    """Whether a module has convolutions of any dimension.

    >>> has_convolutions(torch.nn.Conv1d(1, 1, 3)), has_convolutions(torch.nn.Linear(1, 1))
    (True, False)
    """
    return any(isinstance(sub, CONVOLUTIONS) for sub in module.modules())


def _cannot(module: torch.nn.Module, settings: TorchSettings, device: torch.device) -> str:
    """Why a stack would not be the same models; "" if it would."""
    reason = why_not(module)
    if reason:
        return reason
    if settings.dp:
        return "private training clips each record's gradient in a network of its own"
    if settings.precision == "bf16":
        return "its forward pass is in bfloat16, which the stack's own is not"
    if settings.optimizer not in ELEMENTWISE:
        return f"the optimizer {settings.optimizer} looks at more than one weight at a time"
    if not has_convolutions(module) and not any(map(is_linear, module.modules())):
        return "it has neither dense nor convolutional layers"
    if device.type != "cpu" and any(isinstance(sub, torch.nn.Dropout) and sub.p > 0 for sub in module.modules()):
        return "the dropout masks that a GPU draws depend on the shape of the whole batch"
    return ""


def _fitting(module: torch.nn.Module, device: torch.device) -> int:
    """How many models' parameters, gradients and optimizer state fit beside each other."""
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    room = _MAX_BYTES
    if device.type == "cuda" and torch.cuda.is_available():
        room = int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return max(1, room // max(4 * size, 1))


def _workers(module: torch.nn.Module, settings: TorchSettings, threads: int, most: int, n_models: int | None) -> int:
    """Stacks that train at the same time.

    One thread each: the threads of one product wait for each other at its end, stacks of their own do not.
    """
    weights = sum(p.numel() for p in module.parameters())
    n = most * threads if n_models is None else n_models
    share = math.ceil(n / threads)  # models of one stack
    return min(threads, n) if settings.batch_size * weights * share >= WORK_FOR_THREADS else 1


def _single_workers(
    module: torch.nn.Module,
    settings: TorchSettings,
    threads: int,
    n_models: int | None,
    record_shape: tuple[int, ...] | None,
    record_dtype: torch.dtype | None,
) -> int:
    """Convolutional nets that train at the same time.

    A small one takes 150 µs an image where two threads share its layers, 137 where each trains a net of its own.
    """
    most = min(threads, n_models or threads)
    if most == 1 or record_shape is None:
        return 1
    if any(isinstance(sub, torch.nn.Dropout) and sub.p > 0 for sub in module.modules()):
        return 1  # its masks come from the one global generator
    work, size = costs(module, record_shape, record_dtype)
    if settings.batch_size * work < WORK_FOR_THREADS:
        return 1  # Python itself takes most of a step, and only one thread runs it
    memory = free_memory()
    if memory is not None:
        most = min(most, int(_SHARE * memory) // max(_KEPT * settings.batch_size * size, 1))
    return max(1, most)


def _gain(
    module: torch.nn.Module,
    settings: TorchSettings,
    record_shape: tuple[int, ...] | None,
    record_dtype: torch.dtype | None,
) -> tuple[float, str]:
    """How many convolutional nets fill a GPU: the time to launch a step's kernels over the time to compute them."""
    if record_shape is None:
        return 1, "the shape of its records is not known"
    layers = sum(1 for sub in module.modules() if any(True for _ in sub.parameters(recurse=False)))
    work = 6 * settings.batch_size * costs(module, record_shape, record_dtype)[0] / _FLOPS
    gain = layers * _LAUNCH_SECONDS / max(work, 1e-12)
    return (gain, "its layers are too small to fill a GPU") if gain >= 2 else (1, "a layer alone fills the GPU")


@torch.no_grad()
def costs(
    module: torch.nn.Module, record_shape: tuple[int, ...], record_dtype: torch.dtype | None = None
) -> tuple[int, int]:
    """Multiplications of dense and convolutional layers, and bytes of all layers' outputs, for one record.

    >>> costs(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 5)), (1, 4, 4))
    (112, 84)
    """
    counted: list[tuple[int, int]] = []

    def count(sub: Any, given: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            multiplies = is_linear(sub) or isinstance(sub, CONVOLUTIONS)
            each = sub.weight[0].numel() if multiplies else 0  # products of one output value
            counted.append((each * output.numel(), output.numel() * output.element_size()))

    probe = copy.deepcopy(module).cpu().eval()
    for sub in probe.modules():
        if not any(True for _ in sub.children()):
            sub.register_forward_hook(count)
    kind = record_dtype or next(p.dtype for p in probe.parameters())
    probe(torch.zeros((1, *record_shape), dtype=kind))
    products, sizes = zip(*counted, strict=True)
    return sum(products), sum(sizes)
