"""Names of metrics: how they are made, and what they say about a metric."""

from __future__ import annotations

import re

import numpy as np

_SHARE = re.compile(r"auc|tpr_at_fpr_.+|balanced_accuracy|advantage|.*_accuracy")


def fpr_key(fpr: float) -> str:
    """Metric name of a TPR at `fpr`; never in scientific notation.

    >>> fpr_key(0.1), fpr_key(0.00001), fpr_key(0.0)
    ('tpr_at_fpr_0.1', 'tpr_at_fpr_0.00001', 'tpr_at_fpr_0')
    """
    return f"tpr_at_fpr_{np.format_float_positional(fpr, trim='-')}"


def guessing(key: str) -> float:
    """What guessing reaches in a metric: the FPR of a TPR, ½ of an AUC.

    >>> guessing("tpr_at_fpr_0.01"), guessing("auc")
    (0.01, 0.5)
    """
    return float(key.removeprefix("tpr_at_fpr_")) if key.startswith("tpr_at_fpr_") else 0.5


def is_share(name: str) -> bool:
    """Whether a metric lies in [0, 1], so that a limit beyond it is a slip: 5 where 0.05 was meant.

    >>> is_share("privacy/rmia/auc"), is_share("privacy/fidelity/target_member_loss")
    (True, False)
    """
    return bool(_SHARE.fullmatch(name.rsplit("/", 1)[-1]))
