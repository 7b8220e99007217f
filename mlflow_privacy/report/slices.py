"""Risk by slice, most exposed records, and what is left without them: from scores and memberships alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import Tally, tally
from mlflow_privacy.metrics.delong import auc_of
from mlflow_privacy.report.document import ExposedRecord, ShareRow, SliceRow, Slicing
from mlflow_privacy.stats import clopper_pearson, mover
from mlflow_privacy.types import Estimate

MIN_RECORDS = 10  # of members, and of non-members: DeLong's variance of fewer means little
_MAX_ROWS = 40
_MAX_DISTINCT = 20  # distinct numbers; more are cut into quartiles


@dataclasses.dataclass(frozen=True)
class Groups:
    """A slicing of n records: names (g,) and each record's group code (n,)."""

    names: tuple[str, ...]
    code: np.ndarray


def groups_of(values: np.ndarray | Sequence[object]) -> Groups:
    """Slices of equal values; a number with more than 20 distinct values is cut at its quartiles.

    Args:
      values: (n,) labels, strings or numbers.

    Example:
      >>> groups_of(np.array(["b", "a", "b"])).names
      ('a', 'b')
      >>> groups_of(np.linspace(0, 1, 100)).names[0]
      '0 to 0.25'
    """
    values = np.asarray(values)
    if values.dtype.kind in "OSU":
        values = values.astype(str)
    distinct, code = np.unique(values, return_inverse=True)
    code = code.reshape(-1)
    if values.dtype.kind == "f" and len(distinct) > _MAX_DISTINCT:
        finite = values[np.isfinite(values)]
        edges = np.unique(np.quantile(finite, [0, 0.25, 0.5, 0.75, 1]))
        code = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
        names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)] or ["all"]
        if len(finite) < len(values):
            code = np.where(np.isfinite(values), code, len(names))
            names.append("not finite")
        return Groups(tuple(names), code)
    return Groups(tuple(str(name) for name in distinct.tolist()), code)


def check_slices(slices: Mapping[str, object], n: int) -> None:
    """Every slice needs one value per audited record.

    Raises: DesignError: with all that do not fit.
    """
    faults = []
    for name, values in slices.items():
        shape = np.asarray(values).shape
        if shape != (n,):
            faults.append(f"slices[{name!r}] has shape {shape}")
    if faults:
        raise DesignError(f"A slice needs one value for each of the {n} audited records, but {', '.join(faults)}.")


def slice_risk(
    ranks: np.ndarray, member: np.ndarray, slicings: Mapping[str, Groups], *, fpr: float, confidence: float = 0.95
) -> tuple[tuple[Slicing, ...], int, float]:
    r"""AUC and recognised share of every slice, with intervals that hold for all slices at once.

    Bonferroni (https://doi.org/10.1080/01621459.1961.10482090): with k slices each interval has confidence
    1 − (1 − c) / k, so that with probability c none of them misses. The difference of a slice's AUC from that of all
    other records is between disjoint, hence independent, records: `stats.mover` of the two AUCs.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.
      slicings: by name.
      fpr: of the one threshold, over all records, that `recognised` is about.
      confidence: c.

    Returns: the slicings, most exposed slices first (by the lower end of their AUC); how many slices were measured;
      and the corrected confidence. Slices with under 10 members or non-members are counted, not measured.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random(2000) < 0.5
      >>> group = np.where(rng.random(2000) < 0.5, "leaky", "safe")
      >>> ranks = rng.normal(size=2000) + 2 * (member & (group == "leaky"))
      >>> (found,), count, corrected = slice_risk(ranks, member, {"group": groups_of(group)}, fpr=0.1)
      >>> [(row.label, row.differs) for row in found.rows], count, round(corrected, 3)
      ([('leaky', True), ('safe', True)], 2, 0.975)
    """
    ranks, member = np.asarray(ranks, np.float64), np.asarray(member, bool)
    threshold = _threshold(ranks[~member], fpr)
    values, place = np.unique(ranks, return_inverse=True)
    place = place.reshape(-1)
    whole = _tally_at(values, place, member)
    picked = {name: list(_measurable(groups, member)) for name, groups in slicings.items()}
    # A slicing with one slice compares nothing, and does not count.
    picked = {name: found if len(slicings[name].names) > 1 else [] for name, found in picked.items()}
    count = sum(map(len, picked.values()))
    corrected = 1 - (1 - confidence) / max(count, 1)
    out = []
    for name, found in picked.items():
        rows = [_row(whole, place[rows], member[rows], label, values >= threshold, corrected) for label, rows in found]
        rows.sort(key=lambda row: (-row.auc.low, -row.auc.value, row.label))
        if rows:
            small = len(slicings[name].names) - len(rows)
            out.append(Slicing(name, tuple(rows[:_MAX_ROWS]), small, max(len(rows) - _MAX_ROWS, 0)))
    return tuple(out), count, corrected


def shares(
    metrics: Mapping[str, Estimate], fprs: Sequence[float], keys: Sequence[str], n_members: int
) -> tuple[ShareRow, ...]:
    """Members above the threshold of each false-alarm rate; `n_expected` is what guessing gives."""
    out = []
    for fpr, key in zip(fprs, keys):
        share = metrics[key]
        n_recognised = round(share.value * n_members) if share.resolvable else None
        out.append(ShareRow(fpr, share, n_recognised, round(fpr * n_members, 1)))
    return tuple(out)


def most_exposed(
    value: np.ndarray,
    ranks: np.ndarray,
    member: np.ndarray,
    row_ids: np.ndarray,
    y: np.ndarray,
    *,
    count: int,
    content: Mapping[str, str] | None = None,
) -> tuple[ExposedRecord, ...]:
    """The members that score highest, each with the number of non-members that score at least as high.

    Args:
      value: (n,) scores in the attack's own unit; `ranks` break their ties.
      content: what to show of a record, by row id; None shows nothing.

    Example:
      >>> v, member = np.array([0.1, 0.9, 0.8]), np.array([False, True, True])
      >>> found = most_exposed(v, v, member, np.array(["h:0", "t:0", "t:1"]), np.zeros(3), count=1)
      >>> found[0].row_id, found[0].nonmembers_above
      ('t:0', 0)
    """
    inside = np.flatnonzero(member)
    count = min(count, len(inside))
    if not count:
        return ()
    if count < len(inside):  # all that tie with the last one are sorted, so that the order of records decides
        edge = np.partition(ranks[inside], len(inside) - count)[len(inside) - count]
        inside = inside[ranks[inside] >= edge]
    best = inside[np.argsort(-ranks[inside], kind="stable")][:count]
    others = np.sort(ranks[~member])
    above = len(others) - np.searchsorted(others, ranks[best], side="left")
    ordered = np.sort(ranks[member])
    rank = len(ordered) - np.searchsorted(ordered, ranks[best], side="right") + 1
    return tuple(
        ExposedRecord(
            int(rank[i]),
            str(row_ids[j]),
            str(y[j]),
            float(value[j]),
            int(above[i]),
            None if content is None or str(row_ids[j]) not in content else str(content[str(row_ids[j])]),
        )
        for i, j in enumerate(best.tolist())
    )


def trimmed_auc(ranks: np.ndarray, member: np.ndarray, share: float, confidence: float) -> Estimate | None:
    """AUC without the `share` of members that score highest; None if too few are left.

    Arithmetic on the scores of one model: a model trained anew without them would expose others more (the onion
    effect, Carlini et al. 2022, https://arxiv.org/abs/2206.10469).
    """
    inside = np.flatnonzero(member)
    drop = int(np.ceil(share * len(inside)))
    if len(inside) - drop < MIN_RECORDS:
        return None
    keep = np.ones(len(member), bool)
    keep[inside[np.argsort(-ranks[inside], kind="stable")[:drop]]] = False
    return auc_of(tally(ranks[keep], member[keep]), confidence)


def _measurable(groups: Groups, member: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows of each slice with enough members and non-members."""
    size = len(groups.names)
    n_members = np.bincount(groups.code[member], minlength=size)
    n_others = np.bincount(groups.code[~member], minlength=size)
    order = np.argsort(groups.code, kind="stable")
    ends = np.cumsum(n_members + n_others)
    for i, label in enumerate(groups.names):
        if min(n_members[i], n_others[i]) >= MIN_RECORDS:
            yield label, order[ends[i] - n_members[i] - n_others[i] : ends[i]]


def _tally_at(values: np.ndarray, place: np.ndarray, member: np.ndarray) -> Tally:
    """Counts of members and non-members at each of the (k,) values, `place` (n,) being their index."""
    size = len(values)
    return Tally(values, np.bincount(place[member], minlength=size), np.bincount(place[~member], minlength=size))


def _row(
    whole: Tally, place: np.ndarray, member: np.ndarray, label: str, called: np.ndarray, confidence: float
) -> SliceRow:
    """One slice: `place` (n,) and `member` (n,) of its records; `called` (k,) says which values count as members."""
    distinct, inside = np.unique(place, return_inverse=True)
    own = _tally_at(whole.values[distinct], inside.reshape(-1), member)
    own_auc = auc_of(own, confidence)
    hits, n = int(own.members[called[distinct]].sum()), own.n_members
    low, high = clopper_pearson(hits, n, confidence)
    members, nonmembers = whole.members.copy(), whole.nonmembers.copy()
    members[distinct] -= own.members
    nonmembers[distinct] -= own.nonmembers
    rest = Tally(whole.values, members, nonmembers)
    difference = Estimate(float("nan"), float("nan"), float("nan"), len(place), confidence, resolvable=False)
    if min(rest.n_members, rest.n_nonmembers) >= MIN_RECORDS:
        other = auc_of(rest, confidence)
        ends = mover(
            np.array([own_auc.value, other.value]),
            np.array([own_auc.low, other.low]),
            np.array([own_auc.high, other.high]),
            np.array([1.0, -1.0]),
        )
        n_all = whole.n_members + whole.n_nonmembers
        difference = Estimate(own_auc.value - other.value, float(ends[0]), float(ends[1]), n_all, confidence)
    return SliceRow(
        label,
        n,
        own.n_nonmembers,
        own_auc,
        Estimate(hits / n, float(low), float(high), n, confidence),
        difference,
        difference.resolvable and not difference.low <= 0 <= difference.high,
    )


def _threshold(others: np.ndarray, fpr: float) -> float:
    """The lowest score above all but `fpr` of the non-members, as in `metrics.tpr_at_fpr`."""
    allowed = int(np.floor(fpr * len(others) + 1e-9))
    if allowed >= len(others):
        return -np.inf
    return float(np.nextafter(np.partition(others, len(others) - 1 - allowed)[len(others) - 1 - allowed], np.inf))
