"""PyTorch references: fresh parameters, the recipe's training, and safe files."""

from __future__ import annotations

import copy
import pickle
import types

import numpy as np
import pytest
import torch
from torch import nn

from mlflow_privacy.errors import RecipeError, StoreError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.torch.reinit import kept_buffers, reinitialise
from mlflow_privacy.types import Records

SETTINGS = {"optimizer": "adam", "lr": 0.01, "epochs": 3, "batch_size": 16}


def blobs(n=120, classes=3, d=6, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    centres = rng.normal(size=(classes, d)) * 2
    x = (centres[y] + rng.normal(size=(n, d)) * noise).astype(np.float32)
    return Records(x, y, np.arange(n).astype(str))


def mlp(d=6, classes=3, width=16):
    return nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, classes))


def halves(n, seed=0):
    row = np.zeros(n, bool)
    row[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    return np.stack([row, ~row])


def train(module, data, rows, seeds, settings=SETTINGS, task="classification", **options):
    recipe = make_recipe(module, settings, task=task)
    return list(trainer_for(recipe).train(recipe, data, rows, seeds, device="cpu", **options))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_same_seed_same_model_and_other_seed_other_model():
    data = blobs()
    rows = np.repeat(halves(120)[:1], 3, axis=0)
    a, b, c = train(mlp(), data, rows, [5, 5, 6])
    assert torch.equal(weights(a), weights(b))
    assert not torch.allclose(weights(a), weights(c))


def test_training_learns_and_yields_evaluation_mode():
    data = blobs()
    model, _ = train(mlp(), data, halves(120), [1, 2], {**SETTINGS, "epochs": 30})
    assert not model.training
    assert model_outputs(model, data, task="classification", device="cpu").correct.mean() > 0.9


def test_no_global_random_state_leaks():
    data = blobs()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    recipe = make_recipe(mlp(), SETTINGS, task="classification")
    torch.manual_seed(3)
    for model in trainer_for(recipe).train(recipe, data, halves(120), [1, 2], device="cpu"):
        del model
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])  # noqa: NPY002


def test_models_that_cannot_be_stacked_are_trained_one_at_a_time_as_they_are_asked_for():
    steps = []
    module = nn.Sequential(*mlp(), nn.Softsign())
    recipe = make_recipe(module, SETTINGS, task="classification")
    models = trainer_for(recipe).train(
        recipe, blobs(), halves(120), [1, 2], device="cpu", progress=lambda done, total: steps.append((done, total))
    )
    next(models)
    assert steps[-1] == (12, 24)
    next(models)
    assert steps[-1] == (24, 24)


def test_nothing_of_an_overfitted_target_is_left_in_its_references():
    """The target memorised random labels of its half; a reference of the other half knows nothing of them."""
    rng = np.random.default_rng(0)
    data = Records(rng.normal(size=(80, 20)).astype(np.float32), rng.integers(0, 2, 80), np.arange(80).astype(str))
    rows = halves(80)
    settings = {**SETTINGS, "epochs": 60, "lr": 0.01}
    target = train(mlp(20, 2, 64), data, rows[:1], [0], settings)[0]
    memory = model_outputs(target, data, task="classification", device="cpu").correct[rows[0]].mean()
    assert memory > 0.95
    reference = train(target, data, rows[1:], [1], {**settings, "epochs": 1, "lr": 1e-9})[0]
    unlearnt = model_outputs(reference, data, task="classification", device="cpu").correct[rows[0]].mean()
    assert unlearnt < 0.75
    fresh = [train(target, data, rows[:1], [s], {**settings, "epochs": 1, "lr": 1e-9})[0] for s in (1, 2)]
    correlation = np.corrcoef([weights(target), weights(fresh[0]), weights(fresh[1])])
    # bounds of the initialisation differ by layer, so that magnitudes correlate but signed weights do not
    assert abs(correlation[0, 1]) < 0.2
    assert abs(correlation[1, 2]) < 0.2


def test_batch_norm_statistics_are_reset():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    module.train()
    for _ in range(5):
        module(torch.randn(32, 4) * 10 + 50)
    fresh = reinitialise(module, 1)
    assert torch.equal(fresh[1].running_mean, torch.zeros(8))
    assert torch.equal(fresh[1].running_var, torch.ones(8))
    assert int(fresh[1].num_batches_tracked) == 0
    assert module[1].running_mean.abs().max() > 1  # the registered module is not touched


def test_reinitialisation_draws_what_the_constructors_draw():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(200, 300), nn.MultiheadAttention(300, 2))
    fresh = reinitialise(module, 9)
    for (name, p), (_, q) in zip(module.named_parameters(), fresh.named_parameters(), strict=True):
        if p.numel() > 1000:
            assert abs(float((p.std() / q.std()).detach()) - 1) < 0.1, name
        elif name.startswith("1."):  # attention sets its biases to 0 after its children were made
            assert torch.equal(p, q), name


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.hidden(self.embed(x).mean(dim=1)))


def test_tied_weights_stay_tied_and_take_the_first_owners_initialisation(tmp_path):
    fresh = reinitialise(Tied(), 0)
    assert fresh.out.weight is fresh.embed.weight
    assert 0.7 < float(fresh.embed.weight.detach().std()) < 1.3  # N(0, 1) of the embedding, not U(±0.41) of the layer
    rng = np.random.default_rng(0)
    data = Records(rng.integers(0, 11, (40, 5)), rng.integers(0, 11, 40), np.arange(40).astype(str))
    recipe = make_recipe(Tied(), SETTINGS, task="classification")
    trainer = trainer_for(recipe)
    model = next(trainer.train(recipe, data, halves(40), [1, 2], device="cpu"))
    assert model.out.weight is model.embed.weight
    assert trainer.save(recipe, model, tmp_path)
    loaded = trainer.load(recipe, tmp_path)
    assert loaded.out.weight is loaded.embed.weight
    assert torch.equal(weights(loaded), weights(model))


def test_frozen_parameters_keep_their_values_and_are_in_the_fingerprint():
    module = mlp()
    module[0].requires_grad_(False)
    model = train(module, blobs(), halves(120)[:1], [1])[0]
    assert torch.equal(model[0].weight, module[0].weight)
    assert not torch.equal(model[2].weight, module[2].weight)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other[0].weight += 1
    trained = copy.deepcopy(module)
    with torch.no_grad():
        trained[2].weight += 1
    digests = [recipe_digest(make_recipe(m, SETTINGS, task="classification")) for m in (module, other, trained)]
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]


def test_fingerprint_is_of_the_recipe_not_of_what_was_learnt():
    base = recipe_digest(make_recipe(mlp(), SETTINGS, task="classification"))
    assert base == recipe_digest(make_recipe(mlp(), SETTINGS, task="classification"))
    aliased = {"optimizer_name": "Adam", "learning_rate": "1e-2", "max_epochs": "3", "batch_size": 16.0}
    assert base == recipe_digest(make_recipe(mlp(), {**aliased, "betas": (0.9, 0.999)}, task="classification"))
    assert base != recipe_digest(make_recipe(mlp(width=17), SETTINGS, task="classification"))
    assert base != recipe_digest(make_recipe(mlp(), {**SETTINGS, "lr": 0.02}, task="classification"))
    dropout = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.1)), nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.2))
    assert len({recipe_digest(make_recipe(m, SETTINGS, task="classification")) for m in dropout}) == 2


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.inner = nn.Linear(6, 3)

    def forward(self, x):
        return self.inner(x) * self.scale


class HalfReset(Raw):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def reset_parameters(self):
        nn.init.ones_(self.scale)


class ParentResets(nn.Module):
    """The parent initialises the raw parameters of a child that cannot do so itself."""

    def __init__(self):
        super().__init__()
        self.raw = Raw()

    def reset_parameters(self):
        nn.init.ones_(self.raw.scale)

    def forward(self, x):
        return self.raw(x)


def test_module_without_reset_is_an_error_that_names_submodule_and_remedy():
    module = nn.Sequential(Raw(), Raw())
    with pytest.raises(RecipeError) as error:
        make_recipe(module, SETTINGS, task="classification")
    text = str(error.value)
    assert "submodule '0' (Raw) owns scale but has no reset_parameters" in text
    assert "submodule '1' (Raw)" in text
    assert "train_fn" in text


def test_reset_that_forgets_a_parameter_is_an_error():
    with pytest.raises(
        RecipeError, match=r"reset_parameters of the module itself .HalfReset. does not initialise shift"
    ):
        make_recipe(HalfReset(), SETTINGS, task="classification")


def test_parent_may_reset_for_its_child():
    fresh = reinitialise(ParentResets(), 0)
    assert torch.equal(fresh.raw.scale, torch.ones(3))


@pytest.mark.parametrize(
    "wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.orthogonal]
)
def test_parametrised_module_is_refused(wrap):
    module = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(RecipeError, match=r"parametrisation|cannot be copied|fails"):
        make_recipe(module, SETTINGS, task="classification")


def test_fully_frozen_module_is_refused():
    with pytest.raises(RecipeError, match=r"no trainable parameter"):
        make_recipe(mlp().requires_grad_(False), SETTINGS, task="classification")


def test_settings_and_module_faults_come_together():
    with pytest.raises(RecipeError) as error:
        make_recipe(Raw(), {"epoch": 3, "lr": -1}, task="classification")
    text = str(error.value)
    for part in ("did you mean 'epochs'", "'optimizer' is missing", "lr must be a number in (0, inf), got -1", "scale"):
        assert part in text


def test_missing_recipe_names_both_ways_to_give_one():
    with pytest.raises(RecipeError, match=r"log_lineage\(recipe=.*evaluator_config.*(?s:.)*'epochs' is missing"):
        make_recipe(mlp(), {}, task="classification")


class Drifting(nn.Module):
    """Keeps a running mean in a buffer that nobody resets."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(dim=0).detach()
        return self.layer(x - self.mean)


class Constant(Drifting):
    def forward(self, x):
        return self.layer(x - self.mean)


def test_buffer_that_training_changes_but_nobody_resets_is_refused():
    assert kept_buffers(Drifting()) == ["mean"]
    with pytest.raises(RecipeError, match=r"changes the buffers mean"):
        train(Drifting(), blobs(), halves(120)[:1], [1])


def test_constant_buffer_is_kept_and_fingerprinted():
    module = Constant()
    module.mean.fill_(0.5)
    assert torch.equal(train(module, blobs(), halves(120)[:1], [1])[0].mean, module.mean)
    other = Constant()
    recipes = [make_recipe(m, SETTINGS, task="classification") for m in (module, other)]
    assert recipe_digest(recipes[0]) != recipe_digest(recipes[1])


def test_one_epoch_of_plain_sgd_equals_a_naive_loop():
    data = blobs(n=40)
    row = halves(40)[0]
    settings = {"optimizer": "sgd", "lr": 0.1, "epochs": 2, "batch_size": 8, "momentum": 0.9, "weight_decay": 0.01}
    model = train(mlp(), data, row[None], [7], settings)[0]
    naive = reinitialise(mlp(), 7)
    optimizer = torch.optim.SGD(naive.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    generator = torch.Generator().manual_seed(7)
    x, y = torch.from_numpy(data.x[row]), torch.from_numpy(data.y[row])
    for _ in range(2):
        order = torch.randperm(20, generator=generator)
        for start in range(0, 20, 8):
            index = order[start : start + 8]
            optimizer.zero_grad()
            nn.functional.cross_entropy(naive(x[index]), y[index]).backward()
            optimizer.step()
    assert torch.allclose(weights(model), weights(naive), atol=1e-6)


def test_a_single_record_left_over_does_not_break_batch_norm():
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    rows = np.zeros((1, 120), bool)
    rows[0, :33] = True
    model = train(module, blobs(), rows, [0])[0]
    assert int(model[1].num_batches_tracked) == 6  # 2 full batches × 3 epochs


def test_class_names_map_to_sorted_outputs_in_training_and_signals():
    data = blobs()
    names = np.array(["ant", "bee", "cat"])[data.y]
    named = Records(data.x, names, data.row_ids)
    settings = {**SETTINGS, "epochs": 20}
    by_name = train(mlp(), named, halves(120)[:1], [3], settings)[0]
    by_index = train(mlp(), data, halves(120)[:1], [3], settings)[0]
    assert torch.equal(weights(by_name), weights(by_index))
    assert np.array_equal(
        model_outputs(by_name, named, task="classification", device="cpu").signal,
        model_outputs(by_index, data, task="classification", device="cpu").signal,
    )


def test_labels_that_do_not_fit_the_outputs_are_refused():
    data = blobs()
    bad = Records(data.x, data.y + 7, data.row_ids)
    module = mlp(classes=5)
    with pytest.raises(RecipeError, match=r"3 classes .7, 8, 9. but the model has 5 outputs"):
        train(module, bad, halves(120)[:1], [0])


def test_single_logit_classifier_and_bce():
    data = blobs(classes=2)
    for loss, module in (
        (None, nn.Linear(6, 1)),
        ("bce", nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())),
        ("nll", nn.Sequential(nn.Linear(6, 2), nn.LogSoftmax(dim=1))),
    ):
        settings = {**SETTINGS, "epochs": 40, "loss": loss}
        model = train(module, data, halves(120)[:1], [0], settings)[0]
        assert model_outputs(model, data, task="classification", device="cpu").correct.mean() > 0.9


@pytest.mark.parametrize("layers", [(nn.Linear(6, 1), nn.Sigmoid()), (nn.Linear(6, 1), nn.Sigmoid(), nn.Flatten(0))])
def test_probabilities_are_trained_as_such_where_no_loss_is_named(layers):
    """A sigmoid of a sigmoid would be no reference of it."""
    data, module = blobs(classes=2), nn.Sequential(*layers)
    unnamed, named = (
        train(module, data, halves(120)[:1], [0], {**SETTINGS, "epochs": 3, "loss": loss})[0] for loss in (None, "bce")
    )
    assert torch.equal(weights(unnamed), weights(named))


def test_loss_that_does_not_fit_the_outputs_is_refused():
    with pytest.raises(RecipeError, match=r"loss='bce' does not go with a module of 3 output"):
        train(mlp(), blobs(), halves(120)[:1], [0], {**SETTINGS, "loss": "bce"})


@pytest.mark.parametrize("loss", ["mse", "huber", "l1"])
def test_regression(loss):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    data = Records(x, x @ [1.0, -2.0, 0.5] + 3, np.arange(200).astype(str))
    settings = {"optimizer": "adam", "lr": 0.1, "epochs": 60, "batch_size": 50, "loss": loss}
    model = train(nn.Linear(3, 1), data, halves(200)[:1], [0], settings, task="regression")[0]
    assert model_outputs(model, data, task="regression", device="cpu").loss.mean() < 0.05


def test_uint8_images_with_augmentation_train_the_same_from_the_same_seed():
    rng = np.random.default_rng(0)
    data = Records(rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 2, np.arange(40).astype(str))
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    settings = {**SETTINGS, "lr": 1e-3, "augmentation": {"crop": 2, "flip": 0.5, "cutout": 3}}
    a, b = train(module, data, np.repeat(halves(40)[:1], 2, 0), [4, 4], settings)
    plain = train(module, data, halves(40)[:1], [4], {**SETTINGS, "lr": 1e-3})[0]
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(plain))


def test_augmentation_of_a_table_is_refused():
    with pytest.raises(RecipeError, match=r"augmentation=.* needs image records"):
        train(mlp(), blobs(), halves(120)[:1], [0], {**SETTINGS, "augmentation": ["flip"]})


def test_data_frames_become_float32_and_foreign_columns_are_named():
    import pandas as pd

    data = blobs()
    frame = pd.DataFrame(data.x.astype(np.float64), columns=list("abcdef"))
    a = train(mlp(), Records(frame, data.y, data.row_ids), halves(120)[:1], [0])[0]
    assert torch.equal(weights(a), weights(train(mlp(), data, halves(120)[:1], [0])[0]))
    frame["city"] = "x"
    frame["when"] = pd.Timestamp("2020-01-01")
    with pytest.raises(RecipeError, match=r"city, when"):
        train(mlp(), Records(frame, data.y, data.row_ids), halves(120)[:1], [0])


def test_float64_module_gets_float64():
    data = blobs()
    model = train(mlp().double(), Records(data.x.astype(np.float64), data.y, data.row_ids), halves(120)[:1], [0])[0]
    assert model[0].weight.dtype == torch.float64


def test_records_that_the_module_does_not_take_are_named():
    with pytest.raises(RecipeError, match=r"does not take records of shape \(6,\)"):
        train(mlp(d=5), blobs(), halves(120)[:1], [0])


def test_gpu_that_is_not_there_is_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    recipe = make_recipe(mlp(), SETTINGS, task="classification")
    next(trainer_for(recipe).train(recipe, blobs(), halves(120)[:1], [0], device="cuda"))
    assert "no such GPU" in caplog.text


def test_save_and_load_give_the_same_outputs(tmp_path):
    data = blobs()
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    recipe = make_recipe(module, SETTINGS, task="classification")
    trainer = trainer_for(recipe)
    model = next(trainer.train(recipe, data, halves(120)[:1], [0], device="cpu"))
    assert trainer.save(recipe, model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = trainer.load(recipe, tmp_path)
    assert not loaded.training
    a, b = (model_outputs(m, data, task="classification", device="cpu").signal for m in (model, loaded))
    assert np.array_equal(a, b)


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("payload", ["pickle", "torch", "truncated", "empty"])
def test_hostile_or_damaged_weights_are_refused_and_nothing_runs(tmp_path, payload):
    recipe = make_recipe(mlp(), SETTINGS, task="classification")
    trainer = trainer_for(recipe)
    bomb = tmp_path / "exploded"
    path = tmp_path / "model.safetensors"
    if payload == "pickle":
        path.write_bytes(pickle.dumps(_Bomb(bomb)))
    elif payload == "torch":
        torch.save({"0.weight": _Bomb(bomb)}, path)
    elif payload == "truncated":
        trainer.save(recipe, mlp(), tmp_path)
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        trainer.load(recipe, tmp_path)
    assert not bomb.exists()


def test_weights_of_another_architecture_or_none_are_refused(tmp_path):
    recipe = make_recipe(mlp(), SETTINGS, task="classification")
    trainer = trainer_for(recipe)
    with pytest.raises(StoreError, match=r"holds no model\.safetensors"):
        trainer.load(recipe, tmp_path)
    trainer.save(recipe, mlp(width=5), tmp_path)
    with pytest.raises(StoreError, match=r"does not hold this module's state"):
        trainer.load(recipe, tmp_path)


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"note": "not a tensor"}

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_not_saved(tmp_path):
    recipe = make_recipe(Extra(6, 3), SETTINGS, task="classification")
    assert trainer_for(recipe).save(recipe, Extra(6, 3), tmp_path) is False
    assert list(tmp_path.iterdir()) == []


def test_wrapped_modules_are_unwrapped():
    wrapped = nn.DataParallel(mlp())
    compiled = types.SimpleNamespace(_orig_mod=mlp())
    from mlflow_privacy.trainers.torch.reinit import plain_module

    assert isinstance(plain_module(wrapped), nn.Sequential)
    assert isinstance(plain_module(compiled), nn.Sequential)
