"""Which trainers there are, ours and others', and how a recipe is made from a live model."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mlflow_privacy.errors import ConfigError, RecipeError, UnsafeError
from mlflow_privacy.plugins import Registry
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.trainers.base import Trainer
from mlflow_privacy.trainers.canonical import Walk
from mlflow_privacy.types import Recipe, Records, Task

GROUP = "mlflow_privacy.trainers"
_OURS = {
    "sklearn": "mlflow_privacy.trainers.sklearn:SklearnTrainer",
    "torch": "mlflow_privacy.trainers.torch.trainer:TorchTrainer",
    "fast_resnet": "mlflow_privacy.trainers.fast_resnet.trainer:FastResNetTrainer",
    "transformers": "mlflow_privacy.trainers.text.trainer:TransformersTrainer",
    "booster": "mlflow_privacy.trainers.booster.trainer:BoosterTrainer",
    "keras": "mlflow_privacy.trainers.keras.trainer:KerasTrainer",
    "callable": "mlflow_privacy.trainers.callable:CallableTrainer",
}


def _check(kind: str, trainer: Any) -> None:
    missing = [name for name in ("train", "save", "load") if not callable(getattr(trainer, name, None))]
    if missing:
        raise ConfigError(
            f"The trainer of {kind!r} recipes must be a class with train, save and load, got {trainer!r} without "
            f"{', '.join(missing)}. Let it inherit from mlflow_privacy.trainers.base.Trainer."
        )


class _Trainers(Registry[Any]):
    """Classes of trainers; of a class that is asked for an object is given, since trainers have no state."""

    def __getitem__(self, kind: str) -> Trainer:
        trainer = super().__getitem__(kind)
        return trainer() if isinstance(trainer, type) else trainer


# Trainers by the kind of recipe they understand; a framework is imported when its trainer is asked for.
TRAINERS: Registry[Any] = _Trainers(GROUP, _OURS, _check)


def others() -> list[str]:
    """The kinds of recipes that trainers of others understand."""
    return [kind for kind in TRAINERS if kind not in _OURS]


def trainer_for(recipe: Recipe) -> Trainer:
    """The trainer that understands a recipe.

    Raises:
      RecipeError: there is none of its kind.

    >>> type(trainer_for(Recipe("callable", {}))).__name__
    'CallableTrainer'
    """
    if recipe.kind not in TRAINERS:
        raise RecipeError(
            f"There is no trainer for recipes of kind {recipe.kind!r}; there are {sorted(TRAINERS)}. Install the "
            "package that adds it. One that a script registers is known to that process alone: use executor='local'."
        )
    return TRAINERS[recipe.kind]


def make_recipe(
    model: Any,
    settings: Mapping[str, Any] | None = None,
    *,
    train_fn: Callable[..., Any] | None = None,
    task: Task,
    source: str = "",
    data: Records | None = None,
) -> Recipe:
    """The recipe of a live model: everything needed to train another one like it.

    A `train_fn` always wins. Else a scikit-learn estimator (or one with its API, such as `XGBClassifier`) is cloned
    and fitted, a PyTorch module is re-initialised and trained with `settings`, and a `LanguageModel` is fine-tuned from
    its base checkpoint, a native booster is trained with its library's own function. A model whose `trainer_kind`
    names a registered trainer goes to that one first; for any other model, and for what lies inside an MLflow pyfunc
    model, the trainers that others have registered are asked.

    Args:
      model: the target: an estimator, a pipeline, a module; may be None with `train_fn`.
      settings: hyper-parameters; for modules see `mlflow_privacy.trainers.settings`, for estimators parameters to
        change, for a `train_fn` whatever it depends on that its code does not tell.
      train_fn: `train_fn(x, y, seed) -> model`, for any other framework.
      task: "classification", "regression" or "language".
      source: where the recipe came from, in words, for the report.
      data: the pool, if known: its class names are then part of the recipe.

    Raises:
      RecipeError: no reference model like this one can be trained; the message names each submodule or key that is
        in the way, and the remedy.
      UnsafeError: `settings` names code to import.

    Example:
      >>> from sklearn.linear_model import LogisticRegression
      >>> make_recipe(LogisticRegression(C=2.0), task="classification").spec["estimator"]["params"]["C"]
      2.0
    """
    settings = dict(settings or {})
    if isinstance(settings.get("train_fn"), str):
        raise UnsafeError(
            f"The recipe names code to import, train_fn={settings['train_fn']!r}, which is never done unasked. Pass "
            "the function itself, or list its dotted name in allow_code."
        )
    if callable(settings.get("train_fn")) and train_fn is None:
        train_fn = settings.pop("train_fn")
    if train_fn is not None:
        from mlflow_privacy.trainers.callable import callable_recipe

        return callable_recipe(train_fn, settings, source=source)
    if isinstance(model, LanguageModel):
        from mlflow_privacy.trainers.text.trainer import transformers_recipe

        return transformers_recipe(model, settings, task=task, source=source, data=data)
    own_kind = _kind_of(model)
    if own_kind and own_kind in TRAINERS:
        recipe = _recipe_by(own_kind, model, settings, task=task, source=source, data=data)
        if recipe is not None:
            return recipe
    if _is_module(model):
        from mlflow_privacy.trainers.torch.trainer import torch_recipe

        return torch_recipe(model, settings, task=task, source=source, data=data)
    if callable(getattr(model, "get_params", None)) and callable(getattr(model, "fit", None)):
        from mlflow_privacy.trainers.sklearn import sklearn_recipe

        return sklearn_recipe(model, settings, task=task, source=source)
    inner = others_model(model)
    for kind in others():
        recipe = _recipe_by(kind, inner, settings, task=task, source=source, data=data)
        if recipe is not None:
            return recipe
    raise RecipeError(_no_recipe(model))


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _kind_of(model: Any) -> str:
    """The trainer that a model names itself, "" for none."""
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, getattr(keras, "Model", ())):  # with torch under it, a module as well
        return "keras"
    if _is_module(model):
        from mlflow_privacy.trainers.torch.reinit import plain_module

        model = plain_module(model)
    if type(model).__name__ == "Booster" or type(model).__module__.partition(".")[0] == "catboost":
        return "booster"
    kind = getattr(model, "trainer_kind", "")
    return kind if isinstance(kind, str) else ""


def _recipe_by(kind: str, model: Any, settings: Mapping[str, Any], **described: Any) -> Recipe | None:
    """What one trainer makes of a model."""
    trainer = TRAINERS[kind]
    recipe_for = getattr(trainer, "recipe_for", None)
    recipe = None if recipe_for is None else recipe_for(model, settings, **described)
    if recipe is None or type(trainer).__module__.startswith(__package__):
        return recipe
    walk = Walk()  # a trainer of another's: what it does is in its code, not in the spec
    told = {"trainer_class": walk(type(trainer)), "model_class": walk(type(model))}
    return dataclasses.replace(recipe, rests_on={**recipe.rests_on, **told, **walk.code()})


def inner_model(model: Any) -> Any:
    """The framework's own object inside an MLflow pyfunc model; any other model is returned as it is."""
    if not type(model).__module__.startswith("mlflow.pyfunc") or not hasattr(model, "get_raw_model"):
        return model
    try:
        return model.get_raw_model()
    except NotImplementedError:
        return model


def others_model(model: Any) -> Any:
    """What registered trainers and signals are asked about: `inner_model`, or the `PythonModel` that MLflow wraps."""
    inner = inner_model(model)
    if inner is model and getattr(model, "loader_module", None) == "mlflow.pyfunc.model":
        with contextlib.suppress(Exception):  # MLflow's, which this room does not import: a chat model, or an agent
            return model.unwrap_python_model()
    return inner


def _no_recipe(model: Any) -> str:
    """Why there is none for a model that no trainer knows, with the remedy."""
    inner = others_model(model)
    name = f"{type(inner).__module__}.{type(inner).__qualname__}"
    what = "it is neither a scikit-learn estimator nor a PyTorch module, and no registered trainer knows it"
    loader = str(getattr(model, "loader_module", "") or "")
    if inner is model and loader.startswith("mlflow.") and not loader.startswith("mlflow.pyfunc"):
        name = f"model of the flavor {loader.removeprefix('mlflow.')}"
        what = "it holds what was learned, not how"
    elif type(inner).__name__ == "Booster" or type(inner).__name__.startswith("CatBoost"):
        what = "its objective is neither of classes nor of numbers, or it has features of categories or many outputs"
    return (
        f"Reference models like a {name} cannot be trained: {what}. Say how with a function "
        "train_fn(x, y, seed) -> model: "
        'log_lineage(recipe={"train_fn": "my_package.train"}) in the training run and '
        'allow_code=["my_package.train"] in the audit, or the function itself in '
        'evaluator_config={"privacy_meter": {"train_fn": ...}}.'
    )
