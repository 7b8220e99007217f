"""Reference attack (Attack-R): the target's loss on a record against the same record's loss without it.

Ye, Maddi, Murakonda, Bindschaedler and Shokri (2022), *Enhanced Membership Inference Attacks against Machine Learning
Models*, https://arxiv.org/abs/2111.09679. Difficulty calibration: Watson, Guo, Cormode and Sablayrolles (2022), *On
the Importance of Difficulty Calibration in Membership Inference Attacks*, https://arxiv.org/abs/2111.08440.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from mlflow_privacy.attacks._arrays import (
    Array,
    as_float64,
    check_references,
    check_signals,
    count_true,
    each_chunk,
    namespace,
)
from mlflow_privacy.errors import DesignError
from mlflow_privacy.types import Scores


def attack_r(
    target: Array,
    reference: Array,
    member: Array,
    *,
    method: Literal["quantile", "difference"] = "quantile",
) -> Scores:
    r"""How the target's signal ranks among those of models that never saw the record.

    .. math::
        s(x) = \Pr_{\theta' \in OUT}[\phi_{\theta'}(x) < \phi_\theta(x)] + \tfrac12 \Pr[\phi_{\theta'} = \phi_\theta]

    With few references this takes few values; ties are broken by the mean difference φ_θ − mean φ_OUT, which is
    also the score of `method="difference"` (difficulty calibration).

    Threat model: black box with confidences; reference models trained without the record; no population. Ye et al.
    (2022), https://arxiv.org/abs/2111.09679, Attack-R.

    Args:
      target: (n,) signals of the audited model.
      reference: (n, m) signals of the reference models.
      member: (n, m) bool, whether reference j trained on record i.
      method: "quantile" or "difference".

    Returns: value (n,), in [0, 1] for "quantile"; arrays of the kind that came in.

    Raises: DesignError: shapes, values that are not finite, a record without OUT references.

    Example:
      >>> import numpy as np
      >>> member = np.zeros((1, 4), bool)
      >>> scores = attack_r(np.array([2.5]), np.array([[0.0, 1.0, 2.0, 3.0]]), member)
      >>> float(scores.value[0]), float(scores.tie[0])
      (0.75, 1.0)
    """
    if method not in ("quantile", "difference"):
        raise DesignError(f'method must be "quantile" or "difference", got {method!r}.')
    check_signals(target=target, reference=reference, member=member)
    check_references(member, need_in=False, need_out=True)
    xp = namespace(target, reference, member)

    def compare(s: slice) -> tuple[Array, Array]:
        phi, others, outside = target[s], reference[s], ~member[s]
        if isinstance(others, np.ndarray):
            return _compared(phi, others, outside)
        phi, others, weight = as_float64(phi), as_float64(others), xp.astype(outside, xp.float64)
        count = xp.sum(weight, axis=1)
        below = xp.astype(others < phi[:, None], xp.float64) + 0.5 * xp.astype(others == phi[:, None], xp.float64)
        return xp.sum(weight * below, axis=1) / count, phi - xp.sum(weight * others, axis=1) / count

    parts = each_chunk(compare, reference.shape[0], reference.shape[1], reference)
    share, difference = (xp.concat(values) for values in zip(*parts))
    return Scores(share, difference) if method == "quantile" else Scores(difference)


def _compared(phi: np.ndarray, others: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of OUT signals below φ, and φ minus their mean: the same in NumPy, with counts instead of weights."""
    count = count_true(outside)
    below = count_true((others < phi[:, None]) & outside)
    equal = (others == phi[:, None]) & outside
    if equal.any():
        below += 0.5 * count_true(equal)
    total = np.einsum("ij,ij->i", others.astype(np.float64), outside.astype(np.float64))
    return below / count, phi - total / count
