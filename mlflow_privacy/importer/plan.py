"""Everything that an import needs, read and checked before MLflow is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import ConfigError, PrivacyAuditError, StoreError, UnsafeError
from mlflow_privacy.importer import architectures
from mlflow_privacy.importer.read import Entry, LogDir, read_array, read_log_dir, references_of
from mlflow_privacy.safe_pickle import read_weights
from mlflow_privacy.trainers.settings import read_settings

if TYPE_CHECKING:
    from mlflow_privacy.config_sections import ExperimentConfig, TrainSection
    from mlflow_privacy.types import Records
    from mlflow_privacy.zoo import DataSet

SOURCE = "imported from a Privacy Meter log directory"
_SETTINGS = ("optimizer", "batch_size", "epochs", "learning_rate", "weight_decay")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sound log directory.

    Attributes:
      data: in the form that the models take.
      population: of the same form; None if there is none.
      where: (n,) indices in the data set of the columns of the memberships.
      settings: how the models were trained, see `trainers.settings`.
      notes: what a person should know.
    """

    data: DataSet
    population: Records | None
    where: np.ndarray
    target: Entry
    references: tuple[Entry, ...]
    template: architectures.Template
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    def module(self, entry: Entry) -> Any:
        """One model with its weights.

        Raises:
          StoreError: its file has changed since it was checked.
        """
        state = read_weights(entry.path)
        faults = architectures.state_faults(self.template, state)
        if faults:
            raise StoreError(f"{entry.path} has changed since it was checked: {'; '.join(faults)}.")
        return architectures.with_state(self.template, state)


def make_plan(
    folder: Path,
    *,
    data_dir: str | Path | None = None,
    dataset: str | None = None,
    target: int = 0,
    config: Path | None = None,
) -> Plan:
    """Reads and checks a log directory.

    Raises:
      ConfigError: with all faults.
      UnsafeError: the same, if one of them is a file that holds more than tensors; nothing was executed.
    """
    faults: list[str] = []
    notes: list[str] = []
    found = read_log_dir(folder, faults)
    chosen = None if found is None else next((e for e in found.entries if e.number == target), None)
    if found is not None and found.entries and chosen is None:
        faults.append(f"there is no sound model {target}; there are {[entry.number for entry in found.entries]}.")
    if found is None or chosen is None:
        raise _error(folder, faults)
    sound = not faults
    references = references_of(found, chosen, notes) if sound else ()
    settings_file = _config(found, config, faults)
    train, own = _train_section(settings_file, chosen, faults), _is_own(chosen)
    data = _data(chosen, settings_file, data_dir, dataset, faults)
    wrong_name = [] if own else architectures.check_name(chosen.metadata["model_name"])
    faults += wrong_name
    build = data is not None and not wrong_name and (train is not None or not own)
    template = _template(chosen, data, settings_file, train if own else None, faults) if data and build else None
    where = _where(found, data, faults) if data is not None and len(chosen.row) else None
    # Who is a reference is not known where memberships are at fault: then every file is looked at.
    unsafe = _weight_faults(template, (chosen, *references) if sound else found.entries, faults)
    settings = _settings(chosen, train, settings_file)
    if not own:
        faults += read_settings(settings, task="classification")[1]
    if faults or data is None or template is None or where is None:
        raise _error(folder, faults, unsafe=unsafe)
    formed = _in_form(data, chosen, settings_file, train if own else None)
    _check_recipe(template, formed, settings, faults)
    if faults:
        raise _error(folder, faults)
    population = _population(found, data, formed)
    return Plan(formed, population, where, chosen, references, template, settings, tuple(notes))


def _error(folder: Path, faults: list[str], *, unsafe: bool = False) -> PrivacyAuditError:
    faults = list(dict.fromkeys(faults))
    lines = [f"{folder} cannot be imported, and nothing was:", *(f"  - {fault}" for fault in faults)]
    return (UnsafeError if unsafe else ConfigError)("\n".join(lines))


def _config(found: LogDir, config: Path | None, faults: list[str]) -> ExperimentConfig | None:
    """The config that is given, or the one that an experiment of ours left in its directory."""
    from mlflow_privacy.experiment_config import load_config

    path, ours = found.folder / "config.yaml", any("variant" in entry.metadata for entry in found.entries)
    if config is None and not (ours and path.is_file()):
        if ours:
            faults.append("config.yaml of this experiment is missing; name its config.")
        return None
    try:
        return load_config(config or path)
    except ConfigError as error:
        faults.append(str(error))
        return None


def _train_section(config: ExperimentConfig | None, target: Entry, faults: list[str]) -> TrainSection | None:
    if config is None:
        return None
    variants = config.variants()
    name = str(target.metadata.get("variant", next(iter(variants))))
    if name not in variants:
        faults.append(f"the config has no variant {name!r}; it has {', '.join(variants)}.")
        return None
    return variants[name]


def _data(
    target: Entry,
    config: ExperimentConfig | None,
    data_dir: str | Path | None,
    dataset: str | None,
    faults: list[str],
) -> DataSet | None:
    from mlflow_privacy import zoo
    from mlflow_privacy.experiment_data import load_data

    name = dataset or target.metadata["dataset"]
    try:
        if config is not None and dataset is None and data_dir is None:
            return load_data(config)
        return zoo.load_dataset(name, data_dir=data_dir)
    except PrivacyAuditError as error:
        faults.append(f"data set {name!r}: {error} Name it with --dataset, and its folder with --data-dir.")
        return None


def _template(
    target: Entry,
    data: DataSet,
    config: ExperimentConfig | None,
    train: TrainSection | None,
    faults: list[str],
) -> architectures.Template | None:
    """The architecture for this data: built from our own config for our own files, else by Privacy Meter's names."""
    from mlflow_privacy import zoo

    name = target.metadata["model_name"]
    try:
        formed = _in_form(data, target, config, train)
        if train is not None and config is not None:
            if zoo.find_model(name) is None:
                raise ConfigError(f"model {name!r} is no torch module; only those are imported.")
            from mlflow_privacy.experiment_models import build_target

            return architectures.own_template(build_target(name, formed, train, config.data))
        if data.task != "classification":
            raise ConfigError(f"data set {data.name!r} is a {data.task}; Privacy Meter's models are classifiers.")
        x = formed.records.x
        return architectures.template_of(
            name, tuple(x.shape[1:]), data.num_outputs, raw_pixels=architectures.raw_pixels(x)
        )
    except PrivacyAuditError as error:
        faults.append(f"model {name!r} does not fit data set {data.name!r}: {error}")
        return None


def _in_form(data: DataSet, target: Entry, config: ExperimentConfig | None, train: TrainSection | None) -> DataSet:
    """The data set in the form that the model takes."""
    from mlflow_privacy.experiment_data import prepare
    from mlflow_privacy.zoo.data import as_inputs

    if train is not None and config is not None:
        return prepare(data, train, config.data.normalize)
    name = target.metadata["model_name"]
    return as_inputs(data, "flat" if architectures.takes_flat(name) else "image", model_name=name)


def _where(found: LogDir, data: DataSet, faults: list[str]) -> np.ndarray | None:
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


def _weight_faults(template: architectures.Template | None, entries: tuple[Entry, ...], faults: list[str]) -> bool:
    """Reads every file, one at a time; returns whether one of them is unsafe."""
    unsafe = False
    for entry in entries:
        if entry.path.is_dir():
            faults.append(
                f"model {entry.number} is a folder of transformers, {entry.path.name}, which is not imported."
            )
            continue
        try:
            state = read_weights(entry.path)
        except (StoreError, UnsafeError) as error:
            unsafe |= isinstance(error, UnsafeError)
            faults.append(f"model {entry.number}: {error}")
            continue
        if template is not None:
            faults += [
                f"model {entry.number}, {entry.path.name}: {fault}."
                for fault in architectures.state_faults(template, state)
            ]
    return unsafe


def _settings(target: Entry, train: TrainSection | None, config: ExperimentConfig | None) -> dict[str, Any]:
    """How the models were trained: by our own config, or by what the metadata say.

    Privacy Meter trains by its own schedule, and without momentum unless its config gives one.

    Args:
      train: of the target's variant.
    """
    from mlflow_privacy.experiment_models import recipe_settings

    if _is_own(target) and train is not None and config is not None:
        return recipe_settings(train, config.data)
    momentum = {} if train is None or train.momentum is None else {"momentum": train.momentum}
    return {"schedule": "privacy_meter", **momentum, **{key: target.metadata[key] for key in _SETTINGS}}


def _is_own(target: Entry) -> bool:
    """Whether an experiment of ours wrote the entry."""
    return "variant" in target.metadata


def _population(found: LogDir, data: DataSet, formed: DataSet) -> Records | None:
    """The data set's own test part, or the records that an experiment of ours set apart."""
    path = found.folder / "signals" / "population_row_ids.npy"
    if data.population is not None or found.row_ids is None or not path.is_file():
        return formed.population
    faults: list[str] = []
    names = read_array(path, faults)
    apart = set() if names is None else {str(name) for name in names.ravel()} - {str(name) for name in found.row_ids}
    rows = [i for i, name in enumerate(data.records.row_ids) if str(name) in apart]
    return formed.records.take(np.array(rows, np.int64)) if rows else None


def _check_recipe(
    template: architectures.Template, data: DataSet, settings: Mapping[str, Any], faults: list[str]
) -> None:
    """Whether reference models could be trained; one record through the module shows whether it takes them."""
    import torch

    from mlflow_privacy.trainers import make_recipe

    try:
        with torch.inference_mode():
            template.module.eval()(torch.from_numpy(np.ascontiguousarray(data.records.x[:1])))
        make_recipe(template.module, settings, task=data.task, source=SOURCE, data=data.records)
    except (RuntimeError, TypeError, ValueError) as error:
        faults.append(f"the architecture does not take records of {data.name!r}: {error}.")
    except PrivacyAuditError as error:
        faults.append(str(error))
