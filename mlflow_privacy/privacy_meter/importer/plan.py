"""Everything that an import needs, read and checked before MLflow is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import ConfigError, PrivacyAuditError, StoreError, UnsafeError
from mlflow_privacy.privacy_meter.importer import fit
from mlflow_privacy.privacy_meter.importer.fit import SOURCE
from mlflow_privacy.privacy_meter.importer.language import LanguageTemplate
from mlflow_privacy.privacy_meter.importer.read import Entry, LogDir, read_log_dir, references_of
from mlflow_privacy.privacy_meter.importer.weights import read_state

if TYPE_CHECKING:
    from mlflow_privacy.experiment.sections import ExperimentConfig, TrainSection
    from mlflow_privacy.privacy_meter.importer.fit import Template
    from mlflow_privacy.types import Records
    from mlflow_privacy.zoo import DataSet

__all__ = ["SOURCE", "Plan", "make_plan"]


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
    template: Template
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    def module(self, entry: Entry) -> Any:
        """One model with its weights.

        Raises:
          StoreError: its file has changed since it was checked.
        """
        state = read_state(entry.path)
        faults = self.template.faults(state)
        if faults:
            raise StoreError(f"{entry.path} has changed since it was checked: {'; '.join(faults)}.")
        own_scale = getattr(self.template, "own_scale", False)
        return self.template.filled(state, self.data.records.x[self.where[entry.row]] if own_scale else None)


def make_plan(
    folder: Path,
    *,
    data_dir: str | Path | None = None,
    dataset: str | None = None,
    target: int = 0,
    config: Path | None = None,
    base: str | None = None,
) -> Plan:
    """Reads and checks a log directory.

    Args: see `import_log_dir`.

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
    train, own = _train_section(settings_file, chosen, faults), fit.is_own(chosen)
    # A config that cannot be read may be the one that knows where the data is.
    known = config is None or settings_file is not None
    data = fit.load_data(chosen, settings_file, data_dir, dataset, faults) if known else None
    wrong_name = fit.name_faults(chosen, base)
    faults += wrong_name
    build = data is not None and not wrong_name and (train is not None or not own)
    template = fit.template_of(chosen, data, settings_file, train, base, faults) if data and build else None
    where = fit.columns_of(found, data, faults) if data is not None and len(chosen.row) else None
    # Who is a reference is not known where memberships are at fault: then every file is looked at.
    unsafe = _weight_faults(template, (chosen, *references) if sound else found.entries, chosen, faults)
    settings = fit.settings_of(chosen, train, settings_file, template, base, faults)
    if faults or data is None or template is None or where is None:
        raise _error(folder, faults, unsafe=unsafe)
    formed = fit.in_form(data, chosen, settings_file, train if own else None)
    faults += fit.recipe_faults(template, formed, settings)
    if faults:
        raise _error(folder, faults)
    population = fit.population_of(found, data, formed)
    notes += fit.notes_of(template, len(references))
    return Plan(formed, population, where, chosen, references, template, settings, tuple(notes))


def _error(folder: Path, faults: list[str], *, unsafe: bool = False) -> PrivacyAuditError:
    faults = list(dict.fromkeys(faults))
    lines = [f"{folder} cannot be imported, and nothing was:", *(f"  - {fault}" for fault in faults)]
    return (UnsafeError if unsafe else ConfigError)("\n".join(lines))


def _config(found: LogDir, config: Path | None, faults: list[str]) -> ExperimentConfig | None:
    """The config that is given, or the one that an experiment of ours left in its directory."""
    from mlflow_privacy.experiment.load import load_config

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


def _weight_faults(template: Template | None, entries: tuple[Entry, ...], target: Entry, faults: list[str]) -> bool:
    """Reads every file, one at a time; returns whether one of them is unsafe."""
    unsafe = False
    for entry in entries:
        if entry.path.is_dir() and template is not None and not isinstance(template, LanguageTemplate):
            faults.append(f"model {entry.number} is a folder, {entry.path.name}, as only language models are.")
            continue
        try:
            state = read_state(entry.path)
        except (StoreError, UnsafeError) as error:
            unsafe |= isinstance(error, UnsafeError)
            faults.append(f"model {entry.number}: {error}")
            continue
        if template is None:
            continue
        found = template.faults(state)
        if isinstance(template, LanguageTemplate):
            if entry.path.is_dir():
                found += template.config_faults(entry.path)
            if not found and entry is target and template.is_base(state):
                found.append("it has the weights of its base; name the checkpoint that training started from, --base")
        faults += [f"model {entry.number}, {entry.path.name}: {fault}." for fault in found]
    return unsafe
