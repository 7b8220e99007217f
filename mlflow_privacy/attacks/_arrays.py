"""What the attacks share: one namespace for NumPy and torch arrays, checks, and chunks of records."""

from __future__ import annotations

import concurrent.futures
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import array_api_compat
import numpy as np

from mlflow_privacy.errors import DesignError

Array = Any  # a NumPy array or a torch tensor
_T = TypeVar("_T")

# Values per chunk: 2 MB of float64 stay in a CPU's cache. On an accelerator few large kernels beat many small ones.
_CHUNK_CPU, _CHUNK_DEVICE = 1 << 18, 1 << 25
# Fewer values than this are done before threads have started.
_THREADED = 1 << 20
_UNSHARED = 1 << 14  # values that torch computes in the calling thread


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


def each_chunk(do: Callable[[slice], _T], n: int, m: int, x: Array) -> list[_T]:
    """What `do` returns for each of `chunks`, in order; in threads if `x` is a NumPy array of many values.

    NumPy lets go of the interpreter while it computes. Chunks are the same and each writes its own records, so the
    numbers do not depend on the threads. `OMP_NUM_THREADS` limits them, as it does for BLAS and torch.
    """
    parts = list(chunks(n, m, x))
    if isinstance(x, np.ndarray) and n * m >= _THREADED:
        return in_threads(do, parts)
    return [do(part) for part in parts]


def in_threads(do: Callable[[Any], _T], parts: Sequence[Any]) -> list[_T]:
    """What `do` returns for each of `parts`, in order, as many at once as this process may use threads."""
    threads = min(_threads(), len(parts))
    if threads <= 1:
        return [do(part) for part in parts]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, parts))


def _threads() -> int:
    """How many threads this process may use."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, int(limit)), 1) if limit.isdigit() else cores


def exp(x: np.ndarray) -> np.ndarray:
    """e^x in float64, as a new array in C order, to one unit in the last place; infinity where it overflows.

    NumPy has no vector instructions for it on most CPUs: 10 ns a value, and 3 by torch, which is used where it is
    loaded already. Equal values give equal results wherever they stand.

    >>> exp(np.array([0.0, 800.0, -np.inf], np.float32)).tolist()
    [1.0, inf, 0.0]
    """
    return _by_torch("exp", x)


def log(x: np.ndarray) -> np.ndarray:
    """log x in float64, as `exp`."""
    return _by_torch("log", x)


def _by_torch(name: Literal["exp", "log"], x: np.ndarray) -> np.ndarray:
    """A function of each value, by torch if it is loaded, in parts that are too small for threads of its own."""
    out = np.array(x, np.float64, order="C", copy=True)
    as_tensor = getattr(sys.modules.get("torch"), "from_numpy", None)
    if as_tensor is None:
        with np.errstate(over="ignore", divide="ignore"):
            return getattr(np, name)(out, out=out)
    for part in as_tensor(out.reshape(-1)).split(_UNSHARED):
        getattr(part, f"{name}_")()
    return out


def count_true(mask: np.ndarray) -> np.ndarray:
    """(n,) float64 counts of True in each row of an (n, m) mask, several times faster than its `sum`."""
    return row_sums(mask.astype(np.float32)).astype(np.float64)


def row_sums(x: np.ndarray) -> np.ndarray:
    """(n,) sums of rows: faster than `sum` for short rows, and not by BLAS, whose threads wait for one another."""
    return np.einsum("ij->i", x)


def side_by_side(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(n, m) array of m columns (n,), rows contiguous: `np.stack(columns, axis=1)` that does not leave the cache.

    >>> side_by_side([np.array([1, 2]), np.array([3, 4])]).tolist()
    [[1, 3], [2, 4]]
    """
    n, m = len(columns[0]), len(columns)
    out = np.empty((n, m), np.result_type(*columns))
    for s in chunks(n, m, out):
        out[s] = np.array([column[s] for column in columns]).T
    return out


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

    def count(s: slice) -> int:
        return 0 if _surely_finite(x[s]) else int(xp.sum(xp.astype(~xp.isfinite(x[s]), xp.int64)))

    return sum(each_chunk(count, x.shape[0], m, x))


def _surely_finite(x: Array) -> bool:
    """Whether a sum of squares proves that all is finite; it may overflow, and then proves nothing."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        return False
    flat = x.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(float(np.einsum("i,i", flat, flat)))


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

    def count_missing(s: slice) -> tuple[int, int]:
        no_in, no_out = _one_sided(member[s])
        return int(xp.sum(xp.astype(no_in, xp.int64))), int(xp.sum(xp.astype(no_out, xp.int64)))

    counts = each_chunk(count_missing, n, m, member)
    without_in, without_out = (sum(part[side] for part in counts) for side in (0, 1))
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


def _one_sided(inside: Array) -> tuple[Array, Array]:
    """(n,) bool each: which records no model trained on, and which records all models trained on."""
    xp = namespace(inside)
    m = inside.shape[1]
    if not isinstance(inside, np.ndarray):
        n_in = xp.sum(xp.astype(inside, xp.int64), axis=1)
    elif inside.dtype == np.bool_ and inside.flags.c_contiguous and m % 8 == 0 and m // 8 < 256:
        added = np.add.reduce(inside.view(np.uint64), axis=1)  # eight columns at once, as the bytes of one integer
        return added == 0, added == (m // 8) * 0x0101010101010101
    else:
        n_in = count_true(inside)
    return n_in == 0, n_in == m


def log_odds(log_p: Array) -> Array:
    """(...) float64 φ = log p − log(1 − p) of log-probabilities; a p of 1 counts as 1 − 2⁻⁵³.

    >>> log_odds(np.log([0.5, 0.9])).round(4).tolist()
    [0.0, 2.1972]
    """
    xp = namespace(log_p)
    low = as_float64(log_p)
    low = xp.where(low < -(2.0**-53), low, xp.full_like(low, -(2.0**-53)))
    return low - xp.log(-xp.expm1(low))


def log_sigmoid(x: Array) -> Array:
    """log σ(x), exact where σ rounds to 0 or 1."""
    xp = namespace(x)
    return xp.where(x < 0, x, xp.zeros_like(x)) - xp.log1p(xp.exp(-xp.abs(x)))
