"""Versions of a model, audited, side by side: which gives away more, and is that more than chance?

    stored audits ─▶ common records ─▶ paired tests ─▶ page, run

Only what the audits left in MLflow is read; no model is loaded and nothing is attacked again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.metrics import auc, fpr_key, roc_curve, tpr_at_fpr
from mlflow_privacy.metrics.paired import Difference, auc_difference, holm, independent_difference, tpr_difference
from mlflow_privacy.store.audits import StoredAudit
from mlflow_privacy.types import Estimate, Roc, flat_estimate

if TYPE_CHECKING:
    from mlflow import MlflowClient

# With fewer common members or non-members than this, all records of either audit say more, though unpaired.
MIN_COMMON = 50
# A larger share of records with equal names and other labels means that the names are not of the same data.
_MAX_RELABELLED = 0.01
_WORST = 20
# Settings that change no score, or that are compared in another way.
_NEUTRAL = {"device", "batch_size", "progress", "write_back", "headline", "allow_digest_mismatch", "allow_code"}
_NEUTRAL |= {"targets", "attacks", "confidence", "fprs", "attack_options", "blind_baseline", "thresholds"}
_NEUTRAL |= {"num_ref_models", "num_queries"}  # what was asked; `references` says what it came to


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting in which the audits differ.

    Attributes:
      name: such as "random_seed".
      values: one per audit, as text.
      unfair: whether it alone can change the figures, so that a difference is not the models' alone.
    """

    name: str
    values: tuple[str, ...]
    unfair: bool


@dataclasses.dataclass(frozen=True)
class WorseRecord:
    """A member of both training sets that the second model exposes more.

    Attributes:
      row_id, label: as the first audit names it.
      before, after: the false-positive rate that an attacker must accept to recognise it, counted on the common
        non-members: the share of them that scores higher, and half of those that tie.
    """

    row_id: str
    label: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """One audit against the baseline; differences are second minus first.

    Attributes:
      first, second: positions in `Comparison.audits`.
      n_members, n_nonmembers: that the figures rest on; of the smaller audit where unpaired.
      n_moved: common records left out because one model trained on them and the other did not.
      auc: (AUC of the first, of the second) on those records.
      auc_difference: with its p-value; `auc_p_holm` is adjusted for the number of pairs.
      tpr: by FPR, the TPRs of either.
      tpr_differences: by FPR; `tpr_p_holm` is adjusted for all pairs and FPRs.
      rocs: of either on those records.
      worse: the members that the second exposes most more than the first; none where unpaired.
    """

    first: int
    second: int
    paired: bool
    n_members: int
    n_nonmembers: int
    n_moved: int
    auc: tuple[Estimate, Estimate]
    auc_difference: Difference
    tpr: Mapping[float, tuple[Estimate, Estimate]]
    tpr_differences: Mapping[float, Difference]
    rocs: tuple[Roc, Roc]
    worse: tuple[WorseRecord, ...]
    auc_p_holm: float = float("nan")
    tpr_p_holm: Mapping[float, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Audits side by side; the first is the baseline.

    Attributes:
      attack: whose scores are compared.
      settings: in which the audits differ, the unfair ones first.
      notes: sentences that limit the comparison.
      run_id: of the MLflow run that holds it, None if it was not logged.
    """

    audits: tuple[StoredAudit, ...]
    attack: str
    confidence: float
    pairs: tuple[Pair, ...]
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]
    run_id: str | None = None

    @property
    def unfair(self) -> tuple[Setting, ...]:
        return tuple(s for s in self.settings if s.unfair)

    @property
    def metrics(self) -> dict[str, float]:
        """Flat metrics "compare/<second>_vs_<first>/…" with `_low`, `_high`, `_p` and `_p_holm`."""
        out: dict[str, float] = {}
        names = metric_labels([audit.label for audit in self.audits])
        for pair in self.pairs:
            prefix = f"compare/{names[pair.second]}_vs_{names[pair.first]}"
            found = [("auc_difference", pair.auc_difference, pair.auc_p_holm)]
            found += [
                (f"{fpr_key(fpr)}_difference", difference, pair.tpr_p_holm[fpr])
                for fpr, difference in pair.tpr_differences.items()
            ]
            for key, difference, adjusted in found:
                if difference.estimate.resolvable:
                    out |= flat_estimate(f"{prefix}/{key}", difference.estimate)
                    out |= {f"{prefix}/{key}_p": difference.p_value, f"{prefix}/{key}_p_holm": adjusted}
            out |= {f"{prefix}/members": float(pair.n_members), f"{prefix}/nonmembers": float(pair.n_nonmembers)}
        return out


def compare(
    model_uris: Sequence[str],
    *,
    attack: str | None = None,
    fprs: Sequence[float] = (0.1, 0.01, 0.001),
    confidence: float = 0.95,
    seed: int = 0,
    log: bool = True,
    experiment: str | None = None,
    client: MlflowClient | None = None,
) -> Comparison:
    """Compares the newest finished audits of several models or versions; the first is the baseline.

    Args:
      model_uris: two or more, such as "models:/credit/1", "models:/credit/2".
      attack: whose scores are compared; default: the verdict's attack of the first audit, if all ran it.
      fprs: false-positive rates in (0, 1) to compare the TPR at.
      confidence: of the intervals; differences are called found at 1 − confidence.
      seed: of the bootstrap.
      log: write the comparison as an MLflow run with its page, tags and metrics.
      experiment: name of the experiment for that run; default: that of the first audit.
      client: of the tracking server; the default one if None.

    Raises:
      ConfigError: fewer than two models, or an attack that not all audits ran.
      StoreError: a model has no finished audit, or its files cannot be read.
    """
    uris = list(model_uris)
    if isinstance(model_uris, str) or len(uris) < 2:
        raise ConfigError(
            f"A comparison needs at least two model URIs, such as models:/credit/1 models:/credit/2, got {uris}."
        )
    from mlflow_privacy.store.audits import read_audit

    audits = [read_audit(uri, client) for uri in uris]
    result = compare_audits(audits, attack=attack, fprs=fprs, confidence=confidence, seed=seed)
    if not log:
        return result
    from mlflow_privacy.store.comparisons import publish_comparison

    return dataclasses.replace(result, run_id=publish_comparison(result, experiment=experiment, client=client))


def compare_audits(
    audits: Sequence[StoredAudit],
    *,
    attack: str | None = None,
    fprs: Sequence[float] = (0.1, 0.01, 0.001),
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """`compare` of audits that are in memory: no MLflow."""
    wrong = [f"{fpr:g}" for fpr in fprs if not 0 < fpr < 1]
    if wrong:
        raise ConfigError(f"fprs must lie in (0, 1), got {', '.join(wrong)}.")
    attack = _common_attack(audits, attack)
    notes: list[str] = []
    rngs = np.random.default_rng(seed).spawn(len(audits))
    pairs = [
        _pair(audits, second, attack, tuple(dict.fromkeys(fprs)), confidence, rngs[second], notes)
        for second in range(1, len(audits))
    ]
    for audit in audits:
        low, high = (audit.metrics.get(f"privacy/blind/auc_{end}", 0.5) for end in ("low", "high"))
        if low > 0.5 or high < 0.5:
            notes.append(
                f"Members and non-members of {audit.label} differ even without the model: its blind baseline has AUC "
                f"{audit.metrics.get('privacy/blind/auc', float('nan')):.3f}."
            )
    return Comparison(
        audits=tuple(audits),
        attack=attack,
        confidence=confidence,
        pairs=_adjusted(pairs),
        settings=setting_differences([audit.record for audit in audits], attack),
        notes=tuple(dict.fromkeys(notes)),
    )


def setting_differences(records: Sequence[Mapping[str, Any]], attack: str) -> tuple[Setting, ...]:
    """In which settings audits differ, from their audit.json; those that make a comparison unfair first.

    Example:
      >>> one = {"options": {"random_seed": 0}, "references": {"n": 8}, "rows": {}}
      >>> two = {"options": {"random_seed": 1}, "references": {"n": 8}, "rows": {}}
      >>> setting_differences([one, two], "rmia")
      (Setting(name='random_seed', values=('0', '1'), unfair=True),)
    """
    flat = [_settings(record, attack) for record in records]
    found = []
    for name in dict.fromkeys(key for settings in flat for key in settings):
        values = tuple(_shown(settings.get(name, (None, False))[0]) for settings in flat)
        if len(set(values)) > 1:
            found.append(Setting(name, values, any(s[name][1] for s in flat if name in s)))
    return tuple(sorted(found, key=lambda s: not s.unfair))


def metric_labels(labels: Iterable[str]) -> list[str]:
    """Labels as MLflow takes them in a metric's name; "credit v1", "credit v2" become "v1", "v2".

    >>> metric_labels(["credit v1", "credit v2"]), metric_labels(["a v1", "b v1", "a v1"])
    (['v1', 'v2'], ['a_v1', 'b_v1', 'a_v1-2'])
    """
    labels = list(labels)
    heads = {label.rpartition(" ")[0] for label in labels}
    short = [label.rpartition(" ")[2] if len(heads) == 1 else label for label in labels]
    clean = [re.sub(r"[^\w.-]+", "_", label, flags=re.ASCII).strip("_")[:60] or "model" for label in short]
    out: list[str] = []
    for name in clean:
        taken = clean[: len(out)].count(name)
        out.append(f"{name}-{taken + 1}" if taken else name)
    return out


def _common_attack(audits: Sequence[StoredAudit], wanted: str | None) -> str:
    common = [name for name in audits[0].attacks if all(name in audit.attacks for audit in audits)]
    if wanted is None and common:
        headline = audits[0].record["headline"]
        return headline if headline in common else common[0]
    if wanted is None or wanted not in common:
        each = "; ".join(f"{audit.label}: {', '.join(audit.attacks)}" for audit in audits)
        what = "no attack" if wanted is None else f"attack {wanted!r} not"
        raise ConfigError(f"{what} in every audit; they ran {each}. Audit again with attacks=[...] that all have.")
    return wanted


def _pair(
    audits: Sequence[StoredAudit],
    second: int,
    attack: str,
    fprs: Sequence[float],
    confidence: float,
    rng: np.random.Generator,
    notes: list[str],
) -> Pair:
    one, two = audits[0], audits[second]
    rows_one, rows_two, n_moved = common_records(one, two, notes)
    ranks = (one.ranks(attack), two.ranks(attack))
    members = tuple(audit.scores["member"].to_numpy(bool) for audit in (one, two))
    shared = members[0][rows_one]
    n_in, n_out = int(shared.sum()), int((~shared).sum())
    paired = min(n_in, n_out) >= MIN_COMMON
    what = f"{one.label} and {two.label}"
    if n_moved:
        notes.append(
            f"{n_moved:,} records of {what} were in one training set and not in the other; the paired figures leave "
            "them out."
        )
    if paired:
        ranks = (ranks[0][rows_one], ranks[1][rows_two])
        members = (shared, shared)
        sizes = (n_in, n_out)
    else:
        sizes = (min(int(m.sum()) for m in members), min(int((~m).sum()) for m in members))
        notes.append(
            f"{what} share only {n_in:,} members and {n_out:,} non-members with equal status, too few for a paired "
            f"test (at least {MIN_COMMON} of each); all records of either are compared as independent samples."
        )
    aucs = tuple(auc(r, m, confidence) for r, m in zip(ranks, members))
    tprs = {fpr: tuple(tpr_at_fpr(r, m, fpr, confidence) for r, m in zip(ranks, members)) for fpr in fprs}
    if paired:
        gap = auc_difference(*ranks, shared, confidence)
        gaps = {fpr: tpr_difference(*ranks, shared, fpr, rng=rng, confidence=confidence) for fpr in fprs}
    else:
        gap = independent_difference(*aucs)
        gaps = {fpr: independent_difference(*both) for fpr, both in tprs.items()}
    return Pair(
        first=0,
        second=second,
        paired=paired,
        n_members=sizes[0],
        n_nonmembers=sizes[1],
        n_moved=n_moved,
        auc=(aucs[0], aucs[1]),
        auc_difference=gap,
        tpr={fpr: (both[0], both[1]) for fpr, both in tprs.items()},
        tpr_differences=gaps,
        rocs=(roc_curve(ranks[0], members[0], confidence), roc_curve(ranks[1], members[1], confidence)),
        worse=_worse(one, rows_one, ranks, shared) if paired else (),
    )


def common_records(one: StoredAudit, two: StoredAudit, notes: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows of either audit's scores that are the same record, with equal membership and label.

    Returns: (k,) and (k,) row numbers; how many common records differ in membership.
    """
    (keys_one, assumed_one), (keys_two, assumed_two) = one.record_keys(), two.record_keys()
    if assumed_one and set(assumed_one) & set(assumed_two):
        notes.append(
            f"{one.label} and {two.label} have data without a verified digest "
            f"({', '.join(sorted(set(assumed_one) & set(assumed_two)))}): equal row ids are taken for equal records."
        )
    _, rows_one, rows_two = np.intersect1d(keys_one, keys_two, return_indices=True)
    member_one, member_two = (a.scores["member"].to_numpy(bool)[r] for a, r in ((one, rows_one), (two, rows_two)))
    label_one, label_two = (a.scores["label"].astype(str).to_numpy()[r] for a, r in ((one, rows_one), (two, rows_two)))
    same_label = label_one == label_two
    relabelled = int((~same_label).sum())
    if relabelled > _MAX_RELABELLED * len(same_label):
        notes.append(
            f"{relabelled:,} of {len(same_label):,} records of {one.label} and {two.label} bear the same name but "
            "other labels, so the two audits are not of the same data."
        )
        same_label = np.zeros(len(same_label), bool)
    elif relabelled:
        notes.append(
            f"{relabelled:,} records of {one.label} and {two.label} bear the same name but other labels and were left "
            "out."
        )
    same = same_label & (member_one == member_two)
    return rows_one[same], rows_two[same], int((same_label & (member_one != member_two)).sum())


def needed_fpr(ranks: np.ndarray, member: np.ndarray) -> np.ndarray:
    """(n_members,) share of the non-members that score above each member, with half of those that tie.

    >>> needed_fpr(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])).tolist()
    [0.25, 0.0]
    """
    outside = np.sort(ranks[~member])
    inside = ranks[member]
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return 1 - below / (2 * len(outside))


def _worse(
    audit: StoredAudit, rows: np.ndarray, ranks: tuple[np.ndarray, np.ndarray], member: np.ndarray
) -> tuple[WorseRecord, ...]:
    """Members whose needed FPR fell most, as a ratio: from 10 % to 1 % counts more than from 60 % to 40 %."""
    before, after = (needed_fpr(r, member) for r in ranks)
    one = 1 / int((~member).sum())  # a rate of 0 is only known to be below this
    scores = audit.scores.iloc[rows[member]]
    order = np.lexsort([after, (after + one) / (before + one)])[:_WORST]
    return tuple(
        WorseRecord(str(scores["row_id"].iloc[i]), str(scores["label"].iloc[i]), float(before[i]), float(after[i]))
        for i in order
        if after[i] < before[i]
    )


def _adjusted(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """With Holm's p-values: of the AUCs over the pairs, of the TPRs over pairs and FPRs."""
    of_auc = holm([pair.auc_difference.p_value for pair in pairs])
    keys = [(i, fpr) for i, pair in enumerate(pairs) for fpr in pair.tpr_differences]
    of_tpr = dict(zip(keys, holm([pairs[i].tpr_differences[fpr].p_value for i, fpr in keys])))
    return tuple(
        dataclasses.replace(
            pair, auc_p_holm=of_auc[i], tpr_p_holm={fpr: of_tpr[i, fpr] for fpr in pair.tpr_differences}
        )
        for i, pair in enumerate(pairs)
    )


def _settings(record: Mapping[str, Any], attack: str) -> dict[str, tuple[Any, bool]]:
    """Settings of one audit by name, each with whether a difference is unfair."""
    options, references, rows = (record.get(key) or {} for key in ("options", "references", "rows"))
    asked = (options.get("attack_options") or {}).get(attack) or {}
    used = ((record.get("attacks") or {}).get(attack) or {}).get("options") or {}
    out = {key: (value, True) for key, value in options.items() if key not in _NEUTRAL}
    out["task"] = (record.get("task"), True)
    out["reference models"] = (references.get("n"), True)
    out["queries per record"] = (references.get("num_queries"), True)
    out |= {f"{attack} option {key}": (value, True) for key, value in asked.items()}
    out["population"] = ("the non-members" if rows.get("population_is_nonmembers") else rows.get("population"), True)
    out["version of mlflow_privacy"] = ((record.get("environment") or {}).get("mlflow_privacy"), True)
    # What follows from the model or the data, and what an attack tuned by itself: worth knowing, not unfair.
    out |= {f"{attack} ran with {key}": (value, False) for key, value in used.items() if key not in asked}
    out["records audited"] = (f"{rows.get('members')} members, {rows.get('nonmembers')} non-members", False)
    out["pool digest"] = (str(record.get("pool_digest"))[:12], False)
    out["recipe"] = ((references.get("recipe") or {}).get("spec"), False)
    return out


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown(v)}" for key, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return str(value)
