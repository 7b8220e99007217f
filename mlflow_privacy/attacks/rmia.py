r"""Robust membership inference (RMIA): does x profit more from this model than population points do?

Zarifzadeh, Liu and Shokri (2024), *Low-Cost High-Power Membership Inference Attacks*,
https://arxiv.org/abs/2312.03262.

.. math::
    s(x) = \Pr_{z}\left[\frac{r(x)}{r(z)} \ge \gamma\right], \qquad
    r(x) = \frac{p(x \mid \theta)}{\bar p(x)}

The comparison with the population is an order statistic: sort r(z) once, search r(x) in it. O((n + z) log z) time
and O(n + z) memory, the same scores as the n × z comparisons. For a fixed γ the score is a non-decreasing step
function of r(x), so the population only quantises it; `Scores.tie` carries log r(x), and ranking by (score, log r)
keeps low false-positive rates alive where many scores are 1.

Everything is done in log space and float64: with p = σ(φ), log p and log p̄ keep their digits where p itself rounds
to 0 or 1.
"""

from __future__ import annotations

import math

import array_api_compat
import numpy as np

from mlflow_privacy.attacks._arrays import (
    Array,
    as_float64,
    check_references,
    check_signals,
    log_odds,
    log_sigmoid,
    namespace,
)
from mlflow_privacy.attacks.averages import DEFAULT_A, log_average
from mlflow_privacy.attacks.tuning import tune_a
from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import positions
from mlflow_privacy.types import Link, Scores

__all__ = ["DEFAULT_A", "dominance", "log_average", "rmia", "rmia_offline", "tune_a"]


def rmia(
    target: Array,
    reference: Array,
    member: Array,
    population: Array,
    population_reference: Array,
    population_member: Array | None = None,
    *,
    gamma: float = 1.0,
    strict: bool = False,
    link: Link = "logit",
) -> Scores:
    r"""RMIA online: p̄ averages models that trained on x and models that did not.

    .. math:: \bar p(x) = \tfrac12 \left(\operatorname{mean}_{IN} p(x) + \operatorname{mean}_{OUT} p(x)\right)

    A population point without IN (or without OUT) references takes the mean over all references.

    Threat model: black box with confidences; reference models of the same recipe, at least one IN and one OUT per
    record (several are averaged); a population sample. Zarifzadeh et al. (2024), https://arxiv.org/abs/2312.03262.

    Args:
      target: (n,) signals of the audited model.
      reference: (n, m) signals of the reference models.
      member: (n, m) bool, whether reference j trained on record i.
      population: (z,) signals of the audited model on the population.
      population_reference: (z, m).
      population_member: (z, m) bool; None: no reference trained on the population.
      gamma: how many times r(x) must exceed r(z), > 0. 1 is the paper's default.
      strict: count r(x)/r(z) > γ instead of the paper's ≥ γ (Privacy Meter's code). Ties with population points
        only move whole plateaus of the score; the ranking by (score, ratio) is the same.
      link: "logit" (p = σ(φ)), "log" (p = exp(φ), densities of a regressor) or "log_p" (the same, at most 1).

    Returns: value (n,) in [0, 1] and tie (n,) = log r(x); arrays of the kind that came in.

    Raises: DesignError: shapes, values that are not finite, a record without IN or OUT, γ ≤ 0.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = np.array([[True, False], [False, True]])
      >>> scores = rmia(np.array([3.0, 0.0]), np.array([[2.0, 0.0], [0.0, 2.0]]), member,
      ...               rng.normal(size=100), rng.normal(size=(100, 2)))
      >>> bool(scores.value[0] > scores.value[1])
      True
    """
    _check(target, reference, member, population, population_reference, population_member, gamma, link)
    check_references(member, need_in=True, need_out=True)
    x = _log_p(target, link) - log_average(reference, member, online=True, link=link)
    z = _log_p(population, link) - log_average(population_reference, population_member, online=True, link=link)
    return Scores(dominance(x, z, gamma=gamma, strict=strict), x)


def rmia_offline(
    target: Array,
    reference: Array,
    member: Array,
    population: Array,
    population_reference: Array,
    population_member: Array | None = None,
    *,
    a: float = DEFAULT_A,
    gamma: float = 1.0,
    strict: bool = False,
    link: Link = "logit",
) -> Scores:
    r"""RMIA offline: only models that did not train on x; p under IN models is taken as a·p_OUT + 1 − a.

    .. math:: \bar p(x) = \tfrac12 \left((1 + a) \operatorname{mean}_{OUT} p(x) + 1 - a\right)

    The transform supposes a probability in [0, 1], such as a language model's mean per token (link "log_p"). For link
    "log" p is a density, `a` is not used, and p̄ is the plain OUT mean.

    Threat model: black box with confidences; reference models trained without the record, at least one OUT per
    record; a population sample. Zarifzadeh et al. (2024), https://arxiv.org/abs/2312.03262, section on the offline
    attack.

    Args:
      a: in [0, 1]; `tune_a` chooses it on reference models. Others as in `rmia`.

    Returns: value (n,) in [0, 1] and tie (n,) = log r(x).

    Raises: DesignError: as `rmia`, and `a` outside [0, 1]; IN references are not needed.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> scores = rmia_offline(np.array([3.0, 0.0]), np.zeros((2, 1)), np.zeros((2, 1), bool),
      ...                       rng.normal(size=100), rng.normal(size=(100, 1)), a=0.3)
      >>> bool(scores.value[0] > scores.value[1])
      True
    """
    _check(target, reference, member, population, population_reference, population_member, gamma, link)
    if not 0 <= a <= 1:
        raise DesignError(f"a must be in [0, 1], got {a}; leave it out to have it tuned on the reference models.")
    check_references(member, need_in=False, need_out=True)
    if population_member is not None:
        check_references(population_member, need_in=False, need_out=True)
    if link == "log_p":
        target, reference, population, population_reference = map(
            log_odds, (target, reference, population, population_reference)
        )
        link = "logit"
    x = _log_p(target, link) - log_average(reference, member, online=False, a=a, link=link)
    z = _log_p(population, link) - log_average(population_reference, population_member, online=False, a=a, link=link)
    return Scores(dominance(x, z, gamma=gamma, strict=strict), x)


def dominance(ratio: Array, population_ratio: Array, *, gamma: float = 1.0, strict: bool = False) -> Array:
    """Share of population points that x dominates: log r(x) − log r(z) ≥ log γ (or > log γ).

    Rounded subtraction is monotone, so the points that satisfy the predicate are a prefix of the sorted population.
    For γ = 1 it holds exactly when log r(z) ≤ log r(x). For other γ the searched position may be off by a rounding
    and is moved until the predicate itself agrees, a block of equal values at a time.

    Args:
      ratio: (n,) log r(x).
      population_ratio: (z,) log r(z).

    Returns: (n,) in [0, 1].

    Example:
      >>> dominance(np.log([1.0, 2.0]), np.log([1.0, 2.0, 4.0])).tolist()
      [0.3333333333333333, 0.6666666666666666]
      >>> dominance(np.log([1.0, 2.0]), np.log([1.0, 2.0, 4.0]), strict=True).tolist()
      [0.0, 0.3333333333333333]
    """
    xp = namespace(ratio, population_ratio)
    ordered = xp.sort(population_ratio)
    n_z = ordered.shape[0]
    bound = math.log(gamma)
    search = positions if isinstance(ratio, np.ndarray) else xp.searchsorted
    count = search(ordered, ratio - bound, side="left" if strict else "right")
    if bound != 0.0:

        def dominated(records: Array, position: Array) -> Array:
            gap = xp.take(ratio, records) - xp.take(ordered, position)
            return gap > bound if strict else gap >= bound

        moving = xp.arange(ratio.shape[0], device=array_api_compat.device(ratio))
        while moving.shape[0]:  # up: the next point is dominated too
            moving = moving[xp.take(count, moving) < n_z]
            moving = moving[dominated(moving, xp.take(count, moving))]
            count[moving] = xp.searchsorted(ordered, xp.take(ordered, xp.take(count, moving)), side="right")
        moving = xp.arange(ratio.shape[0], device=array_api_compat.device(ratio))
        while moving.shape[0]:  # down: the last point counted is not
            moving = moving[xp.take(count, moving) > 0]
            moving = moving[~dominated(moving, xp.take(count, moving) - 1)]
            count[moving] = xp.searchsorted(ordered, xp.take(ordered, xp.take(count, moving) - 1), side="left")
    return xp.astype(count, xp.float64) / n_z


def _log_p(signal: Array, link: Link) -> Array:
    """log p of the audited model."""
    return log_sigmoid(as_float64(signal)) if link == "logit" else as_float64(signal)


def _check(
    target: Array,
    reference: Array,
    member: Array,
    population: Array,
    population_reference: Array,
    population_member: Array | None,
    gamma: float,
    link: Link,
) -> None:
    """Raises `DesignError` for anything that `rmia` cannot work with."""
    if link not in ("logit", "log", "log_p"):
        raise DesignError(f'RMIA needs probabilities or densities (link "logit" or "log"), got link "{link}".')
    if not (gamma > 0 and math.isfinite(gamma)):
        raise DesignError(f"gamma must be > 0, got {gamma}; the paper uses 1.")
    check_signals(
        target=target,
        reference=reference,
        member=member,
        population=population,
        population_reference=population_reference,
        population_member=population_member,
    )
    if population.shape[0] == 0:
        raise DesignError("RMIA needs population records, got none. Pass population=..., or more non-members.")
