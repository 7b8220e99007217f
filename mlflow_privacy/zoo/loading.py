"""Data sets by name. Names are looked up, never imported: a config file cannot run code of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.plugins import load_entry_points
from mlflow_privacy.zoo import registry
from mlflow_privacy.zoo.data import DataSet, make_dataset
from mlflow_privacy.zoo.registry import data_folders, match
from mlflow_privacy.zoo.tables import SUFFIXES, find_file, load_table

GROUP = "mlflow_privacy.datasets"  # entry points with which installed packages add loaders


def _is_file(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _loader(name: str) -> Callable[..., Any] | None:
    """The loader of a registered name or family, importing the package that adds it if there is one."""
    found = match(name, registry.DATASETS)
    if found is None:
        entries = load_entry_points(GROUP)
        entry = match(name, entries)
        if entry is None:
            return None
        value = entries[entry]()
        if not callable(value):
            raise ConfigError(f"entry point {entry!r} of {GROUP} must be a loader, got {type(value).__name__}.")
        found = match(name, registry.DATASETS) or entry  # a decorated loader has registered itself
        registry.DATASETS.setdefault(found, value)
    return registry.DATASETS[found]


def loader_options(loader: Callable[..., Any], *, family: bool = False) -> dict[str, inspect.Parameter]:
    """The parameters of a loader that `data.options` may set."""
    parameters = list(inspect.signature(loader).parameters.values())[1 if family else 0 :]
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: p for p in parameters if p.kind in kinds and p.name not in ("data_dir", "folders")}


def _option_faults(name: str, loader: Callable[..., Any], options: Mapping[str, Any]) -> list[str]:
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(loader).parameters.values())
    valid = loader_options(loader, family=(match(name, registry.DATASETS) or "").endswith(":"))
    if takes_any:
        return []
    none = "" if valid else "; it has no options."
    return [
        f"unknown key data.options.{key} of {name!r}{none or nearest(key, valid, listed=True)}"
        for key in options
        if key not in valid
    ]


def check_dataset(name: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Faults of a data set's name and options, without its path: [] if it is registered or names a table file.

    Nothing is loaded and no other package is imported.
    """
    from mlflow_privacy.zoo.tables import SUFFIXES

    found = match(name, registry.DATASETS)
    if found is not None:
        if found.endswith(":") and len(name) == len(found):
            return [f"data set {name!r} names nothing after the colon. Write, for example, {found}NAME."]
        return _option_faults(name, registry.DATASETS[found], options or {})
    entries = load_entry_points(GROUP)
    if match(name, entries) is not None:
        return []
    if _is_file(name):
        return [f"data.options is for registered data sets, {name!r} is a file. Remove it."] if options else []
    hint = nearest(name, sorted({*registry.DATASETS, *entries}), cutoff=0.5, listed=True)
    return [f"unknown data set {name!r}{hint} A file must end in {', '.join(SUFFIXES)}."]


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    folders: Sequence[str | Path] = (),
    options: Mapping[str, Any] | None = None,
    **table_options: Any,
) -> DataSet:
    """Loads a registered data set, or a CSV, Parquet, JSONL or NPZ file.

    Args:
      name: registered name ("cifar10", "hf:imdb"; case, "-" and "_" do not matter), or a path that ends in .csv, .tsv,
        .parquet, .jsonl or .npz.
      data_dir: folder of the data; a relative one is looked up in `folders`, then in the working directory. What is
        missing is downloaded to it (relative: in the working directory), or to the user's cache if it is None.
      folders: where else relative paths are looked up, in this order.
      options: keyword arguments of the loader.
      **table_options: of a file: targets, features, drop, task, missing, text; see
        `mlflow_privacy.zoo.tables.load_table`. A registered loader gets those it has a parameter for.

    Raises:
      ConfigError: the name or an option is unknown, the data is missing or is not what it should be.
    """
    faults = check_dataset(name, options)
    if faults:
        raise ConfigError("\n".join(faults))
    loader = _loader(name)
    if loader is None:
        places = [*data_folders(data_dir, folders), *(data_folders(None, folders) if data_dir else [])]
        return load_table(find_file(name, places), **table_options)
    family = (match(name, registry.DATASETS) or "").endswith(":")
    accepts, valid = inspect.signature(loader).parameters, loader_options(loader, family=family)
    faults = _option_faults(name, loader, options or {})  # of a package that has only now been imported
    given = {key: value for key, value in table_options.items() if value not in (None, (), [], "auto", "error")}
    foreign = [f"data.{key}" for key in given if key not in valid]
    if foreign:
        faults.append(f"data set {name!r} takes no {', '.join(foreign)}: these belong to files. Remove them.")
    faults += [
        f"data.{key} and data.options.{key} of {name!r} differ. Set one of them."
        for key in given
        if key in (options or {}) and given[key] != (options or {})[key]
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    arguments = {**given, **(options or {})}
    places = data_folders(data_dir, folders)
    if "folders" in accepts:
        arguments |= {"folders": places, "data_dir": places[-1] if data_dir is not None else None}
    elif "data_dir" in accepts:
        arguments["data_dir"] = None if data_dir is None else next((p for p in places if p.exists()), places[-1])
    result = loader(*([name.split(":", 1)[1]] if family else []), **arguments)
    if isinstance(result, DataSet):
        return result
    if isinstance(result, tuple) and len(result) == 2:
        return make_dataset(*result, name=name, source=f"registered loader {name!r}")
    raise ConfigError(f"the loader of data set {name!r} must return a DataSet or (x, y), got {type(result).__name__}.")
