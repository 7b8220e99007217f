"""What differs between audits: how exposed their common records are, and in which settings they were made.

stored audits ─▶ common records ─▶ paired tests ─▶ `Comparison`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.decide.comparison import Comparison, Pair, Setting, WorseRecord
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.metrics import auc, roc_curve, tpr_at_fpr
from mlflow_privacy.metrics.paired import auc_difference, holm, independent_difference, tpr_difference
from mlflow_privacy.store.audits import StoredAudit

# With fewer common members or non-members than this, all records of either audit say more, though unpaired.
MIN_COMMON = 50
# A larger share of records with equal names and other labels means that the names are not of the same data.
_MAX_RELABELLED = 0.01
_WORST = 20
# Settings that change no score, or that are compared in another way.
_NEUTRAL = {"device", "batch_size", "progress", "write_back", "headline", "allow_digest_mismatch", "allow_code"}
_NEUTRAL |= {"auditor", "people", "dpia", "experiment"}  # of the report alone, and where it lies
_NEUTRAL |= {"targets", "attacks", "confidence", "fprs", "attack_options", "blind_baseline", "thresholds"}
_NEUTRAL |= {"num_ref_models", "num_queries", "verify_references"}  # what was asked; `references` says what it came to


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
        if audit.metrics.get("privacy/blind/auc_low", 0.5) > 0.5:
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
    recipe = references.get("recipe") or {}
    out["recipe"] = (recipe.get("spec"), False)
    out["code of the recipe"] = ((recipe.get("rests_on") or {}).get("digest"), False)
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
