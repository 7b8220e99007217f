"""What the entry of a model means: its data, its architecture, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import ConfigError, PrivacyAuditError
from mlflow_privacy.privacy_meter.importer import architectures, language
from mlflow_privacy.privacy_meter.importer.read import Entry, LogDir, read_array
from mlflow_privacy.trainers.settings import read_settings
from mlflow_privacy.trainers.text.settings import read_text_settings

if TYPE_CHECKING:
    from mlflow_privacy.experiment.sections import ExperimentConfig, TrainSection
    from mlflow_privacy.types import Records, Task
    from mlflow_privacy.zoo import DataSet

    Template = architectures.Template | language.LanguageTemplate

SOURCE = "imported from a Privacy Meter log directory"
_SETTINGS = ("optimizer", "batch_size", "epochs", "learning_rate", "weight_decay")


def is_own(target: Entry) -> bool:
    """Whether an experiment of ours wrote the entry."""
    return "variant" in target.metadata


def name_faults(target: Entry, base: str | None) -> list[str]:
    """Faults of the model's name, and of a base for a model that has none."""
    name = target.metadata["model_name"]
    if language.is_language_model(name):
        return []
    faults = [] if is_own(target) else architectures.check_name(name)
    return faults if base is None else [*faults, f"--base {base!r} goes with a language model, not with {name!r}."]


def load_data(
    target: Entry,
    config: ExperimentConfig | None,
    data_dir: str | Path | None,
    dataset: str | None,
    faults: list[str],
) -> DataSet | None:
    """The data set of the metadata, as its loader gives it."""
    from mlflow_privacy import zoo
    from mlflow_privacy.experiment import data as experiment_data

    name = dataset or target.metadata["dataset"]
    try:
        if config is not None and dataset is None and data_dir is None:
            return experiment_data.load_data(config)
        return zoo.load_dataset(name, data_dir=data_dir)
    except PrivacyAuditError as error:
        faults.append(f"data set {name!r}: {error} Name it with --dataset, and its folder with --data-dir.")
        return None


def in_form(data: DataSet, target: Entry, config: ExperimentConfig | None, train: TrainSection | None) -> DataSet:
    """The data set in the form that the model takes; `train` is that of an experiment of ours.

    Raises:
      ConfigError: it cannot be brought into it.
    """
    from mlflow_privacy.experiment.data import prepare
    from mlflow_privacy.zoo.data import as_inputs

    name = target.metadata["model_name"]
    if train is not None and config is not None:
        return prepare(data, train, config.data.normalize)
    if language.is_language_model(name):
        return language.as_trained(data, target.metadata["dataset"])
    return as_inputs(data, "flat" if architectures.takes_flat(name) else "image", model_name=name)


def template_of(
    target: Entry,
    data: DataSet,
    config: ExperimentConfig | None,
    train: TrainSection | None,
    base: str | None,
    faults: list[str],
) -> Template | None:
    """The architecture for this data: built from our own config for our own files, else by Privacy Meter's names.

    Args:
      train: of the target's variant.
      base: checkpoint that a language model started from; None for the one its name says.
    """
    name = target.metadata["model_name"]
    try:
        formed = in_form(data, target, config, train if is_own(target) else None)
        if train is not None and config is not None and is_own(target):
            return _own_template(name, formed, config, train, base)
        if language.is_language_model(name):
            return language.language_template(base or name, formed, _tokenizer(config, train))
        if data.task != "classification":
            raise ConfigError(f"data set {data.name!r} is a {data.task}; Privacy Meter's models are classifiers.")
        x = formed.records.x
        return architectures.template_of(
            name, tuple(x.shape[1:]), data.num_outputs, raw_pixels=architectures.raw_pixels(x)
        )
    except PrivacyAuditError as error:
        faults.append(f"model {name!r} does not fit data set {data.name!r}: {error}")
        return None


def _own_template(
    name: str, data: DataSet, config: ExperimentConfig, train: TrainSection, base: str | None
) -> Template:
    from mlflow_privacy import zoo
    from mlflow_privacy.experiment.models import build_target
    from mlflow_privacy.text import LanguageModel

    if train.peft:
        raise ConfigError("adapters of peft are not imported; the models are registered from the experiment itself.")
    if zoo.find_model(name) is None and not language.is_language_model(name):
        raise ConfigError(f"model {name!r} is neither a torch module nor a language model; only those are imported.")
    started = train if base is None else train.model_copy(update={"model_name": base})
    model = build_target(name, data, started, config.data)
    return language.LanguageTemplate(model) if isinstance(model, LanguageModel) else architectures.own_template(model)


def columns_of(found: LogDir, data: DataSet, faults: list[str]) -> np.ndarray | None:
    """Indices in the data set of the columns of the memberships."""
    columns, n = max(len(entry.row) for entry in found.entries), len(data.records)
    if found.row_ids is None:
        if columns != n:
            faults.append(
                f"memberships.npy is about {columns} records, but data set {data.name!r} has {n}: it is another data "
                "set, or another version of it."
            )
            return None
        return np.arange(n)
    place = {str(row): i for i, row in enumerate(data.records.row_ids)}
    unknown = [str(row) for row in found.row_ids if str(row) not in place]
    if unknown:
        faults.append(f"row_ids.npy names {len(unknown)} records that {data.name!r} has not, such as {unknown[0]!r}.")
        return None
    return np.array([place[str(row)] for row in found.row_ids], np.int64)


def settings_of(
    target: Entry,
    train: TrainSection | None,
    config: ExperimentConfig | None,
    template: Template | None,
    base: str | None,
    faults: list[str],
) -> dict[str, Any]:
    """How the models were trained: by our own config, or by what the metadata say.

    Privacy Meter trains by its own schedule, and without momentum unless its config gives one.

    Args:
      train: of the target's variant.
    """
    from mlflow_privacy.experiment.models import recipe_settings

    name = target.metadata["model_name"]
    if is_own(target) and train is not None and config is not None:
        settings = recipe_settings(train, config.data)
        return settings if base is None else {**settings, "base": base}
    if language.is_language_model(name):
        length = template.base.max_length if isinstance(template, language.LanguageTemplate) else None
        settings = language.language_settings(target.metadata, base or name, _tokenizer(config, train), length)
        faults += read_text_settings(settings, objective="causal_lm")[1]
        return settings
    momentum = {} if train is None or train.momentum is None else {"momentum": train.momentum}
    settings = {"schedule": "privacy_meter", **momentum, **{key: target.metadata[key] for key in _SETTINGS}}
    if not is_own(target):
        faults += read_settings(settings, task="classification")[1]
    return settings


def _tokenizer(config: ExperimentConfig | None, train: TrainSection | None) -> str | None:
    """That of the training, if its config names one."""
    return None if config is None or train is None else train.tokenizer or config.data.tokenizer


def population_of(found: LogDir, data: DataSet, formed: DataSet) -> Records | None:
    """The data set's own test part, or the records that an experiment of ours set apart."""
    path = found.folder / "signals" / "population_row_ids.npy"
    if data.population is not None or found.row_ids is None or not path.is_file():
        return formed.population
    faults: list[str] = []
    names = read_array(path, faults)
    apart = set() if names is None else {str(name) for name in names.ravel()} - {str(name) for name in found.row_ids}
    rows = [i for i, name in enumerate(data.records.row_ids) if str(name) in apart]
    return formed.records.take(np.array(rows, np.int64)) if rows else None


def recipe_faults(template: Template, data: DataSet, settings: Mapping[str, Any]) -> list[str]:
    """Whether the recipe stands; one record through a module shows whether it takes them."""
    import torch

    from mlflow_privacy.experiment.models import task_of
    from mlflow_privacy.trainers import make_recipe

    try:
        task: Task = data.task
        if isinstance(template, language.LanguageTemplate):
            model, task = template.base, task_of(template.base, data)
            settings = {**settings, "base": model}
        else:
            model = template.module
            with torch.inference_mode():
                model.eval()(torch.from_numpy(np.ascontiguousarray(data.records.x[:1])))
        make_recipe(model, settings, task=task, source=SOURCE, data=data.records)
    except (RuntimeError, TypeError, ValueError) as error:
        return [f"the architecture does not take records of {data.name!r}: {error}."]
    except PrivacyAuditError as error:
        return [str(error)]
    return []


def notes_of(template: Template, n_references: int) -> list[str]:
    """What a person should know about models of this architecture."""
    if not isinstance(template, architectures.Template) or not template.own_scale:
        return []
    only = "the imported reference models alone can be used" if n_references else "audit it with num_ref_models 0"
    return [
        f"The training of this network cannot be repeated here, so no reference models can be trained: {only}. Each "
        "model scales pixels by the mean and deviation of its own training records, as in its training."
    ]
