"""The training loop of one PyTorch module: minibatches, schedule, optimizer, threads."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mlflow_privacy.seeding import seeded
from mlflow_privacy.trainers.dp import make_private, plan_privacy
from mlflow_privacy.trainers.machine import torch_threads
from mlflow_privacy.trainers.settings import TorchSettings, learning_rates, optimizer_class
from mlflow_privacy.trainers.torch import augment
from mlflow_privacy.trainers.torch.graph import Record, Step, StepEngine, reason_against, record_on_cuda
from mlflow_privacy.trainers.torch.layout import PROBED, fast_layout, is_convolutional
from mlflow_privacy.trainers.torch.optimizers import without_compiler
from mlflow_privacy.trainers.torch.private import BATCH_NORMALISATIONS, CONVOLUTIONS
from mlflow_privacy.trainers.torch.reinit import reinitialise
from mlflow_privacy.trainers.torch.tensors import Feeder, first_tensor

_logger = logging.getLogger(__name__)
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_PROGRESS_STEPS = 50  # a call every so many steps costs nothing and still looks alive
# Multiplications a forward step, about a millisecond on one core. Below it threads gain little, and where cores are
# shared with other processes they wait for each other: 600-128-100 in batches of 128 took 39 s with two, 3 s with one.
WORK_FOR_THREADS = 2**24
_SPATIAL = (*CONVOLUTIONS, torch.nn.RNNBase, torch.nn.MultiheadAttention)  # more work than parameters


def last_batch(n: int, settings: TorchSettings, module: torch.nn.Module) -> int:
    """How many records an epoch takes: batch normalisation cannot train on a single one left over."""
    rest = n % settings.batch_size
    normalised = any(isinstance(sub, BATCH_NORMALISATIONS) for sub in module.modules())
    if n > settings.batch_size and (settings.drop_last or (rest == 1 and normalised)):
        return n - rest
    return n


def steps_an_epoch(n: int, settings: TorchSettings, module: torch.nn.Module) -> int:
    return -(-last_batch(n, settings, module) // settings.batch_size)


def fit(
    model: torch.nn.Module,
    feeder: Feeder,
    targets: torch.Tensor,
    rows: torch.Tensor,
    loss: Loss,
    settings: TorchSettings,
    *,
    seed: int,
    report: Callable[[int], None],
    engine: StepEngine | None = None,
) -> None:
    """Trains `model` on the records at `rows` (n,) in place; nothing in an epoch waits for the device.

    Args:
      engine: of `step_engine`, trains in place of the model; it must be of the same module, loss and settings.
    """
    device = targets.device
    generator = torch.Generator().manual_seed(seed)
    n, size = last_batch(len(rows), settings, model), settings.batch_size
    if settings.dp is not None:
        plan = plan_privacy(settings.dp, n=len(rows), batch_size=size, epochs=settings.epochs)
        rates = learning_rates(settings, round(1 / plan.sample_rate)).tolist()
        optimizer: Any = make_optimizer(_trainable(model), settings)
        with make_private(model, optimizer, plan, n=len(rows), generator=generator, device=device) as own:
            step, rate = step_of(own.model, own.optimizer, feeder, loss, settings), rate_of(own.optimizer, rates)
            _loop(step, rate, own.draw, feeder, targets, rows, settings, generator, report)
            own.optimizer.zero_grad(set_to_none=True)
        return

    def shuffled() -> tuple[torch.Tensor, list[tuple[int, int]]]:
        order = torch.randperm(len(rows), generator=generator)
        return order, [(start, min(start + size, len(rows))) for start in range(0, n, size)]

    rates = learning_rates(settings, -(-n // size)).tolist()
    if engine is not None:
        engine.begin(model, rates)
        _loop(engine.take, engine.set_rate, shuffled, feeder, targets, rows, settings, generator, report)
        engine.finish(model)
        return
    with layout(model, feeder, rows, settings, device):
        optimizer = make_optimizer(_trainable(model), settings)
        step, rate = step_of(model, optimizer, feeder, loss, settings), rate_of(optimizer, rates)
        _loop(step, rate, shuffled, feeder, targets, rows, settings, generator, report)
        optimizer.zero_grad(set_to_none=True)


def _loop(
    step: Step,
    rate: Callable[[int], None],
    batches: Callable[[], tuple[torch.Tensor, list[tuple[int, int]]]],
    feeder: Feeder,
    targets: torch.Tensor,
    rows: torch.Tensor,
    settings: TorchSettings,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> None:
    """The training loop: `batches` draws one epoch, (k,) places in `rows` and where each batch lies among them."""
    device = targets.device
    shape = tuple(feeder.slice(0, 1).shape[1:])
    done = 0
    for _ in range(settings.epochs):
        places, bounds = batches()
        chosen = rows[places]
        order = chosen.to(device)  # once an epoch, and what augmentation draws as well
        source = order if feeder.resident else chosen
        drawn = augment.draw(settings.augmentation, len(order), shape, generator, device)
        for start, stop in bounds:
            part = {name: value[start:stop] for name, value in drawn.items()}
            rate(done)
            step(feeder.take(source[start:stop]), targets.index_select(0, order[start:stop]), part)
            done += 1
            if done % _PROGRESS_STEPS == 0:
                report(done)
    report(done)


def step_of(model: torch.nn.Module, optimizer: Any, feeder: Feeder, loss: Loss, settings: TorchSettings) -> Step:
    """One training step with a minibatch in its stored type, its targets, and what augmentation drew for it."""
    parameters, half = _trainable(model), settings.precision == "bf16"

    def step(batch: torch.Tensor, targets: torch.Tensor, drawn: Mapping[str, torch.Tensor]) -> None:
        if drawn:
            batch = augment.apply(batch, settings.augmentation, drawn)
        optimizer.zero_grad(set_to_none=True)
        if half:
            with torch.autocast(batch.device.type, dtype=torch.bfloat16):
                output = first_tensor(model(feeder.cast(batch)))
            output = output.float() if output.dtype == torch.bfloat16 else output
        else:
            output = first_tensor(model(feeder.cast(batch)))
        loss(output, targets).backward()
        if settings.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        optimizer.step()

    return step


def rate_of(optimizer: Any, rates: Sequence[float]) -> Callable[[int], None]:
    """Sets the learning rate of a step; does nothing if it is the same in all."""
    if len(set(rates)) == 1:
        return lambda step: None

    def rate(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rates[step]

    return rate


def step_engine(
    module: torch.nn.Module,
    feeder: Feeder,
    targets: torch.Tensor,
    rows: Sequence[torch.Tensor],
    loss: Loss,
    settings: TorchSettings,
    *,
    record: Record | None = None,
) -> StepEngine | None:
    """A recorded step for all references that train on `rows`, m times (n,); None where each step runs as written.

    Args:
      record: for tests: records on any device, however few steps there are.
    """
    device, size = targets.device, settings.batch_size
    reason = None if record else reason_against(module, settings, device, [len(row) for row in rows])
    if reason is not None:
        if device.type == "cuda":
            _logger.info("Training steps are not recorded as a CUDA graph: %s.", reason)
        return None
    first = next((row for row in rows if len(row) >= size), rows[0])[:size]
    with seeded(0), reproducible(device, settings.precision), _on(device):
        net = reinitialise(module, 0).to(device)
        if _wants_layout(settings, device):
            with fast_layout(net, feeder.cast(feeder.take(first[:PROBED]))) as changed:
                pass
            if changed:
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate = torch.tensor(settings.learning_rate, dtype=torch.float32, device=device)
        optimizer = make_optimizer(_trainable(net), settings, rate=rate)
        shape = tuple(feeder.slice(0, 1).shape[1:])
        drawn = augment.draw(settings.augmentation, size, shape, torch.Generator().manual_seed(0), device)
        step = step_of(net, optimizer, feeder, loss, settings)
        batch, wanted = feeder.take(first), targets.index_select(0, first.to(device))
        try:
            return StepEngine(net, optimizer, rate, step, batch, wanted, drawn, record=record or record_on_cuda)
        except RuntimeError as error:  # of the capture: something waits for the device, or memory is short
            _logger.warning("Training steps cannot be recorded as a CUDA graph: %s", str(error).split("\n")[0])
            return None


def _trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def layout(
    model: torch.nn.Module, feeder: Feeder, rows: torch.Tensor, settings: TorchSettings, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """The memory format to train in; see `trainers.torch.layout`."""
    if not _wants_layout(settings, device) or not is_convolutional(model):
        return contextlib.nullcontext()
    return fast_layout(model, feeder.cast(feeder.take(rows[:PROBED])))


def _wants_layout(settings: TorchSettings, device: torch.device) -> bool:
    """On a GPU it is tensor cores that want another format, and float32 does not use them."""
    return device.type == "cpu" or (device.type == "cuda" and settings.precision != "float32")


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def make_optimizer(
    parameters: list[torch.nn.Parameter], settings: TorchSettings, *, rate: torch.Tensor | None = None
) -> torch.optim.Optimizer:
    """The optimizer, fused where torch has it so.

    Args:
      rate: () on the device, for a step that a graph repeats: the learning rate is read from it.
    """
    cls = without_compiler(optimizer_class(settings.optimizer))
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.optimizer_options.items()}
    if rate is not None and rate.is_cuda and "capturable" in inspect.signature(cls.__init__).parameters:
        options["capturable"] = True
    lr = settings.learning_rate if rate is None else rate
    try:
        return cls(parameters, lr=lr, **options, fused=True)
    except (RuntimeError, TypeError):  # not for this optimizer, type or device
        return cls(parameters, lr=lr, **options)


@contextlib.contextmanager
def reproducible(device: torch.device, precision: str = "auto") -> Iterator[None]:
    """Convolutions that give the same sums each time, in the precision that the settings ask for.

    "auto" is TF32 for convolutions and what `torch.backends.cuda.matmul` says, float32 if nobody changed it, for
    products of matrices; "float32" and "tf32" are for both. "bf16" is a matter of the step, and here as "auto".
    """
    if device.type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=precision != "float32"
    ):
        try:
            if precision in ("float32", "tf32"):
                products.allow_tf32 = precision == "tf32"
            yield
        finally:
            if products.allow_tf32 != before:
                products.allow_tf32 = before


def one_thread() -> contextlib.AbstractContextManager[None]:
    """Torch computes with one CPU thread, here and in threads that begin meanwhile.

    For much small work: on busy cores the threads of one operation wait for each other, and keep a core busy with it.
    Initialising a 600-128-100 took 32 ms of CPU time with two threads, 2 ms with one.
    """
    return torch_threads(1)


def few_threads(
    model: torch.nn.Module, batch_size: int, device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """One CPU thread for a module whose step is so short that threads would wait for each other most of it."""
    dense = not any(isinstance(sub, _SPATIAL) for sub in model.modules())
    work = batch_size * sum(p.numel() for p in model.parameters())
    short = device.type == "cpu" and dense and work < WORK_FOR_THREADS
    return one_thread() if short else contextlib.nullcontext()
