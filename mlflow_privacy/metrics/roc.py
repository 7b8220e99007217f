"""The raw ROC step curve, and TPR at an FPR with an interval that knows both of its errors."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics.band import interval_table, order_ranges
from mlflow_privacy.stats import check_confidence, clopper_pearson, mover, order_statistic_range
from mlflow_privacy.types import Estimate, Roc

# fpr · n is counted with this slack, so that 0.1 of 30 records is 3 of them in floating point too.
_SLACK = 1e-9
_SPARSE = 4  # how many times n whole-numbered ranks may reach to be counted without sorting
_MANY = 500  # points from which on a table of all intervals costs less than theirs alone


@dataclasses.dataclass(frozen=True)
class Tally:
    """Members and non-members per distinct score: all that a ROC, an AUC or a threshold needs.

    Attributes:
      values: (k,) distinct scores, ascending.
      members, nonmembers: (k,) int64 counts at each.
    """

    values: np.ndarray
    members: np.ndarray
    nonmembers: np.ndarray

    @property
    def n_members(self) -> int:
        return int(self.members.sum())

    @property
    def n_nonmembers(self) -> int:
        return int(self.nonmembers.sum())

    def above(self) -> tuple[np.ndarray, np.ndarray]:
        """(k + 1,) true and false positives as the threshold falls from +inf through every distinct score."""
        start = np.zeros(1, np.int64)
        return (
            np.concatenate([start, np.cumsum(self.members[::-1])]),
            np.concatenate([start, np.cumsum(self.nonmembers[::-1])]),
        )


def tally(ranks: np.ndarray, member: np.ndarray) -> Tally:
    """Counts members and non-members per distinct rank, in O(n log n), or O(n) of dense ranks (`Scores.rank()`).

    Args:
      ranks: (n,) scores or ranks, higher = more likely a member.
      member: (n,) bool.

    Raises: DesignError: shapes differ, a rank is NaN, or there are no members or no non-members.

    Example:
      >>> t = tally(np.array([1.0, 2.0, 2.0]), np.array([False, True, False]))
      >>> t.members.tolist(), t.nonmembers.tolist()
      ([0, 1], [1, 1])
    """
    ranks, member = np.asarray(ranks), np.asarray(member, bool)
    faults = []
    if ranks.ndim != 1 or ranks.shape != member.shape:
        faults.append(f"ranks and member must be of one shape (n,), got {ranks.shape} and {member.shape}")
    elif np.isnan(ranks).any():
        faults.append(f"{int(np.isnan(ranks).sum())} of {len(ranks)} scores are NaN; an attack must rank every record")
    if member.size and (member.all() or not member.any()):
        faults.append(f"all {member.size} records are {'members' if member.all() else 'non-members'}; both are needed")
    if not member.size:
        faults.append("there are no records")
    if faults:
        raise DesignError("; ".join(faults) + ".")
    index = _whole(ranks)
    if index is None:
        values, index = np.unique(ranks, return_inverse=True)
        index = index.reshape(-1)
    else:
        values = np.arange(int(index.max()) + 1, dtype=ranks.dtype)
    counts = np.bincount(2 * index + member, minlength=2 * len(values)).reshape(-1, 2)
    present = counts.any(axis=1)
    if not present.all():
        values, counts = values[present], counts[present]
    return Tally(values, np.ascontiguousarray(counts[:, 1]), np.ascontiguousarray(counts[:, 0]))


def _whole(ranks: np.ndarray) -> np.ndarray | None:
    """(n,) int64 of ranks that are whole numbers from 0 to a few times n; else None."""
    if not (ranks.min() >= 0 and ranks.max() <= _SPARSE * len(ranks)):
        return None
    whole = ranks.astype(np.int64)
    return whole if (whole == ranks).all() else None


def tpr_interval(t: Tally, fpr: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""TPR at each FPR and its interval, from one tally.

    Two independent errors add up. At the threshold in use the members above it are binomial: Clopper–Pearson. And
    that threshold only estimates the non-members' true upper-`fpr` quantile, which lies between two of their order
    statistics; the TPRs at those two are the second interval. MOVER (`stats.mover`) combines them:

    .. math:: low = \hat t - \sqrt{(\hat t - l_{CP})^2 + (\hat t - l_{order})^2}

    Where even the largest non-member cannot bound the quantile (about fpr · n < 3.7 at 95 %) nothing is known from
    below, and `low` is 0. At fpr = 0 the threshold is the largest non-member itself and the interval is
    Clopper–Pearson's, conditional on it: it says nothing of the FPR that this threshold has on new records.

    Args:
      fpr: (f,) in [0, 1].

    Returns: (tpr, low, high), each (f,).
    """
    n1, n0 = t.n_members, t.n_nonmembers
    tp, fp = t.above()
    fpr = np.asarray(fpr, np.float64)
    at = np.searchsorted(fp, np.floor(fpr * n0 + _SLACK), side="right") - 1
    hits = tp[at]
    tpr = hits / n1
    if fpr.size > _MANY:
        cp_low, cp_high = (bound[hits] for bound in interval_table(n1, confidence))
        few, many = order_ranges(n0, fpr, confidence)
    else:
        cp_low, cp_high = clopper_pearson(hits, n1, confidence)
        few, many = order_statistic_range(n0, fpr, confidence)
    # Members strictly above the `few`-th largest non-member; 0 where the quantile may lie above all of them.
    order_low = np.where(few > 0, tp[np.searchsorted(fp, few, side="left") - 1], 0) / n1
    # Members at or above the (`many` + 1)-th largest; all where there is none.
    beyond = np.searchsorted(fp, many + 1, side="left")
    order_high = np.where(many + 1 > n0, n1, tp[np.minimum(beyond, len(tp) - 1)]) / n1
    low, high = mover(
        np.stack([tpr, np.zeros_like(tpr)]),
        np.stack([cp_low, np.minimum(order_low - tpr, 0.0)]),
        np.stack([cp_high, np.maximum(order_high - tpr, 0.0)]),
        np.ones(2),
    )
    at_zero = fpr <= 0
    low, high = np.where(at_zero, cp_low, low), np.where(at_zero, cp_high, high)
    return tpr, np.clip(low, 0.0, tpr), np.clip(high, tpr, 1.0)


def tpr_at_fpr(ranks: np.ndarray, member: np.ndarray, fpr: float, confidence: float = 0.95) -> Estimate:
    """TPR at the lowest threshold whose empirical FPR is at most `fpr`; equal scores stand or fall together.

    The step curve itself, without interpolation. The interval is that of `tpr_interval`. An FPR that the
    non-members cannot resolve (0 < fpr < 1 / n_nonmembers) gives an `Estimate` with `resolvable=False` and NaN.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.
      fpr: in [0, 1].

    Raises: DesignError: `fpr` out of range, or what `tally` raises.

    Example:
      >>> ranks = np.arange(8.0)
      >>> member = np.array([0, 0, 0, 1, 0, 1, 1, 1], bool)
      >>> tpr_at_fpr(ranks, member, 0.0).value, tpr_at_fpr(ranks, member, 0.25).value
      (0.75, 1.0)
      >>> print(tpr_at_fpr(ranks, member, 0.01))
      not resolvable
    """
    return tpr_of(tally(ranks, member), fpr, confidence)


def tpr_of(t: Tally, fpr: float, confidence: float) -> Estimate:
    """`tpr_at_fpr` of a tally."""
    check_confidence(confidence)
    if not 0 <= fpr <= 1:
        raise DesignError(f"fpr must be in [0, 1], got {fpr}.")
    n = t.n_members + t.n_nonmembers
    if 0 < fpr * t.n_nonmembers < 1 - _SLACK:
        return Estimate(float("nan"), float("nan"), float("nan"), n, confidence, resolvable=False)
    tpr, low, high = tpr_interval(t, np.array([fpr]), confidence)
    return Estimate(float(tpr[0]), float(low[0]), float(high[0]), n, confidence)


def roc_curve(ranks: np.ndarray, member: np.ndarray, confidence: float = 0.95) -> Roc:
    """The raw ROC as its vertices, with a pointwise band.

    One point per distinct score, less those on the straight line between their neighbours (decided in integers):
    the same curve, not a convex hull. Equal scores of members and non-members give a slanted edge. `tpr_low` and
    `tpr_high` bound the TPR at the FPR of a vertex (`tpr_interval`), one FPR at a time, not the curve as a whole.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.

    Returns: `Roc`; `threshold[i]` is the lowest rank called a member at vertex i.

    Example:
      >>> roc = roc_curve(np.arange(4.0), np.array([False, True, True, True]))
      >>> roc.fpr.tolist(), roc.tpr.tolist()
      ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """
    return roc_of(tally(ranks, member), confidence)


def roc_of(t: Tally, confidence: float) -> Roc:
    """`roc_curve` of a tally."""
    check_confidence(confidence)
    tp, fp = t.above()
    keep = np.ones(len(tp), bool)
    step_tp, step_fp = np.diff(tp), np.diff(fp)
    # Inner points of vertical and horizontal runs go. A slanted edge is a block of ties, and each block is attainable.
    vertical, horizontal = step_fp == 0, step_tp == 0
    keep[1:-1] = ~((vertical[:-1] & vertical[1:]) | (horizontal[:-1] & horizontal[1:]))
    threshold = np.concatenate([[np.inf], t.values[::-1].astype(np.float64)])[keep]
    tp, fp = tp[keep], fp[keep]
    n1, n0 = t.n_members, t.n_nonmembers
    new = np.append(True, fp[1:] != fp[:-1])  # fp is ascending
    distinct, index = fp[new], np.cumsum(new) - 1
    _, low, high = tpr_interval(t, distinct / n0, confidence)
    tpr = tp / n1
    # On a vertical edge the band belongs to its upper end; lower vertices lie inside it.
    return Roc(fp / n0, tpr, threshold, np.minimum(low[index], tpr), np.maximum(high[index], tpr))
