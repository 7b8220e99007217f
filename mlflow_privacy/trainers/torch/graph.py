"""One training step of a network, recorded once as a CUDA graph and replayed for every reference model.

A step of a small convolutional net is some hundred kernels of a few microseconds each, and a GPU waits for Python to
launch them. A recorded step is launched as a whole. It reads its minibatch, what augmentation drew and the learning
rate from tensors that stay where they are, and trains one network whose weights are copied in from each fresh reference
and out when it is trained. Nothing of one reference is left for the next: parameters, buffers and the optimizer's state
are all set anew. Not yet run on a GPU: the tests run the same class with steps that are not recorded.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch

from mlflow_privacy.trainers.settings import TorchSettings
from mlflow_privacy.trainers.torch.private import has_hooks

_logger = logging.getLogger(__name__)
Step = Callable[[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]], None]
Record = Callable[[Callable[[], None]], Callable[[], None]]
# Optimizers whose state begins with zeros alone, so that a reference can begin with the state of another, set to zero.
_OPTIMIZERS = frozenset({"sgd", "adam", "adamw"})
# Their layers decide nothing in Python from one step to the next, which a recording would repeat for ever.
_KNOWN = ("torch.nn.", "torchvision.", "mlflow_privacy.")
_WARM_UP = 3  # steps before the recording, in which libraries make their plans
_WORTH = 200  # steps: recording takes about a hundred steps' time


def reason_against(
    module: torch.nn.Module, settings: TorchSettings, device: torch.device, sizes: Sequence[int]
) -> str | None:
    """Why the step of a module is not recorded; None if it can be and is worth it.

    Args:
      sizes: how many records each reference trains on.

    Example:
      >>> settings = TorchSettings("sgd", 0.1, epochs=1, batch_size=2)
      >>> reason_against(torch.nn.Linear(1, 1), settings, torch.device("cpu"), [8])
      'cpu has no graphs'
    """
    if device.type != "cuda":
        return f"{device.type} has no graphs"
    return unfit(module, settings, sizes)


def unfit(module: torch.nn.Module, settings: TorchSettings, sizes: Sequence[int]) -> str | None:
    """Why a recorded step would not be, or not reliably be, the step itself, or is not worth it."""
    foreign = sorted({type(sub).__name__ for sub in module.modules() if not type(sub).__module__.startswith(_KNOWN)})
    steps = sum(settings.epochs * (n // settings.batch_size) for n in sizes)
    if settings.dp is not None:
        return "differential privacy draws batches of varying size"
    if settings.optimizer not in _OPTIMIZERS or settings.optimizer_options.get("dampening"):
        return f"the state of this optimizer, {settings.optimizer}, does not begin with zeros"
    if foreign:
        return f"{', '.join(foreign)} may do something else at each step"
    if has_hooks(module):
        return "the module has hooks"
    if steps < _WORTH:
        return f"{steps} full batches are fewer than {_WORTH}"
    return None


def record_on_cuda(run: Callable[[], None]) -> Callable[[], None]:
    """A function that does what `run` did, on the current CUDA device.

    Raises:
      RuntimeError: `run` cannot be recorded, for instance as it waits for the device.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with warnings.catch_warnings(), torch.cuda.stream(stream):
        warnings.simplefilter("ignore")  # an optimizer made for graphs complains of steps without one
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


class StepEngine:
    """A network, its optimizer and the tensors that a recorded step reads.

    Args:
      net: on its device, in training mode; it is trained in place of each reference.
      optimizer: of its parameters, with `rate` as learning rate.
      rate: () on the device.
      step: does one step with a minibatch, its targets and what augmentation drew for it.
      batch: (b, ...), in the type in which features are stored; an example.
      targets: (b, ...), an example.
      drawn: of `torch_augment.draw`, for b records; an example.
      record: makes a function that repeats another. Without it every step runs as it is written.

    Raises:
      RuntimeError: the step cannot be recorded.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: torch.Tensor,
        step: Step,
        batch: torch.Tensor,
        targets: torch.Tensor,
        drawn: Mapping[str, torch.Tensor],
        *,
        record: Record | None = None,
    ) -> None:
        self.net, self._optimizer, self._rate, self._step = net, optimizer, rate, step
        self._batch, self._targets = batch.clone(), targets.clone()
        self._drawn = {name: value.clone() for name, value in drawn.items()}
        self._rates = rate.reshape(1)
        self._replay: Callable[[], None] = self._run if record is None else record(self._run)

    def _run(self) -> None:
        self._step(self._batch, self._targets, self._drawn)

    @torch.no_grad()
    def begin(self, model: torch.nn.Module, rates: Sequence[float]) -> None:
        """Takes over the weights and buffers of a fresh reference; (steps,) `rates` go to the device at once."""
        _copy_state(model, self.net)
        for state in self._optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        self._rates = torch.tensor(list(rates), dtype=self._rate.dtype).to(self._rate.device)

    @torch.no_grad()
    def set_rate(self, step: int) -> None:
        """The learning rate of a step, copied within the device."""
        self._rate.copy_(self._rates[step])

    def take(self, batch: torch.Tensor, targets: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> None:
        """One step: replayed, or as it is written for a batch of another size, such as the last of an epoch."""
        if batch.shape != self._batch.shape:
            self._step(batch, targets, drawn)
            return
        with torch.no_grad():
            self._batch.copy_(batch)
            self._targets.copy_(targets)
            for name, value in self._drawn.items():
                value.copy_(drawn[name])
        self._replay()

    @torch.no_grad()
    def finish(self, model: torch.nn.Module) -> None:
        """Gives the reference what was trained in its place."""
        _copy_state(self.net, model)


def _copy_state(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Writes all parameters and buffers, stored or not, into those of a copy; they stay where they are."""
    for (_, new), (_, old) in zip(_tensors(source), _tensors(target), strict=True):
        old.copy_(new)


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
