"""LiRA: Gaussians per record, pooled where references are few."""

import numpy as np
import pytest
from scipy.stats import norm

from mlflow_privacy.attacks.lira import lira, lira_offline
from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import mann_whitney


def case(rng, n=50, m=8):
    half = rng.random((n, m // 2)) < 0.5
    member = np.concatenate([half, ~half], axis=1)
    return rng.normal(size=n), rng.normal(size=(n, m)) + member, member


def test_per_record_equals_the_formula_one_record_at_a_time():
    target, reference, member = case(np.random.default_rng(0))
    wanted = []
    for phi, row, inside in zip(target, reference, member):
        log_in = norm.logpdf(phi, row[inside].mean(), row[inside].std(ddof=1))
        wanted.append(log_in - norm.logpdf(phi, row[~inside].mean(), row[~inside].std(ddof=1)))
    np.testing.assert_allclose(lira(target, reference, member, variance="per_record").value, wanted, rtol=1e-9)


def test_global_variance_pools_the_deviations_from_each_records_own_mean():
    target, reference, member = case(np.random.default_rng(1))
    sigma = {}
    for side in (True, False):
        deviations = np.concatenate([row[k == side] - row[k == side].mean() for row, k in zip(reference, member)])
        sigma[side] = np.sqrt((deviations**2).sum() / (len(deviations) - len(target)))
    wanted = [
        norm.logpdf(phi, row[k].mean(), sigma[True]) - norm.logpdf(phi, row[~k].mean(), sigma[False])
        for phi, row, k in zip(target, reference, member)
    ]
    np.testing.assert_allclose(lira(target, reference, member, variance="global").value, wanted, rtol=1e-9)


@pytest.mark.parametrize(("m", "same"), [(62, "global"), (64, "per_record")])
def test_auto_is_global_below_64_references(m, same):
    arrays = case(np.random.default_rng(2), m=m)
    auto, named = lira(*arrays), lira(*arrays, variance=same)
    np.testing.assert_array_equal(auto.value, named.value)


def test_offline_ranks_like_the_one_sided_p_value():
    target, reference, member = case(np.random.default_rng(3), m=128)
    wanted = [1 - norm.sf(p, r[~k].mean(), r[~k].std(ddof=1)) for p, r, k in zip(target, reference, member)]
    got = lira_offline(target, reference, member).value
    np.testing.assert_allclose(norm.cdf(got), wanted, rtol=1e-6)


def test_one_reference_of_each_kind_is_enough_for_the_global_variance():
    rng = np.random.default_rng(4)
    target, reference, member = case(rng, n=500, m=2)
    truth = rng.random(500) < 0.5
    scores = lira(target + 3 * truth, reference + 2 * member, member)
    assert np.isfinite(scores.value).all()
    assert mann_whitney(scores.value[truth], scores.value[~truth]) > 0.7


def test_references_that_agree_exactly_do_not_give_infinite_scores():
    target, reference, member = case(np.random.default_rng(5), m=64)
    reference[0] = 1.0
    for scores in (lira(target, reference, member), lira_offline(target, reference, member)):
        assert np.isfinite(scores.value).all()
    assert np.isfinite(lira(target, np.ones_like(reference), member).value).all()


def test_errors_name_the_count_and_the_remedy():
    target, reference, member = case(np.random.default_rng(6), m=2)
    with pytest.raises(DesignError, match=r"two IN references per record, 50 of 50 records have one.*num_ref_models"):
        lira(target, reference, member, variance="per_record")
    with pytest.raises(DesignError, match=r"variance must be .* got 'median'"):
        lira(target, reference, member, variance="median")
    member[:3] = False
    with pytest.raises(DesignError, match="3 of 50 records have no IN reference"):
        lira(target, reference, member)
    assert np.isfinite(lira_offline(target, reference, member).value).all()


def test_torch_and_chunks_and_order_change_nothing(monkeypatch):
    torch = pytest.importorskip("torch")
    from mlflow_privacy.attacks import _arrays

    rng = np.random.default_rng(7)
    arrays = case(rng, m=64)
    order = rng.permutation(50)
    for attack in (lira, lira_offline):
        wanted = attack(*arrays).value
        np.testing.assert_allclose(attack(*map(torch.from_numpy, arrays)).value.numpy(), wanted, rtol=1e-10)
        np.testing.assert_allclose(attack(*(a[order] for a in arrays)).value, wanted[order], rtol=1e-12)
        with monkeypatch.context() as patch:
            patch.setattr(_arrays, "_CHUNK_CPU", 100)
            np.testing.assert_allclose(attack(*arrays).value, wanted, rtol=1e-10)
