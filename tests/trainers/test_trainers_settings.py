"""Settings of a training: parsing, faults, run parameters, schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.trainers import recipe_settings_from_params
from mlflow_privacy.trainers.settings import ALIASES, TorchSettings, learning_rates, parse_settings

BASE = {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 10, "batch_size": 4}


def parse(task="classification", **more):
    return parse_settings({**BASE, **more}, task=task)


def fault(task="classification", **more):
    with pytest.raises(RecipeError) as error:
        parse(task, **more)
    return str(error.value)


def test_every_fault_comes_at_once_with_the_nearest_key():
    with pytest.raises(RecipeError) as error:
        parse_settings({"optimiser": "sgd", "lr": "fast", "epochs": 0, "wait_decay": 0.1}, task="classification")
    text = str(error.value)
    for part in (
        "unknown key 'optimiser', did you mean 'optimizer'?",
        "unknown key 'wait_decay', did you mean 'weight_decay'?",
        "'optimizer' is missing (also known as optimizer_name",
        "'batch_size' is missing",
        "lr must be a number in (0, inf), got 'fast'.",
        "epochs must be a whole number of at least 1, got 0.",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"optimizer": "adamm"}, "optimizer 'adamm' is none of .*did you mean 'adam'"),
        ({"optimizer": "LBFGS"}, "optimizer 'lbfgs' is none of"),
        ({"betas": [0.9, 0.99]}, "'betas' is no option of the optimizer SGD"),
        ({"nesterov": True}, "SGD refuses its options: Nesterov momentum requires"),
        ({"momentum": 1.5}, r"momentum must be a number in \[0, 1\), got 1.5"),
        ({"momentum": True}, "momentum must be a number"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"lr": 0.1}, "'learning_rate' and 'lr' say different things about learning_rate"),
        ({"schedule": "cosin"}, "schedule must be one of constant, .*did you mean 'cosine'"),
        ({"schedule": "step"}, "schedule 'step' needs step_size"),
        ({"schedule": {"name": "step", "size": 3}}, "has no option 'size'"),
        ({"schedule": {"name": "multistep", "milestones": 3}}, "list of epochs"),
        ({"warmup_epochs": 1, "warmup_steps": 3}, "only one of warmup_epochs, warmup_steps"),
        ({"loss": "mse"}, "loss must be one of cross_entropy, .* for classification"),
        ({"loss": "bce", "label_smoothing": 0.1}, "label_smoothing goes with loss='cross_entropy'"),
        ({"augmentation": {"crops": 4}}, "knows crop, flip, cutout, not 'crops', did you mean 'crop'"),
        ({"augmentation": 3}, "must be a list or mapping"),
        ({"augmentation": {"crop": 4, "crop_mode": "wrap"}}, "crop_mode that must be zeros or reflect"),
        ({"drop_last": "maybe"}, "drop_last must be true or false"),
    ],
)
def test_fault_names_key_value_and_remedy(more, expected):
    import re

    assert re.search(expected, fault(**more))


def test_numbers_may_be_text_as_yaml_and_run_parameters_have_them():
    assert parse(learning_rate="1e-3", epochs="3", nesterov="False", augmentation="['flip', {'crop': 2}]") == parse(
        learning_rate=0.001, epochs=3, augmentation={"flip": 0.5, "crop": 2}
    )


def test_names_of_classes_are_understood():
    settings = parse(optimizer="torch.optim.AdamW", loss="CrossEntropyLoss()", schedule="CosineAnnealingLR")
    assert (settings.optimizer, settings.loss, settings.schedule) == ("adamw", "cross_entropy", {"name": "cosine"})
    assert parse("regression", loss="nn.MSELoss()").loss == "mse"


def test_a_default_written_out_changes_nothing():
    assert parse(optimizer="adam") == parse(optimizer="Adam", betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    assert parse(optimizer="adam") != parse(optimizer="adam", betas=(0.8, 0.999))


def test_every_alias_is_understood():
    values = {"optimizer": "sgd", "schedule": "cosine", "loss": "nll", "augmentation": "flip"}
    for alias, key in ALIASES.items():
        settings = {k: v for k, v in BASE.items() if k != key}
        given = parse_settings({**settings, alias: values.get(key, 3)}, task="classification")
        assert given == parse_settings({**settings, key: values.get(key, 3)}, task="classification"), alias


def test_run_parameters_of_autologging_make_a_recipe():
    params = {
        "epochs": "3",
        "optimizer_name": "Adam",
        "lr": "0.02",
        "betas": "(0.9, 0.99)",
        "eps": "1e-08",
        "weight_decay": "0",
        "amsgrad": "False",
        "maximize": "False",
        "foreach": "None",
        "fused": "None",
        "train/batch_size": "32",
        "monitor": "val_loss",
    }
    settings = parse_settings(recipe_settings_from_params(params), task="classification")
    assert settings == TorchSettings("adam", 0.02, 3, 32, optimizer_options={"betas": [0.9, 0.99]})


def test_run_parameters_keep_what_is_not_understood_so_that_it_is_refused():
    params = {**{k: str(v) for k, v in BASE.items()}, "lr_scheduler": "ReduceLROnPlateau", "loss": "0.234"}
    settings = recipe_settings_from_params(params)
    assert "loss" not in settings  # a result, not a loss function
    with pytest.raises(RecipeError, match=r"schedule must be one of"):
        parse_settings(settings, task="classification")


def test_run_parameters_prefer_the_canonical_name_and_drop_options_of_other_optimizers():
    params = {"lr": "1", "learning_rate": "2", "hparams.lr": "3", "momentum": "0.9", "optimizer": "Adam", "x": "y"}
    assert recipe_settings_from_params(params) == {"optimizer": "Adam", "learning_rate": "2"}
    assert recipe_settings_from_params({}) == {}


def torch_rates(make, steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make", "per_epoch"),
    [
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30), False),
        ("onecycle", lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=30), False),
        ({"name": "step", "step_size": 4}, lambda o: torch.optim.lr_scheduler.StepLR(o, 4), True),
        (
            {"name": "multistep", "milestones": [7, 2], "gamma": 0.5},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 7], 0.5),
            True,
        ),
        (
            {"name": "exponential", "gamma": 0.9},
            lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
            True,
        ),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 1e-12, total_iters=30), False),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_schedule_equals_torchs_own(schedule, make, per_epoch):
    rates = learning_rates(parse(schedule=schedule), steps_per_epoch=3)
    expected = np.repeat(torch_rates(make, 10), 3) if per_epoch else torch_rates(make, 30)
    np.testing.assert_allclose(rates, expected, atol=1e-6)


@pytest.mark.parametrize("warmup", [{"warmup_epochs": 2}, {"warmup": 2}, {"warmup_steps": 6}, {"warmup_ratio": 0.2}])
def test_warmup_rises_to_the_full_rate_then_the_schedule_runs(warmup):
    rates = learning_rates(parse(schedule="cosine", **warmup), steps_per_epoch=3)
    assert len(rates) == 30
    np.testing.assert_allclose(rates[:6], 0.5 * np.arange(1, 7) / 6)
    np.testing.assert_allclose(rates[6:], 0.25 * (1 + np.cos(np.pi * np.arange(24) / 24)))
