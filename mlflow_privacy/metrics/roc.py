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
_SPARSE = 4  # whole-numbered ranks of up to so many times n are counted without sorting
_MANY = 50  # from so many points on, a table of all intervals costs less than the points' own


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


@dataclasses.dataclass(frozen=True)
class Band:
    r"""TPR at every FPR with an interval that knows of both of its errors: one method for all of them.

    Two independent errors add up. At the threshold in use the members above it are binomial: Clopper–Pearson. And
    that threshold only estimates the non-members' true upper-`fpr` quantile, which lies between two of their order
    statistics; the TPRs at those two are the second interval. MOVER (`stats.mover`) combines them:

    .. math:: low = \hat t - \sqrt{(\hat t - l_{CP})^2 + (\hat t - l_{order})^2}

    Where even the largest non-member cannot bound the quantile (about fpr · n < 3.7 at 95 %) nothing is known from
    below, and `low` is 0; so at fpr = 0 always.

    Whoever accepts more false alarms recognises no fewer. So each lower end is at most those of all higher FPRs, and
    each upper end at least those of all lower ones. That only widens, and hardly ever by anything.

    Attributes:
      confidence: of each interval, one FPR at a time.
      count: (j,) the numbers of false positives that a threshold can have, ascending from 0.
      low: (j,) lower ends at count / n_nonmembers: the least from there on.
      high: (j,) upper ends: the greatest up to there.
    """

    tally: Tally
    confidence: float
    count: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, fpr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tpr, low, high) at FPRs (f,) in [0, 1], each (f,) and none falling as the FPR grows."""
        n0, fpr = self.tally.n_nonmembers, np.asarray(fpr, np.float64)
        step = np.searchsorted(self.count, np.floor(fpr * n0 + _SLACK), side="right") - 1
        tpr, low, high = tpr_alone(self.tally, fpr, self.confidence)
        beyond = np.searchsorted(self.count, np.ceil(fpr * n0 - _SLACK), side="left")
        return tpr, np.minimum(low, self.low[beyond]), np.maximum(high, self.high[step])


def band(t: Tally, confidence: float = 0.95) -> Band:
    """The band of one attack, from the tally of its scores.

    Example:
      >>> known = band(tally(np.arange(40.0), np.arange(40) >= 20))
      >>> tpr, low, high = known.at(np.array([0.0, 0.1, 0.5]))
      >>> tpr.tolist(), low.round(2).tolist(), high.tolist()
      ([1.0, 1.0, 1.0], [0.0, 0.0, 0.83], [1.0, 1.0, 1.0])
    """
    check_confidence(confidence)
    fp = t.above()[1]
    count = fp[np.append(True, fp[1:] != fp[:-1])]
    own = _members_above(t, count, confidence)
    between = _members_between(t, count / t.n_nonmembers, confidence)
    low, high = _combined(own, *between)
    # Up to the next count the TPR stays and the quantile's range grows: the upper end is greatest just before it.
    before = _combined(tuple(part[:-1] for part in own), between[0][:-1], *(part[1:] for part in between[1:]))[1]
    high[1:] = np.maximum(high[1:], np.maximum.accumulate(before))
    return Band(t, confidence, count, np.minimum.accumulate(low[::-1])[::-1], high)


def _members_above(t: Tally, count: np.ndarray, confidence: float) -> tuple[np.ndarray, ...]:
    """TPR at thresholds of so many false positives (f,), with the binomial interval that takes them for known."""
    tp, fp = t.above()
    hits = tp[np.searchsorted(fp, count, side="right") - 1]
    return hits / t.n_members, *_binomial(hits, t.n_members, confidence)


def _binomial(hits: np.ndarray, n: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Clopper–Pearson, from a table where there are many."""
    if hits.size > _MANY:
        low, high = interval_table(n, confidence)
        return low[hits], high[hits]
    low, high = clopper_pearson(hits, n, confidence)
    return low, high


def _members_between(t: Tally, fpr: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TPRs at the two order statistics that enclose the non-members' true upper-fpr quantile, each (f,).

    Third, where equal scores leave only few thresholds to choose from, the upper end of the binomial interval at the
    highest of these below the second of them: the true best one may be just there, and not anywhere between; else 0.
    """
    n1, n0 = t.n_members, t.n_nonmembers
    tp, fp = t.above()
    few, many = (order_ranges if fpr.size > _MANY else order_statistic_range)(n0, fpr, confidence)
    # Members strictly above the `few`-th largest non-member; 0 where the quantile may lie above all of them.
    low = np.where(few > 0, tp[np.searchsorted(fp, few, side="left") - 1], 0) / n1
    # Members above the next largest after `many`: equal ones stand or fall together, and all of them would be too many.
    last = np.where(many >= n0, len(fp) - 1, np.searchsorted(fp, many, side="right") - 1)
    before_ties = np.flatnonzero(np.diff(fp) > 1)
    at = np.searchsorted(fp[before_ties], many, side="left")
    tied = np.zeros(len(low))
    tied[at > 0] = _binomial(tp[before_ties[at[at > 0] - 1]], n1, confidence)[1]
    return low, tp[last] / n1, tied


def _combined(
    own: tuple[np.ndarray, ...], few: np.ndarray, many: np.ndarray, tied: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of `_members_above` and `_members_between` together, around the TPR."""
    tpr, cp_low, cp_high = own
    low, high = mover(
        np.stack([tpr, np.zeros_like(tpr)]),
        np.stack([cp_low, np.minimum(few - tpr, 0.0)]),
        np.stack([cp_high, np.maximum(many - tpr, 0.0)]),
        np.ones(2),
    )
    return np.clip(low, 0.0, tpr), np.clip(np.maximum(high, tied), tpr, 1.0)


def tpr_alone(t: Tally, fpr: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`tpr_interval` for few FPRs of many tallies; its ends may fall as the FPR grows, which takes all FPRs to see."""
    own = _members_above(t, np.floor(fpr * t.n_nonmembers + _SLACK), confidence)
    return own[0], *_combined(own, *_members_between(t, fpr, confidence))


def tpr_interval(t: Tally, fpr: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Band.at` of a tally's band: (tpr, low, high), each (f,), at FPRs (f,) in [0, 1]."""
    return band(t, confidence).at(fpr)


def tpr_value(t: Tally, fpr: float) -> float:
    """TPR at the lowest threshold whose empirical FPR is at most `fpr`, without an interval."""
    tp, fp = t.above()
    return float(tp[np.searchsorted(fp, np.floor(fpr * t.n_nonmembers + _SLACK), side="right") - 1] / t.n_members)


def resolves(n_nonmembers: int, fpr: float) -> bool:
    """Whether so many non-members can tell an FPR: 0 < fpr < 1 / n_nonmembers is below the smallest step."""
    return not 0 < fpr * n_nonmembers < 1 - _SLACK


def tpr_at_fpr(ranks: np.ndarray, member: np.ndarray, fpr: float, confidence: float = 0.95) -> Estimate:
    """TPR at the lowest threshold whose empirical FPR is at most `fpr`; equal scores stand or fall together.

    The step curve itself, without interpolation. The interval is that of `Band`. An FPR that the
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
    return tpr_in(band(tally(ranks, member), confidence), fpr)


def tnr_at_fnr(ranks: np.ndarray, member: np.ndarray, fnr: float, confidence: float = 0.95) -> Estimate:
    """The share of non-members that are told apart while at most `fnr` of the members are taken for non-members.

    The TPR at an FPR with the roles swapped, interval and all: the "positives" are the non-members, found by low
    scores. Guessing reaches `fnr`. An FNR that the members cannot resolve (0 < fnr < 1 / n_members) is not resolvable.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.
      fnr: in [0, 1].

    Raises: DesignError: as `tpr_at_fpr`.

    Example:
      >>> ranks = np.arange(8.0)
      >>> member = np.array([0, 0, 0, 1, 0, 1, 1, 1], bool)
      >>> tnr_at_fnr(ranks, member, 0.0).value, tnr_at_fnr(ranks, member, 0.25).value
      (0.75, 1.0)
    """
    return tpr_at_fpr(-np.asarray(ranks, np.float64), ~np.asarray(member, bool), fnr, confidence)


def tpr_in(known: Band, fpr: float) -> Estimate:
    """`tpr_at_fpr` of a band."""
    if not 0 <= fpr <= 1:
        raise DesignError(f"fpr must be in [0, 1], got {fpr}.")
    t, confidence = known.tally, known.confidence
    n = t.n_members + t.n_nonmembers
    if not resolves(t.n_nonmembers, fpr):
        return Estimate(float("nan"), float("nan"), float("nan"), n, confidence, resolvable=False)
    tpr, low, high = known.at(np.array([fpr]))
    return Estimate(float(tpr[0]), float(low[0]), float(high[0]), n, confidence)


def roc_curve(ranks: np.ndarray, member: np.ndarray, confidence: float = 0.95) -> Roc:
    """The raw ROC as its vertices, with a pointwise band.

    One point per distinct score, less those on the straight line between their neighbours (decided in integers):
    the same curve, not a convex hull. Equal scores of members and non-members give a slanted edge. `tpr_low` and
    `tpr_high` bound the TPR at the FPR of a vertex (`Band`), one FPR at a time, not the curve as a whole.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.

    Returns: `Roc`; `threshold[i]` is the lowest rank called a member at vertex i.

    Example:
      >>> roc = roc_curve(np.arange(4.0), np.array([False, True, True, True]))
      >>> roc.fpr.tolist(), roc.tpr.tolist()
      ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """
    return roc_of(band(tally(ranks, member), confidence))


def roc_of(known: Band) -> Roc:
    """`roc_curve` of a band."""
    t = known.tally
    tp, fp = t.above()
    keep = np.ones(len(tp), bool)
    step_tp, step_fp = np.diff(tp), np.diff(fp)
    # Inner points of vertical and horizontal runs go. A slanted edge is a block of ties, and each block is attainable.
    vertical, horizontal = step_fp == 0, step_tp == 0
    keep[1:-1] = ~((vertical[:-1] & vertical[1:]) | (horizontal[:-1] & horizontal[1:]))
    threshold = np.concatenate([[np.inf], t.values[::-1].astype(np.float64)])[keep]
    tp, fp = tp[keep], fp[keep]
    n1, n0 = t.n_members, t.n_nonmembers
    index = np.searchsorted(known.count, fp)
    low, high = known.low[index], known.high[index]
    tpr = tp / n1
    # On a vertical edge the band belongs to its upper end; lower vertices lie inside it.
    return Roc(fp / n0, tpr, threshold, np.minimum(low, tpr), np.maximum(high, tpr))
