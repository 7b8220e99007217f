"""How much of a data set a model was trained on: membership guesses, summed up and debiased by reference models."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.games.usage.interval import (
    SHARES,
    default_correlation,
    gap_variance,
    rates_of,
    width_of_bound,
    width_of_references,
)
from mlflow_privacy.stats import check_confidence, normal_quantile

_logger = logging.getLogger(__name__)
PAPER = "Tong, Ye, Zarifzadeh and Shokri (2025), https://openreview.net/forum?id=EUSkm2sVJ6"
_SHIFT = 0.02  # of the members' spread: how far all signals of one model may lie off those of another
_LEVELS = np.linspace(0.02, 0.98, 49)
# Further from the references' own share than this, intervals were measured to miss: at p = 0.75 against references on
# one half they held the truth in 5 % of trials.
_FAR = 0.15


@dataclasses.dataclass(frozen=True)
class UsageEstimate:
    """The share of a data set that a model was trained on.

    Attributes:
      value: p̂ in [0, 1]; NaN if not resolvable.
      low, high: interval at `confidence`; [0, 1] if not resolvable.
      n: records of the data set.
      confidence: such as 0.95.
      resolvable: False where the references' TPR and FPR do not differ enough to tell shares apart.
      mean_guess: share of records that the target seems to have trained on, before it is debiased.
      tpr, fpr: of the same guesses under the references, on average.
      n_references: models that these were measured on.
      threshold: of the score, chosen on the references; NaN if guesses were given.
      problem: a sentence for the report: why it is not resolvable, or what looks wrong; "" if nothing.
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float
    resolvable: bool
    mean_guess: float
    tpr: float
    fpr: float
    n_references: int
    threshold: float = math.nan
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]" if self.resolvable else "not resolvable"


def usage(
    target: np.ndarray,
    reference: np.ndarray,
    member: np.ndarray,
    *,
    threshold: float | None = None,
    confidence: float = 0.95,
    correlation: float | None = None,
) -> UsageEstimate:
    """Share of the data set that one target trained on, from signals or attack scores.

    "Member" is guessed of scores at or above `threshold`, which is chosen on the references alone; then
    `usage_of_guesses`.

    Take the signal φ itself where records are few or little is memorised. A score that is calibrated by the references
    (RMIA, LiRA, φ − mean φ) separates better, but target and references have records in common, the more the larger
    the share is; what they have in common narrows the scores, so that TPR and FPR themselves change with the share
    and the estimate is bent (docs/games.md has the figures).

    Args:
      target: (n,) signals or scores of the records under the target.
      reference: (n, m) the same of the same records under each reference; scores with the other references as its
        references (`leave_one_out`); m ≥ 1.
      member: (n, m) bool, which records each reference trained on.
      threshold: of the score; None chooses it by `usage_threshold`.

    Raises: DesignError: shapes, NaN, a reference without members or non-members of the data set.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random((2000, 8)) < 0.5
      >>> used = np.arange(2000) < 600
      >>> print(usage(2 * used + rng.normal(size=2000), 2 * member + rng.normal(size=(2000, 8)), member))
      0.3177 [0.2855, 0.3495]
    """
    options = {"threshold": threshold, "confidence": confidence, "correlation": correlation}
    found = usages(np.asarray(target)[:, None], reference, member, **options)[0]
    size = float(np.mean(member))
    if found.resolvable and abs(found.value - size) > _FAR:
        _logger.warning(
            "The estimated share %.0f %% is far from the %.0f %% of these records that each reference trained on. "
            "Models of another amount of data have other rates, which the interval does not allow for: take references "
            "that trained on about as many records as the target.",
            *(100 * found.value, 100 * size),
        )
    return found


def usages(
    targets: np.ndarray,
    reference: np.ndarray,
    member: np.ndarray,
    *,
    threshold: float | None = None,
    confidence: float = 0.95,
    correlation: float | None = None,
) -> tuple[UsageEstimate, ...]:
    """`usage` of several targets, targets (n, t), against the same references; each has its own interval.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random((500, 4)) < 0.5
      >>> scores = 3 * member + rng.normal(size=(500, 4))
      >>> [round(e.value) for e in usages(np.tile([[-9.0, 9.0]], (500, 1)), scores, member)]
      [0, 1]
    """
    targets = np.asarray(targets)
    if targets.ndim != 2:
        raise DesignError(f"targets must be (n, t), one column a target, got shape {targets.shape}.")
    found = []
    for column in targets.T:
        target, others, trained_on = check_usage(column, reference, member)
        cut = usage_threshold(others, trained_on) if threshold is None else float(threshold)
        guessed = usage_of_guesses(
            target >= cut, others >= cut, trained_on, confidence=confidence, correlation=correlation
        )
        found.append(dataclasses.replace(guessed, threshold=cut))
    return tuple(found)


def usage_of_guesses(
    target: np.ndarray,
    reference: np.ndarray,
    member: np.ndarray,
    *,
    confidence: float = 0.95,
    correlation: float | None = None,
) -> UsageEstimate:
    r"""Share of the data set that the target trained on, from guesses in [0, 1] (or yes and no).

    .. math:: \hat p = \frac{\bar m - FPR}{TPR - FPR}, \text{ clipped to } [0, 1]

    m̄ is the mean guess on the target; TPR and FPR are the mean guesses on members and non-members of the references.
    Tong, Ye, Zarifzadeh and Shokri (2025), "How Much of My Dataset Did You Use?",
    https://openreview.net/forum?id=EUSkm2sVJ6.

    The interval is ours. Guesses under one model err together: a model that fits a little harder raises all of them.
    So n records are not n independent samples, while m references are m independent models. With (t_j, f_j) the rates
    of reference j, S their sample covariance, σ²_in and σ²_out the variances of single guesses, and T² the part of S
    that independent records do not explain, p is in the interval if

    .. math:: |\bar m - p\,TPR - (1 - p)\,FPR| \le q \sqrt{
        \frac{p\,\sigma_{in}^2 + (1-p)\,\sigma_{out}^2}{n} + w' T^2 w + \frac{w' S w}{m}}, \quad w = (p, 1 - p)

    with Student's quantile of m − 1 degrees of freedom: Fieller's interval, which knows that TPR − FPR is uncertain
    too. One reference shows no covariance and a pair hardly any. There T² and S are bounded instead by `correlation`
    (two guesses under one model correlate at most so much), with the normal quantile, and the narrower interval is
    taken. It supposes that the target was trained like the references, on as many records; if not, its rates differ.

    Args:
      target: (n,) guesses in [0, 1] on the target.
      reference: (n, m) guesses of the same kind on the references.
      member: (n, m) bool.
      correlation: bound on the correlation of two guesses under one model; None is `default_correlation`.

    Raises: DesignError: shapes, guesses outside [0, 1], a reference without members or non-members.

    Example:
      >>> member = np.arange(100)[:, None] % 2 == np.arange(2)
      >>> estimate = usage_of_guesses(np.arange(100) < 40, member, member)
      >>> round(estimate.value, 2)
      0.4
    """
    check_confidence(confidence)
    target, reference, member = check_usage(target, reference, member)
    if min(target.min(), reference.min()) < 0 or max(target.max(), reference.max()) > 1:
        raise DesignError("Guesses must be in [0, 1]; give scores to `usage`, which chooses a threshold.")
    n, m = reference.shape
    correlation = default_correlation(n) if correlation is None else correlation
    if not 0 <= correlation <= 1:
        raise DesignError(f"correlation must be in [0, 1], got {correlation}.")
    rates, spread = rates_of(reference, member)
    tpr, fpr = rates.mean(0)
    mean = float(target.mean())
    half_width = np.minimum(
        width_of_references(rates, spread, member, confidence), width_of_bound(spread, n, m, confidence, correlation)
    )
    gap = tpr - fpr
    projected = float(np.clip(mean, fpr, tpr)) if gap > 0 else mean  # p is in [0, 1], so its mean lies between them
    accepted = np.abs(projected - SHARES * tpr - (1 - SHARES) * fpr) <= half_width
    inside = SHARES[accepted]
    found = UsageEstimate(math.nan, 0.0, 1.0, n, confidence, False, mean, float(tpr), float(fpr), m)
    rate_error = math.sqrt(max(gap_variance(rates, spread, member, correlation), 0.0))
    if gap <= normal_quantile(confidence) * rate_error or (accepted[0] and accepted[-1]):
        problem = (
            f"The share cannot be told: the guesses say member of {tpr:.1%} of what references trained on and of "
            f"{fpr:.1%} of what they did not. Use a stronger attack, more references or more records."
        )
        return dataclasses.replace(found, problem=problem)
    problem = ""
    end = 0 if mean < fpr else -1
    if abs(mean - projected) > half_width[end]:
        problem = (
            f"The target's mean guess {mean:.1%} lies outside the references' rates, {fpr:.1%} and {tpr:.1%}: "
            "it was probably not trained like them, and the share may be wrong."
        )
    value = float(np.clip((mean - fpr) / gap, 0.0, 1.0))
    # The grid's step is added, so that rounding to it never shortens the interval.
    step = SHARES[1]
    low, high = max(min(inside[0] - step, value), 0.0), min(max(inside[-1] + step, value), 1.0)
    low, high = (0.0 if accepted[0] else low), (1.0 if accepted[-1] else high)
    return dataclasses.replace(found, value=value, low=float(low), high=float(high), resolvable=True, problem=problem)


def usage_threshold(reference: np.ndarray, member: np.ndarray) -> float:
    r"""The score from which "member" is guessed: it tells shares apart best on the references; 49 quantiles are tried.

    .. math:: \max_t \frac{TPR_t - FPR_t}{\sqrt{v_t / n + d_t^2}}

    v is the variance of a single guess at p = ½. d is how much the mean guess changes if all signals of the target lie
    a little higher or lower, by 2 % of the members' spread: models differ so, and a threshold between the two
    heaps of signals suffers less than one inside a heap. The target is not seen. So few thresholds are tried that the
    rates at the best of them stay honest.

    Example:
      >>> member = np.arange(1000)[:, None] % 2 == 0
      >>> 0.4 < usage_threshold(member + np.linspace(-0.2, 0.2, 1000)[:, None], member) < 1.0
      True
    """
    reference, member = np.asarray(reference, np.float64), np.asarray(member, bool)
    levels = np.unique(np.quantile(reference, _LEVELS))
    inside, outside = np.sort(reference[member]), np.sort(reference[~member])

    def above(values: np.ndarray, at: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(values, at, "left") / len(values)

    with np.errstate(invalid="ignore"):  # infinite signals have no spread
        shift = _SHIFT * float(np.nan_to_num(np.subtract(*np.quantile(inside, [0.84, 0.16])) / 2, posinf=0.0))
    tpr, fpr = above(inside, levels), above(outside, levels)
    moved = sum(above(heap, levels - shift) - above(heap, levels + shift) for heap in (inside, outside)) / 4
    single = (tpr * (1 - tpr) + fpr * (1 - fpr)) / 2
    error = np.sqrt((single + 1 / len(reference)) / len(reference) + moved**2)  # never 0
    return float(levels[np.argmax((tpr - fpr) / error)])


def leave_one_out(
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], reference: np.ndarray, member: np.ndarray
) -> np.ndarray:
    """(n, m) scores of each reference as if it were the target, against the others.

    The reference trained on the exact complement is left out too: the target has none, and would look different.

    Args:
      score: (signals (n,), reference (n, k), member (n, k)) -> (n,) scores; the attack.
      reference: (n, m) signals.
      member: (n, m) bool.

    Raises: DesignError: fewer than two references are left for one of them.

    Example:
      >>> member = np.random.default_rng(0).random((50, 4)) < 0.5
      >>> leave_one_out(lambda t, r, k: t - r.mean(1), member * 1.0, member).shape
      (50, 4)
    """
    reference, member = np.asarray(reference), np.asarray(member, bool)
    columns = []
    for j in range(reference.shape[1]):
        others = [i for i in range(reference.shape[1]) if i != j and not (member[:, i] ^ member[:, j]).all()]
        if not others:
            raise DesignError(
                f"Reference {j} has no other reference to be scored against: train at least 2 that are not complements "
                "(4 in pairs), or take a score that needs none, such as the signal itself."
            )
        columns.append(score(reference[:, j], reference[:, others], member[:, others]))
    return np.stack(columns, axis=1)


def check_usage(
    target: np.ndarray, reference: np.ndarray, member: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float arrays and a bool one of matching shapes, or one error with all faults."""
    target, reference = np.asarray(target, np.float64), np.asarray(reference, np.float64)
    member = np.asarray(member)
    faults = []
    if reference.ndim != 2 or not reference.size or member.shape != reference.shape:
        faults.append(f"reference and member must be (n, m) with m >= 1, got {reference.shape} and {member.shape}")
    if target.ndim != 1 or target.shape[:1] != reference.shape[:1]:
        faults.append(f"target must be (n,) with the references' n, got {target.shape}")
    for name, array in (("target", target), ("reference", reference)):
        if np.isnan(array).any():
            faults.append(f"{name} has {int(np.isnan(array).sum())} NaN")
    if member.dtype != bool:
        faults.append(f"member must be bool, got {member.dtype}")
    elif member.ndim == 2 and member.size:
        inside = member.sum(0)
        if inside.min() < 1 or inside.max() == len(member):
            faults.append("every reference must have trained on some records of the data set and not on others")
    if faults:
        raise DesignError("; ".join(faults) + ".")
    return target, reference, member
