"""A model whose best attack is known: releasing the mean of n Gaussian records.

The attacker sees the log-density of a record x under N(θ̂, I), where θ̂ is the mean of a random half of a pool of N = 2n
records in d dimensions. Over random halves the signal of x is Gaussian; training on x moves it by (‖x‖² − x·x̄)/n ≈ d/n,
and its variance is (1/n)(1 − n/(N − 1)) ‖x‖² ≈ d/2n (sampling without replacement). By the lemma of Neyman and Pearson
no attack on this signal beats TPR = Φ(Φ⁻¹(FPR) + δ) with δ = √(2d/n). The same model with fresh data per release,
δ = √(d/n): Sankararaman et al. (2009), https://doi.org/10.1038/ng.436; Azize and Basu (2024),
https://arxiv.org/abs/2402.10065.
"""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from mlflow_privacy.attacks import run_attack
from mlflow_privacy.metrics import tpr_at_fpr
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import Signals

N, D, M, TARGETS = 600, 150, 64, 12
DELTA = math.sqrt(2 * D / (N / 2))


def halves(rng, count, n):
    order = np.argsort(rng.random((count, n)), axis=1)
    return order < n // 2


@pytest.fixture(scope="module")
def audits():
    """(signals, membership) of several targets against the same references."""
    rng = np.random.default_rng(0)
    pool, population = rng.normal(size=(N, D)), rng.normal(size=(500, D))
    one_of_each_pair = halves(rng, M // 2, N)
    member = np.stack([one_of_each_pair, ~one_of_each_pair], axis=1).reshape(M, N)
    truths = halves(rng, TARGETS, N)

    def log_density(rows, x):
        centre = rows @ pool / (N / 2)
        return -0.5 * ((x**2).sum(1)[:, None] - 2 * x @ centre.T + (centre**2).sum(1))

    references, z_references = log_density(member, pool), log_density(member, population)
    targets, z_targets = log_density(truths, pool), log_density(truths, population)
    none = np.zeros((500, M), bool)
    return [
        (Signals(targets[:, t], references, member.T, z_targets[:, t], z_references, none, "log"), truths[t])
        for t in range(TARGETS)
    ]


def mean_auc(audits, name, **options):
    values = []
    for signals, truth in audits:
        ranks = run_attack(name, signals, **options)[0].rank()
        values.append(mann_whitney(ranks[truth], ranks[~truth]))
    return np.mean(values)


# s.e. of one AUC is 0.019, of the mean of 12 is 0.0055; ‖x‖² varies by 12 % among records and 64 references estimate
# the two means to 1/64 of a variance, each worth less than 0.005.
TOLERANCE = 0.02


@pytest.mark.parametrize(
    ("name", "options"),
    [("lira", {"variance": "global"}), ("lira", {"variance": "per_record"}), ("rmia", {}), ("rmia", {"gamma": 2.0})],
)
def test_online_attacks_reach_the_optimal_auc(audits, name, options):
    assert mean_auc(audits, name, **options) == pytest.approx(ndtr(DELTA / math.sqrt(2)), abs=TOLERANCE)


@pytest.mark.parametrize("name", ["rmia_offline", "lira_offline", "reference"])
def test_offline_attacks_come_near_the_optimum_and_do_not_exceed_it(audits, name):
    optimum = ndtr(DELTA / math.sqrt(2))
    assert optimum - 0.03 < mean_auc(audits, name) < optimum + TOLERANCE


@pytest.mark.parametrize("name", ["lira", "rmia"])
@pytest.mark.parametrize("fpr", [0.1, 0.05])
def test_roc_follows_the_closed_form(audits, name, fpr):
    """s.e. of one TPR at FPR 0.1 with 300 + 300 records is about 0.045, of the mean of 12 0.013."""
    rates = [
        tpr_at_fpr(
            run_attack(name, signals, **({"variance": "global"} if name == "lira" else {}))[0].rank(), truth, fpr
        )
        for signals, truth in audits
    ]
    wanted = ndtr(ndtri(fpr) + DELTA)
    assert np.mean([r.value for r in rates]) == pytest.approx(wanted, abs=0.045)
    assert np.mean([r.low <= wanted <= r.high for r in rates]) >= 10 / 12


def test_loss_alone_is_far_below_because_records_differ_in_difficulty(audits):
    """Its signal varies by √(d/2) ≈ 8.7 between records, the leak is d/n = 0.5: AUC ≈ Φ(0.5 / (√2 · 8.7)) = 0.516."""
    for name in ("loss", "population"):
        assert mean_auc(audits, name) == pytest.approx(ndtr(0.5 / math.sqrt(D)), abs=TOLERANCE)


def test_a_target_trained_on_other_records_shows_nothing(audits):
    """Null: the membership asked about is not the one the model was trained with."""
    rng = np.random.default_rng(1)
    for name in ("rmia", "lira", "reference"):
        values = []
        for signals, _ in audits:
            ranks, wrong = run_attack(name, signals)[0].rank(), halves(rng, 1, N)[0]
            values.append(mann_whitney(ranks[wrong], ranks[~wrong]))
        assert np.mean(values) == pytest.approx(0.5, abs=4 * 0.0236 / math.sqrt(TARGETS))
