"""The game "dp": from one attack's scores of the canaries to a lower bound on ε, and what it says about a claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.games.dp.bounds import EpsilonBound, contradicts
from mlflow_privacy.games.dp.options import DpOptions
from mlflow_privacy.games.dp.single_run import epsilon_by_guesses, one_run, one_run_fdp
from mlflow_privacy.games.game import Game, GameEvidence
from mlflow_privacy.types import AuditTarget, Estimate, GameResult, Scores

TITLE = "Lower bound on ε (differential privacy)"
DEFAULT_DELTA = 1e-5
_BOUNDS: dict[str, Callable[..., EpsilonBound]] = {"one_run": one_run, "one_run_fdp": one_run_fdp}
_KEYS = {"one_run": "epsilon", "one_run_fdp": "epsilon_gaussian"}
_UNFAIR = 4.0  # standard deviations; a fair coin lands there once in 16,000 audits


def play_dp(
    scores: Scores,
    member: np.ndarray,
    options: DpOptions | None = None,
    *,
    claims: Mapping[str, Any] | None = None,
    confidence: float = 0.95,
    attack: str = "",
    coins: str = "",
    unscored: int = 0,
    seed: int = 0,
) -> GameResult:
    """Bounds ε from below by one trained model and its canaries.

    Args:
      scores: (n,) of the canaries; only their order counts, ties by the attack's own tie-breaker. (Where the left-out
        canaries stand in for a population, RMIA's values depend on who is in, but not their order.)
      member: (n,) bool, the coins.
      claims: {"epsilon", "delta", "source"} of the training; `options.claimed_epsilon` wins.
      attack: its title, for the sentence.
      coins: what is supposed of the coins, "" if they are known to be fair.
      unscored: canaries that were left out and have no score, because they equal a record that was trained on. Their
        twins among the others are in, so without them the coins would not be fair: they count as wrongly named first.

    Raises: DesignError: far from half of the canaries are in, so that no fair coin decided; or see `one_run`.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random(1000) < 0.5
      >>> result = play_dp(Scores(3 * member + rng.normal(size=1000)), member)
      >>> result.summary
      'ε ≥ 4.57 at δ = 1e-05'
    """
    options, claims = options or DpOptions(), dict(claims or {})
    member = np.append(np.asarray(member, bool), np.zeros(unscored, bool))
    check_coins(member)
    claimed, source = options.claimed_epsilon, "game_options"
    claimed_delta = None
    if claimed is None and claims.get("epsilon") is not None:
        claimed, source = float(claims["epsilon"]), str(claims.get("source", "the training run"))
        claimed_delta = claims.get("delta")
    delta = options.delta if options.delta is not None else claimed_delta if claimed_delta else DEFAULT_DELTA
    confidence = confidence if options.confidence is None else options.confidence
    rank = np.append(scores.rank(), np.full(unscored, np.inf))
    shared: dict[str, Any] = {"delta": float(delta), "confidence": confidence, "seed": seed}
    bounds = {
        name: _BOUNDS[name](rank, member, selection=options.selection, sides=options.sides, **shared)
        for name in dict.fromkeys(options.methods)
    }
    first = next(iter(bounds.values()))
    rows = [(f"ε at δ = {delta:g} is at least ({bound.title})", _estimate(bound)) for bound in bounds.values()]
    metrics = {_KEYS[name]: _estimate(bound) for name, bound in bounds.items()}
    n = len(member)
    sentences = [_finding(first, n, attack)]
    if claimed is not None:
        rows.append((f"ε that {source} claims", Estimate(claimed, claimed, claimed, n, 1.0)))
        metrics["claimed_epsilon"] = _exact(claimed, n)
        if claimed_delta is not None and not math.isclose(claimed_delta, delta):
            sentences.append(
                f"The claim ε = {claimed:.4g} is made at δ = {claimed_delta:g}, the bound at δ = {delta:g}: "
                "they cannot be compared."
            )
        elif math.isfinite(claimed):
            verdict = contradicts(claimed, first)
            sentences.append(verdict.sentence)
            metrics["contradicted"] = _exact(float(verdict.contradicted), n)
    suppositions = [coins, *(f"{b.title}: {b.assumption}" for b in bounds.values() if b.assumption)]
    return GameResult(
        name="dp",
        title=TITLE,
        sentence=" ".join(sentences),
        summary=f"ε ≥ {first.value:.3g} at δ = {delta:g}",
        rows=tuple(rows),
        metrics=metrics,
        options={**options.model_dump(), "delta": delta, "confidence": confidence, "claimed_epsilon": claimed},
        assumption=" ".join(text if text.endswith(".") else f"{text}." for text in suppositions if text),
        figure=_figure(rank, member, first, claimed, shared),
    )


def check_coins(member: np.ndarray) -> None:
    """Raises `DesignError` if a fair coin for each canary would hardly have left so many in or out.

    >>> check_coins(np.arange(100) < 90)
    Traceback (most recent call last):
    mlflow_privacy.errors.DesignError: 90 of 100 canaries were trained on; a fair coin for each would have left ...
    """
    n, n_in = len(member), int(np.sum(member))
    if abs(n_in - n / 2) > _UNFAIR * math.sqrt(n) / 2:
        raise DesignError(
            f"{n_in} of {n} canaries were trained on; a fair coin for each would have left about {n / 2:.0f} in. The "
            "bounds of one run rest on such coins: draw them with games.canary_coins, train on the canaries that are "
            "in, and log them with log_lineage(train=..., holdout=..., canaries=...)."
        )


def _finding(bound: EpsilonBound, n: int, attack: str) -> str:
    by = f"{n:,} canaries{f', scored by {attack}' if attack else ''}"
    if bound.value <= 0:
        return f"No leak was shown by {by}: no ε is ruled out at δ = {bound.delta:g}, which does not prove privacy."
    return (
        f"With {100 * bound.confidence:g} % confidence this training is not ({bound.value:.3g}, {bound.delta:g})-"
        f"differentially private: {bound.correct:,} of {bound.guesses:,} guesses were right, of {by}. No ε below "
        f"{bound.value:.3g} can be claimed for it."
    )


def _estimate(bound: EpsilonBound) -> Estimate:
    return Estimate(bound.value, bound.low, bound.high, bound.n, bound.confidence)


def _exact(value: float, n: int) -> Estimate:
    """A claim or a yes: a number that has no interval."""
    return Estimate(value, math.nan, math.nan, n, 1.0)


def _figure(
    rank: np.ndarray, member: np.ndarray, bound: EpsilonBound, claimed: float | None, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """ε against the number of guesses, on all canaries."""
    curve = epsilon_by_guesses(rank, member, method=bound.method, **shared)
    order = np.argsort(curve.guesses)
    lines = {f"the bound, ε ≥ {bound.value:.3g}": bound.value}
    if claimed is not None and math.isfinite(claimed):
        lines[f"claimed ε = {claimed:.3g}"] = claimed
    return {
        "x": curve.guesses[order].tolist(),
        "y": curve.corrected[order].tolist(),
        "x_label": "guesses (the others abstain)",
        "y_label": f"lower bound on ε at δ = {bound.delta:g}",
        "label": "holds for all numbers of guesses together",
        "series": {"each number of guesses as if it alone had been tried": curve.pointwise[order].tolist()},
        "lines": lines,
    }


class DpGame(Game):
    """A lower bound on ε of the training, from canaries that fair coins decided about."""

    Options = DpOptions
    name = "dp"

    def check(self, target: AuditTarget, n_references: int, attacks: Sequence[str] | None) -> None:
        wanted = self.options.attack
        if attacks is not None:
            if wanted is not None and wanted not in attacks:
                raise ConfigError(
                    f'game_options attack={wanted!r} of the game "dp" is not among the attacks; running are '
                    f"{', '.join(attacks)}."
                )
            return
        if target.always is None and self.options.canaries != "all":
            raise ConfigError(
                'The game "dp" needs canaries: records of which an independent fair coin decided whether the model '
                "trains on them. Draw the coins with mlflow_privacy.games.canary_coins, train on the canaries that are "
                "in (and on everything else), and log them: log_lineage(train=..., holdout=LEFT_OUT_CANARIES, "
                "canaries=ROWS_OF_TRAIN). If every record of the pool was decided about by such a coin, pass "
                'game_options={"canaries": "all"}; after an ordinary train/test split the bound would mean nothing.'
            )
        if target.copies is not None and target.copies.basis == "balanced":
            raise DesignError(
                "Nearly all records occur more than once, and which of them can be compared hangs on the coins: a "
                "bound would not hold. Let each canary be another record."
            )
        check_coins(np.asarray(target.membership, bool)[_decided(target)])

    def answer(self, evidence: GameEvidence) -> GameResult:
        target, member = evidence.target, evidence.member
        attack = next(one for one in evidence.attacks if one.name == (self.options.attack or evidence.headline))
        coins = "" if target.always is not None else "An independent fair coin decided about every audited record"
        aside = int((_free(target) & ~_decided(target)).sum())
        if aside:
            coins = (f"{coins}. " if coins else "") + (
                f"{aside:,} canaries that equal another record are not scored: nobody can tell such records apart, and "
                "no coin had a say in which those are"
            )
        return play_dp(
            attack.scores,
            member,
            self.options,
            claims=target.claims,
            confidence=self.setting.confidence,
            attack=attack.title,
            coins=coins,
            seed=self.setting.seed,
        )


def _free(target: AuditTarget) -> np.ndarray:
    """(n,) bool: the records that a coin decided about."""
    return np.ones(len(target.pool), bool) if target.always is None else ~target.always


def _decided(target: AuditTarget) -> np.ndarray:
    """(n,) bool: of these the ones that equal no other record, so that a coin alone decided what the model saw."""
    return _free(target) if target.scored is None else _free(target) & target.scored
