"""Was anything near this point trained on? Scores of ranges from scores of points sampled in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.metrics import evaluate_scores
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import Estimate, Roc, Scores

PAPER = "Tao and Shokri (2025), https://arxiv.org/abs/2408.05131"
Direction = Literal["low", "high", "both"]
DIRECTIONS = ("low", "high", "both")
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class Trim:
    """Which sample scores a trimmed mean leaves out.

    Attributes:
      ratio: share left out, in [0, 1).
      direction: "low" leaves out the lowest scores, "high" the highest, "both" half of it at either end.
      auc: mean AUC on the references that it was chosen by; NaN if it was given.
    """

    ratio: float
    direction: Direction
    auc: float = float("nan")


def trimmed_mean(samples: np.ndarray, ratio: float = 0.0, direction: Direction = "low") -> np.ndarray:
    r"""(r,) mean of each range's sample scores without a share of them.

    .. math:: s(R) = \frac{1}{|K|} \sum_{k \in K} s(x_{(k)}), \qquad x_1, \dots, x_s \sim R

    A range is a member if any of its points is, so a few samples near that point carry the evidence, and the others
    only noise: the mean dilutes it, the maximum trusts a single sample. The trimmed mean lies between: K drops
    `ratio` of the samples in the order of their scores, and keeps at least one.

    Tao and Shokri (2025), "Range Membership Inference Attacks", https://arxiv.org/abs/2408.05131.

    Args:
      samples: (r, s) scores of s points of each range; higher = more likely a member.
      ratio: share left out, in [0, 1).
      direction: "low", "high" or "both".

    Example:
      >>> trimmed_mean(np.array([[0.0, 1.0, 2.0, 9.0]]), 0.5, "low")
      array([5.5])
    """
    samples = _checked_samples(samples)
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}.")
    if not 0 <= ratio < 1:
        raise ConfigError(f"ratio must be in [0, 1), got {ratio}: at least one sample must stay.")
    size = samples.shape[1]
    drop = min(int(ratio * size + 1e-9), size - 1)
    low = {"low": drop, "high": 0, "both": drop // 2}[direction]
    high = {"low": 0, "high": drop, "both": drop // 2}[direction]
    return np.sort(samples, axis=1)[:, low : size - high].mean(1)


def maximum(samples: np.ndarray) -> np.ndarray:
    """(r,) largest sample score of each range.

    >>> maximum(np.array([[0.0, 3.0]]))
    array([3.])
    """
    return _checked_samples(samples).max(1)


def mean(samples: np.ndarray) -> np.ndarray:
    """(r,) mean sample score of each range.

    >>> mean(np.array([[0.0, 3.0]]))
    array([1.5])
    """
    return _checked_samples(samples).mean(1)


RANGE_SCORES: dict[str, Callable[..., np.ndarray]] = {"trimmed_mean": trimmed_mean, "max": maximum, "mean": mean}


def tune_trim(
    reference: np.ndarray, member: np.ndarray, *, ratios: Sequence[float] = RATIOS, directions=DIRECTIONS
) -> Trim:
    """Ratio and direction with the best mean AUC over the references, each standing in for the target.

    The target is no argument: neither its scores nor its membership can have an influence. Of equals the smallest
    ratio wins, so that without any signal nothing is trimmed.

    Args:
      reference: (r, s, m) sample scores of the ranges under each reference, made without that reference.
      member: (r, m) bool, whether reference j trained on a point of range i.

    Raises: DesignError: shapes, or a reference for which all ranges are members or none is.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = np.arange(100)[:, None] % 2 == np.arange(2)
      >>> scores = rng.normal(size=(100, 10, 2))
      >>> scores[:, 0] += 4 * member  # one sample in ten is near the training point
      >>> tune_trim(scores, member).direction
      'low'
    """
    reference, member = np.asarray(reference, np.float64), np.asarray(member)
    faults = []
    if reference.ndim != 3 or member.shape != (*reference.shape[:1], *reference.shape[2:]) or not reference.size:
        faults.append(f"reference must be (r, s, m) and member (r, m), got {reference.shape} and {member.shape}")
    elif member.dtype != bool or member.all(0).any() or not member.any(0).all():
        faults.append("member must be bool, with member and non-member ranges for every reference")
    if faults:
        raise DesignError("; ".join(faults) + ".")
    best = Trim(0.0, "low", -np.inf)
    for ratio in sorted(ratios):
        for direction in directions:
            values = []
            for j in range(reference.shape[2]):
                scores = trimmed_mean(reference[:, :, j], ratio, direction)
                values.append(mann_whitney(scores[member[:, j]], scores[~member[:, j]]))
            value = float(np.mean(values))
            if value > best.auc + 1e-12:
                best = Trim(float(ratio), direction, value)
    return best


def range_membership(
    target: np.ndarray,
    reference: np.ndarray | None = None,
    member: np.ndarray | None = None,
    *,
    how: str = "trimmed_mean",
    trim: Trim | None = None,
) -> tuple[Scores, Trim | None]:
    """Scores of ranges under the target; a trimmed mean is tuned on the references unless `trim` is given.

    Args:
      target: (r, s) sample scores under the target.
      reference: (r, s, m) and member: (r, m), as `tune_trim`.
      how: a key of `RANGE_SCORES`.

    Returns: the scores (r,) and the trim in use (None for "max" and "mean").

    Raises: ConfigError: unknown `how`. DesignError: a trimmed mean without references and without `trim`.

    Example:
      >>> scores, trim = range_membership(np.array([[0.0, 1.0], [5.0, 1.0]]), how="max")
      >>> scores.value.tolist(), trim
      ([1.0, 5.0], None)
    """
    if how not in RANGE_SCORES:
        raise ConfigError(f"how must be one of {', '.join(RANGE_SCORES)}, got {how!r}.")
    if how != "trimmed_mean":
        return Scores(RANGE_SCORES[how](target)), None
    if trim is None:
        if reference is None or member is None:
            raise DesignError("A trimmed mean is tuned on reference models: give them, or trim=, or how='mean'.")
        trim = tune_trim(reference, member)
    return Scores(trimmed_mean(target, trim.ratio, trim.direction)), trim


def evaluate_ranges(scores: Scores, member: np.ndarray, **options: Any) -> tuple[Roc, dict[str, Estimate]]:
    """ROC and metrics with intervals where the unit is a range, not a sample: n is the number of ranges.

    Args:
      scores: (r,) of `range_membership`.
      member: (r,) bool, whether the target trained on any point of the range (`range_members`).
      options: of `metrics.evaluate_scores`.

    Example:
      >>> evaluate_ranges(Scores(np.arange(6.0)), np.arange(6) >= 3)[1]["auc"].n
      6
    """
    return evaluate_scores(scores, member, **options)


def range_members(range_index: np.ndarray, member: np.ndarray, n_ranges: int) -> np.ndarray:
    """(n_ranges,) bool: a range is a member if any point in it is.

    Args:
      range_index: (p,) which range each point lies in.
      member: (p,) bool.

    Example:
      >>> range_members(np.array([0, 0, 1]), np.array([False, True, False]), 2).tolist()
      [True, False]
    """
    return np.bincount(np.asarray(range_index), weights=np.asarray(member, float), minlength=n_ranges) > 0


def _checked_samples(samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 2 or samples.shape[1] < 1:
        raise DesignError(f"samples must be (n_ranges, n_samples), got shape {samples.shape}.")
    if np.isnan(samples).any():
        raise DesignError(f"{int(np.isnan(samples).sum())} of {samples.size} sample scores are NaN.")
    return samples
