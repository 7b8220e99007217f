"""The model of a target: built by name, its recipe taken from the config, and what was trained registered."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.sections import (
    TEXT_KEYS,
    TORCH_KEYS,
    DataSection,
    TrainSection,
    training_settings,
)
from mlflow_privacy.text import LanguageModel, Objective
from mlflow_privacy.types import Task
from mlflow_privacy.zoo.data import image_statistics
from mlflow_privacy.zoo.families import model_family

if TYPE_CHECKING:
    from mlflow_privacy.zoo import DataSet


def recipe_settings(train: TrainSection, data: DataSection, task: Task | None = None) -> dict[str, Any]:
    """The recipe of a target, as the trainer of its model takes it.

    A scikit-learn estimator holds its own. `speedyresnet` and language models bring theirs, and only what the file says
    wins over it.

    Args:
      task: where it is known, the recipe names its usual loss, which tells whoever finds it what the labels are.
    """
    from mlflow_privacy import zoo

    family = model_family(train.model_name)
    said = {key: getattr(train, key) for key in (*TORCH_KEYS, *TEXT_KEYS) if key in train.model_fields_set}
    said = {key: value for key, value in said.items() if value is not None}
    if family == "transformers":
        tokenizer = train.tokenizer or data.tokenizer
        extra = {"base": train.model_name, "tokenizer": tokenizer, "text": data.text}
        return {**said, **{key: value for key, value in extra.items() if value is not None}}
    if family != "torch":
        return {}
    entry = zoo.find_model(train.model_name)
    if entry is not None and entry.own_recipe:
        return {key: value for key, value in said.items() if key in TORCH_KEYS}
    settings = training_settings(train)
    if task is not None:
        settings.setdefault("loss", "cross_entropy" if task == "classification" else "mse")
    return settings


def task_of(model: Any, data: DataSet) -> Task:
    """What a model learns of a data set: a causal language model the texts, whatever their labels."""
    return "language" if isinstance(model, LanguageModel) and model.objective == "causal_lm" else data.task


def build_target(variant: str, data: DataSet, train: TrainSection, section: DataSection) -> Any:
    """The variant's model, untrained, once it is known that its recipe fits the data.

    Images that are kept as raw pixels are normalised by the model itself, as its first layer.

    Raises:
      ConfigError: the model or a setting does not fit the task; all faults at once.
    """
    from mlflow_privacy import zoo

    settings = recipe_settings(train, section, data.task)
    if model_family(train.model_name) == "transformers":
        return _base_model(data, train, settings)
    if settings:
        faults = recipe_faults(train.model_name, settings, data.task)
        if faults:
            raise ConfigError("\n  ".join([f"train (variant {variant!r}) does not fit the {data.task}:", *faults]))
    shape = tuple(data.records.x.shape[1:])
    model = zoo.build_model(train.model_name, shape, data.num_outputs, train.model_options, task=data.task)
    if data.modality != "image" or data.records.x.dtype != np.uint8:
        return model
    plain = np.zeros(shape[0], np.float32), np.ones(shape[0], np.float32)
    return zoo.rescaled(model, *(plain if section.normalize == "none" else image_statistics(data)))


def recipe_faults(model_name: str, settings: Mapping[str, Any], task: Task) -> list[str]:
    """What the trainer of a model finds wrong with its settings, a sentence each that begins with the key."""
    from mlflow_privacy import zoo

    if model_family(model_name) == "transformers":
        return _text_faults(settings)
    entry = zoo.find_model(model_name)
    if entry is not None and entry.own_recipe:
        from mlflow_privacy.trainers.fast_resnet.settings import read_fast_settings

        return read_fast_settings(settings, task=task)[1]
    from mlflow_privacy.trainers.settings import read_settings

    return read_settings(settings, task=task)[1]


def _text_faults(settings: Mapping[str, Any]) -> list[str]:
    from mlflow_privacy.trainers.text.peft import read_peft
    from mlflow_privacy.trainers.text.settings import read_text_settings

    objective: Objective = settings.get("objective") or "causal_lm"
    faults = read_text_settings(settings, objective=objective)[1]
    if isinstance(settings.get("peft"), Mapping):
        faults += read_peft(settings["peft"], objective)[1]
    return faults


def _base_model(data: DataSet, train: TrainSection, settings: Mapping[str, Any]) -> LanguageModel:
    """The language model that training starts from, with the data's text column.

    Raises:
      ConfigError: the data is no text, or the model cannot be loaded.
    """
    from mlflow_privacy.zoo.transformers_models import load_base

    if data.modality != "text":
        raise ConfigError(
            f"train.model_name {train.model_name!r} is a language model, but {data.name!r} is no text. Name the text "
            "column in data.text, or use another model."
        )
    objective = train.objective or "causal_lm"
    labels = data.num_outputs if objective == "sequence_classification" else None
    base = load_base(train.model_name, objective=objective, num_labels=labels, tokenizer=settings.get("tokenizer"))
    column = settings.get("text") or data.records.x.columns[0]
    return dataclasses.replace(base, text_column=column, max_length=train.max_length or base.max_length)


def register_model(model: Any, name: str, example: Any) -> str:
    """Logs a model in the active run and registers it; returns the version.

    Requirements are given, because inferring them takes seconds a model.

    Args:
      example: (2, ...) records, from which the signature is taken.
    """
    from mlflow_privacy.store.mlflow_private import quick_requirement_check

    with quick_requirement_check():
        if isinstance(model, LanguageModel):
            return _register_language_model(model, name)
        register = _register_estimator if hasattr(model, "get_params") else _register_module
        return register(model, name, example)


def _register_language_model(model: LanguageModel, name: str) -> str:
    """With its tokenizer, under MLflow's transformers flavor; of a peft model the adapters, beside the base's name."""
    import mlflow
    import transformers

    causal = model.objective == "causal_lm"
    options: dict[str, Any] = {}
    if hasattr(model.model, "get_base_model"):  # a peft model: its base is on disk already, where it came from a folder
        folder = str(model.model.get_base_model().config.name_or_path or "")
        takes = inspect.signature(mlflow.transformers.log_model).parameters
        if folder and Path(folder).is_dir() and "base_model_path" in takes:
            options["base_model_path"] = str(Path(folder).resolve())
    with _without_warnings("mlflow.transformers", "transformers"):
        info = mlflow.transformers.log_model(
            {"model": model.model, "tokenizer": model.tokenizer},
            name="model",
            task="text-generation" if causal else "text-classification",
            registered_model_name=name,
            pip_requirements=[f"transformers=={transformers.__version__}", "torch"],
            **options,
        )
    return str(info.registered_model_version)


def _register_estimator(model: Any, name: str, example: Any) -> str:
    import mlflow
    import sklearn
    from mlflow.models import infer_signature

    info = mlflow.sklearn.log_model(
        model,
        name="model",
        signature=infer_signature(example, np.asarray(model.predict(example))),
        registered_model_name=name,
        pip_requirements=[f"scikit-learn=={sklearn.__version__}", f"numpy=={np.__version__}"],
        **_skops_options(model, inspect.signature(mlflow.sklearn.log_model).parameters),
    )
    return str(info.registered_model_version)


def _register_module(model: Any, name: str, example: np.ndarray) -> str:
    import mlflow
    import torch
    from mlflow.models import infer_signature

    from mlflow_privacy._version import __version__

    model = model.cpu().eval()
    batch = torch.from_numpy(np.ascontiguousarray(example))
    with torch.inference_mode():
        output = model(batch if batch.dtype != torch.uint8 else batch.float()).numpy()
    # An exported graph (the default of newer versions) has no layers that a reference model could reset.
    accepts = inspect.signature(mlflow.pytorch.log_model).parameters
    options = {"serialization_format": "pickle"} if "serialization_format" in accepts else {}
    needs = [f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"]
    modules = {type(sub).__module__.partition(".")[0] for sub in model.modules()}
    needs += [f"mlflow-privacy=={__version__}"] * ("mlflow_privacy" in modules)
    needs += ["torchvision"] * ("torchvision" in modules)
    with _without_warnings("mlflow.pytorch"):  # of the pickle, on every target
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            signature=infer_signature(example, output),
            registered_model_name=name,
            pip_requirements=needs,
            **options,
        )
    return str(info.registered_model_version)


def _skops_options(model: Any, accepts: Mapping[str, Any]) -> dict[str, Any]:
    """Options that store an estimator without a pickle, where MLflow can.

    skops asks to name types whose files could crash a process, such as trees; here they are scikit-learn's own, of a
    model that was trained a moment ago.
    """
    if "skops_trusted_types" not in accepts:
        return {}
    import skops.io

    types = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    return {"skops_trusted_types": types} if all(name.startswith("sklearn.") for name in types) else {}


@contextlib.contextmanager
def _without_warnings(*names: str) -> Iterator[None]:
    """Lets only errors of some loggers through."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
