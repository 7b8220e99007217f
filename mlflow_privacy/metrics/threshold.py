"""What one threshold achieves: balanced accuracy and advantage, without the optimism of choosing it in hindsight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlflow_privacy.metrics.roc import tally
from mlflow_privacy.stats import check_confidence, clopper_pearson, mover
from mlflow_privacy.types import Estimate


def balanced_accuracy(
    ranks: np.ndarray,
    member: np.ndarray,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    keys: Sequence[np.ndarray] = (),
) -> Estimate:
    r"""Mean of TPR and TNR at a threshold chosen on other records.

    .. math:: BA = (TPR + TNR) / 2

    The best threshold in hindsight looks better than ½ even on noise. So the records are halved at random (members
    and non-members apart), the threshold that is best on one half judges the other, and the four counts are
    summed. The threshold lies in the middle of the gap between two scores of its half (`best_threshold`). The interval
    adds the Clopper–Pearson intervals of TPR and TNR by MOVER. It covers the balanced accuracy of the thresholds in
    use; the very best threshold's is a little higher (Youden's maximum lies above the interval somewhat more often than
    2.5 %). With fewer than two members or non-members: not resolvable.

    Args:
      ranks: (n,) scores or `Scores.rank()`, higher = more likely a member.
      member: (n,) bool.
      rng: halves the records.
      keys: (n,) scores, and what breaks their ties, that `ranks` are the order of: the middle of a gap is found there,
        since ranks have no gaps. Empty for `ranks` themselves.

    Raises: DesignError: what `metrics.tally` raises.

    Example:
      >>> member = np.arange(100) < 50
      >>> print(balanced_accuracy(-np.arange(100.0), member, rng=np.random.default_rng(0)))
      0.98 [0.9189, 0.9938]
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
        called[~half] = _called(ranks, half, member, keys or (ranks,))[~half]
    hits, rejections = (called & member).sum(), (~called & ~member).sum()
    trials = np.array([member.sum(), n - member.sum()])
    counts = np.array([hits, rejections])
    rates = counts / trials
    low, high = mover(rates, *clopper_pearson(counts, trials, confidence), np.array([0.5, 0.5]))
    return Estimate(float(rates.mean()), max(float(low), 0.0), min(float(high), 1.0), n, confidence)


def _called(ranks: np.ndarray, half: np.ndarray, member: np.ndarray, keys: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) whether a record counts as a member by the threshold that is best on `half`."""
    below, at = _best_gap(ranks[half], member[half])
    above, equal = np.zeros(len(ranks), bool), np.ones(len(ranks), bool)
    if below == at:  # nobody
        return above
    low, high = (int(np.argmax(half & (ranks == rank))) for rank in (below, at))
    for key in keys:  # the first in which the two differ has the gap; those before must be equal
        if key[low] < key[high]:
            return above | (equal & (key >= _middle(float(key[low]), float(key[high]))))
        above |= equal & (key > key[high])
        equal &= key == key[high]
    return above | equal


def advantage(balanced: Estimate) -> Estimate:
    """Membership advantage TPR − FPR = 2·BA − 1 (Yeom et al. 2018, https://arxiv.org/abs/1709.01604).

    >>> print(advantage(Estimate(0.75, 0.5, 1.0, 10)))
    0.5 [0, 1]
    """
    value, low, high = (2 * v - 1 for v in (balanced.value, balanced.low, balanced.high))
    return Estimate(value, low, high, balanced.n, balanced.confidence, balanced.resolvable)


def best_threshold(ranks: np.ndarray, member: np.ndarray) -> float:
    """The score from which calling "member" maximises TPR − FPR on these records; of equal ones the highest.

    Any score between two records gives the same here. The middle is taken: right at a record, half of the records like
    it would fall on the other side. With members from N(20, 1) and non-members from N(0, 1), 20 of each, a threshold at
    the lowest member of one half gives an advantage of 0.9 on average, in the middle of the gap of 1.

    >>> best_threshold(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    1.5
    """
    below, at = _best_gap(ranks, member)
    return _middle(below, at)


def _best_gap(ranks: np.ndarray, member: np.ndarray) -> tuple[float, float]:
    """The lowest score called "member" by the best threshold, and the next lower one; infinite if none is called so."""
    t = tally(ranks, member)
    tp, fp = t.above()
    # In integers, so that no rounding decides between equal thresholds.
    best = int(np.argmax(tp * t.n_nonmembers - fp * t.n_members))
    if best == 0:
        return float("inf"), float("inf")
    # Calling everybody a member gains nothing over calling nobody one, so there is a lower score.
    return float(t.values[-best - 1]), float(t.values[-best])


def _middle(low: float, high: float) -> float:
    """Half-way from `low` to `high`, above `low` and at most `high`, whatever rounding or infinities do."""
    middle = low / 2 + high / 2
    return middle if low < middle <= high else high
