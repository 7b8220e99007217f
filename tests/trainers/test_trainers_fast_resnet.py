"""FastResNet references: the whitening knows members only, and the short recipe does what it says."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import torch

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.errors import ConfigError, RecipeError, StoreError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.fast_resnet import trainer as fast
from mlflow_privacy.trainers.fast_resnet.settings import (
    FastSettings,
    batches,
    peak_rate,
    read_fast_settings,
    triangle,
)
from mlflow_privacy.trainers.torch.tensors import Feeder
from mlflow_privacy.types import AuditedModel, AuditTarget, Records
from mlflow_privacy.zoo import build_model
from mlflow_privacy.zoo.fast_resnet import FastResNet, patch_statistics, whitening

SETTINGS = {"epochs": 2, "batch_size": 32}
SHAPE = (1, 28, 28)


def net(shape=SHAPE, classes=3, width=0.05, seed=0):
    torch.manual_seed(seed)
    return FastResNet(shape, classes, width=width).set_scale(100.0, 50.0)


def images(n=96, classes=3, shape=SHAPE, seed=0, noise=30):
    """Stripes across, along and slanted, in noise; whole numbers as bytes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    down, across = np.mgrid[: shape[1], : shape[2]]
    waves = np.stack([np.sin(down), np.sin(across), np.sin((down + across) / 2)])
    x = 128 + 60 * waves[y % 3][:, None] + rng.normal(size=(n, *shape)) * noise
    return Records(x.clip(0, 255).astype(np.uint8), y, np.arange(n).astype(str))


def halves(n=96, seed=0):
    row = np.zeros(n, bool)
    row[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    return np.stack([row, ~row])


def train(data, rows, seeds, settings=SETTINGS, module=None, **options):
    recipe = make_recipe(module or net(), settings, task="classification")
    return list(trainer_for(recipe).train(recipe, data, rows, seeds, **{"device": "cpu", **options}))


def state(model):
    return torch.cat([value.detach().cpu().double().flatten() for value in model.state_dict().values()])


def accuracy(model, data, device="cpu"):
    return model_outputs(model, data, task="classification", device=device).correct.mean()


# Training


def test_it_learns_images_that_can_be_told_apart():
    (model,) = train(images(), np.ones((1, 96), bool), [1], {"epochs": 8, "batch_size": 16}, net(width=0.125))
    assert not model.training
    fresh = images(seed=1)
    assert accuracy(net(width=0.125).eval(), fresh) < 0.7
    assert accuracy(model, fresh) > 0.9


def test_equal_seeds_give_equal_models_and_other_seeds_or_members_others():
    data, (row, other) = images(), halves()
    a, b, c, d = train(data, np.stack([row, row, row, other]), [5, 5, 6, 5])
    assert torch.equal(state(a), state(b))
    assert not torch.allclose(state(a), state(c))
    assert not torch.allclose(state(a), state(d))


def test_one_by_one_equals_part_of_a_list():
    data, rows = images(), halves()
    together = train(data, rows, [3, 4])
    alone = [train(data, rows[i : i + 1], [3 + i])[0] for i in (1, 0)]
    assert torch.equal(state(together[1]), state(alone[0]))
    assert torch.equal(state(together[0]), state(alone[1]))


def test_a_yielded_model_is_not_touched_by_the_next_one():
    recipe = make_recipe(net(), SETTINGS, task="classification")
    models = trainer_for(recipe).train(recipe, images(), halves(), [1, 2], device="cpu")
    first = next(models)
    before = state(first).clone()
    next(models)
    assert torch.equal(state(first), before)


def test_nothing_of_the_target_is_left_in_its_references():
    data, rows = images(), halves()
    (target,) = train(data, rows[:1], [0])
    for norm in (target.stages[0].norm1, target.stages[2].norm2):
        norm.running_mean.fill_(1e3)
        norm.bias.data.fill_(7.0)
    again = train(data, rows[1:], [9], module=target)[0]
    assert torch.equal(state(again), state(train(data, rows[1:], [9])[0]))


def test_only_members_are_seen():
    """The whole model, whitening included, stays the same to the last bit when every non-member is another image."""
    data, (row, _) = images(), halves()
    changed = data.x.copy()
    changed[~row] = np.random.default_rng(3).integers(0, 255, changed[~row].shape)
    y = np.where(row, data.y, (data.y + 1) % 3)
    (a,), (b,) = (train(Records(x, y, data.row_ids), row[None], [1]) for x in (data.x, changed))
    assert torch.equal(state(a), state(b))
    swapped = data.x.copy()
    swapped[np.flatnonzero(row)[0]] = 255  # while a single member changes it
    (c,) = train(Records(swapped, y, data.row_ids), row[None], [1])
    assert not torch.equal(a.whiten.weight, c.whiten.weight)


def test_no_global_random_state_leaks():
    torch.manual_seed(3)
    expected = torch.rand(2)
    recipe = make_recipe(net(), SETTINGS, task="classification")
    torch.manual_seed(3)
    list(trainer_for(recipe).train(recipe, images(), halves(), [1, 2], device="cpu"))
    assert torch.equal(torch.rand(2), expected)


def test_progress_ends_at_the_total():
    steps = []
    train(images(), halves(), [1, 2], progress=lambda done, total: steps.append((done, total)))
    assert steps[0][0] <= 4
    assert steps[-1] == (8, 8)  # two models, two epochs, 48 members in batches of at most 32


def test_float_pixels_are_the_same_as_bytes():
    data, row = images(), halves()[:1]
    (a,) = train(data, row, [1])
    (b,) = train(Records(data.x.astype(np.float32), data.y, data.row_ids), row, [1])
    assert torch.equal(state(a), state(b))


def test_a_cpu_trains_in_float32_and_without_a_compiler():
    (model,) = train(images(), halves()[:1], [1])
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    assert fast.half_type(torch.device("cpu")) is None
    engine = fast._Engine(net(), 0.0, torch.device("cpu"))
    assert engine._compiled is None
    seen = []
    engine.net.stages[0].conv1.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    engine.loss(torch.zeros(4, *SHAPE, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    assert seen == [torch.float32]


def test_without_a_working_compiler_the_plain_code_runs(caplog):
    engine = fast._Engine(net(), 0.1, torch.device("cpu"))
    batch, labels = torch.zeros(4, *SHAPE, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)
    expected = engine.loss(batch, labels)

    def broken(*args):
        raise RuntimeError("no C compiler")

    engine._compiled = broken
    assert torch.equal(engine.loss(batch, labels), expected)
    assert "no C compiler" in caplog.text


def test_references_share_one_compiled_step(monkeypatch):
    """One graph while the first layer's bias learns and one after; no break in them, no other for later references."""
    from torch._dynamo.utils import counters

    engine = fast._Engine(net(), 0.2, torch.device("cpu"))
    engine._compiled = torch.compile(engine._loss, dynamic=False, backend="eager", fullgraph=True)
    plain = train(images(), halves(), [1, 2], {"epochs": 4, "batch_size": 24})
    monkeypatch.setattr(fast, "_engine", lambda *form: engine)
    before = counters["stats"]["unique_graphs"]
    compiled = train(images(), halves(), [1, 2], {"epochs": 4, "batch_size": 24})
    assert engine._compiled is not None
    assert counters["stats"]["unique_graphs"] == before + 2
    for a, b in zip(plain, compiled, strict=True):
        assert torch.allclose(state(a), state(b), atol=1e-5)


def test_label_smoothing_is_applied():
    """(1 - s) times the cross-entropy of the label plus s times the mean of all classes'."""
    torch.manual_seed(0)
    batch = torch.randint(0, 255, (8, *SHAPE), dtype=torch.uint8)
    labels = torch.arange(8) % 3
    engine = fast._Engine(net(), 0.3, torch.device("cpu"))
    loss = engine.loss(batch, labels)
    logs = engine.net(batch.float()).log_softmax(1)
    expected = -(0.7 * logs.gather(1, labels[:, None])[:, 0] + 0.3 * logs.mean(1)).mean()
    assert torch.allclose(loss, expected, atol=1e-5)


def test_smoothed_models_are_less_certain():
    data, row, settings = images(), np.ones((1, 96), bool), {"epochs": 4, "batch_size": 24}
    sure, unsure = (train(data, row, [1], {**settings, "label_smoothing": s})[0] for s in (0.0, 0.8))
    means = [model_outputs(m, data, task="classification", device="cpu").loss.mean() for m in (sure, unsure)]
    assert means[0] < means[1]


def test_batch_statistics_have_the_stated_momentum():
    model = net().train()
    norm = model.stages[0].norm1
    x = torch.randn(16, norm.num_features, 5, 5) * 3 + 2
    norm(x)
    assert torch.allclose(norm.running_mean, 0.4 * x.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(norm.running_var, 0.6 + 0.4 * x.var((0, 2, 3)), atol=1e-3)


def test_a_flip_of_one_half_is_done_in_every_other_epoch(monkeypatch):
    """Each image is flipped in exactly one of two epochs that follow each other, half of the images in each."""
    n, seen = 64, []
    x = np.zeros((n, *SHAPE), np.uint8)
    x[:] = np.arange(n)[:, None, None, None]
    monkeypatch.setattr(
        fast.augment,
        "apply",
        lambda batch, options, drawn: seen.append((batch[:, 0, 0, 0].clone(), drawn["flip"])) or batch,
    )
    data = Records(x, np.arange(n) % 3, np.arange(n).astype(str))
    train(data, np.ones((1, n), bool), [0], {"epochs": 4, "batch_size": 16, "augmentation": ["flip"]})
    flips = np.zeros((4, n), bool)
    for epoch in range(4):
        for image, flip in seen[epoch * 4 : epoch * 4 + 4]:
            flips[epoch, image.numpy()] = flip.numpy()
    assert (flips[0] != flips[1]).all()
    assert (flips[0] == flips[2]).all()
    assert (flips[1] == flips[3]).all()
    assert 16 < flips[0].sum() < 48


def test_the_last_slow_weights_are_the_model():
    """One value, closed form: slow + (1 - keep) (fast - slow) every five steps."""
    model = net()
    bias = model.stages[0].norm1.bias
    with torch.no_grad():
        bias.zero_()
    slow = fast._Lookahead(model, steps=10)
    with torch.no_grad():
        bias.fill_(1.0)
    slow.after(4)
    assert bias.max() == 1
    slow.after(5)
    first = 1 - 0.95**5 * 0.5**3
    assert torch.allclose(bias, torch.full_like(bias, first))
    with torch.no_grad():
        bias.fill_(2.0)
    slow.after(10)
    assert torch.allclose(bias, torch.full_like(bias, first + (1 - 0.95**5) * (2 - first)))
    assert model.mean.flatten().tolist() == [100.0]


def test_a_training_that_diverges_says_so(monkeypatch):
    original = fast._Engine.loss
    monkeypatch.setattr(fast._Engine, "loss", lambda self, *batch: original(self, *batch) * float("inf"))
    with pytest.raises(RecipeError, match=r"diverged at a peak learning rate of 8.*Lower learning_rate"):
        train(images(), halves()[:1], [1], {**SETTINGS, "epochs": 3, "learning_rate": 9})


# Whitening


@pytest.mark.parametrize("shape", [SHAPE, (3, 32, 30)])
def test_patch_statistics_are_those_of_every_patch(shape):
    x = images(12, shape=shape).x
    rows, columns = shape[1] - 1, shape[2] - 1
    patches = [x[:, :, i : i + 2, j : j + 2].reshape(12, -1) for i in range(rows) for j in range(columns)]
    patches = np.concatenate(patches).astype(float)
    mean, covariance = patch_statistics([torch.from_numpy(x[:5]), torch.from_numpy(x[5:])])
    np.testing.assert_allclose(mean, patches.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(patches.T, bias=True), rtol=1e-9, atol=1e-9)


def test_patch_statistics_do_not_depend_on_order():
    x = torch.from_numpy(images(40).x)
    first, second = patch_statistics([x]), patch_statistics(x.flip(0).split(7))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("shape", [SHAPE, (3, 28, 28)])
def test_the_first_layer_whitens_the_members(shape):
    """Mean 0 and, along each axis, the variance λ / (λ + ε) of the closed form: 1 for images with noise."""
    data, row = images(80, shape=shape), halves(80)[0]
    model = net(shape)
    rows = torch.from_numpy(np.flatnonzero(row))
    fast.whiten_on(model, Feeder(torch.from_numpy(data.x), torch.device("cpu"), torch.float32), rows)
    d = 4 * shape[0]

    def first_layer(x):
        with torch.no_grad():
            out = model.whiten((torch.from_numpy(x).float() - model.mean) / model.std).double()
        return out.transpose(0, 1).flatten(1)

    out = first_layer(data.x[row])
    covariance = torch.cov(out[:d], correction=0)
    _, raw = patch_statistics([torch.from_numpy(data.x[row])])
    values = torch.linalg.eigvalsh(raw).flip(0)
    expected = torch.diag(values / (values + 5e-4 * values.mean()))
    assert torch.allclose(covariance, expected, atol=1e-3)
    assert torch.allclose(covariance, torch.eye(d, dtype=torch.float64), atol=0.02)
    assert out.mean(1).abs().max() < 1e-3
    assert torch.allclose(out[:d], -out[d:], atol=1e-4)
    inverted = torch.cov(first_layer(255 - data.x[row] // 2)[:d], correction=0)
    assert (inverted - torch.eye(d)).abs().max() > 0.1  # so that the test can fail


def test_whitening_takes_images_of_one_colour():
    """Patches without variance along some axis give finite weights."""
    flat = np.full((64, *SHAPE), 9, np.uint8)
    flat[::2] = 200
    assert bool(whitening(torch.zeros(4, 4, dtype=torch.float64)).isfinite().all())
    (model,) = train(Records(flat, np.arange(64) % 2, np.arange(64).astype(str)), np.ones((1, 64), bool), [0])
    assert bool(state(model).isfinite().all())


def test_the_scale_of_the_pixels_does_not_matter():
    """Whitening undoes it, up to rounding."""
    data = images()
    x = torch.from_numpy(data.x[:8]).float()
    statistics = patch_statistics([torch.from_numpy(data.x)])
    first, second = net().eval(), net().set_scale(0.0, 70.0).eval()
    for model in (first, second):
        model.set_whitening(*statistics)
    assert torch.allclose(first(x), second(x), atol=1e-3)


# The network


def test_convolutions_begin_as_the_identity():
    model = net((3, 28, 28), width=0.25)
    block = model.stages[1].conv1  # 16 channels to 64
    x = torch.randn(2, 16, 9, 9)
    assert torch.equal(block(x)[:, :16], x)
    assert not torch.equal(block(x)[:, 16:32], x)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 48), (1, 31, 64)])
@pytest.mark.parametrize("classes", [2, 100])
def test_it_takes_images_of_28_to_64_pixels_and_any_number_of_classes(shape, classes):
    model = net(shape, classes).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, classes)


def test_all_faults_of_the_network_are_told_at_once():
    with pytest.raises(ConfigError, match=r"28 to 64 pixels.*\(3, 20, 32\).*at least 2 classes, got 1.*width.*-1"):
        FastResNet((3, 20, 32), 1, width=-1)
    with pytest.raises(ConfigError, match="speedyresnet|FastResNet.*pixels"):
        build_model("speedyresnet", (2, 32, 32), 10, {}, task="classification")
    with pytest.raises(ConfigError, match=r"std must be 1 or 3 finite positive numbers, got \[0.0\]"):
        net((3, 32, 32)).set_scale([1, 2, 3], 0)
    with pytest.raises(RecipeError, match=r"shape \(1, 28, 28\), but a record has shape \(1, 32, 32\)"):
        train(images(shape=(1, 32, 32)), halves(), [0, 1])


def test_it_has_the_size_of_the_paper():
    """1.97 million parameters (Jordan 2024, section 3)."""
    assert round(sum(p.numel() for p in FastResNet((3, 32, 32), 10).parameters()) / 1e6, 2) == 1.97


def test_it_survives_a_pickle_and_reads_raw_pixels():
    (model,) = train(images(), halves()[:1], [1])
    again = pickle.loads(pickle.dumps(model))
    data = images(seed=4)
    x = torch.from_numpy(data.x).float()
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
        phi = model_outputs(again, data, task="classification", device="cpu").signal
        logits = model(x).double()
    y = torch.from_numpy(data.y)[:, None]
    others = logits.scatter(1, y, -np.inf).logsumexp(1)
    np.testing.assert_allclose(phi, logits.gather(1, y)[:, 0] - others, atol=1e-5)


# The recipe


def test_make_recipe_knows_the_network_compiled_or_not():
    model = build_model("speedyresnet", SHAPE, 3, {"width": 0.05}, task="classification")
    recipe = make_recipe(model, {}, task="classification", data=images())
    assert recipe.kind == "fast_resnet"
    assert recipe.spec["classes"] == [0, 1, 2]
    assert make_recipe(torch.nn.DataParallel(model), {}, task="classification").kind == "fast_resnet"
    assert type(trainer_for(recipe)).__name__ == "FastResNetTrainer"


def test_the_fingerprint_is_of_the_recipe_and_not_of_what_was_learned():
    (trained,) = train(images(), halves()[:1], [1])
    first, again = (recipe_digest(make_recipe(m, {}, task="classification")) for m in (net(seed=5), trained))
    assert first == again
    others = [net(width=0.1), net(classes=4), net().set_scale(1.0, 2.0)]
    digests = {recipe_digest(make_recipe(m, {}, task="classification")) for m in others}
    digests.add(recipe_digest(make_recipe(net(), {"epochs": 3}, task="classification")))
    assert len(digests | {first}) == 5


def test_settings_win_over_the_defaults_and_have_the_usual_aliases():
    given = {"optimizer": "SGD", "lr": "0.5", "max_epochs": 3, "bs": 64, "momentum": 0, "augmentation": {"crop": 4}}
    parsed, faults = read_fast_settings(given, task="classification")
    assert faults == []
    assert parsed == FastSettings(3, 64, 0.5, momentum=0.0, augmentation={"crop": 4, "crop_mode": "zeros"})
    assert read_fast_settings({}, task="classification") == (FastSettings(), [])
    assert read_fast_settings({"augmentation": []}, task="classification")[0].augmentation == {}


def test_all_faults_of_the_settings_are_told_at_once_with_the_nearest_key():
    with pytest.raises(RecipeError) as caught:
        make_recipe(net(), {"epoch": 3, "schedule": "cosine", "optimizer": "sgd", "momentum": 2}, task="classification")
    text = str(caught.value)
    assert "unknown key 'epoch' of a FastResNet, did you mean 'epochs'?" in text
    assert "unknown key 'schedule' of a FastResNet; valid are epochs" in text
    assert "momentum must be a number in [0, 1), got 2" in text
    with pytest.raises(RecipeError, match="optimizer='SGD', not with 'adam'"):
        make_recipe(net(), {"optimizer": "Adam"}, task="classification")
    with pytest.raises(RecipeError, match="classification only, not regression"):
        make_recipe(net(), {}, task="regression")
    with pytest.raises(RecipeError, match="lookahead must be true or false, got 'maybe'"):
        make_recipe(net(), {"lookahead": "maybe"}, task="classification")


@pytest.mark.parametrize("most", [None, 1, 32, 1024])
def test_batches_are_equal_small_enough_and_leave_little_over(most):
    for members in (2, 31, 33, 1000, 24_999, 50_000):
        steps, size = batches(members, FastSettings(batch_size=most))
        assert size <= (most or 1024)
        assert 0 <= members - steps * size < steps


def test_learning_rates_are_a_triangle_below_the_peak():
    shape = triangle(1000)
    top = int(shape.argmax())
    assert (np.diff(shape)[:top] > 0).all()
    assert (np.diff(shape)[top:] < 0).all()
    assert shape.max() == pytest.approx(1, abs=1e-2)
    assert peak_rate(1024, FastSettings()) == 1.5


def test_weight_decay_and_rates_of_all_parameters():
    """Everything that learns is in one group, and decays by weight_decay times the learning rate."""
    model = net()
    optimizer = fast._optimizer(model, FastSettings(weight_decay=0.5))
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert learning == {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert [group["factor"] * group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_save_and_load_give_the_same_outputs(tmp_path):
    recipe = make_recipe(net(), SETTINGS, task="classification")
    trainer = trainer_for(recipe)
    (model,) = trainer.train(recipe, images(), halves()[:1], [1], device="cpu")
    assert trainer.save(recipe, model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    again = trainer.load(recipe, tmp_path)
    x = torch.from_numpy(images(seed=2).x).float()
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    with pytest.raises(StoreError, match="does not hold this network's state"):
        trainer.load(make_recipe(net(width=0.1), SETTINGS, task="classification"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="trained again"):
        trainer.load(recipe, tmp_path)


def test_an_audit_from_end_to_end_finds_memorised_labels():
    rng = np.random.default_rng(0)
    data = images(96, noise=60)
    data = Records(data.x, rng.integers(0, 3, 96), data.row_ids)  # nothing to learn but by heart
    row, module = halves()[0], net(width=0.125)
    settings = {"epochs": 8, "batch_size": 16, "augmentation": [], "label_smoothing": 0}
    recipe = make_recipe(module, settings, task="classification", data=data)
    (target,) = trainer_for(recipe).train(recipe, data, row[None], [0], device="cpu")
    audited = AuditedModel("memory", None, None, None, None, "pytorch", target)
    options = AuditOptions(num_ref_models=2, blind_baseline=False, progress=False, device="cpu")
    result = audit(AuditTarget(audited, data, row, "classification", recipe=recipe), options)
    assert result.references["n_trained"] == 2
    assert result.attacks[0].metrics["auc"].low > 0.6


# On a GPU


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return "cuda"


@pytest.mark.gpu
def test_several_references_compile_once(cuda):
    from torch._dynamo.utils import counters

    data, rows = images(512, shape=(3, 32, 32)), halves(512)
    recipe = make_recipe(net((3, 32, 32)), {"epochs": 5, "batch_size": 64}, task="classification")
    models = trainer_for(recipe).train(recipe, data, np.concatenate([rows, rows]), [1, 2, 3, 4], device=cuda)
    next(models)
    compiled = counters["stats"]["unique_graphs"]
    assert compiled > 0  # it does compile on this machine
    assert len(list(models)) == 3
    assert counters["stats"]["unique_graphs"] == compiled


@pytest.mark.gpu
def test_both_devices_agree(cuda):
    """One model has the same outputs on both; trainings by the same seed are as good on both."""
    data, rows = images(256, shape=(3, 32, 32)), halves(256)
    settings, module = {"epochs": 6, "batch_size": 32}, net((3, 32, 32), width=0.125)
    (there,) = train(data, rows[:1], [1], settings, module, device=cuda)
    (here,) = train(data, rows[:1], [1], settings, module)
    assert next(there.parameters()).device.type == "cuda"
    assert torch.allclose(there.whiten.weight.cpu(), here.whiten.weight, atol=1e-6)  # exact sums on both
    other = Records(images(128, shape=(3, 32, 32), seed=5).x, np.arange(128) % 3, np.arange(128).astype(str))
    phi = [model_outputs(there, other, task="classification", device=d).signal for d in ("cpu", cuda)]
    np.testing.assert_allclose(*phi, atol=0.02)
    assert abs(accuracy(there, other) - accuracy(here, other)) < 0.1


@pytest.mark.gpu
def test_an_epoch_does_not_wait_for_the_device(cuda):
    """In sync-debug mode every wait raises; what may wait is before the first step and after the last of an epoch."""
    data, rows = images(256, shape=(3, 32, 32)), halves(256)
    module, settings = net((3, 32, 32)), {"epochs": 1, "batch_size": 32, "lookahead": True}
    train(data, rows[:1], [1], settings, module, device=cuda)  # compiles
    original, calls = fast._Engine.loss, []

    def watched(self, images, labels):
        if len(calls) == 1:
            torch.cuda.set_sync_debug_mode("error")
        calls.append(1)
        if len(calls) == 4:
            torch.cuda.set_sync_debug_mode("default")
        return original(self, images, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast._Engine, "loss", watched)
        try:
            train(data, rows[:1], [1], settings, module, device=cuda)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == 4


@pytest.mark.gpu
def test_time_of_a_reference(cuda, record_property):
    """After the first one, a reference of 25,000 images of 32×32 takes less than ten seconds."""
    data = images(50_000, classes=10, shape=(3, 32, 32))
    recipe = make_recipe(FastResNet((3, 32, 32), 10), {}, task="classification")
    models = trainer_for(recipe).train(recipe, data, np.concatenate([halves(50_000)] * 2), range(4), device=cuda)
    next(models)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in models:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / 3
    record_property("seconds_per_reference", seconds)
    assert seconds < 10
