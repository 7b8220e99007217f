"""Metrics that no limit can be held against: those of a first look, which shows a leak and never that there is none."""

from __future__ import annotations

_PREFIX = "privacy/screening/"


def no_limit(name: str) -> str:
    """Why no gate or policy may ask for a metric; "" if it may.

    >>> no_limit("privacy/rmia/auc"), no_limit("privacy/screening/loss_tnr")[:52]
    ('', 'privacy/screening/loss_tnr says whether reference mo')
    """
    if not name.startswith(_PREFIX):
        return ""
    return (
        f"{name} says whether reference models are worth training, and a low figure is no sign of safety: no limit can "
        "be held against it. Audit with reference models, and set the limit on headline/tpr_at_fpr_0.01."
    )
