"""DP-SGD around the one training loop: it is private, repeatable, and its faults are named."""

import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.dp import make_private, plan_privacy, read_dp
from mlflow_privacy.trainers.settings import read_settings
from mlflow_privacy.types import Records

pytest.importorskip("opacus", reason="DP-SGD needs Opacus", exc_type=ImportError)
PLAIN = {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 3, "batch_size": 16}


def records(n=64, d=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    return Records(x, (x[:, 0] > 0).astype(int), np.arange(n).astype(str))


def mlp(d=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))


def train(module, data, dp, seed=3, member=None, **settings):
    recipe = make_recipe(module, {**PLAIN, **settings, "dp": dp}, task="classification", data=data)
    member = np.ones((1, len(data)), bool) if member is None else member
    return next(iter(trainer_for(recipe).train(recipe, data, member, [seed], device="cpu")))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_seed_gives_the_same_model_and_another_seed_another():
    data = records()
    one, again, other = (train(mlp(), data, {"noise_multiplier": 1.0}, seed) for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))


def test_without_noise_and_clipping_a_full_batch_is_plain_gradient_descent():
    data = records()
    whole = {"batch_size": 64, "epochs": 4}
    private = train(mlp(), data, {"noise_multiplier": 0.0, "max_grad_norm": 1e6}, **whole)
    recipe = make_recipe(mlp(), {**PLAIN, **whole}, task="classification", data=data)
    plain = next(iter(trainer_for(recipe).train(recipe, data, np.ones((1, 64), bool), [3], device="cpu")))
    # With one step an epoch every record is taken; only the sums are in another order.
    assert torch.allclose(weights(private), weights(plain), atol=1e-5)


def test_one_step_moves_the_weights_by_no_more_than_the_clipping_norm():
    data = records(seed=1)
    step = {"batch_size": 64, "epochs": 1, "learning_rate": 1.0}
    norm = 1e-3
    before = train(mlp(), data, {"noise_multiplier": 0.0, "max_grad_norm": norm}, **{**step, "learning_rate": 1e-12})
    after = train(mlp(), data, {"noise_multiplier": 0.0, "max_grad_norm": norm}, **step)
    moved = float((weights(after) - weights(before)).norm())
    assert 0.1 * norm < moved <= norm * (1 + 1e-5)


def test_the_noise_has_the_asked_deviation():
    data = records(n=50)
    step = {"batch_size": 50, "epochs": 1, "learning_rate": 1.0}
    module = nn.Sequential(nn.Linear(5, 400), nn.Tanh(), nn.Linear(400, 2))
    still = train(module, data, {"noise_multiplier": 0.0, "max_grad_norm": 1e-6}, **step)
    noisy = train(module, data, {"noise_multiplier": 1e6, "max_grad_norm": 1e-6}, **step)
    # noise 1e6 * 1e-6 = 1 on the sum, so 1 / 50 on the mean; 3,202 weights give it within 3 %.
    assert float((weights(noisy) - weights(still)).std()) == pytest.approx(1 / 50, rel=0.05)


def test_minibatches_are_drawn_independently_and_may_be_empty():
    plan = plan_privacy(read_dp({"noise_multiplier": 1.0}), n=12, batch_size=1, epochs=1)
    module, generator = mlp(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    sizes = []
    with make_private(module, optimizer, plan, n=12, generator=generator, device=torch.device("cpu")) as private:
        for _ in range(300):
            order, bounds = private.draw()
            assert bounds[-1][1] == len(order)
            sizes += [stop - start for start, stop in bounds]
    # Binomial(12, 1/12): mean 1, variance 11/12; 3,600 draws.
    assert np.mean(sizes) == pytest.approx(1, abs=0.08)
    assert np.var(sizes) == pytest.approx(11 / 12, abs=0.15)
    assert sizes.count(0) / len(sizes) == pytest.approx((11 / 12) ** 12, abs=0.04)
    trained = train(mlp(), records(n=12), {"noise_multiplier": 0.1}, batch_size=1)
    assert torch.isfinite(weights(trained)).all()


def test_the_model_is_its_old_self_afterwards():
    model = train(mlp(), records(), {"noise_multiplier": 1.0})
    assert type(model) is nn.Sequential
    assert model[1].inplace
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert not any(sub._forward_hooks or sub._backward_hooks for sub in model.modules())


def test_the_accountant_agrees_with_the_closed_form_of_one_gaussian_step():
    from mlflow_privacy.metrics.epsilon import gaussian_epsilon

    plan = plan_privacy(read_dp({"noise_multiplier": 2.0, "delta": 1e-5}), n=100, batch_size=100, epochs=1)
    exact = gaussian_epsilon(0.5, 1e-5)
    assert exact <= plan.epsilon < 1.3 * exact  # Rényi's accountant is an upper bound


def test_a_target_epsilon_is_kept_and_nearly_used():
    plan = plan_privacy(read_dp({"target_epsilon": 3.0}), n=1000, batch_size=50, epochs=5)
    assert 2.9 < plan.epsilon <= 3.0
    assert plan.steps == 100
    assert plan_privacy(read_dp({"noise_multiplier": 0}), n=10, batch_size=5, epochs=1).epsilon == math.inf


def test_batch_normalisation_is_refused_with_the_remedy_or_replaced_if_asked():
    module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(RecipeError, match=r"(?s)BatchNorm.*fix: true"):
        make_recipe(module, {**PLAIN, "dp": {"noise_multiplier": 1.0}}, task="classification")
    trained = train(module, records(), {"noise_multiplier": 1.0, "fix": True})
    kinds = {type(sub) for sub in trained.modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm1d not in kinds


def test_the_settings_are_part_of_the_fingerprint_and_absent_ones_are_not():
    plain, one, two = (
        make_recipe(mlp(), {**PLAIN, **extra}, task="classification")
        for extra in ({}, {"dp": {"noise_multiplier": 1.0}}, {"dp": {"noise_multiplier": 2.0}})
    )
    assert len({recipe_digest(r) for r in (plain, one, two)}) == 3
    assert "dp" not in plain.spec["settings"]
    said = make_recipe(mlp(), {**PLAIN, "dp": {"noise_multiplier": 1.0, "epsilon": 8.0}}, task="classification")
    assert recipe_digest(said) == recipe_digest(one)  # what was reached is no instruction


def test_all_faults_are_named_at_once():
    _, faults = read_settings(
        {**PLAIN, "grad_clip": 1.0, "dp": {"noise": 1, "delta": 2, "accountant": "x"}}, task="classification"
    )
    text = " ".join(faults)
    for part in ("'noise_multiplier'", "delta in (0, 1)", "rdp, prv"):
        assert part in text
    _, faults = read_settings({**PLAIN, "grad_clip": 1.0, "dp": {"noise_multiplier": 1}}, task="classification")
    assert "leave one of them out" in faults[0]
    assert "not both" in str(
        read_settings({**PLAIN, "dp": {"noise_multiplier": 1, "target_epsilon": 1}}, task="classification")[1]
    )


@pytest.mark.parametrize("target", [200, 2000])
def test_a_large_target_epsilon_is_answered_by_the_accountant_that_can(target, caplog):
    dp = read_dp({"target_epsilon": target, "accountant": "prv"})
    started = time.perf_counter()
    plan = plan_privacy(dp, n=100, batch_size=50, epochs=2)
    assert 0.9 * target <= plan.epsilon <= target
    assert time.perf_counter() - started < 60
    assert plan.accountant == ("prv" if target == 200 else "rdp")
    assert ("is 'rdp', not 'prv'" in caplog.text) == (target == 2000)
    # A noise that was given is accounted for in bounded time as well.
    given = plan_privacy(read_dp({"noise_multiplier": 0.01, "accountant": "prv"}), n=100, batch_size=50, epochs=2)
    assert given.epsilon > 2000


def test_the_tighter_accountant_needs_less_noise():
    noise = {
        kind: plan_privacy(read_dp({"target_epsilon": 3, "accountant": kind}), n=100, batch_size=20, epochs=2)
        for kind in ("prv", "rdp")
    }
    assert noise["prv"].noise_multiplier < noise["rdp"].noise_multiplier
    assert 2.95 <= noise["prv"].epsilon <= 3
