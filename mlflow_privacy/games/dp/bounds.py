"""What a bound on ε is, and what it says about a claim."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import check_confidence

Selection = Literal["auto", "split", "bonferroni", "fixed"]
SELECTIONS = ("auto", "split", "bonferroni", "fixed")


@dataclasses.dataclass(frozen=True)
class EpsilonBound:
    """A lower bound on ε: the mechanism is not (value, δ)-DP, but for a chance of 1 − confidence.

    Attributes:
      value: the bound, ≥ 0; 0 says that nothing was shown.
      delta: δ of the claim that is tested.
      confidence: one-sided.
      method, title, paper: which bound it is.
      assumption: what it supposes beyond differential privacy; "" if nothing.
      n: canaries (one run) or models (many runs) that the bound was computed on.
      guesses, correct: r guesses of which v were right; for many runs those at the threshold.
      guesses_in, guesses_out: of the guesses, how many said "in" and "out".
      threshold: the score above which "in" is said; NaN if it never is.
      selection: how the number of guesses was chosen, and so corrected for.
      candidates: how many choices were tried.
      ceiling: the bound if every guess had been right: what this audit could have shown at most.
      mu: Gaussian-DP parameter, if the bound is made of one.
      rates: (TPR low, FPR high), if the bound is made of them.
    """

    value: float
    delta: float
    confidence: float
    method: str
    title: str
    paper: str
    n: int
    guesses: int
    correct: int
    guesses_in: int
    guesses_out: int
    threshold: float
    selection: Selection
    candidates: int
    ceiling: float
    assumption: str = ""
    mu: float | None = None
    rates: tuple[float, float] | None = None

    @property
    def low(self) -> float:
        """The bound itself, so that a bound reads like an `Estimate`."""
        return self.value

    @property
    def high(self) -> float:
        """Infinite: an audit bounds ε from below only."""
        return math.inf

    def __str__(self) -> str:
        return f"ε ≥ {self.value:.4g} at δ = {self.delta:g} ({self.confidence:.0%})"


@dataclasses.dataclass(frozen=True)
class GuessCurve:
    """ε against the number of guesses, for a plot.

    Attributes:
      guesses, correct: (k,) int64.
      pointwise: (k,) bound of each number of guesses as if it alone had been tried; the largest of them is no bound.
      corrected: (k,) each at (1 − confidence) / k: all hold together, so their largest is a bound.
    """

    method: str
    sides: str
    delta: float
    confidence: float
    n: int
    guesses: np.ndarray
    correct: np.ndarray
    pointwise: np.ndarray
    corrected: np.ndarray


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claimed ε against a bound.

    Attributes:
      contradicted: the bound exceeds the claim.
      margin: bound − claim.
      sentence: for a report.
      caveat: what the sentence supposes; "" if nothing.
    """

    contradicted: bool
    claimed: float
    bound: float
    margin: float
    sentence: str
    caveat: str = ""


def contradicts(claimed: float, bound: EpsilonBound, *, claimed_delta: float | None = None) -> Verdict:
    """Whether a bound contradicts a claimed ε.

    Args:
      claimed: ε of the claim, ≥ 0.
      claimed_delta: δ of the claim; must be the bound's, because ε means nothing without it.

    Raises: DesignError: a negative claim, or another δ.

    Example:
      >>> from mlflow_privacy.games import one_run_of_counts
      >>> print(contradicts(1.0, one_run_of_counts(95, 100, 200, delta=0.0)).sentence)
      The claim ε = 1 at δ = 0 is contradicted: the audit shows ε ≥ 2.172 with 95% confidence.
    """
    if not claimed >= 0:
        raise DesignError(f"claimed must be an ε >= 0, got {claimed}.")
    if claimed_delta is not None and claimed_delta != bound.delta:
        raise DesignError(
            f"The claim is made at δ = {claimed_delta:g}, the bound at δ = {bound.delta:g}; compute it at the claim's."
        )
    shown = f"ε ≥ {bound.value:.4g} with {bound.confidence:.0%} confidence"
    claim = f"The claim ε = {claimed:.4g} at δ = {bound.delta:g}"
    contradicted = bound.value > claimed
    if contradicted:
        sentence = f"{claim} is contradicted: the audit shows {shown}."
    elif bound.value > 0:
        sentence = f"{claim} is not contradicted: the audit shows {shown}, which does not prove the claim."
    else:
        sentence = f"{claim} is not contradicted: the audit shows no leak, which does not prove the claim."
    if not contradicted and bound.ceiling < claimed:
        sentence += f" It could not have been: {bound.guesses} guesses show at most ε ≥ {bound.ceiling:.4g}."
    return Verdict(contradicted, claimed, bound.value, bound.value - claimed, sentence, bound.assumption)


@dataclasses.dataclass(frozen=True)
class Canaries:
    """Scores and coins of n canaries or models, and how a bound is made of them; checked.

    Attributes:
      scores: (n,) float64; member: (n,) bool.
      delta: of the claim; confidence: one-sided.
      selection: how the attack is chosen, and paid for; seed: of halves and ties.
    """

    scores: np.ndarray
    member: np.ndarray
    delta: float
    confidence: float
    selection: Selection = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises one `DesignError` with all faults."""
        scores, member = np.asarray(self.scores, np.float64), np.asarray(self.member)
        faults = []
        if scores.ndim != 1 or scores.shape != member.shape or not scores.size:
            faults.append(f"scores and member must be of one shape (n,), n >= 1, got {scores.shape} and {member.shape}")
        if np.isnan(scores).any():
            faults.append(f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN; every canary needs a score")
        if member.dtype != bool:
            faults.append(f"member must be bool, got {member.dtype}")
        if not 0 <= self.delta < 1:
            faults.append(f"delta must be in [0, 1), got {self.delta}")
        if self.selection not in SELECTIONS:
            faults.append(f"selection must be one of {', '.join(SELECTIONS)}, got {self.selection!r}")
        if faults:
            raise DesignError("; ".join(faults) + ".")
        check_confidence(self.confidence)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "member", member)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def significance(self) -> float:
        return 1 - self.confidence

    def take(self, index: np.ndarray) -> Canaries:
        """Those at `index`, in that order."""
        return dataclasses.replace(self, scores=self.scores[index], member=self.member[index])
