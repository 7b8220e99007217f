r"""The mean probability p̄(x) of a record over its reference models, in log space: what RMIA divides by.

With p = σ(φ), q = 1 − p = σ(−φ) is averaged, and log p̄ = log1p(−q̄) keeps its digits near p̄ = 1, where records are
told apart. Where q̄ > 0.9 the same is computed again as a log-sum-exp of log p.
"""

from __future__ import annotations

import math
import sys

import array_api_compat
import numpy as np

from mlflow_privacy.attacks._arrays import (
    Array,
    as_float64,
    chunks,
    count_true,
    each_chunk,
    exp,
    log_sigmoid,
    namespace,
    row_sums,
)
from mlflow_privacy.types import Link

DEFAULT_A = 0.3
_SMALL = 0.9  # of q̄


def log_average(
    reference: Array, member: Array | None, *, online: bool, a: float = DEFAULT_A, link: Link = "logit"
) -> Array:
    r"""log p̄(x), the (transformed) average of p over the reference models.

    Args:
      reference: (n, m) signals.
      member: (n, m) bool; None: no reference trained on any of the records.
      online: weigh IN and OUT halves equally; records that lack one take all references. Otherwise OUT only.
      a: of the offline transform.

    Returns: (n,) float64.

    Example:
      >>> member = np.array([[True, False]])
      >>> float(np.exp(log_average(np.array([[0.0, 50.0]]), member, online=True)[0]))
      0.75
      >>> float(np.exp(log_average(np.array([[0.0, 50.0]]), ~member, online=False, a=0.0)[0]))
      0.75
    """
    xp = namespace(reference) if member is None else namespace(reference, member)
    n, m = reference.shape
    transform = None if online else a
    if n == 0:
        return xp.zeros((0,), dtype=xp.float64, device=array_api_compat.device(reference))
    if isinstance(reference, np.ndarray) and link == "logit":
        out = np.empty(n)

        def fill(s: slice) -> None:
            out[s] = _log_average_numpy(reference[s], None if member is None else member[s], transform)

        each_chunk(fill, n, m, reference)
        return out
    parts = []
    for s in chunks(n, m, reference):
        signal = as_float64(reference[s])
        weight = _weights(xp.zeros_like(signal, dtype=xp.bool) if member is None else member[s], online=online)
        parts.append(_log_average_chunk(signal, weight, transform, link))
    return xp.concat(parts)


def _weights(inside: Array, *, online: bool) -> Array:
    """(n, m) float64 weights of the references; rows add up to 1."""
    xp = namespace(inside)
    m = inside.shape[1]
    n_in = xp.sum(xp.astype(inside, xp.float64), axis=1, keepdims=True)
    n_out = m - n_in
    one = xp.ones_like(n_in)
    if not online:
        return xp.where(inside, xp.zeros_like(n_in), 1 / xp.where(n_out > 0, n_out, one))
    lacking = (n_in == 0) | (n_out == 0)
    return xp.where(
        inside,
        xp.where(lacking, one / m, 0.5 / xp.where(n_in > 0, n_in, one)),
        xp.where(lacking, one / m, 0.5 / xp.where(n_out > 0, n_out, one)),
    )


def one_minus_p(signal: np.ndarray) -> np.ndarray:
    """(n, m) float64 q = 1 − σ(φ), with all its digits where it is small; exp(φ) = inf gives 0, as it should."""
    q = exp(signal)
    q += 1.0
    return np.divide(1.0, q, out=q)


def _log_average_numpy(signal: np.ndarray, inside: np.ndarray | None, a: float | None) -> np.ndarray:
    """`_log_average_chunk` of probabilities, with sums of OUT and of all instead of an array of weights."""
    m = signal.shape[1]
    share = 1.0 if a is None else 0.5 * (1 + a)
    mean = share * _mean_of_q(signal, inside, online=a is None)
    small = mean > _SMALL
    result = np.log1p(-np.where(small, 0.0, mean))
    if small.any():
        rows = np.zeros((int(small.sum()), m), bool) if inside is None else inside[small]
        weight = _weights(rows, online=a is None)
        result[small] = _log_small(signal[small].astype(np.float64), weight, a)
    return result


def _mean_of_q(signal: np.ndarray, inside: np.ndarray | None, *, online: bool) -> np.ndarray:
    """(n,) float64 mean of q = 1 − p over the OUT models, or of both halves; 0 for a record without OUT models."""
    m = signal.shape[1]
    if inside is None:
        return row_sums(one_minus_p(signal)) / m
    if not online:
        of_pairs = _out_of_pairs(signal, inside)
        if of_pairs is not None:
            return row_sums(one_minus_p(of_pairs)) / (m // 2)
    outside = np.logical_not(inside)
    n_out = count_true(outside)
    q = one_minus_p(signal)
    total = row_sums(q) if online else None
    q *= outside
    of_out = row_sums(q)
    mean = of_out / np.maximum(n_out, 1.0)
    if total is None:
        return mean
    n_in = m - n_out
    # The sum over IN is that over all less that over OUT. It carries the rounding error of the sum over all, which is
    # small beside the mean of both halves.
    halves = 0.5 * ((total - of_out) / np.maximum(n_in, 1.0) + mean)
    return np.where((n_in == 0) | (n_out == 0), total / m, halves)


def _out_of_pairs(signal: np.ndarray, inside: np.ndarray) -> np.ndarray | None:
    """(n, m / 2) float32 signals of the OUT models where columns come in complementary pairs, as designed; or None.

    Then half of the values are enough. Two float32 are read as one integer, and shifted so that the OUT one is low.
    """
    if (
        signal.shape[1] % 2
        or (signal.dtype, inside.dtype) != (np.float32, np.bool_)
        or not (signal.flags.c_contiguous and inside.flags.c_contiguous and sys.byteorder == "little")
    ):
        return None
    # 1 where the first of a pair is IN, 256 where the second is; any other value is no pair.
    first_in = inside.view(np.uint16)
    if not ((first_in == 1) | (first_in == 256)).all():
        return None
    shift = (first_in & np.uint16(1)).astype(np.uint64) << np.uint64(5)
    return (signal.view(np.uint64) >> shift).astype(np.uint32).view(np.float32)


def _log_average_chunk(signal: Array, weight: Array, a: float | None, link: Link) -> Array:
    """log Σ w·p of one chunk (rows of w add up to 1), with the offline transform unless a is None."""
    xp = namespace(signal)
    if link != "logit":
        return log_sum_exp(signal, weight)
    share = 1.0 if a is None else 0.5 * (1 + a)
    q = share * xp.sum(weight / (1 + xp.exp(signal)), axis=1)
    small = q > _SMALL
    result = xp.log1p(-xp.where(small, xp.zeros_like(q), q))
    if bool(xp.any(small)):
        result[small] = _log_small(signal[small], weight[small], a)
    return result


def _log_small(signal: Array, weight: Array, a: float | None) -> Array:
    """(n,) the same where p̄ is small, from log p."""
    xp = namespace(signal)
    precise = log_sum_exp(log_sigmoid(signal), weight)
    if a is None:
        return precise
    precise = precise + math.log(0.5 * (1 + a))
    return xp.logaddexp(precise, xp.full_like(precise, math.log(0.5 * (1 - a)))) if a < 1 else precise


def log_sum_exp(log_p: Array, weight: Array) -> Array:
    """(n,) log Σ_j w_j exp(log_p_j) over the positive weights."""
    xp = namespace(log_p)
    top = xp.max(xp.where(weight > 0, log_p, xp.full_like(log_p, -math.inf)), axis=1, keepdims=True)
    # Zero weights may sit on larger values: cap them, so that 0 · exp(...) stays 0.
    inner = xp.where(weight > 0, log_p - top, xp.zeros_like(log_p))
    return top[:, 0] + xp.log(xp.sum(weight * xp.exp(inner), axis=1))
