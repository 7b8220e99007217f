"""The optimizer of a Keras model: as its file holds it, a recipe names it, or a run has logged it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlflow_privacy.errors import nearest

# How MLflow's autologging of TensorFlow and of Keras begin the names of an optimizer's parameters.
_LOGGED = ("opt_", "optimizer_")
_WORDS = {"none": None, "true": True, "false": False}


def from_params(params: Mapping[str, str]) -> dict[str, Any]:
    """The optimizer that autologging wrote down when the training began: its name and config; {} if it did not.

    The model's own may be lost, or have another learning rate at the end than at the beginning. One whose learning rate
    follows a schedule is left to the model, which keeps schedules.

    >>> from_params({"optimizer_name": "adam_2", "optimizer_learning_rate": "0.02", "optimizer_weight_decay": "None"})
    {'name': 'adam', 'learning_rate': 0.02, 'weight_decay': None}
    >>> from_params({"opt_name": "adam", "opt_learning_rate": "{'class_name': 'ExponentialDecay'}"})
    {}
    """
    for prefix in _LOGGED:
        if f"{prefix}name" not in params:
            continue
        config = {key.removeprefix(prefix): _value(value) for key, value in params.items() if key.startswith(prefix)}
        name = re.sub(r"_\d+$", "", str(config.pop("name")))
        if all(value is None or isinstance(value, (bool, float, int)) for value in config.values()):
            return {"name": name, **config}
    return {}


def _value(text: str) -> Any:
    """The number or word that a parameter of a run says, else the text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def serialized(optimizer: str | Mapping[str, Any], learning_rate: float | None = None) -> dict[str, Any]:
    """An optimizer as Keras serialises it.

    Args:
      optimizer: its name; {"name": ..., and values of its config}; or what Keras has serialised.
      learning_rate: in the place of its own.
    """
    import keras

    if isinstance(optimizer, str) or "class_name" not in optimizer:
        values = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
        kind = _known()[_plain(values.pop("name"))]
        built = kind(**{**kind().get_config(), **values, "name": "optimizer"})  # numbers as Keras rounds them
        optimizer = keras.saving.serialize_keras_object(built)
    config = dict(optimizer["config"])
    return {**optimizer, "config": config if learning_rate is None else {**config, "learning_rate": learning_rate}}


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _known() -> dict[str, Any]:
    """Keras' own optimizers by their names in small letters."""
    import keras

    base = keras.optimizers.Optimizer
    named = {name: getattr(keras.optimizers, name) for name in dir(keras.optimizers)}
    kinds = [kind for kind in named.values() if isinstance(kind, type) and issubclass(kind, base) and kind is not base]
    return {_plain(kind.__name__): kind for kind in kinds if kind.__name__ != "LossScaleOptimizer"}


def fault_of(optimizer: Any) -> list[str]:
    """What is wrong with an optimizer of a recipe."""
    name = optimizer.get("name") if isinstance(optimizer, Mapping) else optimizer
    if not isinstance(name, str):
        return [
            "optimizer must be a name that Keras knows, or a mapping of its name and values such as "
            f'{{"name": "sgd", "momentum": 0.9}}, got {optimizer!r}.'
        ]
    if _plain(name) not in _known():
        return [f"Keras has no optimizer {name!r}{nearest(_plain(name), list(_known()), listed=True) or '.'}"]
    if isinstance(optimizer, str):
        return []
    known = ["name", *_known()[_plain(name)]().get_config()]
    faults = [f"{name} has no {key!r}{nearest(key, known) or '.'}" for key in optimizer if key not in known]
    try:
        if not faults:
            serialized(optimizer)
    except (ValueError, TypeError) as error:
        faults = [f"{name} does not take {dict(optimizer)!r}: {error}"]
    return faults


def of_training(model: Any, logged: Mapping[str, Any]) -> bool:
    """Whether the optimizer that a run has logged may be the one that this model was trained by."""
    own = getattr(model, "optimizer", None)
    return own is None or was_lost(model) or _plain(type(own).__name__) == _plain(str(logged["name"]))


def was_lost(model: Any) -> bool:
    """Whether a trained model's optimizer is Keras' default, put in the place of one that its file does not hold."""
    own = model.optimizer
    learned = any(value.any() for value in model.get_weights() if value.ndim == 1)  # biases begin as zeros
    if type(own).__name__ != "RMSprop" or int(own.iterations) or not learned:
        return False
    config = own.get_config()
    return all(config[key] == value for key, value in type(own)().get_config().items() if key != "name")
