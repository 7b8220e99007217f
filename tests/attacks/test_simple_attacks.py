"""Reference, population, loss and gap attacks against their definitions."""

import numpy as np
import pytest

from mlflow_privacy.attacks.gap import gap
from mlflow_privacy.attacks.population import attack_p, loss_threshold
from mlflow_privacy.attacks.reference import attack_r
from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import auc, balanced_accuracy


def test_attack_r_is_the_midrank_among_out_references():
    rng = np.random.default_rng(0)
    target, reference = rng.integers(0, 4, 30).astype(float), rng.integers(0, 4, (30, 6)).astype(float)
    member = rng.random((30, 6)) < 0.4
    member[:, 0] = False
    scores = attack_r(target, reference, member)
    for i in range(30):
        out = reference[i, ~member[i]]
        assert scores.value[i] == pytest.approx((out < target[i]).mean() + 0.5 * (out == target[i]).mean())
        assert scores.tie[i] == pytest.approx(target[i] - out.mean())
    np.testing.assert_allclose(attack_r(target, reference, member, method="difference").value, scores.tie)


def test_in_references_do_not_touch_attack_r():
    rng = np.random.default_rng(1)
    target, reference, member = rng.normal(size=20), rng.normal(size=(20, 4)), np.tile([True, False] * 2, (20, 1))
    base = attack_r(target, reference, member)
    changed = attack_r(target, np.where(member, 1e6, reference), member)
    np.testing.assert_array_equal(base.value, changed.value)
    np.testing.assert_allclose(base.tie, changed.tie)


def test_attack_p_counts_the_population_pairwise():
    rng = np.random.default_rng(2)
    target, population = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 25).astype(float)
    wanted = (population[None] <= target[:, None]).mean(axis=1)
    np.testing.assert_array_equal(attack_p(target, population).value, wanted)


def test_attack_p_ranks_as_the_loss_does():
    rng = np.random.default_rng(3)
    target, population = rng.normal(size=100), rng.normal(size=7)
    np.testing.assert_array_equal(attack_p(target, population).rank(), loss_threshold(target).rank())


def test_threshold_on_attack_p_keeps_its_false_positive_rate():
    """Non-members like the population: s > 0.9 on at most about 10 % of them (s.e. 0.003)."""
    rng = np.random.default_rng(4)
    scores = attack_p(rng.normal(size=10_000), rng.normal(size=10_000))
    assert abs((scores.value > 0.9).mean() - 0.1) < 0.017


def test_gap_advantage_is_the_generalisation_gap():
    rng = np.random.default_rng(5)
    member = np.arange(4000) < 2000
    correct = rng.random(4000) < np.where(member, 1.0, 0.7)
    scores = gap(correct.astype(np.float32))
    wanted = (1 + correct[member].mean() - correct[~member].mean()) / 2
    assert auc(scores.rank(), member).value == pytest.approx(wanted)
    assert balanced_accuracy(scores.rank(), member, rng=rng).value == pytest.approx(wanted)


@pytest.mark.parametrize("attack", [gap, loss_threshold])
def test_signals_that_are_not_finite_are_counted(attack):
    with pytest.raises(DesignError, match="target has 2 values"):
        attack(np.array([np.nan, np.inf, 1.0]))


def test_faults_have_remedies():
    with pytest.raises(DesignError, match="needs population records, got none"):
        attack_p(np.zeros(3), np.zeros(0))
    with pytest.raises(DesignError, match=r"method must be .* got 'median'"):
        attack_r(np.zeros(1), np.zeros((1, 1)), np.zeros((1, 1), bool), method="median")
    with pytest.raises(DesignError, match="There are no reference models"):
        attack_r(np.zeros(1), np.zeros((1, 0)), np.zeros((1, 0), bool))


def test_torch_tensors_give_the_numbers_of_numpy():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    target, reference, member = rng.normal(size=20), rng.normal(size=(20, 4)), np.tile([True, False] * 2, (20, 1))
    got = attack_r(*map(torch.from_numpy, (target, reference, member)))
    np.testing.assert_allclose(got.tie.numpy(), attack_r(target, reference, member).tie)
    population = attack_p(torch.from_numpy(target), torch.from_numpy(reference[:, 0].copy()))
    np.testing.assert_array_equal(population.value.numpy(), attack_p(target, reference[:, 0]).value)
