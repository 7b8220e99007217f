"""torch in pickles: files of `torch.save`, and tensors as a plain pickle of a state dict holds them."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

from mlflow_privacy.errors import StoreError, UnsafeError
from mlflow_privacy.privacy_meter.safe_pickle.values import checked_shape, raw_bytes

LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # pickle of the number that starts a torch file
SAFE_TORCH = "2.10"  # first without CVE-2025-32434 and CVE-2026-24747: earlier ones let a file corrupt memory
DTYPES = frozenset(
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
        "complex128",
    ]
)


def dtype(name: str) -> Any:
    """A torch dtype of `DTYPES` by name."""
    import torch

    return getattr(torch, name)


def load_torch(data: bytes) -> Any:
    """What `torch.save` wrote, both formats, tensors and containers alone, on the CPU.

    Raises:
      UnsafeError: it holds more than that, unpacks to more than it says, or torch is too old to read it safely.
      StoreError: it is cut off or damaged.
    """
    import torch
    from torch.torch_version import TorchVersion

    if TorchVersion(torch.__version__) < SAFE_TORCH:
        raise UnsafeError(
            f"torch {torch.__version__} can be made to run code by a torch file, weights_only or not (CVE-2025-32434, "
            f"CVE-2026-24747). Install torch {SAFE_TORCH} or later, or save the weights as safetensors."
        )
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except zipfile.BadZipFile as error:
            raise StoreError(f"this torch file is cut off or damaged: {error}.") from error
        if unpacked > len(data):  # torch packs without compression: this is no file of torch.save
            raise UnsafeError(f"this torch file of {len(data)} bytes unpacks to {unpacked}.")
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises what its C++ side likes; the file is the cause in any case
        text = " ".join(str(error).split())
        if type(error).__name__ == "UnpicklingError":
            # Its own text is long and recommends to load without the check; what it found is in the middle.
            found = re.search(r"GLOBAL ([\w.]+)", text)
            what = f"the global {found[1]}" if found else text.rpartition("WeightsUnpickler error:")[2].strip()[:200]
            raise UnsafeError(f"torch.load(weights_only=True) refuses it: {what}.") from error
        raise StoreError(f"this torch file is cut off or damaged: {text[:200]}.") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A flat tensor that tensors are views of."""

    flat: Any


def _load_storage(data: Any) -> Storage:
    """`torch.storage._load_from_bytes`: a torch file inside the pickle."""
    import torch

    value = load_torch(raw_bytes(data))
    if not isinstance(value, torch.storage.TypedStorage):
        raise TypeError(f"a storage is expected, the bytes hold a {type(value).__name__}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # typed storages are on their way out, but old files hold them
        return Storage(torch.empty(0, dtype=value.dtype).set_(value.untyped()))  # type: ignore[call-overload]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_tensor_v2`: a view of a storage that it must not leave or enlarge."""
    if not isinstance(storage, Storage):
        raise TypeError("a storage is expected")
    (start,), size, stride = checked_shape((offset,)), checked_shape(size), checked_shape(stride)
    if len(size) != len(stride):
        raise TypeError("a size and a stride of the same length are expected")
    count = math.prod(size)
    last = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= len(storage.flat) or count > len(storage.flat)):
        raise TypeError(f"a tensor of size {size} and stride {stride} leaves its storage of {len(storage.flat)}")
    return storage.flat.as_strided(size, stride, start) if count else storage.flat.new_empty(size)


def _parameter(data: Any, *_: Any) -> Any:
    import torch

    if not isinstance(data, torch.Tensor):
        raise TypeError("a tensor is expected")
    return data


NAMES: dict[str, Callable[..., Any]] = {
    "torch.storage._load_from_bytes": _load_storage,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda size=(): checked_shape(tuple(size)),
}
