"""A recipe that no model could be trained by is refused while whoever wrote it is still there; no other one is."""

import inspect

import pytest

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.trainers.fast_resnet.settings import read_fast_settings
from mlflow_privacy.trainers.recipe_keys import KINDS, check_recipe, recipe_faults
from mlflow_privacy.trainers.settings import read_settings
from mlflow_privacy.trainers.text.settings import read_text_settings

READERS = {
    "PyTorch module": lambda settings: read_settings(settings, task=None, complete=False)[1],
    "language model": lambda settings: read_text_settings(settings, complete=False)[1],
    "FastResNet": lambda settings: read_fast_settings(settings, task="classification")[1],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_keys_is_what_the_readers_know(kind):
    read, (keys, _) = READERS[kind], KINDS[kind]
    for key in keys:
        assert not any("unknown key" in fault for fault in read({key: None})), key
    every = {key for keys, _ in KINDS.values() for key in keys}
    for key in every - set(keys):
        assert any("unknown key" in fault for fault in read({key: 1})), key


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"optimizer": "adam", "learning_rte": 1e-3, "epoch": 5, "batch_size": 32}, ["'learning_rate'", "'epochs'"]),
        ({"epoch": 5}, ["'epochs'"]),
        ({"learning_rte": 0.1}, ["'learning_rate'"]),
        ({"base": "gpt2", "lr": 1e-4, "epochs": 1, "batch": 8}, ["'batch_size'"]),
        ({"optimizer": "sgd", "lr": 0.1, "hidden": 64}, ["'hidden'", "nothing else"]),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_one(recipe, words):
    with pytest.raises(RecipeError) as error:
        check_recipe(recipe)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_wrong_values_are_told_together():
    import torch  # noqa: F401 (a training run that has not loaded it trains no module)

    faults = recipe_faults({"optimizer": "adm", "lr": -1, "epochs": 3, "loss": "crossentropi"})
    assert len(faults) == 3, faults
    assert "did you mean 'adam'" in " ".join(faults)


@pytest.mark.parametrize(
    "recipe",
    [
        {"C": 2.0},
        {"learning_rate": 0.05},
        {"epsilon": 0.5, "delta": 1e-5},
        {"optimizer": "adam", "lr": 1e-3},  # the rest comes with the run's parameters, or from whoever audits
        {"max_epochs": 3, "lr": 0.1, "module__hidden": 64},
        {"train_fn": "package.module.fit", "epoch": 5},
        {"optimizer": "adamw", "learning_rate": 1e-4, "loss": "mse", "classes": ["b", "a"]},
    ],
)
def test_what_may_be_right_passes(recipe):
    assert recipe_faults(recipe) == []


def test_no_parameters_of_an_estimator_are_taken_for_misspelt_ones():
    from sklearn.utils import all_estimators

    for name, cls in all_estimators(type_filter=["classifier", "regressor"]):
        names = [key for key in inspect.signature(cls).parameters if key not in ("args", "kwargs")]
        wrong = [key for key in names if recipe_faults({key: 1})] + recipe_faults(dict.fromkeys(names, 1))
        assert not wrong, name


@pytest.mark.parametrize("package", ["xgboost.XGBClassifier", "lightgbm.LGBMRegressor"])
def test_parameters_of_boosters_are_not_taken_for_misspelt_ones(package):
    module, _, name = package.partition(".")
    names = list(getattr(pytest.importorskip(module), name)().get_params())
    assert [key for key in names if recipe_faults({key: 1})] + recipe_faults(dict.fromkeys(names, 1)) == []
