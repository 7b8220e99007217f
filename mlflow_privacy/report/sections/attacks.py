"""Attacks for drawing: ROC curves thinned to what a picture can show, and histograms of scores."""

from __future__ import annotations

import numpy as np

from mlflow_privacy.report.document import AttackView, Curve, Histogram
from mlflow_privacy.report.figures import histogram_bins, thin_steps
from mlflow_privacy.report.tables import _brief
from mlflow_privacy.types import AttackResult, AuditResult, Roc

CELLS = 360  # of a figure's axis; two vertices a cell draw the same picture
_BINS = 40
_DIGITS = 6


def attack_views(result: AuditResult) -> tuple[AttackView, ...]:
    """All attacks, in the order of the result."""
    n_nonmembers = int((~result.membership).sum())
    return tuple(
        AttackView(
            name=attack.name,
            title=attack.title,
            threat_model=attack.threat_model,
            paper=attack.paper,
            options=_brief(attack.options),
            metrics=dict(attack.metrics),
            roc=thin_roc(attack.roc, n_nonmembers),
            histogram=histogram(attack, result.membership),
        )
        for attack in result.attacks
    )


def thin_roc(roc: Roc, n_nonmembers: int) -> Curve:
    """The vertices that a linear or a logarithmic picture of 360 cells needs, rounded to six digits.

    Example:
      >>> line = np.linspace(0, 1, 100_001)
      >>> curve = thin_roc(Roc(line, line, line, line, line), 1000)
      >>> len(curve.fpr) < 1500, curve.fpr[0], curve.fpr[-1]
      (True, 0.0, 1.0)
    """
    floor = min(1 / max(n_nonmembers, 1), 0.5)
    logarithm = np.log(np.maximum(roc.fpr, floor) / floor) / np.log(1 / floor)
    keep = thin_steps(np.floor(roc.fpr * CELLS)) | thin_steps(np.floor(logarithm * CELLS))
    columns = [np.asarray(v, np.float64)[keep] for v in (roc.fpr, roc.tpr, roc.tpr_low, roc.tpr_high)]
    return Curve(*(tuple(np.round(column, _DIGITS).tolist()) for column in columns))


def histogram(attack: AttackResult, membership: np.ndarray) -> Histogram:
    """Shares of members and of non-members per bin; the same bins, extremes in the outermost ones."""
    value = np.asarray(attack.scores.value, np.float64)
    edges = histogram_bins(value, _BINS)
    inside = np.clip(value, edges[0], edges[-1])
    shares = []
    for group in (membership, ~membership):
        counts = np.histogram(inside[group & ~np.isnan(value)], edges)[0]
        shares.append(np.round(counts / max(int(group.sum()), 1), _DIGITS))
    filled = np.concatenate([s[s > 0] for s in shares])
    logarithmic = bool(filled.size and filled.max() > 0.3 and filled.max() > 20 * np.median(filled))
    n_outside = int(((value < edges[0]) | (value > edges[-1])).sum())
    members, nonmembers = (tuple(s.tolist()) for s in shares)
    return Histogram(tuple(float(f"{e:.6g}") for e in edges.tolist()), members, nonmembers, n_outside, logarithmic)
