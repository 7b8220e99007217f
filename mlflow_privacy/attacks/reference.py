"""Reference attack (Attack-R): the target's loss on a record against the same record's loss without it.

Ye, Maddi, Murakonda, Bindschaedler and Shokri (2022), *Enhanced Membership Inference Attacks against Machine Learning
Models*, https://arxiv.org/abs/2111.09679. Difficulty calibration: Watson, Guo, Cormode and Sablayrolles (2022), *On
the Importance of Difficulty Calibration in Membership Inference Attacks*, https://arxiv.org/abs/2111.08440.
"""

from __future__ import annotations

from typing import Literal

from mlflow_privacy.attacks._arrays import Array, as_float64, check_references, check_signals, chunks, namespace
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
    shares, differences = [], []
    for s in chunks(reference.shape[0], reference.shape[1], reference):
        phi, others = as_float64(target[s]), as_float64(reference[s])
        weight = xp.astype(~member[s], xp.float64)
        count = xp.sum(weight, axis=1)
        below = xp.astype(others < phi[:, None], xp.float64) + 0.5 * xp.astype(others == phi[:, None], xp.float64)
        shares.append(xp.sum(weight * below, axis=1) / count)
        differences.append(phi - xp.sum(weight * others, axis=1) / count)
    share, difference = xp.concat(shares), xp.concat(differences)
    return Scores(share, difference) if method == "quantile" else Scores(difference)
