r"""Likelihood-ratio attack (LiRA): is the target's signal more like the IN or the OUT references' of this record?

Carlini, Chien, Nasr, Song, Terzis and Tramèr (2022), *Membership Inference Attacks From First Principles*,
https://arxiv.org/abs/2112.03570. φ is logit-scaled so that it is about Gaussian over models.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from mlflow_privacy.attacks._arrays import (
    Array,
    as_float64,
    check_references,
    check_signals,
    each_chunk,
    namespace,
    row_sums,
)
from mlflow_privacy.errors import DesignError
from mlflow_privacy.types import Scores

Variance = Literal["auto", "per_record", "global"]

# The paper recommends one variance for all records when fewer than 64 shadow models are trained.
PER_RECORD_FROM = 64
# A record whose references all agree must not get an infinite score: its variance is at least this share of the
# pooled one.
_FLOOR = 1e-3


def lira(target: Array, reference: Array, member: Array, *, variance: Variance = "auto") -> Scores:
    r"""LiRA online: log-likelihood ratio of two Gaussians per record.

    .. math::
        \Lambda(x) = \log \mathcal N(\phi; \mu_{in}, \sigma_{in}^2) - \log \mathcal N(\phi; \mu_{out}, \sigma_{out}^2)

    Threat model: black box with confidences; reference models of the same recipe, IN and OUT for each record.
    Strong with many references (the paper trains 256), and already useful with 8 through the global variance.
    Carlini et al. (2022), https://arxiv.org/abs/2112.03570, Algorithm 1.

    Args:
      target: (n,) signals of the audited model.
      reference: (n, m) signals of the reference models.
      member: (n, m) bool, whether reference j trained on record i.
      variance: "per_record"; "global": one IN and one OUT variance for all records, pooled over the deviations
        from each record's own mean (the paper's code takes the spread of all values, which also counts how
        records differ; where no record has two references that spread is the only one there is); "auto": global
        below 64 references, as the paper recommends.

    Returns: value (n,) = Λ; an array of the kind that came in.

    Raises: DesignError: shapes, values that are not finite, a record without IN or OUT (or fewer than two of
      either with "per_record").

    Example:
      >>> import numpy as np
      >>> member = np.array([[True, True, False, False]])
      >>> reference = np.array([[3.0, 5.0, 0.0, 2.0]])
      >>> bool(lira(np.array([4.0]), reference, member).value[0] > lira(np.array([1.0]), reference, member).value[0])
      True
    """
    check_signals(target=target, reference=reference, member=member)
    check_references(member, need_in=True, need_out=True)
    inside, outside = gaussians(reference, member, variance)
    phi = as_float64(target)
    return Scores(log_normal(phi, inside) - log_normal(phi, outside))


def lira_offline(target: Array, reference: Array, member: Array, *, variance: Variance = "auto") -> Scores:
    r"""LiRA offline: one-sided test against the OUT Gaussian alone.

    .. math:: \Lambda(x) = 1 - \Pr[\mathcal N(\mu_{out}, \sigma_{out}^2) > \phi] = \Phi(z), \quad
        z = (\phi - \mu_{out}) / \sigma_{out}

    The value is z itself: the same ranking, without rounding to 1 beyond z = 8.

    Threat model: black box with confidences; reference models trained without the record. Carlini et al. (2022),
    https://arxiv.org/abs/2112.03570, Equation 4.

    Args: as `lira`; IN references are not needed.

    Returns: value (n,) = z.

    Raises: DesignError: as `lira`, for OUT references only.

    Example:
      >>> import numpy as np
      >>> member = np.zeros((1, 3), bool)
      >>> float(lira_offline(np.array([3.0]), np.array([[0.0, 1.0, 2.0]]), member).value[0])
      2.0
    """
    check_signals(target=target, reference=reference, member=member)
    check_references(member, need_in=False, need_out=True)
    (outside,) = gaussians(reference, member, variance, sides=(False,))
    xp = namespace(target)
    return Scores((as_float64(target) - outside.mean) / xp.sqrt(outside.variance))


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Per-record Gaussian: mean and variance, each (n,)."""

    mean: Array
    variance: Array

    def take(self, rows: Any) -> Gaussian:
        """Those of some records."""
        return Gaussian(self.mean[rows], self.variance[rows])


def log_normal(phi: Array, g: Gaussian) -> Array:
    """log N(φ; μ, σ²)."""
    xp = namespace(phi)
    return -0.5 * ((phi - g.mean) ** 2 / g.variance + xp.log(g.variance) + math.log(2 * math.pi))


def gaussians(
    reference: Array, member: Array, variance: Variance, sides: tuple[bool, ...] = (True, False)
) -> list[Gaussian]:
    """The Gaussian of each side: True the IN models, False the OUT models."""
    if variance not in ("auto", "per_record", "global"):
        raise DesignError(f'variance must be "auto", "per_record" or "global", got {variance!r}.')
    xp = namespace(reference, member)
    n, m = reference.shape
    per_record = variance == "per_record" or (variance == "auto" and m >= PER_RECORD_FROM)
    fits = []
    for side in sides:
        mean, square, count = moments(reference, member, side)
        pooled = pooled_variance(mean, square, count)
        if per_record and bool(xp.all(count >= 2)):
            fits.append(Gaussian(mean, xp.clip(square / (count - 1), _FLOOR * pooled, None)))
        elif variance == "per_record":
            lone = int(xp.sum(xp.astype(count < 2, xp.int64)))
            raise DesignError(
                f'variance="per_record" needs two {"IN" if side else "OUT"} references per record, {lone} of {n} '
                'records have one. Use a larger num_ref_models, or variance="global".'
            )
        else:
            fits.append(Gaussian(mean, xp.full_like(mean, pooled)))
    return fits


def moments(reference: Array, member: Array, side: bool) -> tuple[Array, Array, Array]:
    """`record_moments` of the IN signals of each record (True), or of the OUT ones."""
    xp = namespace(reference, member)
    parts = each_chunk(
        lambda s: record_moments(reference[s], member[s] if side else ~member[s]), *reference.shape, reference
    )
    mean, square, count = (xp.concat(column) for column in zip(*parts))
    return mean, square, count


def record_moments(reference: Array, chosen: Array) -> tuple[Array, Array, Array]:
    """Mean, sum of squared deviations from it, and count of the chosen signals of each record."""
    xp = namespace(reference, chosen)
    phi, weight = as_float64(reference), xp.astype(chosen, xp.float64)

    def weighted(values: Array) -> Array:
        # einsum multiplies and adds in one pass; it is about rows of NumPy arrays alone.
        return np.einsum("ij,ij->i", values, weight) if numpy else xp.sum(values * weight, axis=1)

    numpy = isinstance(phi, np.ndarray)
    count = row_sums(weight) if numpy else xp.sum(weight, axis=1)
    mean = weighted(phi) / count
    return mean, weighted((phi - mean[:, None]) ** 2), count


def pooled_variance(mean: Array, square: Array, count: Array) -> float:
    """One variance for all records: squared deviations over degrees of freedom; never 0."""
    xp = namespace(mean)
    freedom = float(xp.sum(count - 1))
    pooled = float(xp.sum(square)) / freedom if freedom > 0 else float(xp.mean((mean - xp.mean(mean)) ** 2))
    return pooled if pooled > 0 else 1e-12
