r"""BaVarIA: LiRA whose variances, too few to be known of each record, are shrunk towards those of all records.

Brännvall (2026), *Exponential-Family Membership Inference: From LiRA and RMIA to BaVarIA*,
https://arxiv.org/abs/2603.11799. On each side (IN, OUT) a record's signals are Gaussian over models, with mean and
variance of its own, which have a normal-inverse-gamma prior over records:

.. math:: \phi_{ij} \sim \mathcal N(\mu_i, \sigma_i^2), \quad \mu_i \sim \mathcal N(\mu_0, \sigma_i^2 / \kappa_0),
    \quad \sigma_i^2 \sim \mathrm{InvGamma}(\nu_0 / 2, \nu_0 s_0^2 / 2)

Its parameters come from the references' signals alone: ν₀ and s₀² from the moments of log s² over records (Smyth 2004,
https://doi.org/10.2202/1544-6115.1027), μ₀ and κ₀ from the spread of the records' means.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
from scipy import special

from mlflow_privacy.attacks._arrays import (
    Array,
    as_float64,
    check_references,
    check_signals,
    namespace,
    to_numpy,
)
from mlflow_privacy.attacks.lira import moments
from mlflow_privacy.errors import DesignError
from mlflow_privacy.types import Scores

Variant = Literal["t", "n"]
_SURE = 1e6  # degrees of freedom of a prior under which all variances are one
_FLOOR = 1e-6  # of a record's variance, as a share of the median one: references that all agree


def bavaria(target: Array, reference: Array, member: Array, *, variant: Variant = "t") -> Scores:
    r"""BaVarIA online: log ratio of the posterior predictive of the IN references to that of the OUT references.

    .. math:: \Lambda(x) = \log t_{\nu_{in}}(\phi; m_{in}, \tau_{in}) - \log t_{\nu_{out}}(\phi; m_{out}, \tau_{out}),
        \quad \nu = \nu_0 + k, \quad \tau^2 = s^2 (1 + 1 / (\kappa_0 + k))

    with k references on a side and the posterior's mean m and variance s² of the record. With few references the
    variance is nearly that of all records, with many the record's own: what LiRA switches at 64 happens by degrees.

    Threat model: black box with confidences; reference models of the same recipe, IN and OUT for each record. Brännvall
    (2026), https://arxiv.org/abs/2603.11799.

    Args:
      target: (n,) signals of the audited model.
      reference: (n, m) signals of the reference models.
      member: (n, m) bool, whether reference j trained on record i.
      variant: "t", Student's t; "n", a Gaussian with the posterior's mean and variance, which trusts them.

    Returns: value (n,) = Λ; an array of the kind that came in.

    Raises: DesignError: shapes, values that are not finite, a record without IN or OUT, another variant.

    Example:
      >>> member = np.array([[True, True, False, False], [False, False, True, True]])
      >>> reference = np.array([[3.0, 5.0, 0.0, 2.0], [0.0, 1.0, 4.0, 5.0]])
      >>> value = bavaria(np.array([4.0, 0.5]), reference, member).value
      >>> bool(value[0] > 0 > value[1])
      True
    """
    check_signals(target=target, reference=reference, member=member)
    check_references(member, need_in=True, need_out=True)
    inside, outside = (posterior(*moments(reference, member, side), variant) for side in (True, False))
    phi = as_float64(target)
    return Scores(log_density(phi, inside) - log_density(phi, outside))


def bavaria_offline(target: Array, reference: Array, member: Array, *, variant: Variant = "t") -> Scores:
    r"""BaVarIA offline: how far the target's signal lies above the predictive of the OUT references alone.

    The value is the normal deviate with the same tail as the predictive's at φ, by Wallace's approximation, which
    neither rounds nor overflows far out:

    .. math:: z = \pm \frac{8 \nu + 1}{8 \nu + 3} \sqrt{\nu \log(1 + t^2 / \nu)}, \quad t = (\phi - m) / \tau

    Threat model: black box with confidences; reference models trained without the record. Brännvall (2026),
    https://arxiv.org/abs/2603.11799; Wallace (1959), https://doi.org/10.1214/aoms/1177706072.

    Args: as `bavaria`; IN references are not needed.

    Returns: value (n,) = z.

    Raises: DesignError: as `bavaria`, for OUT references only.

    Example:
      >>> member = np.zeros((2, 3), bool)
      >>> reference = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]])
      >>> value = bavaria_offline(np.array([3.0, 3.0]), reference, member).value
      >>> bool(value[0] > value[1] > 0)
      True
    """
    check_signals(target=target, reference=reference, member=member)
    check_references(member, need_in=False, need_out=True)
    outside = posterior(*moments(reference, member, False), variant)
    xp, t = namespace(target), (as_float64(target) - outside.mean) / outside.scale
    if outside.freedom is None:
        return Scores(t)
    v = outside.freedom
    return Scores(xp.sign(t) * (8 * v + 1) / (8 * v + 3) * xp.sqrt(v * xp.log1p(t**2 / v)))


@dataclasses.dataclass(frozen=True)
class Prior:
    """Of the records' means and variances on one side.

    Attributes:
      mean: μ₀. strength: κ₀, how many references the prior of the mean is worth.
      variance: s₀². freedom: ν₀, how many references the prior of the variance is worth.
    """

    mean: float
    strength: float
    variance: float
    freedom: float


def fit_prior(mean: np.ndarray, square: np.ndarray, count: np.ndarray) -> Prior:
    """The prior of a side by moments, from each record's mean, sum of squared deviations, and number of signals.

    Args:
      mean, square, count: (n,).

    Example:
      >>> rng = np.random.default_rng(0)
      >>> variance = 2.0 * 6 / rng.chisquare(6, 20_000)  # ν₀ = 6, s₀² = 2
      >>> signals = rng.normal(size=(20_000, 5)) * np.sqrt(variance)[:, None]
      >>> mean = signals.mean(axis=1)
      >>> prior = fit_prior(mean, ((signals - mean[:, None]) ** 2).sum(axis=1), np.full(20_000, 5.0))
      >>> 5 < prior.freedom < 7, 1.9 < prior.variance < 2.1
      (True, True)
    """
    several = count >= 2
    d = count[several] - 1
    own = square[several] / d
    middle = float(np.median(own)) if len(own) else 0.0
    if not middle > 0:  # one signal a record, or references that agree: the spread of all means is all there is
        spread = float(np.mean((mean - mean.mean()) ** 2))
        middle = float(own.mean()) if len(own) and own.mean() > 0 else spread
        return Prior(float(mean.mean()), 0.0, max(middle, 1e-12), _SURE)
    own = np.maximum(own, _FLOOR * middle)
    # log s² is log σ² plus the log of a χ² over its degrees of freedom, whose moments are known.
    level = np.log(own) - special.digamma(d / 2) + np.log(d / 2)
    spread = float(np.var(level, ddof=1) - special.polygamma(1, d / 2).mean()) if len(level) > 1 else 0.0
    freedom = min(2 * _inverse_trigamma(spread), _SURE) if spread > 0 else _SURE
    variance = math.exp(level.mean() + special.digamma(freedom / 2) - math.log(freedom / 2))
    between = float(np.var(mean) - np.mean(variance / count))
    return Prior(float(mean.mean()), variance / between if between > 0 else _SURE, variance, freedom)


def _inverse_trigamma(y: float) -> float:
    """x > 0 with ψ′(x) = y, by Newton's method on 1/ψ′, which is nearly straight and convex."""
    x = 0.5 + 1 / y
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / y) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


@dataclasses.dataclass(frozen=True)
class Predictive:
    """Of a record's next signal: place, scale and degrees of freedom, each (n,); None for a Gaussian."""

    mean: Array
    scale: Array
    freedom: Array | None

    def take(self, rows: Any) -> Predictive:
        """Those of some records."""
        return Predictive(self.mean[rows], self.scale[rows], None if self.freedom is None else self.freedom[rows])


def posterior(mean: Array, square: Array, count: Array, variant: Variant) -> Predictive:
    """What the references of one side say of the next model's signal, from the moments of each record's signals."""
    if variant not in ("t", "n"):
        raise DesignError(f'variant must be "t" or "n", got {variant!r}.')
    xp = namespace(mean)
    prior = fit_prior(to_numpy(mean), to_numpy(square), to_numpy(count))
    strength, freedom = prior.strength + count, prior.freedom + count
    drift = prior.strength * count / strength * (mean - prior.mean) ** 2
    variance = (prior.freedom * prior.variance + square + drift) / freedom
    place = (prior.strength * prior.mean + count * mean) / strength
    if variant == "n":
        return Predictive(place, xp.sqrt(variance), None)
    return Predictive(place, xp.sqrt(variance * (1 + 1 / strength)), freedom)


def log_density(phi: Array, g: Predictive) -> Array:
    """log of the predictive's density at φ, but for constants that both sides share."""
    xp = namespace(phi)
    t = (phi - g.mean) / g.scale
    if g.freedom is None:
        return -0.5 * t**2 - xp.log(g.scale) - 0.5 * math.log(2 * math.pi)
    v = to_numpy(g.freedom)
    constant = special.gammaln((v + 1) / 2) - special.gammaln(v / 2) - 0.5 * np.log(np.pi * v)
    constant = constant if isinstance(phi, np.ndarray) else xp.asarray(constant, device=phi.device)
    return constant - xp.log(g.scale) - (g.freedom + 1) / 2 * xp.log1p(t**2 / g.freedom)
