"""Arrays, tensors and tables as plain values: their digest, with all that a training could see of them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_privacy.fingerprint import array_digest, digest
from mlflow_privacy.trainers.identity import Untold
from mlflow_privacy.trainers.identity.origins import qualified_name, root_of

Walk = Callable[[Any], Any]


def array_form(value: Any, walk: Walk) -> dict[str, Any] | None:
    """What an array is by its values, wherever and however it lies in memory; None for anything else.

    Raises:
      Untold: a tensor has no values that can be read.

    >>> x = np.arange(6.0).reshape(2, 3)
    >>> array_form(x, walk=list) == array_form(np.asfortranarray(x), walk=list) != array_form(x + 1, walk=list)
    True
    """
    if isinstance(value, np.ndarray):
        return _numpy(value, walk)
    if isinstance(value, np.generic):
        return {**_numpy(np.asarray(value), walk), "class": qualified_name(type(value))}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor(value, walk)
    if root_of(type(value)) == "pandas" and callable(getattr(value, "to_numpy", None)):
        return _pandas(value, walk)
    return None


def _numpy(array: np.ndarray, walk: Walk) -> dict[str, Any]:
    own = {} if type(array) in (np.ndarray, np.memmap) else {"class": walk(type(array))}
    if isinstance(array, np.ma.MaskedArray):
        own |= {"mask": array_digest(np.ma.getmaskarray(array)), "fill": walk(array.fill_value)}
        array = np.asarray(array.data)
    array = array.view(np.ndarray)
    if array.dtype.hasobject:
        return {"objects": digest(walk(array.tolist())), "shape": list(array.shape), **own}
    if array.dtype.kind in "biufc":
        return {"array": array_digest(array), **own}
    # Text, dates and records: the type by its description, since its name leaves units and fields out.
    raw = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"array": raw, "type": repr(array.dtype.descr), "shape": list(array.shape), **own}


def _tensor(tensor: Any, walk: Walk) -> dict[str, Any]:
    """A tensor of any type: device and layout do not count."""
    import torch

    try:
        plain = tensor.detach().resolve_conj().resolve_neg()
        plain = (plain if plain.layout is torch.strided else plain.to_dense()).cpu().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise Untold(f"its values cannot be read ({str(error).splitlines()[0]})") from error
    own = {} if type(tensor) in (torch.Tensor, torch.nn.Parameter) else {"class": walk(type(tensor))}
    return {
        "tensor": hashlib.sha256(raw.tobytes()).hexdigest(),
        "type": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        **({"trainable": True} if tensor.requires_grad else {}),
        **own,
    }


def _pandas(value: Any, walk: Walk) -> dict[str, Any]:
    """A table column by column with its names and index; a series, an index or an extension array with its type."""
    form: dict[str, Any] = {"class": qualified_name(type(value))}
    if hasattr(value, "columns"):
        columns = [walk(value.iloc[:, j]) for j in range(value.shape[1])]
        return {**form, "names": walk(list(value.columns)), "columns": columns, "index": walk(value.index)}
    categories = getattr(value.dtype, "categories", None)
    if categories is not None:
        codes = getattr(getattr(value, "cat", value), "codes")  # noqa: B009
        form |= {
            "categories": walk(categories),
            "ordered": bool(value.dtype.ordered),
            "values": walk(np.asarray(codes)),
        }
    else:
        form |= {"type": str(value.dtype), "values": _numpy(value.to_numpy(), walk)}
    if hasattr(value, "name"):
        form["name"] = walk(value.name)
    return {**form, "index": walk(value.index)} if hasattr(value, "iloc") else form
