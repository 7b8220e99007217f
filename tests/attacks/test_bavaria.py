"""BaVarIA: variances of records shrunk towards those of all, by a prior that the references alone give."""

import numpy as np
import pytest
from scipy import special
from scipy.stats import norm
from scipy.stats import t as student

from mlflow_privacy.attacks.bavaria import bavaria, bavaria_offline, fit_prior
from mlflow_privacy.attacks.lira import lira, lira_offline
from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import auc
from mlflow_privacy.stats import mann_whitney

BOTH = (bavaria, bavaria_offline)


def halves(rng, n, m):
    half = rng.random((n, m // 2)) < 0.5
    return np.stack([half, ~half], axis=2).reshape(n, m)


def case(rng, n=500, m=8, leak=1.0, freedom=6.0):
    """Signals whose means, gains and variances differ by record; (target, reference, member) and the truth."""
    member, truth = halves(rng, n, m), rng.random(n) < 0.5
    spread = np.sqrt(0.5 * freedom / rng.chisquare(freedom, n))
    mean, gain = rng.normal(0, 3, n), leak * np.abs(rng.normal(size=n))
    reference = mean[:, None] + gain[:, None] * member + spread[:, None] * rng.normal(size=(n, m))
    return (mean + gain * truth + spread * rng.normal(size=n), reference, member), truth


def by_hand(row, prior, phi, variant):
    """log density of the predictive at φ, by the textbook's update of a normal-inverse-gamma prior."""
    k, mean = len(row), row.mean()
    kappa, alpha = prior.strength + k, (prior.freedom + k) / 2
    place = (prior.strength * prior.mean + k * mean) / kappa
    beta = prior.freedom * prior.variance / 2 + ((row - mean) ** 2).sum() / 2
    beta += prior.strength * k * (mean - prior.mean) ** 2 / (2 * kappa)
    if variant == "n":
        return norm.logpdf(phi, place, np.sqrt(beta / alpha))
    return student.logpdf(phi, 2 * alpha, place, np.sqrt(beta * (kappa + 1) / (alpha * kappa)))


def prior_of(reference, chosen):
    rows = [row[k] for row, k in zip(reference, chosen)]
    mean = np.array([row.mean() for row in rows])
    square = np.array([((row - row.mean()) ** 2).sum() for row in rows])
    return fit_prior(mean, square, chosen.sum(axis=1).astype(float))


@pytest.mark.parametrize("variant", ["t", "n"])
def test_the_score_is_the_ratio_of_the_predictives_one_record_at_a_time(variant):
    (target, reference, member), _ = case(np.random.default_rng(0), n=60)
    priors = {side: prior_of(reference, member == side) for side in (True, False)}
    wanted = [
        by_hand(row[k], priors[True], phi, variant) - by_hand(row[~k], priors[False], phi, variant)
        for phi, row, k in zip(target, reference, member)
    ]
    np.testing.assert_allclose(bavaria(target, reference, member, variant=variant).value, wanted, rtol=1e-8, atol=1e-9)


def test_offline_has_the_tail_of_the_predictive():
    (target, reference, member), _ = case(np.random.default_rng(1), n=200)
    prior, k = prior_of(reference, ~member), (~member).sum(axis=1)
    place = np.array([row[~c].mean() for row, c in zip(reference, member)])
    place = (prior.strength * prior.mean + k * place) / (prior.strength + k)
    got = bavaria_offline(target, reference, member).value
    assert (np.sign(got) == np.sign(target - place)).all()
    scores = np.array([
        _tail(row[~c], prior, phi) for phi, row, c in zip(target, reference, member)
    ])  # fmt: skip
    np.testing.assert_allclose(special.ndtr(got), scores, atol=2e-3)


def _tail(row, prior, phi):
    k, mean = len(row), row.mean()
    kappa, alpha = prior.strength + k, (prior.freedom + k) / 2
    beta = (prior.freedom * prior.variance + ((row - mean) ** 2).sum()) / 2
    beta += prior.strength * k * (mean - prior.mean) ** 2 / (2 * kappa)
    place = (prior.strength * prior.mean + k * mean) / kappa
    return student.cdf(phi, 2 * alpha, place, np.sqrt(beta * (kappa + 1) / (alpha * kappa)))


@pytest.mark.parametrize("freedom", [3.0, 10.0, 40.0])
def test_the_prior_is_found_again(freedom):
    """The spread of log variances over records, ψ′(ν₀ / 2), has an s.e. of 0.009 here."""
    rng = np.random.default_rng(2)
    n, k = 40_000, 4
    variance = 2.0 * freedom / rng.chisquare(freedom, n)
    mean = 1.0 + rng.normal(size=n) * np.sqrt(variance / 0.5)
    signals = mean[:, None] + rng.normal(size=(n, k)) * np.sqrt(variance)[:, None]
    own = signals.mean(axis=1)
    prior = fit_prior(own, ((signals - own[:, None]) ** 2).sum(axis=1), np.full(n, float(k)))
    assert prior.variance == pytest.approx(2.0, rel=0.05)
    assert special.polygamma(1, prior.freedom / 2) == pytest.approx(special.polygamma(1, freedom / 2), abs=0.03)
    assert prior.mean == pytest.approx(1.0, abs=0.1)


def test_records_of_one_variance_get_one_and_records_of_one_mean_one_mean():
    rng = np.random.default_rng(3)
    signals = rng.normal(size=(5000, 4))
    own = signals.mean(axis=1)
    prior = fit_prior(own, ((signals - own[:, None]) ** 2).sum(axis=1), np.full(5000, 4.0))
    assert prior.freedom > 50
    assert prior.strength > 50


@pytest.mark.parametrize("m", [4, 8, 16, 64])
def test_a_planted_leak_is_found_better_than_by_lira_where_variances_differ(m):
    """Mean of three sets of 4,000 records; with few references the difference is the point, with 64 it is small."""
    found = {attack: 0.0 for attack in (lira, bavaria, lira_offline, bavaria_offline)}
    for seed in range(3):
        arrays, truth = case(np.random.default_rng(seed), n=4000, m=m)
        for attack in found:
            value = attack(*arrays).value
            found[attack] += mann_whitney(value[truth], value[~truth]) / 3
    assert found[bavaria] > 0.65
    assert found[bavaria] > found[lira]
    assert found[bavaria_offline] > found[lira_offline]


def test_with_one_reference_of_each_kind_it_is_lira():
    """No variance of a record can be told, and the means are as far apart as may be."""
    arrays, truth = case(np.random.default_rng(4), n=3000, m=2)
    own, theirs = bavaria(*arrays).value, lira(*arrays).value
    assert mann_whitney(own[truth], own[~truth]) == pytest.approx(mann_whitney(theirs[truth], theirs[~truth]), abs=5e-3)


@pytest.mark.parametrize("attack", BOTH)
def test_nothing_there_nothing_found(attack):
    """400 targets whose signals do not depend on membership: the interval lies above one half in at most 5 %."""
    above = 0
    for seed in range(400):
        arrays, truth = case(np.random.default_rng(seed), n=200, leak=0.0)
        found = auc(attack(*arrays).value, truth)
        above += found.low > 0.5
    assert above <= 20


@pytest.mark.parametrize("attack", BOTH)
@pytest.mark.parametrize("m", [2, 8])
def test_references_that_agree_exactly_give_finite_scores(attack, m):
    (target, reference, member), _ = case(np.random.default_rng(5), m=m)
    reference[0] = 1.0
    for signals in (reference, np.ones_like(reference), np.where(member, 2.0, 1.0)):
        for variant in ("t", "n"):
            assert np.isfinite(attack(target * 1e6, signals, member, variant=variant).value).all()


@pytest.mark.parametrize("attack", BOTH)
def test_units_torch_and_order_change_nothing(attack):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    (target, reference, member), _ = case(rng)
    wanted = attack(target, reference, member).value
    tensors = map(torch.from_numpy, (target, reference, member))
    np.testing.assert_allclose(attack(*tensors).value.numpy(), wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(attack(7 * target - 3, 7 * reference - 3, member).value, wanted, rtol=1e-6, atol=1e-6)
    order = rng.permutation(len(target))
    np.testing.assert_allclose(attack(target[order], reference[order], member[order]).value, wanted[order], rtol=1e-9)


def test_errors_name_the_value_and_what_is_missing():
    (target, reference, member), _ = case(np.random.default_rng(7))
    for attack in BOTH:
        with pytest.raises(DesignError, match=r'variant must be "t" or "n", got .gauss.'):
            attack(target, reference, member, variant="gauss")
    member[:3] = False
    with pytest.raises(DesignError, match="3 of 500 records have no IN reference"):
        bavaria(target, reference, member)
    assert np.isfinite(bavaria_offline(target, reference, member).value).all()
