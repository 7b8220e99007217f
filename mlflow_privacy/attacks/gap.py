"""Gap attack: what is left for an attacker who sees only predicted labels."""

from __future__ import annotations

from mlflow_privacy.attacks._arrays import Array, as_float64, check_signals
from mlflow_privacy.types import Scores


def gap(target: Array) -> Scores:
    r"""A record is called a member if the model labels it correctly.

    .. math:: s(x) = 1[\hat y_\theta(x) = y], \qquad TPR - FPR = acc_{members} - acc_{nonmembers}

    Its advantage is the generalisation gap in accuracy, hence the name.

    Threat model: black box, labels only; nothing else. Yeom, Giacomelli, Fredrikson and Jha (2018),
    https://arxiv.org/abs/1709.01604, Adversary 1.

    Args:
      target: (n,) correctness of the audited model, 0 or 1.

    Returns: value (n,) in {0, 1}.

    Raises: DesignError: values that are not finite.

    Example:
      >>> import numpy as np
      >>> gap(np.array([1.0, 0.0])).value.tolist()
      [1.0, 0.0]
    """
    check_signals(target=target)
    return Scores(as_float64(target))
