"""Attacks that need no reference model: the target's signal alone, or against a population (Attack-P)."""

from __future__ import annotations

import numpy as np

from mlflow_privacy.attacks._arrays import Array, as_float64, check_signals, namespace
from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import positions
from mlflow_privacy.types import Scores


def attack_p(target: Array, population: Array) -> Scores:
    r"""Share of the population on which the target does no better than on the record.

    .. math:: s(x) = \Pr_z[\phi_\theta(z) \le \phi_\theta(x)]

    One minus the p-value of the loss under the population's distribution: a threshold on s is calibrated to a
    false-positive rate without knowing a single non-member. It ranks records as the loss does.

    Threat model: black box with confidences; a population sample, no reference models. Ye et al. (2022),
    https://arxiv.org/abs/2111.09679, Attack-P.

    Args:
      target: (n,) signals of the audited model.
      population: (z,) signals of the audited model on the population.

    Returns: value (n,) in [0, 1] and tie (n,) = φ; arrays of the kind that came in.

    Raises: DesignError: shapes, values that are not finite, an empty population.

    Example:
      >>> import numpy as np
      >>> attack_p(np.array([0.5, 5.0]), np.array([0.0, 1.0, 2.0, 3.0])).value.tolist()
      [0.25, 1.0]
    """
    check_signals(target=target, population=population)
    if population.shape[0] == 0:
        raise DesignError("Attack-P needs population records, got none. Pass population=..., or use attack 'loss'.")
    xp = namespace(target, population)
    phi = as_float64(target)
    search = positions if isinstance(phi, np.ndarray) else xp.searchsorted
    below = search(xp.sort(as_float64(population)), phi, side="right")
    return Scores(xp.astype(below, xp.float64) / population.shape[0], phi)


def loss_threshold(target: Array) -> Scores:
    r"""The signal itself: a record that the model predicts well is called a member.

    .. math:: s(x) = \phi_\theta(x)

    For classifiers the cross-entropy is log(1 + exp(−φ)), so a threshold on φ is a threshold on the loss.

    Threat model: black box with confidences; nothing else. Yeom, Giacomelli, Fredrikson and Jha (2018),
    https://arxiv.org/abs/1709.01604, Adversary 2.

    Args:
      target: (n,) signals of the audited model.

    Returns: value (n,) = φ.

    Raises: DesignError: values that are not finite.

    Example:
      >>> import numpy as np
      >>> loss_threshold(np.array([-1.0, 3.0])).value.tolist()
      [-1.0, 3.0]
    """
    check_signals(target=target)
    return Scores(as_float64(target))
