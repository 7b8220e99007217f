"""Records as tensors, and the device they live on."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mlflow_privacy.errors import ConfigError, PrivacyAuditError, RecipeError
from mlflow_privacy.types import Records

_logger = logging.getLogger(__name__)
_VALUES_AT_ONCE = 2**14  # stay in a cache, and are too few for torch to share them out among threads
_RESIDENT_SHARE = 0.5  # of the free device memory that features may take; the rest is for the model


@functools.cache
def _warn_no_gpu(device: str) -> None:
    """Once a process and device, not once a model."""
    _logger.warning("device=%r was asked for, but there is no such GPU: using the CPU.", device)


def resolve_device(device: str = "auto") -> torch.device:
    """The torch device of a name; a GPU that is not there becomes the CPU, with a warning.

    Raises:
      ConfigError: there is no such device name.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f'device must be "auto", "cpu", "cuda" or "cuda:N", got {device!r}.') from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        _warn_no_gpu(device)
        return torch.device("cpu")
    return found


def features(x: Any, dtype: torch.dtype, *, error: type[PrivacyAuditError] = RecipeError) -> torch.Tensor:
    """(n, ...) features as a tensor on the CPU, without a copy where possible.

    `uint8` stays `uint8`, a quarter of the memory and several times faster to pick minibatches from: `to_batch` casts
    it. Everything else takes `dtype`.

    Raises:
      RecipeError (or `error`): columns are not numeric.

    >>> features(np.array([[1.0, 2.0]]), torch.float32).dtype
    torch.float32
    """
    if isinstance(x, torch.Tensor):
        array_tensor = x.detach().cpu()
        return array_tensor if array_tensor.dtype == torch.uint8 else array_tensor.to(dtype)
    if hasattr(x, "iloc"):
        foreign = [str(name) for name, kind in x.dtypes.items() if getattr(kind, "kind", "O") not in "biuf"]
        if foreign:
            raise error(
                f"A PyTorch module takes numbers only, but these columns are not numeric: {', '.join(foreign)}. Encode "
                "them as the training of the model did, or pass train_fn."
            )
        wanted = {torch.long: np.int64, torch.float64: np.float64}.get(dtype, np.float32)
        x = x.to_numpy(dtype=wanted, **({} if dtype == torch.long else {"na_value": np.nan}))
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise error(
            f"A PyTorch module takes numbers only, got features of dtype {array.dtype} and shape {array.shape}."
        )
    if array.dtype == np.float64 and dtype == torch.float32:
        array = array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    array = np.ascontiguousarray(array)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor if tensor.dtype == torch.uint8 else tensor.to(dtype)


def compact(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as `uint8`, if all are whole numbers of 0 to 255; else the tensor itself.

    Tables of zeros and ones, indices and images as floats then take a quarter of the memory, and minibatches are
    picked faster.

    >>> compact(torch.tensor([0.0, 255.0])).dtype, compact(torch.tensor([0.5])).dtype
    (torch.uint8, torch.float32)
    """
    if tensor.dtype == torch.uint8 or not tensor.numel():
        return tensor
    whole = torch.empty(tensor.shape, dtype=torch.uint8)
    size = max(1, _VALUES_AT_ONCE // tensor[0].numel())
    for part, out in zip(tensor.split(size), whole.split(size), strict=True):
        out.copy_(part)  # what a byte cannot hold becomes another number, and NaN equals nothing
        if not torch.equal(out.to(tensor.dtype), part):
            return tensor
    return whole


class Feeder:
    """Minibatches of features on a device: resident there if they fit, else sent from pinned memory.

    Args:
      tensor: (n, ...) on the CPU.
      dtype: what a batch is cast to.
    """

    def __init__(self, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype, self._device = dtype, device
        self._resident = device.type == "cpu" or _fits(tensor, device)
        if self._resident:
            self._tensor = tensor.to(device)
        else:
            _logger.info("The features do not fit on %s; batches are sent from the CPU.", device)
            self._tensor = tensor.pin_memory()

    @property
    def resident(self) -> bool:
        """Whether the features are on the device; if not, an index on the CPU is taken without waiting for it."""
        return self._resident

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """The records at `index` (b,), in their stored type, on the device."""
        if self._resident:
            return self._tensor.index_select(0, index.to(self._device))
        picked = self._tensor.index_select(0, index.cpu())
        # Only pinned memory is sent while the device goes on; torch keeps it until it has arrived.
        return picked.pin_memory().to(self._device, non_blocking=True)

    def slice(self, start: int, stop: int) -> torch.Tensor:
        """Records start to stop, cast."""
        return self.cast(self._tensor[start:stop].to(self._device, non_blocking=True))

    def cast(self, batch: torch.Tensor) -> torch.Tensor:
        """The batch as the module takes it."""
        return batch if batch.dtype == self._dtype else batch.to(self._dtype)


def _fits(tensor: torch.Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return tensor.numel() * tensor.element_size() < _RESIDENT_SHARE * free


def label_indices(
    y: np.ndarray, classes: np.ndarray, n_outputs: int, *, error: type[PrivacyAuditError] = RecipeError
) -> np.ndarray:
    """(n,) column of a module's outputs that each label means.

    Whole numbers that index the outputs stay as they are; other labels (names, or numbers outside
    0..n_outputs - 1, or in another order than theirs) take their place among `classes`.

    Args:
      y: (n,) labels.
      classes: labels of the pool, sorted or in the order of the outputs; they decide, not the records at hand.
      n_outputs: how many classes the module knows.

    Raises:
      RecipeError (or `error`): labels cannot be matched to outputs.

    >>> label_indices(np.array(["b", "a"]), np.array(["a", "b"]), 2).tolist()
    [1, 0]
    """
    y, classes = np.asarray(y), np.asarray(classes)
    whole = _whole(classes)
    ordered = whole is not None and len(whole) > 0 and bool((np.diff(whole) > 0).all())
    if whole is not None and ordered and whole.min() >= 0 and whole.max() < n_outputs:
        index = _whole(y)
        if index is None or (len(index) and (index.min() < 0 or index.max() >= n_outputs)):
            raise error(f"Labels must be whole numbers from 0 to {n_outputs - 1}, got {_some(y)}.")
        return index
    if len(classes) != n_outputs:
        raise error(
            f"The pool has {len(classes)} classes ({_some(classes)}) but the model has {n_outputs} outputs, so that "
            f"labels cannot be matched to outputs. Give whole numbers from 0 to {n_outputs - 1} that index the outputs."
        )
    place = {value: i for i, value in enumerate(classes.tolist())}
    index = np.array([place.get(value, -1) for value in y.tolist()], np.int64)
    if (index < 0).any():
        unknown = y[index < 0]
        raise error(f"{len(unknown)} records have labels that are none of the pool's classes: {_some(unknown)}.")
    return index


def _whole(values: np.ndarray) -> np.ndarray | None:
    """The values as int64 if they are all whole numbers, else None."""
    if values.dtype.hasobject:
        kinds = {type(value) for value in values.tolist()}
        if not kinds or not all(issubclass(kind, (bool, int, np.integer, np.bool_)) for kind in kinds):
            return None
        return values.astype(np.int64)
    if values.dtype.kind in "biu":
        return values.astype(np.int64)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.round(values)).all():
        return values.astype(np.int64)
    return None


def _some(values: np.ndarray) -> str:
    """The first few distinct values, in words."""
    distinct = list(dict.fromkeys(np.asarray(values).ravel().tolist()))
    return ", ".join(map(repr, distinct[:5])) + (", ..." if len(distinct) > 5 else "")


def label_matrix(y: np.ndarray, n_outputs: int, *, error: type[PrivacyAuditError] = RecipeError) -> torch.Tensor:
    """(n, k) labels of zeros and ones, one for each of a module's outputs.

    Raises:
      RecipeError (or `error`): they are no zeros and ones, or not as many as outputs.

    >>> label_matrix(np.array([[1, 0]]), 2).tolist()
    [[1.0, 0.0]]
    """
    y = np.asarray(y)
    if y.ndim != 2 or y.dtype.kind not in "biuf" or not ((y == 0) | (y == 1)).all():
        raise error(f"Several labels of a record must be zeros and ones, got shape {y.shape} and values {_some(y)}.")
    if y.shape[1] != n_outputs:
        raise error(f"The module gives {n_outputs} outputs a record, but the records have {y.shape[1]} labels.")
    return torch.from_numpy(y.astype(np.float32))


def regression_targets(
    records: Records, dtype: torch.dtype, *, error: type[PrivacyAuditError] = RecipeError
) -> torch.Tensor:
    """(n, k) targets as floats."""
    y = np.asarray(records.y)
    if y.dtype.kind not in "biuf":
        raise error(f"Regression targets must be numbers, got dtype {y.dtype} with {_some(y)}.")
    return torch.from_numpy(y.astype(np.float64)).reshape(len(y), -1).to(dtype)


@contextlib.contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards each submodule is in its own mode again."""
    modes = {sub: sub.training for sub in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for sub, mode in modes.items():
            sub.training = mode


def first_tensor(output: Any, *, error: type[PrivacyAuditError] = RecipeError) -> torch.Tensor:
    """The tensor that matters of what a module returned: itself, `.logits`, ["logits"], or the first of a tuple.

    Raises:
      RecipeError (or `error`): there is none.
    """
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and hasattr(output, "get"):
        logits = output.get("logits")
        if logits is None and len(output) == 1:
            logits = next(iter(output.values()))
    if logits is None and isinstance(output, (tuple, list)) and output:
        logits = output[0]
    if not isinstance(logits, torch.Tensor):
        raise error(
            f"The module returned a {type(output).__name__} without a tensor of logits. Return the tensor, a tuple "
            'that begins with it, or a mapping with the key "logits".'
        )
    return logits
