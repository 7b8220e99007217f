"""ε from one training run: canaries in by fair coins, guesses with abstention, a choice that is paid for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.games.dp.bounds import Canaries, EpsilonBound, GuessCurve, Selection
from mlflow_privacy.games.dp.guesses import Sides, check_guesses, few_guesses, guess_grid, scaled_guesses
from mlflow_privacy.games.dp.methods import OneRunMethod, Theorem, fdp, one_run_method
from mlflow_privacy.stats import check_confidence

Curve = Literal["gaussian", "approximate"]
# From where on it costs less to halve the canaries than to divide the level (measured, see docs/games.md): under a
# Gaussian curve a number of canaries; else how many canaries δ is expected to fail on, because to divide the level
# multiplies what δ costs. Few canaries fail it sooner.
_SPLIT_FROM, _SPLIT_FROM_FAILURES, _MANY = 20_000, 1.0, 200


def one_run(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    confidence: float = 0.95,
    selection: Selection = "auto",
    sides: Sides = "any",
    guesses: Sequence[tuple[int, int]] | None = None,
    theorem: Theorem = "auto",
    seed: int = 0,
) -> EpsilonBound:
    r"""Lower bound on ε from one model and n canaries, each trained on by an independent fair coin.

    The attacker says "in" of the k₊ highest scores, "out" of the k₋ lowest, and abstains from the others. If v of
    r = k₊ + k₋ are right, ε is at least the largest that (with `metrics.epsilon.one_run_p_value`) satisfies

    .. math:: \Pr[W \ge v] + 2 n \delta \max_{i \ge 1} \tfrac1i \Pr[v - i \le W < v] \le 1 - confidence,
        \quad W \sim Bin\Big(r, \frac{e^\varepsilon}{1 + e^\varepsilon}\Big)

    Steinke, Nasr and Jagielski (2023), "Privacy Auditing with One (1) Training Run",
    https://arxiv.org/abs/2305.08846. Supposes nothing but (ε, δ)-DP under adding or removing a record.

    The loss of 2nδ is too large from nδ near 0.03 on: with very many canaries the accuracy has to exceed
    q = e^ε/(1 + e^ε) by 2nδ/(αr), while the recursion of Mahloujifar, Melis and Chaudhuri (2024) under the curve of
    (ε, δ)-DP asks for (1 − q) nδ/(αr). Both are valid for all n and δ and suppose the same, so "auto" takes theirs
    where n·δ ≥ 0.03; it looks at n and δ alone, and costs nothing.

    The number of guesses is chosen among few (`few_guesses`), and the choice is paid for. "split": it is chosen on one
    random half of the canaries and judged on the other. "bonferroni": the level is divided by the number of
    candidates, which are fixed before the scores are seen. "auto", by n and δ alone: split where n·δ ≥ 1, or from
    n / 200 on with fewer than 200 canaries (a divided level multiplies the loss to δ), else Bonferroni. "fixed": one
    candidate given by the caller. Tied scores are ordered at random, so that the order of the canaries cannot tell who
    is in.

    Args:
      scores: (n,) higher = more likely in; made without looking at `member`.
      member: (n,) bool, the coins.
      delta: δ of the claim, in [0, 1).
      confidence: one-sided.
      sides: guess "in" only, "out" only, "both" alike, or try "any" of "in" and "both".
      guesses: candidates (k₊, k₋); by default `few_guesses`.
      theorem: "steinke", "mahloujifar", or the one that is tighter at this n and δ.
      seed: of the halves and the ties.

    Raises:
      DesignError: shapes, NaN, values out of range; "fixed" without exactly one candidate.
      ConfigError: there is no such theorem.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random(2000) < 0.5
      >>> told = member ^ (rng.random(2000) < 0.25)  # randomised response, ε = log 3 = 1.0986
      >>> print(one_run(told, member, delta=0.0))
      ε ≥ 0.9567 at δ = 0 (95%)
    """
    method = one_run_method("one_run", delta, n=len(np.atleast_1d(scores)), theorem=theorem)
    return _one_run(method, Canaries(scores, member, delta, confidence, selection, seed), sides, guesses)


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
    "approximate" supposes (ε, δ)-DP only; it is what `one_run` takes where n·δ ≥ 0.03. Under "gaussian", "auto" splits
    from 20,000 canaries on.

    Args: as `one_run`; `curve` is the family of trade-off curves.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random(20_000) < 0.5
      >>> print(one_run_fdp(member + rng.normal(size=20_000), member, delta=1e-5))  # its ε is 4.377
      ε ≥ 3.114 at δ = 1e-05 (95%)
    """
    return _one_run(fdp(curve, delta), Canaries(scores, member, delta, confidence, selection, seed), sides, guesses)


def one_run_of_counts(
    correct: int,
    guesses: int,
    n: int,
    *,
    delta: float,
    confidence: float = 0.95,
    method: str = "one_run",
    theorem: Theorem = "steinke",
) -> EpsilonBound:
    """The bound of one run from its counts alone, for a number of guesses fixed beforehand.

    Args:
      n: all canaries, the abstentions included.
      method: "one_run" or "one_run_fdp" (Gaussian).
      theorem: of "one_run"; as published by default, see `one_run`.

    Example:
      >>> round(one_run_of_counts(80, 100, 200, delta=1e-5).value, 3)
      0.958
    """
    check_confidence(confidence)
    bound = one_run_method(method, delta, n=n, theorem=theorem)
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
    canaries = Canaries(scores, member, delta, confidence, "bonferroni", seed)
    n = len(canaries)
    bound = one_run_method(method, delta, n=n)
    candidates = check_guesses(n, guess_grid(n, sides), guesses)
    order = _order(canaries.scores, _tie_breaker(seed))
    picked = [_pick(canaries, order, k) for k in candidates]
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
    method: OneRunMethod, canaries: Canaries, sides: str, guesses: Sequence[tuple[int, int]] | None
) -> EpsilonBound:
    rng, n, delta, alpha = _tie_breaker(canaries.seed), len(canaries), canaries.delta, canaries.significance
    selection = canaries.selection
    if selection == "auto":  # by n and δ alone: a choice that saw the scores would have to be paid for
        failing = n * delta >= _SPLIT_FROM_FAILURES * min(1.0, n / _MANY)
        selection = "split" if (n >= _SPLIT_FROM if method.gaussian else failing) else "bonferroni"
    if selection == "split":
        if n < 2:
            raise DesignError("selection='split' needs at least 2 canaries, got 1.")
        shuffled = rng.permutation(n)
        chosen_on, judged_on = np.sort(shuffled[: n // 2]), np.sort(shuffled[n // 2 :])
        half, rest = len(chosen_on), len(judged_on)
        candidates = check_guesses(half, few_guesses(half, sides), scaled_guesses(guesses, n, half))  # type: ignore[arg-type]
        best = _best(method, canaries.take(chosen_on), candidates, alpha, rng)
        wanted = (round(best.guesses_in * rest / half), round(best.guesses_out * rest / half))
        judged = canaries.take(judged_on)
        picked = _pick(judged, _order(judged.scores, rng), wanted)
        return _record(method, picked, rest, delta, canaries.confidence, alpha, selection, len(candidates))
    candidates = check_guesses(n, few_guesses(n, sides), guesses)  # type: ignore[arg-type]
    if selection == "fixed" and len(candidates) != 1:
        raise DesignError(
            f"selection='fixed' needs exactly one candidate guesses=[(k_in, k_out)], got {len(candidates)}; "
            "'split' and 'bonferroni' choose among several."
        )
    alpha /= len(candidates)
    picked = _best(method, canaries, candidates, alpha, rng)
    return _record(method, picked, n, delta, canaries.confidence, alpha, selection, len(candidates))


def _tie_breaker(seed: int) -> np.random.Generator:
    """A stream of its own: from default_rng(seed) alone somebody's coins may have come, and ties would betray them."""
    return np.random.default_rng(np.random.SeedSequence([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, 0x71E5]))


def _order(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices by descending score, ties in random order."""
    return np.lexsort((rng.random(len(scores)), -scores))


def _pick(canaries: Canaries, order: np.ndarray, wanted: tuple[int, int]) -> _Picked:
    scores, member = canaries.scores, canaries.member
    top, bottom = order[: wanted[0]], order[len(order) - wanted[1] :]
    threshold = float(scores[top[-1]]) if len(top) else math.nan
    return _Picked(len(top), len(bottom), int(member[top].sum() + (~member[bottom]).sum()), threshold)


def _best(
    method: OneRunMethod,
    canaries: Canaries,
    candidates: tuple[tuple[int, int], ...],
    significance: float,
    rng: np.random.Generator,
) -> _Picked:
    """The candidate with the largest bound; where none shows anything, the least likely one by chance."""
    order = _order(canaries.scores, rng)
    picked = [_pick(canaries, order, k) for k in candidates]
    surprise = [(p.correct - p.guesses / 2) / math.sqrt(p.guesses) for p in picked]
    best, found = picked[int(np.argmax(surprise))], 0.0
    for p in picked:
        strength = method.strength(p.correct, p.guesses, len(canaries), significance=significance, above=found)
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
