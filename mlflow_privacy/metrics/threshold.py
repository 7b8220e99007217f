"""What one threshold achieves: balanced accuracy and advantage, without the optimism of choosing it in hindsight."""

from __future__ import annotations

import numpy as np

from mlflow_privacy.metrics.roc import tally
from mlflow_privacy.stats import check_confidence, clopper_pearson, mover
from mlflow_privacy.types import Estimate


def balanced_accuracy(
    ranks: np.ndarray, member: np.ndarray, *, rng: np.random.Generator, confidence: float = 0.95
) -> Estimate:
    r"""Mean of TPR and TNR at a threshold chosen on other records.

    .. math:: BA = (TPR + TNR) / 2

    The best threshold in hindsight looks better than ½ even on noise. So the records are halved at random (members
    and non-members apart), the threshold that is best on one half judges the other, and the four counts are
    summed. The interval adds the Clopper–Pearson intervals of TPR and TNR by MOVER. It covers the balanced
    accuracy of the thresholds in use; the very best threshold's is a little higher (Youden's maximum lies above
    the interval somewhat more often than 2.5 %). With fewer than two members or non-members: not resolvable.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.
      rng: halves the records.

    Raises: DesignError: what `metrics.tally` raises.

    Example:
      >>> member = np.arange(100) < 50
      >>> print(balanced_accuracy(-np.arange(100.0), member, rng=np.random.default_rng(0)))
      0.98 [0.9198, 0.9976]
    """
    check_confidence(confidence)
    ranks, member = np.asarray(ranks), np.asarray(member, bool)
    tally(ranks, member)  # for its checks
    n = len(member)
    first = np.zeros(n, bool)
    for group in (np.flatnonzero(member), np.flatnonzero(~member)):
        if len(group) < 2:
            return Estimate(float("nan"), float("nan"), float("nan"), n, confidence, resolvable=False)
        first[rng.permutation(group)[: len(group) // 2]] = True
    called = np.zeros(n, bool)
    for half in (first, ~first):
        called[~half] = ranks[~half] >= best_threshold(ranks[half], member[half])
    hits, rejections = (called & member).sum(), (~called & ~member).sum()
    trials = np.array([member.sum(), n - member.sum()])
    counts = np.array([hits, rejections])
    rates = counts / trials
    low, high = mover(rates, *clopper_pearson(counts, trials, confidence), np.array([0.5, 0.5]))
    return Estimate(float(rates.mean()), max(float(low), 0.0), min(float(high), 1.0), n, confidence)


def advantage(balanced: Estimate) -> Estimate:
    """Membership advantage TPR − FPR = 2·BA − 1 (Yeom et al. 2018, https://arxiv.org/abs/1709.01604).

    >>> print(advantage(Estimate(0.75, 0.5, 1.0, 10)))
    0.5 [0, 1]
    """
    value, low, high = (2 * v - 1 for v in (balanced.value, balanced.low, balanced.high))
    return Estimate(value, low, high, balanced.n, balanced.confidence, balanced.resolvable)


def best_threshold(ranks: np.ndarray, member: np.ndarray) -> float:
    """The score from which calling "member" maximises TPR − FPR on these records; the highest of equals.

    >>> best_threshold(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    2.0
    """
    t = tally(ranks, member)
    tp, fp = t.above()
    # In integers, so that no rounding decides between equal thresholds.
    best = int(np.argmax(tp * t.n_nonmembers - fp * t.n_members))
    return float("inf") if best == 0 else float(t.values[-best])
