"""Groups of records, each by itself: its members against its own non-members, by a threshold of its own.

An average hides the few for whom the risk is high. An attacker who knows the class of a record (he does: it is part of
the record) need not use one threshold for all of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mlflow_privacy.metrics.delong import auc_of
from mlflow_privacy.metrics.evaluation import joint_tprs, looked_at
from mlflow_privacy.metrics.names import fpr_key, guessing
from mlflow_privacy.metrics.roc import Tally, band, tally, tpr_alone, tpr_in
from mlflow_privacy.stats import mover
from mlflow_privacy.types import AttackResult, Estimate, GroupResult

MIN_RECORDS = 10  # of members, and of non-members: DeLong's variance of fewer means little
_LONGEST_NAME = 80  # characters; MLflow allows 250 for the whole name of a metric
_MISSING = "missing"  # the group of records without a value
_MAX_DISTINCT = 20  # distinct numbers; more are cut into quartiles


@dataclasses.dataclass(frozen=True)
class Groups:
    """A slicing of n records: names (g,) and each record's group code (n,)."""

    names: tuple[str, ...]
    code: np.ndarray


def groups_of(values: np.ndarray | Sequence[object]) -> Groups:
    """Groups of equal values; a number with more than 20 distinct values is cut at its quartiles.

    Args:
      values: (n,) labels, strings or numbers; those that are None, NaN or the like are the group "missing".

    Example:
      >>> groups_of(np.array(["b", "a", "b"])).names
      ('a', 'b')
      >>> groups_of(np.array(["b", None], object)).names
      ('b', 'missing')
      >>> groups_of(np.linspace(0, 1, 100)).names[0]
      '0 to 0.25'
    """
    values = np.asarray(values)
    if values.dtype.kind in "OSU":
        values = np.where(_missing(values), _MISSING, values.astype(str))
    distinct, code = np.unique(values, return_inverse=True)
    code = code.reshape(-1)
    if values.dtype.kind == "f" and len(distinct) > _MAX_DISTINCT:
        finite = values[np.isfinite(values)]
        edges = np.unique(np.quantile(finite, [0, 0.25, 0.5, 0.75, 1]))
        code = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
        names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)] or ["all"]
        for name, gone in ((_MISSING, np.isnan(values)), ("not finite", np.isinf(values))):
            if gone.any():
                code = np.where(gone, len(names), code)
                names.append(name)
        return Groups(tuple(names), code)
    gone = _missing(distinct)
    return Groups(tuple(_MISSING if gone[i] else str(name) for i, name in enumerate(distinct.tolist())), code)


def _missing(values: np.ndarray) -> np.ndarray:
    """(n,) bool, where a value is not there: None, NaN, NaT, pandas' NA.

    >>> _missing(np.array([None, float("nan"), "nan"], object)).tolist(), _missing(np.array([1, 2])).tolist()
    ([True, True, False], [False, False])
    """
    if values.dtype.kind == "O":
        # What is no value equals nothing, itself neither; the comparison of pandas' NA has no truth.
        return np.array([v is None or type(v).__name__ in ("NAType", "NaTType") or v != v for v in values], bool)
    if values.dtype.kind in "fc":
        return np.isnan(values)
    return np.isnat(values) if values.dtype.kind in "mM" else np.zeros(len(values), bool)


def slicings_of(task: str, y: np.ndarray, slices: Mapping[str, np.ndarray]) -> dict[str, Groups]:
    """The groups of an audit: its classes (or quartiles of the target value), then what the caller named.

    Args:
      task: of `types.Task`; a language model has no classes, nor has a record with several labels or target values.
      y: (n,) labels or target values; texts of several values a record.
      slices: (n,) values by name.

    Example:
      >>> list(slicings_of("classification", np.array([0, 1]), {"region": np.array(["n", "s"])}))
      ['class', 'region']
    """
    own = {"classification": "class", "regression": "target value"}.get(task)
    several = np.ndim(y) > 1 or (task == "regression" and np.asarray(y).dtype.kind in "OSU")
    out = {own: groups_of(y)} if own and not several else {}
    for name, values in slices.items():
        out[name if name not in out else f"{name} (given)"] = groups_of(values)
    return out


def by_group(
    attack: AttackResult,
    member: np.ndarray,
    slicings: Mapping[str, Groups],
    *,
    fprs: Sequence[float],
    confidence: float = 0.95,
    compare: bool = True,
) -> AttackResult:
    """The attack with `joint`, `groups` and `worst_group`.

    Args:
      member: (n,) bool.
      slicings: by name, `slicings_of`.
      fprs: that the audit was asked for.
      confidence: of all groups at once.
      compare: keep `groups`, and find those that are significantly more exposed than all other records; for the attack
        of the verdict.
    """
    ranks = attack.scores.rank()
    groups = group_results(ranks, member, slicings, fprs=fprs, confidence=confidence, compare=compare)
    return dataclasses.replace(
        attack,
        joint=joint_tprs(tally(ranks, member), fprs, confidence),
        groups=groups if compare else (),
        worst_group=worst_group(groups, attack.metrics, confidence),
    )


def group_results(
    ranks: np.ndarray,
    member: np.ndarray,
    slicings: Mapping[str, Groups],
    *,
    fprs: Sequence[float],
    confidence: float = 0.95,
    compare: bool = True,
) -> tuple[GroupResult, ...]:
    r"""Every group by itself, the most exposed first, and which of them are significantly worse than all others.

    The intervals of k groups are at 1 − (1 − c) / k each (Bonferroni), so that with probability c none of them misses.

    A group is compared with all other records, by AUC and by the TPR at each FPR that its own non-members allow
    (`evaluation.looked_at`). Its records are not among the others, so the two figures are independent: `stats.mover` of
    their intervals, at 1 − (1 − c) / m for the m comparisons of all groups together. It is worse where the interval of
    the difference, and its own figure, lie above 0 and above guessing.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member, slicings, fprs, confidence, compare: as in `by_group`.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member, rare = rng.random(4000) < 0.5, rng.random(4000) < 0.15
      >>> ranks = rng.normal(size=4000) + 2 * (member & rare)
      >>> worst, other = group_results(ranks, member, {"class": groups_of(rare.astype(int))}, fprs=(0.1, 0.01))
      >>> worst.name, worst.worse, other.worse
      ('class_1', ('tpr_at_fpr_0.1', 'auc'), ())
    """
    whole = Whole.of(ranks, member)
    picked = measurable(slicings, whole.member)
    corrected = 1 - (1 - confidence) / max(len(picked), 1)
    cuts = [whole.cut(rows) for _, _, rows in picked] if compare else [(whole.part(rows), None) for *_, rows in picked]
    looks = [looked_at(own.n_nonmembers, fprs) for own, _ in cuts]
    strict = 1 - (1 - confidence) / max(sum(len(look) + 1 for look in looks), 1)
    names = _metric_names([f"{slicing}_{label}" for slicing, label, _ in picked])
    out = []
    for (slicing, label, _), name, (own, rest), look in zip(picked, names, cuts, looks):
        worse: tuple[str, ...] = ()
        others: dict[str, Estimate] = {}
        if rest is not None and min(rest.n_members, rest.n_nonmembers) >= MIN_RECORDS:
            worse = _worse(own, rest, look, strict)
            others = (
                {key: figure for key, figure in _figures(rest, look, corrected).items() if key in worse}
                if worse
                else {}
            )
        metrics = _figures(own, [fpr for fpr in fprs if fpr > 0], corrected)
        out.append(GroupResult(slicing, label, name, own.n_members, own.n_nonmembers, metrics, worse, others))
    return tuple(sorted(out, key=_exposure, reverse=True))


def worst_group(groups: Sequence[GroupResult], whole: Mapping[str, Estimate], confidence: float) -> dict[str, Estimate]:
    """ "auc" and the TPRs of the most exposed group, metric by metric: what a limit on every group is held against.

    The intervals of all groups hold at once, so the highest of the groups' true figures lies between the highest of
    their lower ends and the highest of their upper ends. The value is that of the group with the highest lower end, or
    that of the first of `groups` if it is higher: the highest value of all is often a small group's by chance. Groups
    that cannot resolve an FPR say nothing of it; where none can, or without groups, all records are the only group.

    Args:
      groups: the most exposed first.
      whole: the same metrics of all records.

    Example:
      >>> safe, leaky = Estimate(0.5, 0.4, 0.6, 100), Estimate(0.7, 0.65, 0.75, 900)
      >>> groups = [GroupResult("class", str(i), "", 50, 50, {"auc": auc}) for i, auc in enumerate([safe, leaky])]
      >>> print(worst_group(groups, {"auc": Estimate(0.6, 0.58, 0.62, 1000)}, 0.95)["auc"])
      0.7 [0.65, 0.75]
    """
    out = {}
    for key, figure in whole.items():
        if key != "auc" and not (key.startswith("tpr_at_fpr_") and float(key.removeprefix("tpr_at_fpr_")) > 0):
            continue
        found = [group.metrics[key] for group in groups if key in group.metrics and group.metrics[key].resolvable]
        if found:
            surest = max(found, key=lambda each: (each.low, each.value))
            first = groups[0].metrics.get(key, surest)
            worst = first if first.resolvable and first.value > surest.value else surest
            figure = Estimate(worst.value, surest.low, max(each.high for each in found), worst.n, confidence)
        out[key] = figure
    return out


def shown_in(group: GroupResult) -> str:
    """The metric that says how exposed a group is: where it is worse, at the lowest FPR; the AUC without one."""
    return next(iter(group.worse), "auc")


def _figures(t: Tally, fprs: Sequence[float], confidence: float) -> dict[str, Estimate]:
    """AUC and TPRs."""
    known = band(t, confidence)
    return {"auc": auc_of(t, confidence), **{fpr_key(fpr): tpr_in(known, fpr) for fpr in fprs}}


def _worse(own: Tally, rest: Tally, fprs: Sequence[float], confidence: float) -> tuple[str, ...]:
    """The metrics in which `own` surely lies above `rest` and above guessing."""
    at = np.array(fprs)
    figures = [np.array(tpr_alone(t, at, confidence)) for t in (own, rest)] if fprs else []
    pairs = {fpr_key(fpr): [figure[:, i] for figure in figures] for i, fpr in enumerate(fprs)}
    pairs["auc"] = [np.array([e.value, e.low, e.high]) for e in (auc_of(own, confidence), auc_of(rest, confidence))]
    found = []
    for key, pair in pairs.items():
        value, low, high = np.stack(pair).T
        if low[0] > guessing(key) and mover(value, low, high, np.array([1.0, -1.0]))[0] > 0:
            found.append(key)
    return tuple(found)


def _exposure(group: GroupResult) -> tuple[bool, float, float, str]:
    """For sorting: the significantly worse ones, and of these the one that surely exceeds guessing most often."""
    key = shown_in(group)
    return bool(group.worse), group.metrics[key].low / guessing(key), group.metrics["auc"].low, group.name


def _metric_names(names: Sequence[str]) -> list[str]:
    """Each name as MLflow allows it in a metric, cut, and unlike all others.

    >>> _metric_names(["region_a/b", "region_a.b", "region_a?b"])
    ['region_a_b', 'region_a.b', 'region_a_b_2']
    """
    out: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_LONGEST_NAME]
        count, unique = 1, plain
        while unique in out:
            count += 1
            unique = f"{plain}_{count}"
        out.append(unique)
    return out


@dataclasses.dataclass(frozen=True)
class Whole:
    """All records at once, ready to be cut: each record's index among the distinct scores, and their tally."""

    place: np.ndarray
    member: np.ndarray
    tally: Tally

    @staticmethod
    def of(ranks: np.ndarray, member: np.ndarray) -> Whole:
        """From (n,) ranks, higher = more likely a member, and (n,) bool."""
        values, place = np.unique(np.asarray(ranks, np.float64), return_inverse=True)
        place, member = place.reshape(-1), np.asarray(member, bool)
        return Whole(place, member, _tally_at(values, place, member))

    def cut(self, rows: np.ndarray) -> tuple[Tally, Tally]:
        """Tallies of the records `rows` and of all others."""
        own, distinct = self._part(rows)
        members, nonmembers = self.tally.members.copy(), self.tally.nonmembers.copy()
        members[distinct] -= own.members
        nonmembers[distinct] -= own.nonmembers
        return own, Tally(self.tally.values, members, nonmembers)

    def part(self, rows: np.ndarray) -> Tally:
        """Tally of the records `rows` alone."""
        return self._part(rows)[0]

    def _part(self, rows: np.ndarray) -> tuple[Tally, np.ndarray]:
        distinct, inside = np.unique(self.place[rows], return_inverse=True)
        return _tally_at(self.tally.values[distinct], inside.reshape(-1), self.member[rows]), distinct


def measurable(slicings: Mapping[str, Groups], member: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Slicing, label and rows of each group that has enough members and non-members.

    A slicing with one group compares nothing, and has none.
    """
    member = np.asarray(member, bool)
    return [
        (name, label, rows)
        for name, groups in slicings.items()
        if len(groups.names) > 1
        for label, rows in _large(groups, member)
    ]


def _large(groups: Groups, member: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
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
