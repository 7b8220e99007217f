"""All metrics of one attack's scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics.delong import auc_of
from mlflow_privacy.metrics.names import fpr_key
from mlflow_privacy.metrics.roc import Tally, band, roc_of, tally, tpr_in
from mlflow_privacy.metrics.threshold import advantage, balanced_accuracy
from mlflow_privacy.types import Estimate, Roc, Scores

DEFAULT_FPRS = (0.1, 0.01, 0.001, 0.0001, 0.0)
# Those that a verdict may be about: below 0.1 % few holdouts resolve anything.
VERDICT_FPRS = (0.001, 0.01, 0.1)
_EXPECTED = 5  # false alarms; with fewer no lower end of a corrected interval can lie above 0, whatever the scores


def evaluate_scores(
    scores: Scores,
    membership: np.ndarray,
    *,
    fprs: Sequence[float] = DEFAULT_FPRS,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Roc, dict[str, Estimate]]:
    """ROC and metrics of an attack, each with its interval.

    Args:
      scores: of the attack, over n records.
      membership: (n,) bool.
      fprs: false-positive rates in [0, 1] to give a TPR at.
      confidence: of every interval.
      seed: of the halves that balanced accuracy chooses its threshold on.

    Returns: the `Roc`, its thresholds in the attack's own unit, and "auc", "tpr_at_fpr_…" for each of `fprs`,
      "balanced_accuracy", "advantage".

    Raises: DesignError: a score is NaN, shapes differ, or there are no members or no non-members.

    Example:
      >>> roc, metrics = evaluate_scores(Scores(np.arange(40.0)), np.arange(40) >= 20)
      >>> list(metrics)
      ['auc', 'tpr_at_fpr_0.1', 'tpr_at_fpr_0.01', 'tpr_at_fpr_0.001', 'tpr_at_fpr_0.0001', 'tpr_at_fpr_0',
       'balanced_accuracy', 'advantage']
      >>> metrics["tpr_at_fpr_0.1"].value, metrics["tpr_at_fpr_0.01"].resolvable
      (1.0, False)
    """
    value, membership = np.asarray(scores.value, np.float64), np.asarray(membership, bool)
    for name, array in (("value", value), ("tie", scores.tie)):
        missing = 0 if array is None else int(np.isnan(np.asarray(array, np.float64)).sum())
        if missing:
            raise DesignError(f"Scores.{name} has {missing} NaN of {len(value)}; an attack must rank every record.")
    ranks = scores.rank()
    t = tally(ranks, membership)
    known = band(t, confidence)
    roc = roc_of(known)
    own_unit = np.empty(len(t.values))
    own_unit[ranks.astype(np.int64)] = value  # ranks are 0, 1, …, so each is the index of its own distinct value
    threshold = roc.threshold.copy()
    threshold[1:] = own_unit[roc.threshold[1:].astype(np.int64)]
    keys = (value,) if scores.tie is None else (value, np.asarray(scores.tie, np.float64))
    balanced = balanced_accuracy(ranks, membership, rng=np.random.default_rng(seed), confidence=confidence, keys=keys)
    metrics = {
        "auc": auc_of(t, confidence),
        **{fpr_key(fpr): tpr_in(known, fpr) for fpr in fprs},
        "balanced_accuracy": balanced,
        "advantage": advantage(balanced),
    }
    return dataclasses.replace(roc, threshold=threshold), metrics


def looked_at(n_nonmembers: int, fprs: Sequence[float] = VERDICT_FPRS) -> tuple[float, ...]:
    """The FPRs of 0.1 %, 1 % and 10 % that a verdict looks at, lowest first: where five false alarms are expected.

    So the numbers of records decide, before any score is seen.

    Args:
      fprs: that the audit was asked for; others are not looked at.

    Example:
      >>> looked_at(600), looked_at(49)
      ((0.01, 0.1), ())
    """
    return tuple(fpr for fpr in VERDICT_FPRS if fpr in fprs and fpr * n_nonmembers >= _EXPECTED - 1e-9)


def joint_tprs(t: Tally, fprs: Sequence[float], confidence: float) -> dict[str, Estimate]:
    """TPRs at the FPRs that a verdict looks at, with intervals that hold for all of them at once (Bonferroni).

    Example:
      >>> rng = np.random.default_rng(0)
      >>> joint = joint_tprs(tally(rng.normal(size=1000), np.arange(1000) < 500), DEFAULT_FPRS, 0.95)
      >>> [(key, estimate.confidence) for key, estimate in joint.items()]
      [('tpr_at_fpr_0.01', 0.975), ('tpr_at_fpr_0.1', 0.975)]
    """
    found = looked_at(t.n_nonmembers, fprs)
    if not found:
        return {}
    known = band(t, 1 - (1 - confidence) / len(found))
    return {fpr_key(fpr): tpr_in(known, fpr) for fpr in found}
