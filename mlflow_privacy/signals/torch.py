"""Signals of PyTorch modules: batched forward passes, φ on the device."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.classification import (
    CERTAIN,
    PROBABILITY_TOLERANCE,
    each_phi,
    outputs_from_phi,
    outputs_of_many,
    require_labels,
)
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.trainers.settings import plain_loss
from mlflow_privacy.trainers.torch.exported import restore_exported
from mlflow_privacy.trainers.torch.inputs import inputs_of
from mlflow_privacy.trainers.torch.kept_memory import kept_memory
from mlflow_privacy.trainers.torch.last_operation import Watched
from mlflow_privacy.trainers.torch.layout import PROBED, fast_layout, inference_batch, is_convolutional
from mlflow_privacy.trainers.torch.tensors import (
    Feeder,
    evaluation_mode,
    first_tensor,
    label_indices,
    resolve_device,
)
from mlflow_privacy.types import ModelOutputs, Reading, Records, Task

_logger = logging.getLogger(__name__)
_SOFTMAX_FLOOR = 1e-30  # each probability of a softmax is exact to float32's range, other than 1 - p


def module_outputs(
    module: torch.nn.Module,
    records: Records,
    *,
    task: Task,
    classes: np.ndarray | None = None,
    device: str = "auto",
    batch_size: int = 1024,
    scale: float | None = None,
    reading: Reading | None = None,
) -> ModelOutputs:
    """Outputs of a module; it is left on its device and in its training modes.

    Outputs (n, c) are logits (or log-probabilities, which give the same φ) unless every row is a distribution; outputs
    (n, 1) or (n,) are the logit of the second class unless all lie in [0, 1]. Where the last operation that made them
    tells (a linear layer, a sigmoid, ...), it decides and not their values.

    Args:
      task: of several labels at once ("multilabel") outputs (n, k) are a logit or a probability of each.
      reading: what a classifier's outputs are, from `module_reading` of the audited model (of several labels,
        `many_reading`); None finds it here.

    Raises:
      SignalError: outputs of another shape, labels that do not fit, NaN, or no memory for a single record.
    """
    module = restore_exported(module)
    if task == "regression":
        with _prepared(module, records, device, batch_size) as (net, feeder, size):
            parts = forward(net, feeder, len(records), size, lambda output, start: _values(output).cpu())
        return gaussian_outputs(torch.cat(parts).numpy(), records.y, scale=scale)
    if task == "multilabel":
        many = _read_many(module, records, device, batch_size)
        reading = reading or many.said or many.seems
        return outputs_of_many(each_phi(many.values, records.y, reading=reading, floor=many.resolution))
    whole, said = _read_all(module, records, classes, device, batch_size, reading)
    if said == "probabilities" or (said is None and bool(whole.distribution.all())):
        return outputs_from_phi(whole.probability.cpu().numpy(), whole.likely.cpu().numpy())
    return outputs_from_phi(whole.logit.cpu().numpy(), whole.correct.cpu().numpy())


def module_reading(
    module: torch.nn.Module,
    data: Sequence[Records],
    *,
    classes: np.ndarray | None = None,
    loss: str | None = None,
    device: str = "auto",
    batch_size: int = 1024,
) -> Reading:
    """What a classifier's outputs are, decided once so that all models and records of an audit are read alike.

    By the last operation of the module, else by the loss it is trained with, else by its outputs on all records.

    Args:
      data: all records of the audit that the model is asked about.
      loss: name of the loss in the recipe, None if it is not known.

    Raises:
      SignalError: as `module_outputs`.

    >>> records = Records(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]), np.arange(4).astype(str))
    >>> linear = torch.nn.Linear(2, 1)
    >>> module_reading(linear, [records]), module_reading(torch.nn.Sequential(linear, torch.nn.Sigmoid()), [records])
    ('logits', 'probabilities')
    """
    module = restore_exported(module)
    first = data[0].take(np.arange(min(len(data[0]), PROBED)))
    with _prepared(module, first, device, batch_size) as (net, feeder, size):
        watched = Watched(net)
        output = forward(watched, feeder, len(first), size, lambda output, start: output)[0]
    single = _n_outputs(output) == 1
    if watched.reading == "logits" or (watched.reading is not None and single):
        return watched.reading
    if watched.reading == "probabilities" and bool(_are_distributions(_values(output)).all()):
        return "probabilities"
    if single and (by_loss := _reading_of_loss(loss)) is not None:
        return by_loss
    wholes = (_read_all(module, records, classes, device, batch_size, None)[0] for records in data)
    return "probabilities" if all(bool(whole.distribution.all()) for whole in wholes) else "logits"


def many_reading(
    module: torch.nn.Module,
    data: Sequence[Records],
    *,
    loss: str | None = None,
    device: str = "auto",
    batch_size: int = 1024,
) -> Reading:
    """What the outputs of a model of several labels are, decided once for an audit; arguments as of `module_reading`.

    >>> records = Records(np.zeros((4, 2), np.float32), np.ones((4, 3), int), np.arange(4).astype(str))
    >>> many_reading(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sigmoid()), [records])
    'probabilities'
    """
    module = restore_exported(module)
    first = data[0].take(np.arange(min(len(data[0]), PROBED)))
    said = _read_many(module, first, device, batch_size).said
    said = said or _reading_of_loss(loss)
    if said is not None:
        return said
    found = {_read_many(module, records, device, batch_size).seems for records in data}
    return "probabilities" if found == {"probabilities"} else "logits"


def _reading_of_loss(loss: str | None) -> Reading | None:
    """What a loss of each label by itself takes; None for any other loss."""
    name = plain_loss(loss)
    return None if not name.startswith("bce") else "logits" if "logits" in name else "probabilities"


class _Many(NamedTuple):
    """Outputs (n, k) for several labels, the least probability that their type resolves, and what they are."""

    values: np.ndarray
    resolution: float
    said: Reading | None  # by the module's last operation
    seems: Reading  # by their values


def _read_many(module: torch.nn.Module, records: Records, device: str, batch_size: int) -> _Many:
    resolution = [0.0]

    def read(output: torch.Tensor, start: int) -> torch.Tensor:
        resolution[0] = torch.finfo(output.dtype).eps / 2 if output.is_floating_point() else 0.5
        return _values(output).reshape(len(output), -1).cpu()

    with _prepared(module, records, device, batch_size) as (net, feeder, size):
        watched = Watched(net)
        values = torch.cat(forward(watched, feeder, len(records), size, read)).numpy()
    require_labels(np.asarray(records.y), values.shape)
    seems: Reading = "probabilities" if ((values >= 0) & (values <= 1)).all() else "logits"
    return _Many(values, resolution[0], watched.reading, seems)


@contextlib.contextmanager
def _prepared(
    module: torch.nn.Module, records: Records, device: str, batch_size: int
) -> Iterator[tuple[torch.nn.Module, Feeder, int]]:
    """What takes the records, these, and how many at once, while the module is in evaluation mode on its device."""
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(evaluating(module, resolve_device(device)))
        inputs = inputs_of(module, records.x, device=where, error=SignalError)
        feeder = Feeder(inputs.tensor, where, inputs.dtype)
        if where.type == "cpu" and is_convolutional(module) and len(records):
            example = feeder.slice(0, PROBED)
            batch_size = inference_batch(module, example.shape[1:], batch_size, where)
            stack.enter_context(fast_layout(module, example))
        yield inputs.module, feeder, batch_size


def _read_all(
    module: torch.nn.Module,
    records: Records,
    classes: np.ndarray | None,
    device: str,
    batch_size: int,
    reading: Reading | None,
) -> tuple[_Phi, Reading | None]:
    """What a classifier says of all records, and how it is to be read, None if its values decide."""
    index: dict[int, torch.Tensor] = {}

    def said(n_outputs: int) -> Reading | None:
        if reading is not None or (watched.reading == "probabilities" and n_outputs > 1):  # of one label, or of each
            return reading
        return watched.reading

    def read(output: torch.Tensor, start: int) -> _Phi:
        n_outputs = _n_outputs(output)
        if n_outputs not in index:
            known = np.unique(records.y) if classes is None else classes
            columns = label_indices(records.y, known, max(n_outputs, 2), error=SignalError)
            index[n_outputs] = torch.from_numpy(columns).to(output.device)
        return _phi(output, index[n_outputs][start : start + len(output)], said(n_outputs))

    with _prepared(module, records, device, batch_size) as (net, feeder, size):
        watched = Watched(net)
        parts = forward(net if reading else watched, feeder, len(records), size, read)
        whole = _Phi(*(torch.cat(column) for column in zip(*parts)))
    return whole, said(min(index))


class _Phi(NamedTuple):
    """What a batch of outputs says, read both ways; all (b,). Which one holds is decided over all records.

    On a CPU a batch that is no distribution, which decides for logits, is not read as one.
    """

    logit: torch.Tensor
    correct: torch.Tensor
    probability: torch.Tensor
    likely: torch.Tensor
    distribution: torch.Tensor


def _n_outputs(output: torch.Tensor) -> int:
    if output.ndim == 1:
        return 1
    if output.ndim != 2 or output.shape[1] < 1:
        raise SignalError(
            f"The module gives outputs of shape {tuple(output.shape)} for {output.shape[0]} records; a classifier "
            "must give (n, classes), or (n,) for two classes. For another form of output wrap the model in a pyfunc."
        )
    return output.shape[1]


def _values(output: torch.Tensor) -> torch.Tensor:
    """In a precision that log and exp keep; float32 where the device has no float64."""
    return output.float() if output.device.type == "mps" else output.double()


def _are_distributions(values: torch.Tensor) -> torch.Tensor:
    """(n,) whether each row (n, c) is a distribution."""
    return ((values.sum(dim=1) - 1).abs() <= PROBABILITY_TOLERANCE) & (values >= 0).all(dim=1)


def _phi(output: torch.Tensor, index: torch.Tensor, reading: Reading | None = None) -> _Phi:
    """`classification.phi_from_logits` and `phi_from_probabilities` on the device."""
    resolution = torch.finfo(output.dtype).eps / 2 if output.is_floating_point() else 0.5
    values = _values(output)
    if _n_outputs(output) == 1:
        values = values.reshape(-1)
        floor, distribution = resolution, (values >= 0) & (values <= 1)
        p = torch.stack([1 - values, values], dim=1)
        values = torch.stack([torch.zeros_like(values), values], dim=1)
    else:
        floor, distribution, p = _SOFTMAX_FLOOR, _are_distributions(values), values
    column = index[:, None]
    own_logit = values.gather(1, column)[:, 0]
    logit = own_logit - values.scatter(1, column, float("-inf")).logsumexp(dim=1)
    logit = torch.where(torch.isposinf(logit) & own_logit.isfinite(), CERTAIN, logit)  # all others are -inf
    correct = values.argmax(dim=1) == index
    by_values = reading is None and output.device.type == "cpu"  # elsewhere asking would wait for the device
    if reading == "logits" or (by_values and not distribution.all()):
        return _Phi(logit, correct, logit, correct, distribution)
    own, other = p.gather(1, column)[:, 0], p.scatter(1, column, 0.0).sum(dim=1)
    clipped = [value.clamp(floor, 1 - floor).log() for value in (own, other)]
    likely = correct if p is values else p.argmax(dim=1) == index
    return _Phi(logit, correct, clipped[0] - clipped[1], likely, distribution)


@contextlib.contextmanager
def evaluating(module: torch.nn.Module, device: torch.device) -> Iterator[torch.device]:
    """The module in evaluation mode on a device; device and modes are put back. Yields where it runs.

    A module spread over several devices stays where it is.
    """
    places = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    home = next(iter(places)) if len(places) == 1 else None
    where = device if len(places) <= 1 else next(module.parameters()).device
    try:
        if home is not None and home != where:
            module.to(where)
        keep = kept_memory() if where.type == "cpu" else contextlib.nullcontext()
        # Not inference_mode: a module may cache a tensor that training needs later.
        with evaluation_mode(module), keep, torch.no_grad():
            yield where
    finally:
        if home is not None and home != where:
            module.to(home)


def forward(
    module: Callable[[torch.Tensor], object],
    feeder: Feeder,
    n: int,
    batch_size: int,
    read: Callable[[torch.Tensor, int], object],
) -> list:
    """`read(output, start)` of each batch, in order; the batch is halved when the device runs out of memory.

    Raises:
      SignalError: a single record does not fit, or the module does not take the records.
    """
    parts, start = [], 0
    while start < n:
        stop, output = min(start + batch_size, n), None
        with contextlib.suppress(torch.cuda.OutOfMemoryError):  # the traceback would keep what must be freed
            output = _output(module, feeder.slice(start, stop), checked=start > 0)
            parts.append(read(output, start))
            start = stop
            continue
        del output
        if stop - start == 1:
            raise SignalError("The device has no memory for a single record. Use device='cpu'.")
        batch_size = (stop - start) // 2
        _logger.warning("Out of memory; going on with batches of %d records.", batch_size)
        torch.cuda.empty_cache()
    return parts


def _output(module: Callable[[torch.Tensor], object], batch: torch.Tensor, *, checked: bool) -> torch.Tensor:
    """The module's output (b, ...); what it raises on its first batch is a misfit of module and records."""
    try:
        output = first_tensor(module(batch), error=SignalError)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError) as error:
        if checked:
            raise
        raise SignalError(
            f"The module does not take records of shape {tuple(batch.shape[1:])} and type {batch.dtype}: {error}"
        ) from error
    if output.ndim == 0 or len(output) != len(batch):
        raise SignalError(
            f"The module gives an output of shape {tuple(output.shape)} for {len(batch)} records; its first dimension "
            "must be the records."
        )
    return output
