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
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.attacks._arrays import (
    Array,
    as_float64,
    check_references,
    check_signals,
    chunks,
    log_sigmoid,
    namespace,
    to_numpy,
)
from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import Link, Scores

DEFAULT_A = 0.3
_GRID = tuple(i / 10 for i in range(11))
# Tuning compares values of `a` on the same records, so a part of a large pool decides as well as all of it.
_TUNE_TARGETS, _TUNE_RECORDS = 8, 50_000


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
      link: "logit" (p = σ(φ)) or "log" (p = exp(φ), densities of a regressor).

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
    if population_member is None:
        population_member = _all_out(population_reference)
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

    The transform supposes a probability in [0, 1]. For link "log" p is a density, `a` is not used, and p̄ is the
    plain OUT mean.

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
    if population_member is None:
        population_member = _all_out(population_reference)
    _check(target, reference, member, population, population_reference, population_member, gamma, link)
    if not 0 <= a <= 1:
        raise DesignError(f"a must be in [0, 1], got {a}; leave it out to have it tuned on the reference models.")
    check_references(member, need_in=False, need_out=True)
    check_references(population_member, need_in=False, need_out=True)
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
    count = xp.searchsorted(ordered, ratio - bound, side="left" if strict else "right")
    if bound != 0.0:

        def dominated(records: Array, position: Array) -> Array:
            gap = xp.take(ratio, records) - xp.take(ordered, position)
            return gap > bound if strict else gap >= bound

        moving = xp.arange(ratio.shape[0], device=_device(ratio))
        while moving.shape[0]:  # up: the next point is dominated too
            moving = moving[xp.take(count, moving) < n_z]
            moving = moving[dominated(moving, xp.take(count, moving))]
            count[moving] = xp.searchsorted(ordered, xp.take(ordered, xp.take(count, moving)), side="right")
        moving = xp.arange(ratio.shape[0], device=_device(ratio))
        while moving.shape[0]:  # down: the last point counted is not
            moving = moving[xp.take(count, moving) > 0]
            moving = moving[~dominated(moving, xp.take(count, moving) - 1)]
            count[moving] = xp.searchsorted(ordered, xp.take(ordered, xp.take(count, moving) - 1), side="left")
    return xp.astype(count, xp.float64) / n_z


def log_average(reference: Array, member: Array, *, online: bool, a: float = DEFAULT_A, link: Link = "logit") -> Array:
    r"""log p̄(x), the (transformed) average of p over the reference models.

    With p = σ(φ), q = 1 − p = σ(−φ) is averaged, and log p̄ = log1p(−q̄) keeps its digits near p̄ = 1, where records
    are told apart. Where q̄ > 0.9 the same is computed again as a log-sum-exp of log p.

    Args:
      reference: (n, m) signals.
      member: (n, m) bool.
      online: weigh IN and OUT halves equally; records that lack one take all references. Otherwise OUT only.
      a: of the offline transform.

    Returns: (n,) float64.

    Example:
      >>> member = np.array([[True, False]])
      >>> float(np.exp(log_average(np.array([[0.0, 50.0]]), member, online=True)[0]))
      0.75
      >>> float(np.exp(log_average(np.array([[0.0, 50.0]]), ~member, online=False, a=0.0)[0]))
      0.75
    """
    xp = namespace(reference, member)
    n, m = reference.shape
    if n == 0:
        return xp.zeros((0,), dtype=xp.float64, device=_device(reference))
    parts = []
    for s in chunks(n, m, reference):
        inside = member[s]
        n_in = xp.sum(xp.astype(inside, xp.float64), axis=1, keepdims=True)
        n_out = m - n_in
        one = xp.ones_like(n_in)
        if online:
            lacking = (n_in == 0) | (n_out == 0)
            weight = xp.where(
                inside,
                xp.where(lacking, one / m, 0.5 / xp.where(n_in > 0, n_in, one)),
                xp.where(lacking, one / m, 0.5 / xp.where(n_out > 0, n_out, one)),
            )
        else:
            weight = xp.where(inside, xp.zeros_like(n_in), 1 / xp.where(n_out > 0, n_out, one))
        parts.append(_log_average_chunk(as_float64(reference[s]), weight, None if online else a, link))
    return xp.concat(parts)


def tune_a(reference: Array, member: Array, *, link: Link = "logit", grid: Sequence[float] = _GRID) -> float | None:
    """The `a` of `rmia_offline` that attacks reference models best; the target is never looked at.

    References in turn (at most 8) stand in as targets: their membership is known, the others are their references.
    A reference that trained on the exact complement is left out of the others, because the real target has none.
    The mean AUC decides; the smallest `a` wins ties. Ranked by (score, ratio) the AUC of RMIA does not depend on
    the population or on γ, so neither is needed here. Pools above 50,000 records are tuned on every k-th.

    Args:
      reference: (n, m) signals of the reference models.
      member: (n, m) bool.
      link: "logit" only; densities have no `a`.
      grid: values to try, in [0, 1].

    Returns: a value of `grid`, or None if no reference can stand in (fewer than two complementary pairs).

    Raises: DesignError: shapes, values that are not finite, or a link without probabilities.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> half = rng.random((200, 4)) < 0.5
      >>> member = np.concatenate([half, ~half], axis=1)
      >>> 0 <= tune_a(rng.normal(size=(200, 8)) + 2 * member, member) <= 1
      True
    """
    if link != "logit":
        raise DesignError(f'a can only be tuned for probabilities (link "logit"), got link "{link}".')
    if reference.ndim != 2 or tuple(member.shape) != tuple(reference.shape):
        raise DesignError(
            f"reference and member must have one shape (n, m), got {tuple(reference.shape)} and {tuple(member.shape)}."
        )
    step = max(reference.shape[0] // _TUNE_RECORDS, 1)
    signal, inside = to_numpy(reference[::step]), to_numpy(member[::step]).astype(bool)
    check_signals(reference=signal, member=inside, target=signal[:, 0] if signal.shape[1] else None)
    m = signal.shape[1]
    picked = np.unique(np.linspace(0, max(m - 1, 0), min(m, _TUNE_TARGETS)).round().astype(int))
    aucs = []
    for j in picked:
        others = (inside != ~inside[:, [j]]).any(axis=0)
        others[j] = False
        out = ~inside & others
        usable = out.any(axis=1)
        truth = inside[usable, j]
        if not truth.any() or truth.all():
            continue
        log_target = log_sigmoid(signal[usable, j].astype(np.float64))
        # Offline with a = 1 is the plain OUT mean; the transform for every other `a` follows from it.
        log_out = log_average(signal[usable], ~out[usable], online=False, a=1.0)
        aucs.append([_auc_for(a, log_target, log_out, truth) for a in grid])
    return float(grid[int(np.argmax(np.mean(aucs, axis=0).round(12)))]) if aucs else None


def _auc_for(a: float, log_target: np.ndarray, log_out: np.ndarray, truth: np.ndarray) -> float:
    """AUC of the offline ratio with this `a`."""
    # 1 − p̄ = ½ (1 + a) (1 − p_OUT), without cancellation near p_OUT = 1.
    log_mean = np.log1p(0.5 * (1 + a) * np.expm1(log_out)) if a < 1 else log_out
    ratio = log_target - log_mean
    return mann_whitney(ratio[truth], ratio[~truth])


def _log_average_chunk(signal: Array, weight: Array, a: float | None, link: Link) -> Array:
    """log Σ w·p of one chunk (rows of w add up to 1), with the offline transform unless a is None."""
    xp = namespace(signal)
    if link == "log":
        return _log_sum_exp(signal, weight)
    share = 1.0 if a is None else 0.5 * (1 + a)
    with np.errstate(over="ignore"):  # exp(φ) = inf gives q = 0, as it should
        q = 1 / (1 + xp.exp(signal))
    q = share * xp.sum(q * weight, axis=1)
    small = q > 0.9
    result = xp.log1p(-xp.where(small, xp.zeros_like(q), q))
    if bool(xp.any(small)):
        precise = _log_sum_exp(log_sigmoid(signal[small]), weight[small])
        if a is not None:
            precise = precise + math.log(share)
            if a < 1:
                precise = xp.logaddexp(precise, xp.full_like(precise, math.log(0.5 * (1 - a))))
        result[small] = precise
    return result


def _log_sum_exp(log_p: Array, weight: Array) -> Array:
    """(n,) log Σ_j w_j exp(log_p_j) over the positive weights."""
    xp = namespace(log_p)
    top = xp.max(xp.where(weight > 0, log_p, xp.full_like(log_p, -math.inf)), axis=1, keepdims=True)
    # Zero weights may sit on larger values: cap them, so that 0 · exp(...) stays 0.
    inner = xp.where(weight > 0, log_p - top, xp.zeros_like(log_p))
    return top[:, 0] + xp.log(xp.sum(weight * xp.exp(inner), axis=1))


def _log_p(signal: Array, link: Link) -> Array:
    """log p of the audited model."""
    return log_sigmoid(as_float64(signal)) if link == "logit" else as_float64(signal)


def _all_out(population_reference: Array) -> Array:
    """(z, m) False: a population that no reference trained on."""
    xp = namespace(population_reference)
    return xp.zeros(tuple(population_reference.shape), dtype=xp.bool, device=_device(population_reference))


def _device(x: Array) -> object:
    """Where an array lives."""
    import array_api_compat

    return array_api_compat.device(x)


def _check(
    target: Array,
    reference: Array,
    member: Array,
    population: Array,
    population_reference: Array,
    population_member: Array,
    gamma: float,
    link: Link,
) -> None:
    """Raises `DesignError` for anything that `rmia` cannot work with."""
    if link not in ("logit", "log"):
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
