"""A Keras model with one input and one output, what its outputs mean, and its architecture as plain values."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from mlflow_privacy.errors import RecipeError

# What the outputs of a classifier are: the logit of the second class, logits of a softmax, one logit a class; or
# probabilities, where the last layer hides its logits; or the predictions of a regressor.
Outputs = Literal["binary", "multi", "one against all", "probabilities", "regression"]
_VALUES = ("__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__", "__tuple__")  # no code in them
_REGRESSION = ("squared", "absolute", "mse", "mae", "mape", "msle", "huber", "logcosh", "log_cosh", "poisson", "cosine")


@dataclasses.dataclass(frozen=True, eq=False)
class KerasNet:
    """A live Keras model.

    Attributes:
      model: `keras.Model` with one input, whose output has shape (n, width).
      loss: the name under which it was compiled, "" if it was not.
      width: of the output.
    """

    model: Any
    loss: str
    width: int

    trainer_kind: ClassVar[str] = "keras"

    @property
    def _estimator_type(self) -> str | None:
        """What scikit-learn's estimators say of themselves; None where the labels decide."""
        if "crossentropy" in self.loss or "hinge" in self.loss:
            return "classifier"
        return "regressor" if any(part in self.loss for part in _REGRESSION) else None

    @property
    def classes(self) -> int:
        """How many classes the outputs are for, if it is a classifier."""
        return max(2, self.width)


def keras_net(model: Any) -> KerasNet | None:
    """A live Keras model of one input and one output; None for any other model."""
    if isinstance(model, KerasNet):
        return model
    keras = sys.modules.get("keras")
    kind: Any = getattr(keras, "Model", None)
    if kind is None or not isinstance(model, kind):
        return None
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not shape[1] or len(model.inputs or ()) != 1:
        return None
    return KerasNet(model, _loss_name(model), int(shape[1]))


def _loss_name(model: Any) -> str:
    loss = (model.get_compile_config() or {}).get("loss") if model.compiled else None
    if isinstance(loss, Mapping):
        loss = loss.get("class_name")
    return "" if not isinstance(loss, str) else _snake(loss)


def _snake(name: str) -> str:
    """ "SparseCategoricalCrossentropy" as Keras' functions are named."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def outputs_of(net: KerasNet, x: Any, *, task: str, batch_size: int = 1024) -> tuple[np.ndarray, Outputs]:
    """(n, width) outputs in float64 and what they are: logits before a softmax or sigmoid, where there is one."""
    last = net.model.layers[-1]
    name = getattr(getattr(last, "activation", None), "__name__", "")
    if task == "regression":
        return _asked(net.model, x, batch_size), "regression"
    if name in ("softmax", "sigmoid"):
        own, last.activation = last.activation, _same
        try:
            values = _asked(net.model, x, batch_size)
        finally:
            last.activation = own
    else:
        values = _asked(net.model, x, batch_size)
        rows = values if net.width > 1 else np.concatenate([values, 1 - values], axis=1)
        if (rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < 1e-3).all():
            return rows if net.width > 1 else rows[:, ::-1], "probabilities"
    if net.width == 1:
        return values, "binary"
    return values, "one against all" if name == "sigmoid" else "multi"


def _same(x: Any) -> Any:
    return x


def _asked(model: Any, x: Any, batch_size: int) -> np.ndarray:
    import keras

    x, parts = as_array(x), []
    with _without_gradients():
        for start in range(0, len(x), batch_size):
            values = model(keras.ops.convert_to_tensor(x[start : start + batch_size]), training=False)
            parts.append(np.asarray(keras.ops.convert_to_numpy(values), np.float64))
    return np.concatenate(parts)


def _without_gradients() -> Any:
    import contextlib

    import keras

    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def as_array(x: Any) -> np.ndarray:
    """Features as an array; a table of whole numbers stays whole, for an embedding."""
    if not hasattr(x, "iloc"):
        return np.asarray(x)
    whole = all(getattr(kind, "kind", "O") in "biu" for kind in x.dtypes)
    return x.to_numpy(np.int64 if whole else np.float32)


def architecture(model: Any) -> dict[str, Any]:
    """Class, config and compilation of a model as plain values, without its seeds.

    Raises:
      RecipeError: it has layers whose code is not Keras' own, that keep what they learned in their config or are
        frozen; names each.
    """
    config = json.loads(json.dumps(_serialized(model), default=str))
    faults = [
        f"{repr(name) if name else 'a part'} is of {where}, whose code is never taken from a model's file"
        for name, where in _foreign(config)
    ]
    for layer in model.layers:
        if callable(getattr(layer, "adapt", None)) and not _given(layer):
            faults.append(f"the layer {layer.name!r} ({type(layer).__name__}) was adapted to the target's own data")
        elif layer.weights and not layer.trainable:
            faults.append(f"the layer {layer.name!r} is frozen: where its weights are from is not known")
    if faults:
        raise RecipeError(
            f"Reference models of this Keras model cannot be trained: {'; '.join(dict.fromkeys(faults))}. Pass "
            'train_fn(x, y, seed) -> model: log_lineage(recipe={"train_fn": "my_package.train"}) and '
            'allow_code=["my_package.train"], or evaluator_config={"privacy_meter": {"train_fn": ...}}.'
        )
    layers = [layer["config"]["name"] for layer in config["config"].get("layers", ())]
    names = {name: f"layer_{i}" for i, name in enumerate(layers)}
    if isinstance(optimizer := (config.get("compile_config") or {}).get("optimizer"), Mapping):
        names[optimizer["config"]["name"]] = "optimizer"
    return _renamed(_without_seeds(config), {**names, model.name: "model"})


def _renamed(config: Any, names: Mapping[str, str]) -> Any:
    """A config with layers named by their place: Keras numbers them by how many there were before in the process."""
    if isinstance(config, Mapping):
        out = {}
        for key, value in config.items():
            if key in ("name", "keras_history", "input_layers", "output_layers"):
                out[key] = _each(value, lambda text: names.get(text, text))
            else:
                out[key] = _renamed(value, names)
        return out
    return [_renamed(value, names) for value in config] if isinstance(config, list) else config


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """A text, or all texts of nested lists, changed."""
    if isinstance(value, list):
        return [_each(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _serialized(model: Any) -> Any:
    import keras

    return keras.saving.serialize_keras_object(model)


def _given(layer: Any) -> bool:
    """Whether what an adapted layer needs is in its config."""
    config = layer.get_config()
    return any(config.get(key) is not None for key in ("mean", "vocabulary", "bin_boundaries"))


def _foreign(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(name, class) of every object in a config that is not one of Keras' own classes: they are never looked up."""
    if isinstance(config, Mapping):
        name = (
            str((config.get("config") or {}).get("name", name)) if isinstance(config.get("config"), Mapping) else name
        )
        if "class_name" in config:
            module, kind = str(config.get("module") or ""), str(config["class_name"])
            inside = module == "keras" or module.startswith("keras.")
            registered = config.get("registered_name")
            if not module and kind in _VALUES:
                inside, registered = True, None
            if not inside or kind in ("Lambda", "function") or (registered or kind) != kind:
                yield name, f"{module}.{kind}".strip(".")
                return
        for value in config.values():
            yield from _foreign(value, name)
    elif isinstance(config, list):
        for value in config:
            yield from _foreign(value, name)


def _without_seeds(config: Any) -> Any:
    """A config in which nothing is drawn from a fixed seed: references must vary."""
    if isinstance(config, Mapping):
        return {key: None if key == "seed" and isinstance(v, int) else _without_seeds(v) for key, v in config.items()}
    return [_without_seeds(value) for value in config] if isinstance(config, list) else config


def fresh(config: Mapping[str, Any]) -> Any:
    """A new model of an architecture, with new weights, compiled.

    Raises:
      RecipeError: the config names something that is not Keras' own; nothing was built.
    """
    import keras

    foreign = list(_foreign(config))
    if foreign:
        raise RecipeError(f"The architecture names {foreign[0][1]}, which is not Keras' own; nothing was built.")
    build: Callable[..., Any] = keras.saving.deserialize_keras_object
    return build(json.loads(json.dumps(config)), safe_mode=True)
