"""How like the audited model its references are: accuracy, R² and loss side by side, and what chance may do to them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.auditing.references import References, split_means
from mlflow_privacy.types import Fidelity, ModelOutputs

_SURE = 0.99865  # one-sided, as of three standard errors


def fidelity_of(own: ModelOutputs, member: np.ndarray, references: References | None, y: np.ndarray) -> Fidelity:
    """Accuracy, R² of regressors, and mean loss of target and references on members and non-members.

    Args:
      own: the target's outputs on n records; member: (n,) bool.
      y: (n, ...) labels or target values.
    """
    variance = _variance(y) if own.correct is None and y.dtype.kind in "biuf" else 0.0
    target = _with_r2(split_means(own, member), variance)
    if references is None:
        return Fidelity(target, {}, {})
    each = [_with_r2(values, variance) for values in references.quality]
    columns = {key: np.array([values[key] for values in each]) for key in each[0]}
    apart = _apart(own, member, references.pool, references.member)
    if variance:
        apart |= {key.replace("_loss", "_r2"): times for key, times in apart.items()}
    return Fidelity(
        target=target,
        reference={key: float(values.mean()) for key, values in columns.items()},
        reference_std={key: float(values.std()) for key, values in columns.items()},
        apart=apart,
    )


def _variance(y: np.ndarray) -> float:
    """Of the target values, averaged over those of a record; 0 where it is none to divide by."""
    with np.errstate(over="ignore", invalid="ignore"):
        variance = float(np.var(y.reshape(len(y), -1), axis=0, dtype=np.float64).mean()) if y.size else 0.0
    return variance if math.isfinite(variance) else 0.0


def _with_r2(means: dict[str, float], variance: float) -> dict[str, float]:
    """The same with R², if there is a variance: that of all records audited, so that few records have one too.

    >>> _with_r2({"member_loss": 0.5}, 2.0)
    {'member_r2': 0.75, 'member_loss': 0.5}
    """
    if not variance:
        return means
    return {key.replace("_loss", "_r2"): 1 - value / variance for key, value in means.items()} | means


def _apart(
    own: ModelOutputs, member: np.ndarray, references: Sequence[ModelOutputs], trained_on: np.ndarray
) -> dict[str, float]:
    """The distance of the target's losses from those of references, as a multiple of what chance explains.

    Record by record, from the mean of the references that trained on it (or did not, on the other side): records are
    unlike each other, and each model has others. What chance explains is three standard errors: models of one recipe
    differ, of which there are few (Student's t), and so does the mean of few records.

    >>> rng = np.random.default_rng(0)
    >>> outputs = [ModelOutputs(np.zeros(40), None, rng.random(40) + far, "log") for far in (3, 0, 0, 0, 0)]
    >>> rows = np.tile(np.arange(40)[:, None] % 2 == np.array([0, 1, 0, 1]), 1)
    >>> _apart(outputs[0], rows[:, 0], outputs[1:], rows)["nonmember_loss"] > 1
    True
    """
    from scipy.special import stdtrit

    target, found = np.asarray(own.loss, np.float64), {}
    for name, inside in (("member_loss", True), ("nonmember_loss", False)):
        sides = [trained_on[:, j] == inside for j in range(len(references))]
        count, total = np.zeros(len(target)), np.zeros(len(target))
        for one, side in zip(references, sides):
            count += side
            total[side] += one.loss[side]
        rows = (member == inside) & (count > 0)
        with np.errstate(over="ignore", invalid="ignore"):
            difference = target[rows] - total[rows] / count[rows]
            # One reference at a time: side by side their losses would be the largest thing that an audit holds.
            left = [_left(one.loss, total, count, side & (count > 1)) for one, side in zip(references, sides)]
            means = [mean for mean, _, k in left if k]
            m, n, k = len(means), len(difference), sum(k for _, _, k in left)
            if n < 2 or m < 2:
                continue
            middle = sum(mean * k for mean, _, k in left) / k
            spread = math.sqrt(max(sum(square * k for _, square, k in left) / k - middle**2, 0.0))
            between = float(np.std(means, ddof=1)) * math.sqrt(1 + 1 / m) * stdtrit(m - 1, _SURE)
            records = max(float(np.std(difference, ddof=1)), spread) / math.sqrt(n)
            explained = math.hypot(between, records * stdtrit(n - 1, _SURE))
            far = abs(float(difference.mean()))
        if explained > 0 and math.isfinite(explained) and math.isfinite(far):
            found[name] = far / explained
    return found


def _left(loss: np.ndarray, total: np.ndarray, count: np.ndarray, rows: np.ndarray) -> tuple[float, float, int]:
    """Mean and mean square of one reference's losses less those of the others, and of how many records."""
    own = np.asarray(loss[rows], np.float64)
    left = own - (total[rows] - own) / (count[rows] - 1)
    return (float(left.mean()), float((left**2).mean()), len(left)) if len(left) else (0.0, 0.0, 0)
