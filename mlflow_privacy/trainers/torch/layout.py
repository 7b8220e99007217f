"""The memory format in which a convolutional net computes, and how many images at a time.

On one CPU core `channels_last` trains and asks small nets in 0.7 to 1.0 of the time of PyTorch's default format
(benchmarks/bench_loop.py); on a GPU tensor cores want it. Only weights are put into it: convolutions then hand it on by
themselves, while pixel scaling and augmentation stay in the default format, which is faster for images of three
channels. Sums are taken in another order, so that results differ by roundings.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator

import torch

from mlflow_privacy.trainers.torch.tensors import first_tensor

_logger = logging.getLogger(__name__)
PROBED = 4  # records: enough for batch normalisation
# Relative difference of the output and of the gradient: roundings make less than 1e-3 of them, a dropout mask that is
# laid over feature maps in another order makes the root of twice its share.
_TOLERANCE = 0.02
_FEWEST, _BATCH, _VALUES = 8, 128, 2**19  # records and input values whose feature maps stay in a CPU's caches


def is_convolutional(module: torch.nn.Module) -> bool:
    """Whether a module has two-dimensional convolutions.

    >>> is_convolutional(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3))), is_convolutional(torch.nn.Linear(1, 1))
    (True, False)
    """
    return any(isinstance(sub, torch.nn.Conv2d) for sub in module.modules())


@contextlib.contextmanager
def fast_layout(module: torch.nn.Module, batch: torch.Tensor) -> Iterator[bool]:
    """The module with weights in `channels_last`, if it computes the same so; the default format is put back.

    Tried on copies with one small batch, forward and backward, from the same random state: a module that takes views
    of its feature maps, or draws noise in their order in memory, keeps the default format; one that somebody put into
    another format keeps that. Nothing is timed, so that equal seeds give equal models.

    Args:
      module: on the device of the batch.
      batch: (b, channels, height, width) as the module takes it; a few records are enough.

    Yields: whether the format was changed.

    Example:
      >>> net = torch.nn.Conv2d(3, 4, 3)
      >>> with fast_layout(net, torch.rand(8, 3, 5, 5)) as changed:
      ...     changed, net.weight.is_contiguous()
      (True, False)
      >>> net.weight.is_contiguous()
      True
    """
    plain = all(tensor.is_contiguous() for tensor in (*module.parameters(), *module.buffers()))
    if not (plain and batch.ndim == 4 and is_convolutional(module) and _computes_the_same(module, batch[:PROBED])):
        yield False
        return
    # Only tensors of four dimensions change. Their objects stay, so that an optimizer may hold them already.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield True
    finally:
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _computes_the_same(module: torch.nn.Module, batch: torch.Tensor) -> bool:
    """Whether outputs and gradients of a batch agree in both formats, up to rounding."""
    try:
        plain = _pass(copy.deepcopy(module), batch)
        other = _pass(copy.deepcopy(module).to(memory_format=torch.channels_last), batch)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        _logger.info("%s keeps the default memory format: %s", type(module).__name__, str(error).split("\n")[0])
        return False
    same = all(_close(a, b) for a, b in zip(plain, other, strict=True))
    if not same:
        _logger.info(
            "%s keeps the default memory format: in the other one it computes something else.", type(module).__name__
        )
    return same


def _pass(module: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output and gradient of its square, flat, of a copy that may be spoilt; the random state is put back.

    The gradient is one vector: that of a bias before a normalisation is rounding alone.
    """
    devices = [batch.device] if batch.device.type == "cuda" else []
    parameters = [p for p in module.parameters() if p.requires_grad]
    with torch.random.fork_rng(devices=devices):
        output = first_tensor(module(batch)).float()
        if not parameters or not torch.is_grad_enabled():
            return (output.detach(),)
        gradients = torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)
    return output.detach(), torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None])


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors differ by little of their norm."""
    return bool((a - b).norm() <= _TOLERANCE * a.norm() + torch.finfo(torch.float32).tiny)


def inference_batch(module: torch.nn.Module, record: torch.Size, batch_size: int, device: torch.device) -> int:
    """How many records a forward pass takes at best: on a CPU feature maps of many images spill its caches.

    A net of 32 channels on 32×32 images takes 2.2 times as long an image in batches of 1,024 as in those of 128.

    Args:
      record: shape of one, (channels, height, width).
      batch_size: at most.

    Example:
      >>> net = torch.nn.Conv2d(3, 4, 3)
      >>> inference_batch(net, torch.Size([3, 32, 32]), 1024, torch.device("cpu"))
      128
      >>> inference_batch(net, torch.Size([3, 224, 224]), 1024, torch.device("cpu"))
      8
    """
    if device.type != "cpu" or len(record) != 3 or not is_convolutional(module):
        return batch_size
    return min(batch_size, max(_FEWEST, min(_BATCH, _VALUES // max(record.numel(), 1))))
