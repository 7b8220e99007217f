"""ε from many models: error rates of a test with exact intervals, with and without supposing Gaussian noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.games.dp.bounds import Canaries, EpsilonBound, Selection
from mlflow_privacy.metrics.epsilon import check_delta, gaussian_epsilon, rates_epsilon, rates_mu
from mlflow_privacy.stats import clopper_pearson

_GRID = 8  # thresholds from either class
_FINE = 64  # thresholds that a held-out half chooses from


@dataclasses.dataclass(frozen=True)
class _Rates:
    """Bounds of a test that says "in" above a threshold; tp of n_in and fp of n_out said so."""

    threshold: float
    tp: int
    fp: int
    tpr_low: float
    fpr_high: float


def clopper_pearson_bound(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    confidence: float = 0.95,
    selection: Selection = "auto",
    threshold: float | None = None,
    seed: int = 0,
) -> EpsilonBound:
    r"""Lower bound on ε from independent models, some trained with the canary and some without.

    .. math:: \varepsilon \ge \max\Big(\log\frac{TPR_{low} - \delta}{FPR_{high}},
        \log\frac{TNR_{low} - \delta}{FNR_{high}}\Big)

    Jagielski, Ullman and Oprea (2020), https://arxiv.org/abs/2006.07709; Nasr et al. (2021),
    https://arxiv.org/abs/2101.04535. The rates have one-sided Clopper–Pearson bounds at half of the level each.

    The threshold is chosen, and the choice is paid for. "split": chosen on a random half of the models, judged on the
    other. "bonferroni": 16 thresholds, the j-th largest score of one class for fixed j. The rate of that class above
    its own order statistic has the same Clopper–Pearson bound (its law is Beta), and the other class is independent
    of the threshold; so each holds exactly, and the level is divided by 16. "auto" is Bonferroni, the tighter
    one on continuous scores; where models give labels only, "split" is tighter. "fixed": the caller's `threshold`.

    Args:
      scores: (n,) one score a model; higher = more likely trained with the canary. Scores of many canaries under
        one model are not independent: for these take `one_run`.
      member: (n,) bool, whether that model trained on it.
      delta: δ of the claim, in [0, 1).
      threshold: for "fixed": "in" is said of scores above it.

    Raises: DesignError: shapes, NaN, values out of range, a class that is missing.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = np.arange(4000) < 2000
      >>> told = member ^ (rng.random(4000) < 0.25)  # randomised response, ε = log 3 = 1.0986
      >>> print(clopper_pearson_bound(told, member, delta=0.0, selection="split"))
      ε ≥ 0.9609 at δ = 0 (95%)
    """

    def strength(tpr_low: np.ndarray, fpr_high: np.ndarray) -> np.ndarray:
        return np.maximum(rates_epsilon(tpr_low, fpr_high, delta), rates_epsilon(1 - fpr_high, 1 - tpr_low, delta))

    method = _Method(
        "clopper_pearson",
        "Many runs",
        "Jagielski, Ullman and Oprea (2020), https://arxiv.org/abs/2006.07709; "
        "Nasr et al. (2021), https://arxiv.org/abs/2101.04535",
        strength,
        float,
    )
    return _bound(method, Canaries(scores, member, delta, confidence, selection, seed), threshold)


def gaussian_dp_bound(
    scores: np.ndarray,
    member: np.ndarray,
    *,
    delta: float,
    confidence: float = 0.95,
    selection: Selection = "auto",
    threshold: float | None = None,
    seed: int = 0,
) -> EpsilonBound:
    r"""Lower bound on ε from independent models of a mechanism that is μ-Gaussian-DP for some μ.

    .. math:: \mu \ge \Phi^{-1}(1 - FPR_{high}) - \Phi^{-1}(FNR_{high})

    and ε at δ follows from μ by Balle and Wang (2018), https://arxiv.org/abs/1805.06530. Nasr et al. (2023), "Tight
    Auditing of Differentially Private Machine Learning", https://arxiv.org/abs/2302.07956. Needs far fewer models
    than `clopper_pearson_bound`, because one point of a Gaussian curve gives all of it. If the mechanism's curve is
    not Gaussian, the bound may exceed its ε.

    Args: as `clopper_pearson_bound`; `delta` in (0, 1).

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = np.arange(4000) < 2000
      >>> print(gaussian_dp_bound(member + rng.normal(size=4000), member, delta=1e-5))  # its ε is 4.377
      ε ≥ 3.658 at δ = 1e-05 (95%)
    """
    check_delta(delta, positive=True)

    def strength(tpr_low: np.ndarray, fpr_high: np.ndarray) -> np.ndarray:
        return rates_mu(fpr_high, 1 - tpr_low)

    method = _Method(
        "gaussian_dp",
        "Many runs, Gaussian DP",
        "Nasr et al. (2023), https://arxiv.org/abs/2302.07956",
        strength,
        lambda mu: gaussian_epsilon(mu, delta),
        "The trade-off curve of the mechanism is Gaussian.",
    )
    return _bound(method, Canaries(scores, member, delta, confidence, selection, seed), threshold)


@dataclasses.dataclass(frozen=True)
class _Method:
    """One way from bounds on the rates to a bound on ε.

    Attributes:
      strength: (TPR's lower bound, FPR's upper bound) -> what is maximised.
      epsilon: strength -> ε.
    """

    name: str
    title: str
    paper: str
    strength: Callable[[np.ndarray, np.ndarray], np.ndarray]
    epsilon: Callable[[float], float]
    assumption: str = ""


def _bound(method: _Method, models: Canaries, threshold: float | None) -> EpsilonBound:
    scores, member, selection = models.scores, models.member, models.selection
    if member.all() or not member.any():
        raise DesignError(f"All {len(member)} models were trained {'with' if member.all() else 'without'} the canary.")
    if (selection == "fixed") != (threshold is not None):
        raise DesignError("threshold goes with selection='fixed', which needs one; the others choose it.")
    selection = "bonferroni" if selection == "auto" else selection  # type: ignore[assignment]
    alpha, rng = models.significance, np.random.default_rng(models.seed)

    def value(rates: _Rates) -> float:
        return float(method.strength(np.asarray(rates.tpr_low), np.asarray(rates.fpr_high)))

    if selection == "bonferroni":
        tried = list(_order_statistics(scores[member], scores[~member], alpha))
        n_candidates = len(tried)
        best = max(tried, key=value)
        alpha /= n_candidates
    else:
        n_candidates = 1
        if selection == "split":
            first = np.zeros(len(scores), bool)
            for group in (np.flatnonzero(member), np.flatnonzero(~member)):
                if len(group) < 2:
                    raise DesignError("selection='split' needs two models with and two without the canary.")
                first[rng.permutation(group)[: len(group) // 2]] = True
            levels = np.unique(np.quantile(scores[first], np.linspace(0, 1, _FINE), method="lower"))
            n_candidates = len(levels)
            here = scores[first & member], scores[first & ~member]
            threshold = max((_at(*here, t, alpha) for t in levels), key=value).threshold
            scores, member = scores[~first], member[~first]
        best = _at(scores[member], scores[~member], float(threshold or 0.0), alpha)
    n_in, n_out = int(member.sum()), int((~member).sum())
    perfect = method.strength(*(np.asarray(r) for r in _bounds(n_in, n_in, 0, n_out, alpha)))
    found = value(best)
    return EpsilonBound(
        value=method.epsilon(found),
        delta=models.delta,
        confidence=models.confidence,
        method=method.name,
        title=method.title,
        paper=method.paper,
        n=n_in + n_out,
        guesses=n_in + n_out,
        correct=best.tp + n_out - best.fp,
        guesses_in=best.tp + best.fp,
        guesses_out=n_in + n_out - best.tp - best.fp,
        threshold=best.threshold,
        selection=selection,
        candidates=n_candidates,
        ceiling=method.epsilon(float(perfect)),
        assumption=method.assumption,
        mu=found if method.assumption else None,
        rates=(best.tpr_low, best.fpr_high),
    )


def _bounds(tp: int, n_in: int, fp: int, n_out: int, alpha: float) -> tuple[float, float]:
    """Lower bound of the TPR and upper bound of the FPR, α/2 each: the ends of two-sided intervals at 1 − α."""
    return float(clopper_pearson(tp, n_in, 1 - alpha)[0]), float(clopper_pearson(fp, n_out, 1 - alpha)[1])


def _at(inside: np.ndarray, outside: np.ndarray, threshold: float, alpha: float) -> _Rates:
    tp, fp = int((inside > threshold).sum()), int((outside > threshold).sum())
    return _Rates(threshold, tp, fp, *_bounds(tp, len(inside), fp, len(outside), alpha))


def _order_statistics(inside: np.ndarray, outside: np.ndarray, alpha: float) -> Iterator[_Rates]:
    """Tests at fixed order statistics of either class, each at its share of α."""
    false_positives, false_negatives = _budgets(len(outside)), _budgets(len(inside))
    share = alpha / (len(false_positives) + len(false_negatives))
    descending, ascending = np.sort(outside)[::-1], np.sort(inside)
    for fp in false_positives:  # "in" above the (fp + 1)-th largest OUT score
        t = float(descending[fp])
        tp = int((inside > t).sum())
        yield _Rates(t, tp, fp, *_bounds(tp, len(inside), fp, len(outside), share))
    for fn in false_negatives:  # "out" below the (fn + 1)-th smallest IN score
        t = math.nextafter(float(ascending[fn]), -math.inf)
        tp, fp = len(inside) - fn, int((outside > t).sum())
        yield _Rates(t, tp, fp, *_bounds(tp, len(inside), fp, len(outside), share))


def _budgets(n: int) -> list[int]:
    """Numbers of errors to allow, geometric from 0 to n/2; they depend on n alone."""
    return sorted({round(x) - 1 for x in np.geomspace(1, max(n / 2, 1), _GRID)})
