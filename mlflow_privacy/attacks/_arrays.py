"""What the attacks share: one namespace for NumPy and torch arrays, checks, and chunks of records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import array_api_compat
import numpy as np

from mlflow_privacy.errors import DesignError

Array = Any  # a NumPy array or a torch tensor

# Values per chunk: 2 MB of float64 stays in a CPU's cache; on an accelerator few large kernels beat many small.
_CHUNK_CPU, _CHUNK_DEVICE = 1 << 18, 1 << 25


def namespace(*arrays: Array) -> Any:
    """The array API namespace that all of `arrays` live in."""
    return array_api_compat.array_namespace(*arrays)


def to_numpy(x: Array) -> np.ndarray:
    """A NumPy view or copy of any array."""
    return np.asarray(x) if isinstance(x, np.ndarray) else np.asarray(array_api_compat.to_device(x, "cpu"))


def as_float64(x: Array) -> Array:
    """`x` in float64, in its own namespace."""
    return namespace(x).astype(x, namespace(x).float64)


def chunks(n: int, m: int, x: Array) -> Iterator[slice]:
    """Slices over n records of m values each, so that float64 copies of (n, m) arrays stay small."""
    on_cpu = isinstance(x, np.ndarray) or str(array_api_compat.device(x)) == "cpu"
    size = max((_CHUNK_CPU if on_cpu else _CHUNK_DEVICE) // max(m, 1), 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def check_signals(**arrays: Array | None) -> None:
    """Raises `DesignError` with every array that has the wrong shape or values that are not finite.

    `target` fixes n, `reference` fixes m, `population` fixes z; any other name is an extra signal (n,).
    """
    given = {name: x for name, x in arrays.items() if x is not None}
    known: dict[str, int] = {}
    for name, axis in (("target", "n"), ("population", "z")):
        if name in given:
            known[axis] = given[name].shape[0]
    for name in ("reference", "population_reference"):
        if name in given and given[name].ndim == 2:
            known.setdefault("m", given[name].shape[1])
    axes = {
        "target": ("n",),
        "reference": ("n", "m"),
        "member": ("n", "m"),
        "population": ("z",),
        "population_reference": ("z", "m"),
        "population_member": ("z", "m"),
    }
    faults = []
    for name, x in given.items():
        shape = axes.get(name, ("n",))
        if name not in axes:
            known.setdefault("n", x.shape[0])
        wanted = tuple(known.get(axis, -1) for axis in shape)
        if tuple(x.shape) != wanted:
            faults.append(f"{name} must have shape ({', '.join(shape)}) = {wanted}, got {tuple(x.shape)}")
        elif not name.endswith("member"):
            missing = _count_not_finite(x)
            if missing:
                faults.append(
                    f"{name} has {missing} values that are NaN or infinite; clip signals, or leave those records out"
                )
    if faults:
        raise DesignError("; ".join(faults) + ".")


def _count_not_finite(x: Array) -> int:
    """How many values of `x` are NaN or infinite, in chunks."""
    xp = namespace(x)
    m = x.shape[1] if x.ndim == 2 else 1
    return sum(int(xp.sum(xp.astype(~xp.isfinite(x[s]), xp.int64))) for s in chunks(x.shape[0], m, x))


def check_references(member: Array, *, need_in: bool, need_out: bool) -> None:
    """Raises `DesignError` that counts the records without an IN or an OUT reference."""
    reason = missing_references(member, need_in=need_in, need_out=need_out)
    if reason:
        raise DesignError(reason)


def missing_references(member: Array, *, need_in: bool, need_out: bool) -> str:
    """The sentence of `check_references`, or "" if every record has the references it needs."""
    xp = namespace(member)
    n, m = member.shape
    if m == 0:
        return "There are no reference models. Train some with num_ref_models=8, or use the attacks that need none."
    without_in = without_out = 0
    for s in chunks(n, m, member):
        n_in = xp.sum(xp.astype(member[s], xp.int64), axis=1)
        without_in += int(xp.sum(xp.astype(n_in == 0, xp.int64)))
        without_out += int(xp.sum(xp.astype(n_in == m, xp.int64)))
    faults = []
    for kind, needed, count in (("IN", need_in, without_in), ("OUT", need_out, without_out)):
        if needed and count:
            faults.append(f"{count} of {n} records have no {kind} reference")
    if not faults:
        return ""
    return (
        f"{' and '.join(faults)} among {m} reference models. Use a larger, even num_ref_models: "
        "complementary pairs give every record one of each."
    )


def log_sigmoid(x: Array) -> Array:
    """log σ(x), exact where σ rounds to 0 or 1."""
    xp = namespace(x)
    return xp.where(x < 0, x, xp.zeros_like(x)) - xp.log1p(xp.exp(-xp.abs(x)))
