"""Chooses the `a` of offline RMIA on the reference models themselves; the target is never looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.attacks._arrays import Array, check_signals, each_chunk, exp, in_threads, log, log_odds, to_numpy
from mlflow_privacy.attacks.averages import log_average
from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import log_sigmoid, mann_whitney
from mlflow_privacy.types import Link

_GRID = tuple(i / 10 for i in range(11))
# Tuning compares values of `a` on the same records, so a part of a large pool decides as well as all of it.
_TUNE_TARGETS, _TUNE_RECORDS = 8, 50_000
_SAME = 1e-11  # AUCs that are nearer than this differ by rounding alone: they are compared at 12 digits
_SMALL = 0.9  # a mean of 1 − p above this has lost the digits of p
_SMALLEST, _SMALLEST_LOG = 1e-290, -650.0  # a p, and its log, well above where numbers lose digits
# One in a million of the pairs decides nothing that the next bounds do not decide better.
_CELLS, _CELL_SLACK = 1 << 15, 1e-6


def tune_a(
    reference: Array,
    member: Array,
    population_reference: Array | None = None,
    *,
    link: Link = "logit",
    grid: Sequence[float] = _GRID,
) -> float | None:
    """The `a` of `rmia_offline` that attacks reference models best; the target is never looked at.

    References in turn (at most 8) stand in as targets: their membership is known, the others are their references.
    A reference that trained on the exact complement is left out of the others, because the real target has none.
    The mean AUC decides; the smallest `a` wins ties. Ranked by (score, ratio) the AUC of RMIA does not depend on
    the population or on γ, so neither is needed here. Pools above 50,000 records are tuned on every k-th.

    With a single complementary pair each record has one model that did not train on it, and none is left to compare
    the stand-in's non-members with. Its members are then told from the population, whose OUT model is the other one.

    Args:
      reference: (n, m) signals of the reference models.
      member: (n, m) bool.
      population_reference: (z, m) signals on records that no reference trained on; used for a single pair alone.
      link: "logit" or "log_p"; densities have no `a`.
      grid: values to try, in [0, 1].

    Returns: a value of `grid`, or None if no reference can stand in (one reference, or one pair and no population).

    Raises: DesignError: shapes, values that are not finite, or a link without probabilities.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> half = rng.random((200, 4)) < 0.5
      >>> member = np.concatenate([half, ~half], axis=1)
      >>> 0 <= tune_a(rng.normal(size=(200, 8)) + 2 * member, member) <= 1
      True
    """
    if link not in ("logit", "log_p"):
        raise DesignError(f'a can only be tuned for probabilities (link "logit" or "log_p"), got link "{link}".')
    if reference.ndim != 2 or tuple(member.shape) != tuple(reference.shape):
        raise DesignError(
            f"reference and member must have one shape (n, m), got {tuple(reference.shape)} and {tuple(member.shape)}."
        )
    step = max(reference.shape[0] // _TUNE_RECORDS, 1)
    signal, inside = to_numpy(reference[::step]), to_numpy(member[::step]).astype(bool)
    check_signals(reference=signal, member=inside, target=signal[:, 0] if signal.shape[1] else None)
    if link == "log_p":
        signal = log_odds(signal)
        population_reference = None if population_reference is None else log_odds(population_reference)
    m = signal.shape[1]
    picked = np.unique(np.linspace(0, max(m - 1, 0), min(m, _TUNE_TARGETS)).round().astype(int))
    stand_ins = _stand_ins(signal, inside, picked)
    if not stand_ins and population_reference is not None and len(population_reference):
        more = to_numpy(population_reference)
        inside = np.concatenate([inside, np.zeros(more.shape, bool)])
        stand_ins = _stand_ins(np.concatenate([signal, more]), inside, picked)
    return _best(stand_ins, tuple(grid)) if stand_ins else None


class _StandIn:
    """One reference model in the target's place: what the offline ratio of each record needs, for any `a`.

    Args:
      log_target: (n,) log p of the stand-in.
      q_out: (n,) mean of 1 − p over its OUT references; log_out: (n,) log of their mean p, precise where that is small.
      truth: (n,) bool, whether the stand-in trained on the record.
    """

    def __init__(self, log_target: np.ndarray, q_out: np.ndarray, log_out: np.ndarray, truth: np.ndarray) -> None:
        self._log_target, self._q_out, self._log_out, self._truth = log_target, q_out, log_out, truth
        self._in_range = min(log_target.min(), log_out.min()) > _SMALLEST_LOG
        self._p, self._p_out = exp(log_target), exp(log_out)

    def auc(self, a: float) -> float:
        """AUC of the offline ratio with this `a`."""
        ratio = self._ratio(a)
        return mann_whitney(ratio[self._truth], ratio[~self._truth])

    def rough_bounds(self, a: float) -> tuple[float, float]:
        """Between which values `auc(a)` lies, by counting in 32,768 cells of r / (1 + r); no sort."""
        if not self._in_range:
            return 0.0, 1.0
        scaled = (0.5 * (1 + a)) * self._p_out
        scaled += 0.5 * (1 - a)
        scaled += self._p
        np.divide(self._p, scaled, out=scaled)
        scaled *= _CELLS
        counts = np.bincount(2 * scaled.astype(np.int64) + self._truth, minlength=2 * _CELLS + 2).reshape(-1, 2)
        outside, inside = counts.T.astype(np.float64)
        n_in, n_out = inside.sum(), outside.sum()
        before = np.cumsum(outside)
        # Not as products of BLAS, whose threads and ours would wait for each other.
        won, same = (float(np.einsum("i,i", inside, column)) / (n_in * n_out) for column in (before, outside))
        return won - same - _CELL_SLACK, won + _CELL_SLACK  # a rounding may put a record into the next cell

    def auc_bounds(self, a: float) -> tuple[float, float]:
        """Between which values `auc(a)` lies, from one sort of 32-bit integers, a third of the work.

        Rounded to 31 bits the ratios keep their order, but for pairs that become equal. The lowest bit is the label,
        so that one sort puts the non-members of equal ratios first: as if all of these pairs were won.
        """
        bits = self._ratio(a).astype(np.float32).view(np.int32)
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # negative floats are ordered the other way round
        keys = np.sort((bits & np.int32(-2)) | self._truth)
        at = np.flatnonzero(keys & 1)
        n_in, n_out = len(at), len(keys) - len(at)
        won = int(at.sum()) - n_in * (n_in - 1) // 2
        mixed = keys[at[(keys.take(at - 1) == keys[at] - 1) & (at > 0)]]  # the first member of each mixed block
        equal = 0
        if len(mixed):
            first = np.searchsorted(keys, mixed, "left")
            members = np.searchsorted(keys, mixed, "right") - first
            equal = int((members * (first - np.searchsorted(keys, mixed - 1, "left"))).sum())
        return (won - equal) / (n_in * n_out), won / (n_in * n_out)

    def _ratio(self, a: float) -> np.ndarray:
        """(n,) log r."""
        # 1 − p̄ = ½ (1 + a) (1 − p_OUT), without cancellation near p_OUT = 1.
        return self._log_target - (_log1p(-0.5 * (1 + a) * self._q_out) if a < 1 else self._log_out)


def _best(stand_ins: Sequence[_StandIn], grid: tuple[float, ...]) -> float:
    """The value of `grid` with the highest mean AUC, the first of equals; most fall out by bounds on their AUC."""
    left = np.arange(len(grid))
    for bounds_of in (_StandIn.rough_bounds, _StandIn.auc_bounds):
        low, high = _means(stand_ins, lambda one: [bounds_of(one, grid[k]) for k in left]).T  # noqa: B023
        left = left[high >= low.max() - _SAME]
        if len(left) == 1:
            return float(grid[left[0]])
    exact = _means(stand_ins, lambda one: [one.auc(grid[k]) for k in left])
    return float(grid[left[int(np.argmax(exact.round(12)))]])


def _means(stand_ins: Sequence[_StandIn], measure: Callable[[_StandIn], Any]) -> np.ndarray:
    """Mean over stand-ins of what is measured of each, in threads."""
    return np.mean(in_threads(measure, stand_ins), axis=0)


def _stand_ins(signal: np.ndarray, inside: np.ndarray, picked: np.ndarray) -> list[_StandIn]:
    """Each picked reference as a target, if it has OUT references for both members and non-members."""
    n, m = signal.shape
    others = _others(inside, picked).astype(np.float64)
    usable = np.empty((len(picked), n), bool)
    log_target, q_out, log_out = (np.empty((len(picked), n)) for _ in range(3))

    def fill(s: slice) -> None:
        outside = (~inside[s]).astype(np.float64)
        counts = (outside @ others).T
        usable[:, s] = counts > 0
        counts = np.maximum(counts, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            odds = exp(signal[s])
            q = outside / (1.0 + odds)
            odds *= q
        p = np.fmin(odds, outside, out=odds)  # inf · 0 is not a number, and 1 is meant
        q_out[:, s] = q = (q @ others).T / counts
        p = (p @ others).T / counts
        # Offline with a = 1 is the plain OUT mean; the transform for every other `a` follows from it.
        log_out[:, s] = np.where(q > _SMALL, np.log(np.maximum(p, _SMALLEST)), _log1p(-np.minimum(q, _SMALL)))
        log_target[:, s] = log_sigmoid(signal[s, picked].T)
        lost = (p < _SMALLEST) & usable[:, s]
        for t in np.flatnonzero(lost.any(axis=1)):
            rows = s.start + np.flatnonzero(lost[t])
            unused = inside[rows] | (others[:, t] == 0)
            log_out[t, rows] = log_average(signal[rows], unused, online=False, a=1.0)

    # Chunks so small that BLAS does not start threads of its own, which would wait for each other.
    each_chunk(fill, n, 8 * m, signal)
    found = []
    for t, j in enumerate(picked):
        rows = slice(None) if usable[t].all() else usable[t]
        truth = np.ascontiguousarray(inside[rows, j])
        if truth.any() and not truth.all():
            found.append(_StandIn(log_target[t, rows], q_out[t, rows], log_out[t, rows], truth))
    return found


def _others(inside: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """(m, t) bool: which references each picked one may use: not itself, none that trained on the complement."""
    n, m = inside.shape
    agreeing = np.zeros((m, len(picked)))
    for start in range(0, n, 1 << 14):
        signs = 2 * inside[start : start + (1 << 14)].astype(np.float32) - 1
        agreeing += signs.T @ signs[:, picked]
    others = agreeing > -n
    others[picked, np.arange(len(picked))] = False
    return others


def _log1p(y: np.ndarray) -> np.ndarray:
    """log(1 + y) to a few units in the last place, twice as fast as `np.log1p`.

    With u = fl(1 + y) the quotient log(u) / (u − 1) changes so slowly that taking it at u instead of 1 + y is a
    matter of rounding.
    """
    u = 1.0 + y
    gap = u - 1.0
    exact = gap == 0
    gap += exact
    return log(u) * (y / gap) + y * exact
