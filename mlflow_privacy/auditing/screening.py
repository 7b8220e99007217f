"""A first look at a model without references: is it worth training some?"""

from __future__ import annotations

import numpy as np

from mlflow_privacy.auditing.references import References
from mlflow_privacy.metrics.roc import tnr_at_fnr
from mlflow_privacy.types import Estimate, ModelOutputs

FNR = 0.01


def loss_tnr(
    own: ModelOutputs, member: np.ndarray, references: References | None, confidence: float
) -> Estimate | None:
    """The loss attack's true-negative rate at a false-negative rate of 1 %, of an audit without references; else None.

    Members of a model that memorises have no large loss, so that whoever has one is no member: that shows where few
    members can be told by their loss alone. Dodd et al. (2025), https://arxiv.org/abs/2510.19773.

    Args:
      own: the target's outputs on the audited records; labels alone have no loss to rank by.
      member: (n,) bool.
    """
    if references is not None or own.link == "label":
        return None
    return tnr_at_fnr(own.signal, member, FNR, confidence)
