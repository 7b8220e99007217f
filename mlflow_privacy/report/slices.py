"""Risk by slice, most exposed records, and what is left without them: from scores and memberships alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import tally
from mlflow_privacy.metrics.delong import auc_of
from mlflow_privacy.metrics.groups import MIN_RECORDS, Groups, Whole, measurable
from mlflow_privacy.metrics.roc import band, tpr_in
from mlflow_privacy.report.document import ExposedRecord, ShareRow, SliceRow, Slicing
from mlflow_privacy.stats import mover
from mlflow_privacy.types import Estimate

_MAX_ROWS = 40


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
    ranks: np.ndarray,
    member: np.ndarray,
    slicings: Mapping[str, Groups],
    *,
    fpr: float,
    confidence: float = 0.95,
    worse: Collection[tuple[str, str]] = (),
) -> tuple[tuple[Slicing, ...], int, float]:
    r"""AUC and recognised share of every slice, with intervals that hold for all slices at once.

    Bonferroni (https://doi.org/10.1080/01621459.1961.10482090): with k slices each interval has confidence
    1 − (1 − c) / k, so that with probability c none of them misses. The difference of a slice's AUC from that of all
    other records is between disjoint, hence independent, records: `stats.mover` of the two AUCs.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.
      slicings: by name.
      fpr: false-alarm rate, among a slice's own non-members, that `recognised` is about.
      confidence: c.
      worse: slicing and label of those that the verdict counts as significantly more exposed than the rest.

    Returns: the slicings, most exposed slices first (by the lower end of their AUC); how many slices were measured;
      and the corrected confidence. Slices with under 10 members or non-members are counted, not measured.

    Example:
      >>> from mlflow_privacy.metrics.groups import groups_of
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random(2000) < 0.5
      >>> group = np.where(rng.random(2000) < 0.5, "leaky", "safe")
      >>> ranks = rng.normal(size=2000) + 2 * (member & (group == "leaky"))
      >>> (found,), count, corrected = slice_risk(ranks, member, {"group": groups_of(group)}, fpr=0.1)
      >>> [(row.label, row.differs) for row in found.rows], count, round(corrected, 3)
      ([('leaky', True), ('safe', True)], 2, 0.975)
    """
    whole = Whole.of(ranks, member)
    picked = measurable(slicings, whole.member)
    count = len(picked)
    corrected = 1 - (1 - confidence) / max(count, 1)
    out = []
    for name, groups in slicings.items():
        found = [
            dataclasses.replace(_row(whole, rows, label, fpr, corrected), worse=(name, label) in worse)
            for slicing, label, rows in picked
            if slicing == name
        ]
        found.sort(key=lambda row: (-row.auc.low, -row.auc.value, row.label))
        if found:
            small = len(groups.names) - len(found)
            out.append(Slicing(name, tuple(found[:_MAX_ROWS]), small, max(len(found) - _MAX_ROWS, 0)))
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


def _row(whole: Whole, rows: np.ndarray, label: str, fpr: float, confidence: float) -> SliceRow:
    """One slice."""
    own, rest = whole.cut(rows)
    own_auc = auc_of(own, confidence)
    difference = Estimate(float("nan"), float("nan"), float("nan"), len(rows), confidence, resolvable=False)
    if min(rest.n_members, rest.n_nonmembers) >= MIN_RECORDS:
        other = auc_of(rest, confidence)
        ends = mover(
            np.array([own_auc.value, other.value]),
            np.array([own_auc.low, other.low]),
            np.array([own_auc.high, other.high]),
            np.array([1.0, -1.0]),
        )
        value, n_all = own_auc.value - other.value, len(whole.member)
        difference = Estimate(value, float(ends[0]), float(ends[1]), n_all, confidence)
    return SliceRow(
        label,
        own.n_members,
        own.n_nonmembers,
        own_auc,
        tpr_in(band(own, confidence), fpr),
        difference,
        difference.resolvable and not difference.low <= 0 <= difference.high,
    )
