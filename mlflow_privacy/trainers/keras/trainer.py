"""Trains reference models of a Keras model: its architecture and compilation anew, epochs and batch size as told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError, StoreError, nearest
from mlflow_privacy.trainers.base import OneByOne
from mlflow_privacy.trainers.keras.model import KerasNet, architecture, as_array, fresh, keras_net
from mlflow_privacy.trainers.keras.optimizer import fault_of, from_params, of_training, serialized, was_lost
from mlflow_privacy.trainers.labels import label_index
from mlflow_privacy.types import Recipe, Records, Task

KIND, FILE = KerasNet.trainer_kind, "weights.safetensors"
BATCH_SIZE = 32  # Keras' own
KEYS = ("epochs", "batch_size", "learning_rate", "optimizer", "loss", "shuffle")
ALIASES = {"max_epochs": "epochs", "num_epochs": "epochs", "n_epochs": "epochs", "lr": "learning_rate"}


def settings_from_params(params: Mapping[str, str], net: KerasNet | None = None) -> dict[str, Any]:
    """Epochs, batch size and optimizer that a run has logged, as MLflow's autologging of Keras and TensorFlow does.

    Args:
      net: an optimizer of another kind than this model's own is of another training, and left out.

    >>> settings_from_params({"epochs": "5", "batch_size": "None", "opt_name": "sgd", "opt_momentum": "0.9"})
    {'epochs': 5, 'optimizer': {'name': 'sgd', 'momentum': 0.9}}
    """
    read = {ALIASES.get(key, key): value for key, value in params.items()}
    found: dict[str, Any] = {
        key: int(read[key]) for key in ("epochs", "batch_size") if str(read.get(key, "")).isdigit()
    }
    optimizer = from_params(params)
    if optimizer and (net is None or of_training(net.model, optimizer)):
        found["optimizer"] = optimizer
    return found


class KerasTrainer(OneByOne):
    """Builds the target's architecture with new weights and fits it; Keras finds its device itself."""

    def recipe_for(
        self, model: Any, settings: Mapping[str, Any], *, task: Task, source: str = "", data: Records | None = None
    ) -> Recipe | None:
        net = keras_net(model)
        if net is None:
            return None
        import keras

        given = {ALIASES.get(key, key): value for key, value in settings.items()}
        config = architecture(net.model)
        _check(net, given, task)
        config["compile_config"] = _compiled(config.get("compile_config"), given)
        spec: dict[str, Any] = {
            "architecture": config,
            "loss": given.get("loss") or net.loss,
            "epochs": given["epochs"],
            "batch_size": given.get("batch_size", BATCH_SIZE),
            "shuffle": given.get("shuffle", True),
            "width": net.width,
            "task": task,
            "versions": {
                "keras": ".".join(keras.__version__.split(".")[:2]),
                "backend": keras.backend.backend(),
            },
        }
        if task == "classification":
            spec["classes"] = list(range(net.classes)) if data is None else np.unique(np.asarray(data.y)).tolist()
        if "batch_size" not in given:
            source = ", ".join(filter(None, (source, f"Keras' default batch size of {BATCH_SIZE}")))
        return Recipe(KIND, spec, source=source)

    def train_one(self, recipe: Recipe, data: Records, seed: int, *, device: str) -> Any:
        import keras

        spec = recipe.spec
        keras.utils.set_random_seed(seed & 0x7FFFFFFF)
        model = fresh(spec["architecture"])
        model.fit(
            as_array(data.x),
            _targets(spec, data),
            epochs=spec["epochs"],
            batch_size=spec["batch_size"],
            shuffle=spec["shuffle"],
            verbose=0,
        )
        return KerasNet(model, spec["loss"], spec["width"])

    def save(self, recipe: Recipe, model: Any, folder: Path) -> bool:
        """Writes the weights alone; the architecture is the recipe's."""
        from safetensors.numpy import save_file

        weights = {f"{i:05d}": np.ascontiguousarray(value) for i, value in enumerate(model.model.get_weights())}
        save_file(weights, Path(folder) / FILE)
        return True

    def load(self, recipe: Recipe, folder: Path) -> Any:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(folder) / FILE
        if not path.is_file():
            raise StoreError(f"{folder} holds no {FILE}; this reference model must be trained again.")
        model = fresh(recipe.spec["architecture"])
        try:
            weights = load_file(path)
            model.set_weights([weights[key] for key in sorted(weights)])
        except (SafetensorError, OSError, ValueError) as error:
            raise StoreError(f"{path.name} does not hold the weights of this architecture: {error}") from error
        return KerasNet(model, recipe.spec["loss"], recipe.spec["width"])


def _targets(spec: Mapping[str, Any], data: Records) -> np.ndarray:
    """Labels as the loss takes them: indices, one column, or one column a class."""
    y = np.asarray(data.y)
    if spec["task"] in ("regression", "multilabel"):
        return y.astype(np.float32).reshape(len(y), -1)
    index = label_index(y, spec["classes"], max(2, spec["width"]))
    if spec["width"] == 1:
        return index.astype(np.float32)[:, None]
    return index if spec["loss"].startswith("sparse") else np.eye(spec["width"], dtype=np.float32)[index]


def _compiled(config: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What Keras compiles a model by: the target's own, with what the recipe says in its place; no metrics."""
    compiled = {**(config or {}), "metrics": None, "weighted_metrics": None}
    for key in ("optimizer", "loss"):
        if given.get(key):
            compiled[key] = given[key]
    if isinstance(given.get("optimizer"), Mapping) or "learning_rate" in given:
        rate = given.get("learning_rate")
        compiled["optimizer"] = serialized(compiled["optimizer"], None if rate is None else float(rate))
    return compiled


def _check(net: KerasNet, given: Mapping[str, Any], task: Task) -> None:
    """Raises one `RecipeError` of all that is missing or wrong."""
    faults = [f"{key!r} is no key of it{nearest(key, [*KEYS, *ALIASES]) or '.'}" for key in given if key not in KEYS]
    for key in ("epochs", "batch_size"):
        value = given.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            faults.append(f"{key} must be a whole number above 0, got {value!r}.")
    if "epochs" not in given:
        faults.append(
            'epochs are missing: log_lineage(recipe={"epochs": 10, "batch_size": 32}), or log them as parameters of '
            "the training run (mlflow.keras.autolog() does)."
        )
    missing = [key for key in ("optimizer", "loss") if not given.get(key)] if not net.model.compiled else []
    if missing:
        faults.append(f"the model is not compiled, so name its {' and '.join(missing)} in the recipe.")
    if not missing and not given.get("optimizer") and was_lost(net.model):
        faults.append(
            "its file holds no optimizer (saving a model as .h5, as checkpoints may do, takes it out of the model), "
            "and Keras put its own default in the place. Name it in the recipe, such as "
            '{"optimizer": {"name": "adam", "learning_rate": 0.01}}, or log it with mlflow.keras.autolog().'
        )
    if given.get("loss") is not None and not isinstance(given["loss"], str):
        faults.append(f"loss must be a name that Keras knows, got {given['loss']!r}.")
    if given.get("optimizer") is not None:
        faults.extend(fault_of(given["optimizer"]))
    if task == "classification" and net._estimator_type == "regressor" and not given.get("loss"):
        faults.append(f"its loss {net.loss} is that of a regression, but the audit's task is classification.")
    if faults:
        raise RecipeError(f"The recipe of this Keras {type(net.model).__name__} is wrong: {' '.join(faults)}")
