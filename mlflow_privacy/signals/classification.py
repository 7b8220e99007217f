r"""φ of a classifier: how much more likely it finds the label than everything else.

.. math:: \phi = \log p_y - \log(1 - p_y) = z_y - \log\sum_{c\ne y} e^{z_c}

Carlini et al. (2022), https://arxiv.org/abs/2112.03570. Taken from logits or log-probabilities where a model gives
them, because 1 - p_y of a saturated softmax is 0; from probabilities with a clip at what they can resolve.
"""

from __future__ import annotations

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.types import Link, ModelOutputs, Reading

CERTAIN = 69.0775527898  # log 1e30: φ where all other logits are -∞, as of probabilities clipped at 1e-30

_SURE = 36.0  # from where exp(-φ) is below float64's rounding of 1
PROBABILITY_TOLERANCE = 1e-3  # of a row's sum; half-precision softmax over many classes is off by nearly as much


def phi_from_logits(logits: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(n,) φ in float64 from logits or log-probabilities (n, c).

    A logit of -∞ is a class of probability 0 (a masked one): where all but the label's are, φ is `CERTAIN`.

    Args:
      index: (n,) column of each record's label; -1 for a class that the model does not know, which gives NaN.

    >>> phi_from_logits(np.array([[200.0, -200.0, -200.0]]), np.array([0])).round(4).tolist()
    [399.3069]
    """
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(logits))
    own = logits[rows, index]
    others = logits.copy()
    others[rows, index] = -np.inf
    top = others.max(axis=1)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        phi = own - (shift + np.log(np.exp(others - shift[:, None]).sum(axis=1)))
    phi = np.where((phi == np.inf) & np.isfinite(own), CERTAIN, phi)
    return np.where(index < 0, np.nan, phi)


def phi_from_probabilities(p: np.ndarray, index: np.ndarray, *, floor: float) -> np.ndarray:
    """(n,) φ in float64 from probabilities (n, c): clipped log-odds, symmetric about 0.

    1 - p_y is the sum of the other probabilities, which keeps what rounding p_y to 1 would lose.

    Args:
      index: as in `phi_from_logits`, but a class that the model does not know has the probability `floor`.
      floor: the smallest probability that means something, see `sklearn.resolution`.

    >>> phi_from_probabilities(np.array([[1.0, 0.0], [0.25, 0.75]]), np.array([0, 0]), floor=1e-6).round(3).tolist()
    [13.816, -1.099]
    """
    p = np.asarray(p, np.float64)
    rows = np.arange(len(p))
    own = np.where(index < 0, 0.0, p[rows, index])
    others = p.copy()
    others[rows[index >= 0], index[index >= 0]] = 0.0
    other = others.sum(axis=1)
    return np.log(np.clip(own, floor, 1 - floor)) - np.log(np.clip(other, floor, 1 - floor))


def joint_phi(each: np.ndarray) -> np.ndarray:
    r"""(n,) φ of all labels of a record at once, from those of each (n, k), which the model takes to be independent.

    .. math:: \log p = -\sum_j \log(1 + e^{-\phi_j}), \quad \phi = \log p - \log(1 - p)

    A record's labels are one class among all that its columns can spell: the same link and attacks as of one label,
    and the loss, -log p, is the sum of the cross-entropies.

    >>> joint_phi(np.array([[2.0], [800.0]])).round(4).tolist(), joint_phi(np.array([[50.0, 50.0]])).round(4).tolist()
    ([2.0, 800.0], [49.3069])
    """
    each = np.asarray(each, np.float64)
    log_p = -softplus(-each).sum(axis=1)
    top = -each.min(axis=1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        sure = -(top + np.log(np.exp(-each - top[:, None]).sum(axis=1)))  # 1 - p = Σ exp(-φ_j), all of it tiny
        phi = log_p - np.log(-np.expm1(log_p))
    return np.where(each.min(axis=1) > _SURE, sure, phi)


def are_probabilities(values: np.ndarray) -> bool:
    """Whether every row (n, c) is a distribution: nothing negative, sums of 1.

    >>> are_probabilities(np.array([[0.2, 0.8]])), are_probabilities(np.array([[0.2, 0.9]]))
    (True, False)
    """
    values = np.asarray(values, np.float64)
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= PROBABILITY_TOLERANCE).all())


def columns_of(y: np.ndarray, model_classes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(n,) column of a model's outputs that each label means, -1 for a class that the model never saw.

    Labels are matched by value, else as text, else (a model of 0..k-1 and a pool of k other labels) by their place
    among the pool's sorted classes, as a label encoder numbers them.

    Args:
      y: (n,) labels.
      model_classes: (k,) `classes_` of the model, in the order of its columns.
      classes: sorted labels of the pool.

    Raises:
      SignalError: the model knows none of the pool's classes.

    >>> columns_of(np.array(["b", "a"]), np.array([0, 1]), np.array(["a", "b"])).tolist()
    [1, 0]
    """
    known, pool = np.asarray(model_classes).tolist(), np.asarray(classes).tolist()
    labels = np.asarray(y).tolist()
    for read in (lambda value: value, str):
        column = {read(value): i for i, value in enumerate(known)}
        if any(read(value) in column for value in pool):
            return np.array([column.get(read(value), -1) for value in labels], np.int64)
    if known == list(range(len(pool))):
        column = {value: i for i, value in enumerate(pool)}
        return np.array([column.get(value, -1) for value in labels], np.int64)
    raise SignalError(
        f"The model's classes ({_some(known)}) have nothing in common with the labels of the pool ({_some(pool)}). "
        "Give the labels as the model was trained on them."
    )


def _some(values: list) -> str:
    return ", ".join(map(repr, values[:5])) + (", ..." if len(values) > 5 else "")


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) without overflow.

    >>> softplus(np.array([-800.0, 0.0, 800.0])).round(4).tolist()
    [0.0, 0.6931, 800.0]
    """
    return np.logaddexp(0.0, x)


def outputs_from_phi(phi: np.ndarray, correct: np.ndarray) -> ModelOutputs:
    """Outputs of a classifier; the cross-entropy is -log σ(φ) = softplus(-φ) exactly.

    Raises:
      SignalError: some φ are NaN or infinite; -∞ is said to be the label's own logit.
    """
    phi = np.asarray(phi, np.float64)
    masked = np.isneginf(phi)
    if masked.any():
        raise SignalError(
            f"The model gives the label itself the logit -∞ (probability 0, as of a masked class) for "
            f"{int(masked.sum())} of {len(phi)} records, the first at position {int(masked.argmax())}. Leave records "
            "of masked classes out of the data, or have the model give finite logits for every class that is a label."
        )
    require_finite(phi)
    link: Link = "logit"
    return ModelOutputs(phi.astype(np.float32), np.asarray(correct, bool), softplus(-phi).astype(np.float32), link)


def outputs_from_scores(values: np.ndarray, index: np.ndarray, *, one_against_all: bool = False) -> ModelOutputs:
    """Outputs from raw scores of all classes (n, c), or of the second of two (n,); a class without one is impossible.

    Args:
      index: (n,) column of each record's label; -1 for a class that the model never saw.
      one_against_all: each score is the logit of its class by itself, instead of the logits of a softmax.

    >>> outputs_from_scores(np.array([2.0, -1.0]), np.array([1, 1])).signal.tolist()
    [2.0, -1.0]
    """
    logits = np.stack([np.zeros_like(values), values], axis=1) if values.ndim == 1 else values
    phi = logits[np.arange(len(logits)), index] if one_against_all else phi_from_logits(logits, index)
    return outputs_from_phi(np.where(index < 0, -CERTAIN, phi), logits.argmax(axis=1) == index)


def outputs_from_labels(correct: np.ndarray) -> ModelOutputs:
    """Outputs of a model that gives only labels: signal 1 and loss 0 where it is right.

    >>> outputs_from_labels(np.array([True, False])).loss.tolist()
    [0.0, 1.0]
    """
    correct = np.asarray(correct, bool)
    return ModelOutputs(correct.astype(np.float32), correct, 1 - correct.astype(np.float32), "label")


def outputs_of_many(each: np.ndarray) -> ModelOutputs:
    """Outputs of a model of several labels at once, from φ of each (n, k); right is who has all labels right.

    Raises:
      SignalError: some φ are NaN or infinite.

    >>> outputs_of_many(np.array([[3.0, 2.0], [3.0, -2.0]])).correct.tolist()
    [True, False]
    """
    each = np.asarray(each, np.float64)
    require_finite(each)
    return outputs_from_phi(joint_phi(each), np.asarray((each > 0).all(axis=1)))


def each_phi(values: np.ndarray, y: np.ndarray, *, reading: Reading, floor: float) -> np.ndarray:
    """(n, k) φ of each label from outputs (n, k): logits of "1", or probabilities of it.

    Args:
      y: (n, k) zeros and ones.
      floor: the smallest probability that means something.

    >>> each_phi(np.array([[1.5, -1.5]]), np.array([[1, 0]]), reading="logits", floor=1e-7).tolist()
    [[1.5, 1.5]]
    """
    values, y = np.asarray(values, np.float64), np.asarray(y)
    if reading == "probabilities":
        values = np.log(np.clip(values, floor, 1 - floor)) - np.log(np.clip(1 - values, floor, 1 - floor))
    return np.where(y == 1, values, -values)


def require_labels(y: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises `SignalError` unless labels are zeros and ones (n, k), and outputs of the same shape."""
    if y.ndim != 2 or y.dtype.kind not in "biuf" or not ((y == 0) | (y == 1)).all():
        raise SignalError(
            f"Several labels of a record must be zeros and ones (n, k), got an array of shape {y.shape} and dtype "
            f"{y.dtype}."
        )
    if shape != y.shape:
        raise SignalError(
            f"The model gives outputs of shape {shape[1:]} a record, which has {y.shape[1]} labels: it must give one "
            'logit or probability for each. If these are amounts and no labels, say task="regression".'
        )


def require_finite(values: np.ndarray) -> None:
    """Raises `SignalError` with the number of records whose values (n, ...) are NaN or infinite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise SignalError(
            f"The model gives NaN or infinite outputs for {int(bad.sum())} of {len(bad)} records, the first at "
            f"position {int(bad.argmax())}. Check their features for missing values, and the model for overflow."
        )
