"""Names to loaders and builders. Names are looked up, never imported: a config file cannot run code of its own."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.types import Task
from mlflow_privacy.zoo.data import DataSet, Inputs, make_dataset

DATASETS: dict[str, Callable[..., Any]] = {}
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    Attributes:
      build: `build(input_shape, num_outputs, *, option=default, …)` -> torch module.
      inputs: the form it takes: "flat" (d,), "image" (channels, height, width), or "any": as the data set has it.
    """

    name: str
    build: Callable[..., Any]
    inputs: Inputs = "any"

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        parameters = list(inspect.signature(self.build).parameters.values())
        return {p.name: p for p in parameters[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


MODELS: dict[str, ModelEntry] = {}


def nearest(word: str, words: Iterable[str]) -> str:
    """ ", did you mean 'digits'?" if a valid word is near, else a short list of what is valid.

    >>> nearest("digit", ["digits", "wine"])
    ", did you mean 'digits'?"
    >>> nearest("q", ["digits", "wine"])
    '; valid are digits, wine'
    """
    words = sorted(words)
    lower = {w.lower(): w for w in words}
    near = difflib.get_close_matches(str(word).lower(), lower, n=1, cutoff=0.5)
    if near:
        return f", did you mean {lower[near[0]]!r}?"
    return f"; valid are {', '.join(words)}" if 0 < len(words) <= 20 else ""


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends in a question mark."""
    return text if text.endswith("?") else f"{text}."


def dataset(name: str) -> Callable[[F], F]:
    """Registers a loader under a name that `data.dataset` may use.

    The loader returns a `DataSet`, or `(x, y)`. If it has a parameter `data_dir` it gets the config's.

    Args:
      name: in config files. Registering a name again replaces it, so that a notebook cell can be run twice.

    >>> @dataset("squares")
    ... def squares():
    ...     return [[float(i)] for i in range(4)], [0, 1, 0, 1]
    >>> load_dataset("squares").task
    'classification'
    """

    def register(loader: F) -> F:
        DATASETS[name] = loader
        return loader

    return register


def model(name: str, *, inputs: Inputs = "any") -> Callable[[F], F]:
    """Registers a builder of a torch module under a name that `train.model_name` may use.

    Every submodule with parameters must have PyTorch's `reset_parameters()`, because each reference model starts
    from fresh parameters.

    Args:
      name: in config files. Registering a name again replaces it.
      inputs: the form of one record: "flat" (d,), "image" (channels, height, width), or "any".

    >>> @model("linear", inputs="flat")
    ... def linear(input_shape, num_outputs, *, bias=True):
    ...     import torch
    ...     return torch.nn.Linear(input_shape[0], num_outputs, bias=bias)
    >>> check_model("linear", {"bais": False}, task="classification")
    ["unknown key train.model_options.bais of 'linear', did you mean 'bias'?"]
    """

    def register(build: F) -> F:
        MODELS[name] = ModelEntry(name, build, inputs)
        return build

    return register


def _is_file(name: str) -> bool:
    from mlflow_privacy.zoo.tables import SUFFIXES

    return Path(name).suffix.lower() in SUFFIXES


def check_dataset(name: str) -> list[str]:
    """Faults of a data set's name, without its path: [] if it is registered or names a table file."""
    if name in DATASETS or _is_file(name):
        return []
    from mlflow_privacy.zoo.tables import SUFFIXES

    return [f"unknown data set {name!r}{sentence(nearest(name, DATASETS))} A file must end in {', '.join(SUFFIXES)}."]


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    folders: Sequence[str | Path] = (),
    **options: Any,
) -> DataSet:
    """Loads a registered data set, or a CSV, Parquet or NPZ file.

    Args:
      name: registered name, or a path that ends in .csv, .tsv, .parquet or .npz.
      data_dir: where loaders and relative paths look first.
      folders: where else relative paths are looked up, in this order.
      **options: of a file: targets, features, drop, task, missing; see `mlflow_privacy.zoo.tables.load_table`.

    Raises:
      ConfigError: the name is unknown, the file is missing or is not what it should be.
    """
    faults = check_dataset(name)
    if faults:
        raise ConfigError(faults[0])
    if name not in DATASETS:
        from mlflow_privacy.zoo.tables import find_file, load_table

        return load_table(find_file(name, [*([data_dir] if data_dir else []), *folders, "."]), **options)
    loader = DATASETS[name]
    given = {key: value for key, value in options.items() if value not in (None, (), [], "auto", "error")}
    if given:
        raise ConfigError(
            f"data set {name!r} takes no {', '.join(f'data.{key}' for key in given)}: these belong to files. Remove "
            "them."
        )
    accepts = inspect.signature(loader).parameters
    result = loader(data_dir=data_dir) if "data_dir" in accepts else loader()
    if isinstance(result, DataSet):
        return result
    if isinstance(result, tuple) and len(result) == 2:
        return make_dataset(*result, name=name, source=f"registered loader {name!r}")
    raise ConfigError(f"the loader of data set {name!r} must return a DataSet or (x, y), got {type(result).__name__}.")


def check_model(name: str, options: Mapping[str, Any], *, task: Task | None, path: str = "train") -> list[str]:
    """Faults of a model's name and options, one sentence each; [] if it can be built.

    Args:
      name: registered name or scikit-learn estimator class.
      options: keywords of the builder, or parameters of the estimator.
      task: None if it is not known before the data is loaded: then it is not checked.
      path: of the config section, for the messages.
    """
    if name in MODELS:
        entry = MODELS[name]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(entry.build).parameters.values())
        unknown = [] if takes_any else [key for key in options if key not in entry.options]
        return [
            sentence(f"unknown key {path}.model_options.{key} of {name!r}{nearest(key, entry.options)}")
            for key in unknown
        ]
    from mlflow_privacy.zoo.estimators import check_estimator, estimator_names

    if find_estimator(name) is not None:
        return check_estimator(name, options, task=task, path=path)
    hint, names = nearest(name, [*MODELS, *estimator_names()]), ", ".join(sorted(MODELS))
    return [
        sentence(f"{path}.model_name: unknown model {name!r}{hint or f'; valid are {names} and scikit-learn classes'}")
    ]


def find_estimator(name: str) -> type | None:
    """The public scikit-learn classifier or regressor of this name, None if there is none."""
    from mlflow_privacy.zoo import estimators

    return estimators.find_estimator(name)


def model_inputs(name: str) -> Inputs:
    """The form of records a model takes; scikit-learn estimators take flat ones."""
    return MODELS[name].inputs if name in MODELS else "flat"


def build_model(
    name: str, input_shape: tuple[int, ...], num_outputs: int, options: Mapping[str, Any], *, task: Task
) -> Any:
    """Builds a torch module or a scikit-learn estimator by name.

    Args:
      name: registered name or scikit-learn estimator class.
      input_shape: of one record.
      num_outputs: classes, or 1 for a regression.
      options: keywords of the builder, or parameters of the estimator.
      task: an estimator must be of its kind.

    Raises:
      ConfigError: the name or an option is unknown or not allowed; all faults at once.
    """
    faults = check_model(name, options, task=task)
    if faults:
        raise ConfigError("\n".join(faults))
    if name in MODELS:
        try:
            return MODELS[name].build(input_shape, num_outputs, **options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model {name!r} cannot be built with {dict(options)}: {error}") from error
    from mlflow_privacy.zoo.estimators import build_estimator

    return build_estimator(name, options)
