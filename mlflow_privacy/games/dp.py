"""ε from one training run: canaries in by fair coins, guesses with abstention, a choice that is paid for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.games.bounds import EpsilonBound, GuessCurve, Selection, check_audit
from mlflow_privacy.games.dp_methods import OneRunMethod, fdp, one_run_method, steinke
from mlflow_privacy.stats import check_confidence

Sides = Literal["in", "out", "both", "any"]
Curve = Literal["gaussian", "approximate"]
_SIDES = {"in": ((1, 0),), "out": ((0, 1),), "both": ((1, 1),), "any": ((1, 0), (1, 1))}
_FEWEST = 10  # guesses of one candidate; fewer prove at most ε = 2.9 even if all are right
_GRID = 10  # candidates a side
_SPLIT_FROM = 2000  # canaries; measured, see docs/games.md


def one_run(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    confidence: float = 0.95,
    selection: Selection = "auto",
    sides: Sides = "any",
    guesses: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
) -> EpsilonBound:
    r"""Lower bound on ε from one model and n canaries, each trained on by an independent fair coin.

    The attacker says "in" of the k₊ highest scores, "out" of the k₋ lowest, and abstains from the others. If v of
    r = k₊ + k₋ are right, ε is at least the largest that (with `metrics.epsilon.one_run_p_value`) satisfies

    .. math:: \Pr[W \ge v] + 2 n \delta \max_{i \ge 1} \tfrac1i \Pr[v - i \le W < v] \le 1 - confidence,
        \quad W \sim Bin\Big(r, \frac{e^\varepsilon}{1 + e^\varepsilon}\Big)

    Steinke, Nasr and Jagielski (2023), "Privacy Auditing with One (1) Training Run",
    https://arxiv.org/abs/2305.08846. Supposes nothing but (ε, δ)-DP under adding or removing a record.

    The number of guesses is chosen among several, and the choice is paid for. "split": it is chosen on one random
    half of the canaries and judged on the other. "bonferroni": the level is divided by the number of candidates,
    which are fixed before the scores are seen. "auto": Bonferroni below 2,000 canaries and split from there on, which
    is the tighter one on Gaussian scores. "fixed": one candidate given by the caller. Tied scores are ordered
    at random, so that the order of the canaries cannot tell who is in.

    Args:
      scores: (n,) higher = more likely in; made without looking at `member`.
      member: (n,) bool, the coins.
      delta: δ of the claim, in [0, 1).
      confidence: one-sided.
      sides: guess "in" only, "out" only, "both" alike, or try "any" of "in" and "both".
      guesses: candidates (k₊, k₋); a grid by default.
      seed: of the halves and the ties.

    Raises: DesignError: shapes, NaN, values out of range; "fixed" without exactly one candidate.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random(2000) < 0.5
      >>> told = member ^ (rng.random(2000) < 0.25)  # randomised response, ε = log 3 = 1.0986
      >>> print(one_run(told, member, delta=0.0))
      ε ≥ 0.7963 at δ = 0 (95%)
    """
    return _one_run(steinke(delta), scores, member, delta, confidence, selection, sides, guesses, seed)


def one_run_fdp(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    confidence: float = 0.95,
    selection: Selection = "auto",
    sides: Sides = "any",
    guesses: Sequence[tuple[int, int]] | None = None,
    curve: Curve = "gaussian",
    seed: int = 0,
) -> EpsilonBound:
    """Lower bound on ε from one run by f-DP; for mechanisms with Gaussian noise much tighter than `one_run`.

    Mahloujifar, Melis and Chaudhuri (2024), "Auditing f-Differential Privacy in One Run",
    https://arxiv.org/abs/2410.22235; the recursion is in `metrics.epsilon.fdp_margin`. Under "gaussian" the largest
    rejected μ of Gaussian DP becomes ε at δ by Balle and Wang's formula. That is a statement about mechanisms whose
    trade-off curve is Gaussian, as DP-SGD's nearly is: for others (randomised response) it may exceed their ε.
    "approximate" supposes (ε, δ)-DP only.

    Args: as `one_run`; `curve` is the family of trade-off curves.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random(20_000) < 0.5
      >>> print(one_run_fdp(member + rng.normal(size=20_000), member, delta=1e-5))  # its ε is 4.377
      ε ≥ 2.963 at δ = 1e-05 (95%)
    """
    return _one_run(fdp(curve, delta), scores, member, delta, confidence, selection, sides, guesses, seed)


def one_run_of_counts(
    correct: int, guesses: int, n: int, *, delta: float, confidence: float = 0.95, method: str = "one_run"
) -> EpsilonBound:
    """The bound of one run from its counts alone, for a number of guesses fixed beforehand.

    Args:
      n: all canaries, the abstentions included.
      method: "one_run" or "one_run_fdp" (Gaussian).

    Example:
      >>> round(one_run_of_counts(80, 100, 200, delta=1e-5).value, 3)
      0.958
    """
    check_confidence(confidence)
    bound = one_run_method(method, delta)
    picked = _Picked(guesses, 0, correct, math.nan)
    return _record(bound, picked, n, delta, confidence, 1 - confidence, "fixed", 1)


def epsilon_by_guesses(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    confidence: float = 0.95,
    method: str = "one_run",
    sides: Literal["in", "out", "both"] = "both",
    guesses: Sequence[tuple[int, int]] | None = None,
    seed: int = 0,
) -> GuessCurve:
    """ε against the number of guesses: each point alone, and corrected for looking at all of them.

    Args: as `one_run`, on all canaries.

    Example:
      >>> member = np.arange(400) % 2 == 0
      >>> curve = epsilon_by_guesses(member + np.linspace(0, 0.9, 400), member, delta=0.0)
      >>> bool((curve.corrected <= curve.pointwise).all())
      True
    """
    scores, member = check_audit(scores, member, delta, confidence, "bonferroni")
    bound, n = one_run_method(method, delta), len(scores)
    candidates = _candidates(n, sides, guesses)
    order = _order(scores, np.random.default_rng(seed))
    picked = [_pick(scores, member, order, k) for k in candidates]
    alpha = 1 - confidence

    def values(significance: float) -> np.ndarray:
        found = (bound.strength(p.correct, p.guesses, n, significance=significance) for p in picked)
        return np.array([bound.epsilon(f) for f in found])

    return GuessCurve(
        bound.name,
        sides,
        delta,
        confidence,
        n,
        np.array([p.guesses for p in picked], np.int64),
        np.array([p.correct for p in picked], np.int64),
        values(alpha),
        values(alpha / len(picked)),
    )


def guess_grid(n: int, sides: Sides = "any") -> tuple[tuple[int, int], ...]:
    """Candidates (k₊, k₋), geometric from 10 to n/2 a side; they depend on n alone, never on the scores.

    >>> guess_grid(40, "both")
    ((20, 20), (19, 19), (17, 17), (16, 16), (15, 15), (14, 14), (13, 13), (12, 12), (11, 11), (10, 10))
    """
    if sides not in _SIDES:
        raise ConfigError(f"sides must be one of {', '.join(_SIDES)}, got {sides!r}.")
    most = max(n // 2, 1)
    counts = np.unique(np.rint(np.geomspace(min(_FEWEST, most), most, _GRID)).astype(int))[::-1]
    return tuple((int(k) * a, int(k) * b) for a, b in _SIDES[sides] for k in counts)


@dataclasses.dataclass(frozen=True)
class _Picked:
    """Counts at one candidate."""

    guesses_in: int
    guesses_out: int
    correct: int
    threshold: float

    @property
    def guesses(self) -> int:
        return self.guesses_in + self.guesses_out


def _one_run(
    method: OneRunMethod,
    scores: np.ndarray,
    member: np.ndarray,
    delta: float,
    confidence: float,
    selection: Selection,
    sides: str,
    guesses: Sequence[tuple[int, int]] | None,
    seed: int,
) -> EpsilonBound:
    scores, member = check_audit(scores, member, delta, confidence, selection)
    rng, n, alpha = np.random.default_rng(seed), len(scores), 1 - confidence
    if selection == "auto":  # by n alone: a choice that saw the scores would have to be paid for
        selection = "split" if n >= _SPLIT_FROM else "bonferroni"
    if selection == "split":
        if n < 2:
            raise DesignError("selection='split' needs at least 2 canaries, got 1.")
        shuffled = rng.permutation(n)
        chosen_on, judged_on = np.sort(shuffled[: n // 2]), np.sort(shuffled[n // 2 :])
        half, rest = len(chosen_on), len(judged_on)
        candidates = _candidates(half, sides, _scaled(guesses, n, half))
        best = _best(method, scores[chosen_on], member[chosen_on], candidates, alpha, rng)
        wanted = (round(best.guesses_in * rest / half), round(best.guesses_out * rest / half))
        scores, member = scores[judged_on], member[judged_on]
        picked = _pick(scores, member, _order(scores, rng), wanted)
        return _record(method, picked, rest, delta, confidence, alpha, selection, len(candidates))
    candidates = _candidates(n, sides, guesses)
    if selection == "fixed" and len(candidates) != 1:
        raise DesignError(
            f"selection='fixed' needs exactly one candidate guesses=[(k_in, k_out)], got {len(candidates)}; "
            "'split' and 'bonferroni' choose among several."
        )
    alpha /= len(candidates)
    picked = _best(method, scores, member, candidates, alpha, rng)
    return _record(method, picked, n, delta, confidence, alpha, selection, len(candidates))


def _scaled(guesses: Sequence[tuple[int, int]] | None, n: int, half: int) -> list[tuple[int, int]] | None:
    """Candidates for all canaries as candidates for half of them."""
    if guesses is None:
        return None
    scaled = [(a * half // n, b * half // n) for a, b in guesses]
    return [c for c in dict.fromkeys(scaled) if sum(c)] or [(1, 0)]


def _candidates(n: int, sides: str, guesses: Sequence[tuple[int, int]] | None) -> tuple[tuple[int, int], ...]:
    """The grid, or the caller's candidates checked."""
    if guesses is None:
        return guess_grid(n, sides)  # type: ignore[arg-type]
    candidates = tuple((int(a), int(b)) for a, b in guesses)
    wrong = [c for c in candidates if min(c) < 0 or not 1 <= sum(c) <= n]
    if wrong or not candidates:
        raise DesignError(
            f"guesses must be pairs (k_in, k_out) of 1 to n={n} guesses in all, got {wrong[:5] or 'none'}."
        )
    return candidates


def _order(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices by descending score, ties in random order."""
    return np.lexsort((rng.random(len(scores)), -scores))


def _pick(scores: np.ndarray, member: np.ndarray, order: np.ndarray, wanted: tuple[int, int]) -> _Picked:
    top, bottom = order[: wanted[0]], order[len(order) - wanted[1] :]
    threshold = float(scores[top[-1]]) if len(top) else math.nan
    return _Picked(len(top), len(bottom), int(member[top].sum() + (~member[bottom]).sum()), threshold)


def _best(
    method: OneRunMethod,
    scores: np.ndarray,
    member: np.ndarray,
    candidates: tuple[tuple[int, int], ...],
    significance: float,
    rng: np.random.Generator,
) -> _Picked:
    """The candidate with the largest bound; where none shows anything, the least likely one by chance."""
    order = _order(scores, rng)
    picked = [_pick(scores, member, order, k) for k in candidates]
    surprise = [(p.correct - p.guesses / 2) / math.sqrt(p.guesses) for p in picked]
    best, found = picked[int(np.argmax(surprise))], 0.0
    for p in picked:
        strength = method.strength(p.correct, p.guesses, len(scores), significance=significance, above=found)
        if strength > found:
            best, found = p, strength
    return best


def _record(
    method: OneRunMethod,
    picked: _Picked,
    n: int,
    delta: float,
    confidence: float,
    significance: float,
    selection: Selection,
    candidates: int,
) -> EpsilonBound:
    strength = method.strength(picked.correct, picked.guesses, n, significance=significance)
    most = method.strength(picked.guesses, picked.guesses, n, significance=significance)
    return EpsilonBound(
        value=method.epsilon(strength),
        delta=delta,
        confidence=confidence,
        method=method.name,
        title=method.title,
        paper=method.paper,
        n=n,
        guesses=picked.guesses,
        correct=picked.correct,
        guesses_in=picked.guesses_in,
        guesses_out=picked.guesses_out,
        threshold=picked.threshold,
        selection=selection,
        candidates=candidates,
        ceiling=method.epsilon(most),
        assumption=method.assumption,
        mu=strength if method.gaussian else None,
    )
