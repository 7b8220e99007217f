"""Recipe of a resolved model: settings from the caller, the manifest, the run parameters; in that order."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import LineageError, RecipeError, UnsafeError
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.types import Recipe, Records, Task


def plain_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain JSON values: NumPy scalars as numbers, tuples as lists.

    Raises:
      LineageError: with every value that is not plain, and where it is.

    >>> plain_recipe({"optimizer": "sgd", "milestones": (60, np.int64(120))})
    {'optimizer': 'sgd', 'milestones': [60, 120]}
    """
    if not isinstance(recipe, Mapping):
        raise LineageError(f"recipe must be a mapping of plain values, got {type(recipe).__name__}.")
    faults: list[str] = []

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not np.isfinite(value):
            faults.append(f"{path} is {value}")
        elif isinstance(value, Mapping):
            stray = [k for k in value if not isinstance(k, str)]
            faults.extend(f"{path} has the key {k!r}, which is not a string" for k in stray)
            return {str(k): plain(v, f"{path}[{k!r}]") for k, v in value.items()}
        elif isinstance(value, (list, tuple)):
            return [plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
        elif not (value is None or isinstance(value, (str, int, float, bool))):
            name = getattr(value, "__name__", type(value).__name__)
            faults.append(f"{path} is {name!r}, a live {type(value).__name__}")
        return value

    out = plain(recipe, "recipe")
    if faults:
        raise LineageError(
            "The recipe must hold plain values only (numbers, strings, lists, mappings), so that it can be stored as "
            f"JSON: {'; '.join(faults)}. Write a name instead, such as "
            '{"optimizer": "sgd"}; code goes into evaluator_config={"privacy_meter": {"train_fn": ...}}.'
        )
    return out


def named_base(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """A language model's recipe with its base as text: a live one becomes name and SHA-256, a folder its full path."""
    base = recipe.get("base") if isinstance(recipe, Mapping) else None
    live: Any = base.model if isinstance(base, LanguageModel) else base
    if hasattr(live, "state_dict") and hasattr(live, "config"):
        from mlflow_privacy.trainers.text.base import state_digest

        name = str(getattr(live.config, "name_or_path", "") or "")
        recipe = {**recipe, "base": _full_path(name) if name else None, "base_digest": state_digest(live)}
        return {key: value for key, value in recipe.items() if value is not None}
    return {**recipe, "base": _full_path(base)} if isinstance(base, str) else recipe


def _full_path(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def as_trained(params: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, str]:
    """A run's parameters, the epochs as many as the model trained for where early stopping ended it.

    Autologging of TensorFlow and Lightning logs the epochs that were planned as a parameter, and as metrics the one
    that it stopped after and, where the best weights were restored, the one that they are of; both count from 0.

    >>> as_trained({"epochs": "100", "patience": "3"}, {"stopped_epoch": 11.0})
    {'epochs': '12', 'patience': '3'}
    >>> as_trained({"epochs": "100", "restore_best_weights": "True"}, {"stopped_epoch": 11.0, "restored_epoch": 8.0})
    {'epochs': '9', 'restore_best_weights': 'True'}
    """
    restored = metrics.get("restored_epoch") if params.get("restore_best_weights") == "True" else None
    last = metrics.get("stopped_epoch") if restored is None else restored
    if not metrics.get("stopped_epoch") or last is None:
        return dict(params)
    return {key: str(int(last) + 1) if key in _EPOCHS else value for key, value in params.items()}


def recipe_settings(
    native: Any, options: LineageOptions, logged: Mapping[str, Any] | None, params: Mapping[str, str]
) -> tuple[dict[str, Any], str]:
    """Settings layered by who says them, and their source in words.

    A key that the caller gives wins over the manifest's, that over the run's parameters. Run parameters count for
    PyTorch and Keras models, language models and XGBoost's: an estimator holds its own, but XGBoost's files lose them.
    """
    from mlflow_privacy.trainers import recipe_settings_from_params
    from mlflow_privacy.trainers.booster.lost import lost_parameters
    from mlflow_privacy.trainers.keras.model import KerasNet
    from mlflow_privacy.trainers.keras.trainer import settings_from_params
    from mlflow_privacy.trainers.settings import ALIASES

    from_params: Callable[[Mapping[str, str]], dict[str, Any]] = recipe_settings_from_params
    torch = sys.modules.get("torch")
    is_module = torch is not None and isinstance(native, torch.nn.Module)
    if isinstance(native, LanguageModel):
        from mlflow_privacy.trainers.text.settings import ALIASES, text_settings_from_params

        is_module, from_params = True, text_settings_from_params
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if options.train_fn is None and not is_module:
        layers = lost_parameters(native, params)
        if isinstance(native, KerasNet):
            layers.append(("run parameters", settings_from_params(params, native)))
    layers += [
        ("run parameters", from_params(params) if is_module and options.train_fn is None else {}),
        ("log_lineage", logged or {}),
        ("evaluator_config", options.recipe or {}),
    ]
    settings: dict[str, Any] = {}
    for _, layer in layers:
        keys = {ALIASES.get(k, k) for k in layer} if is_module else set()
        settings = {k: v for k, v in settings.items() if ALIASES.get(k, k) not in keys}
        settings.update(layer)
    if options.train_fn is None:  # what the training claims, not how it trains
        own = {} if is_module or not hasattr(native, "get_params") else native.get_params()
        settings = {k: v for k, v in settings.items() if k not in ("epsilon", "delta", "classes") or k in own}
    used = [name for name, layer in reversed(layers) if layer]
    if options.train_fn is not None:
        used.insert(0, "train_fn")
    return settings, ", then ".join(used) or "the model itself"


# Trainers that know classes by their number.
_TAKE_CLASSES = ("sklearn", "torch", "fast_resnet", "transformers", "booster", "keras")
_EPOCHS = ("epochs", "max_epochs", "num_epochs", "n_epochs")
_CLAIMS = ("dp/epsilon", "epsilon", "dp_epsilon", "privacy_epsilon")
_LEAST = 1e-3  # a smaller "epsilon" is the constant that an optimizer adds to a divisor


def claimed_privacy(
    logged: Mapping[str, Any] | None, params: Mapping[str, str], metrics: Mapping[str, float]
) -> dict[str, Any]:
    """ε and δ that the training says it kept: {"epsilon", "delta", "source"}, empty if it says nothing.

    The recipe of the lineage counts first ("epsilon", or "dp" with "epsilon" in it), then a metric of the run, then a
    parameter.

    >>> claimed_privacy({"dp": {"epsilon": 8.0, "delta": 1e-6}}, {}, {})
    {'epsilon': 8.0, 'delta': 1e-06, 'source': 'the lineage'}
    >>> claimed_privacy(None, {"epsilon": "3"}, {})
    {'epsilon': 3.0, 'delta': None, 'source': 'a parameter of the run'}
    """
    recipe = dict(logged or {})
    own = recipe.get("dp")
    dp: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
    delta = _number(dp.get("delta"), recipe.get("delta"), metrics.get("dp/delta"), params.get("dp/delta"))
    layers: list[tuple[str, list[Any]]] = [
        ("the lineage", [recipe.get("epsilon"), dp.get("epsilon")]),
        ("a metric of the run", [metrics.get(key) for key in _CLAIMS]),
        ("a parameter of the run", [params.get(key) for key in _CLAIMS]),
    ]
    for source, values in layers:
        epsilon = _number(*values)
        if epsilon is not None and epsilon >= _LEAST:
            return {"epsilon": epsilon, "delta": delta, "source": source}
    return {}


def _number(*values: Any) -> float | None:
    """The first of the values that is a finite number."""
    for value in values:
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if np.isfinite(number) and not isinstance(value, bool):
            return number
    return None


def resolve_recipe(
    native: Any,
    options: LineageOptions,
    *,
    logged: Mapping[str, Any] | None,
    params: Mapping[str, str],
    task: Task,
    pool: Records,
    classes: Sequence[Any] | None = None,
    one_hot: Mapping[str, Any] | None = None,
) -> tuple[Recipe | None, str]:
    """The recipe, or None and why there is none.

    Args:
      classes: labels in the order of the outputs, where they are not sorted: references learn them in this order too.
      one_hot: of labels that came so, see `labels.Settled`: code of others' gets them as they were.

    Raises:
      RecipeError, UnsafeError: what the caller gave explicitly cannot be used.
    """
    from mlflow_privacy.trainers import import_allowed, make_recipe

    settings, source = recipe_settings(native, options, logged, params)
    train_fn = options.train_fn
    explicit = options.recipe is not None or train_fn is not None
    try:
        dotted = settings.get("train_fn")
        if isinstance(dotted, str):
            del settings["train_fn"]
            train_fn = train_fn or import_allowed(dotted, options.allow_code)
        recipe = make_recipe(native, settings, train_fn=train_fn, task=task, source=source, data=pool)
        if classes is not None and "classes" in recipe.spec:
            recipe = dataclasses.replace(recipe, spec={**recipe.spec, "classes": list(classes)})
        if one_hot is not None and recipe.kind not in _TAKE_CLASSES:
            recipe = dataclasses.replace(recipe, spec={**recipe.spec, "one_hot": dict(one_hot)})
        return recipe, ""
    except (RecipeError, UnsafeError) as error:
        if explicit:
            raise
        return None, str(error)
