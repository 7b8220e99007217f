"""Names to loaders and builders. Names are looked up, never imported: a config file cannot run code of its own."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.types import Task
from mlflow_privacy.zoo.data import DataSet, Inputs, make_dataset

DATASETS: dict[str, Callable[..., Any]] = {}
DATASET_GROUP = "mlflow_privacy.datasets"  # entry points with which installed packages add loaders
MODEL_GROUP = "mlflow_privacy.models"  # and builders
_TORCHVISION = "torchvision:"
# What names of torchvision's classifiers begin with: only for such names is torchvision imported.
_TORCHVISION_NAMES = (
    *("alexnet", "convnext", "densenet", "efficientnet", "googlenet", "inception", "maxvit", "mnasnet", "mobilenet"),
    *("regnet", "resnet", "resnext", "shufflenet", "squeezenet", "swin", "vgg", "vit", "wide_resnet"),
)
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    Attributes:
      build: `build(input_shape, num_outputs, *, option=default, …)` -> torch module.
      inputs: the form it takes: "flat" (d,), "image" (channels, height, width), or "any": as the data set has it.
      own_recipe: whether its trainer brings a recipe, of which a config changes only what it says.
    """

    name: str
    build: Callable[..., Any]
    inputs: Inputs = "any"
    own_recipe: bool = False

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        parameters = list(inspect.signature(self.build).parameters.values())
        return {p.name: p for p in parameters[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


MODELS: dict[str, ModelEntry] = {}


def dataset(name: str) -> Callable[[F], F]:
    """Registers a loader under a name that `data.dataset` may use.

    The loader returns a `DataSet`, or `(x, y)`. Its keyword parameters are the keys of `data.options`. Two are filled
    in if it has them: `data_dir`, the folder of that name that exists, and `folders`, all folders to look in;
    `data_dir` is then the one to download to.

    Args:
      name: in config files, where case, "-" and "_" do not matter. Registering a name again replaces it, so that a
        notebook cell can be run twice. A name that ends in ":" stands for all names that begin so; the loader gets the
        rest as its first argument.

    >>> @dataset("squares")
    ... def squares(*, rows=4):
    ...     return [[float(i)] for i in range(rows)], [i % 2 for i in range(rows)]
    >>> load_dataset("squares").task, len(load_dataset("Squares", options={"rows": 6}).records)
    ('classification', 6)
    """

    def register(loader: F) -> F:
        DATASETS[name] = loader
        return loader

    return register


def model(name: str, *, inputs: Inputs = "any", own_recipe: bool = False) -> Callable[[F], F]:
    """Registers a builder of a torch module under a name that `train.model_name` may use.

    Every submodule with parameters must have PyTorch's `reset_parameters()`, because each reference model starts
    from fresh parameters.

    Args:
      name: in config files, where case, "-" and "_" do not matter unless they tell two names apart. Registering a name
        again replaces it.
      inputs: the form of one record: "flat" (d,), "image" (channels, height, width), or "any".
      own_recipe: of networks that `trainers.fast_resnet` trains.

    >>> @model("linear", inputs="flat")
    ... def linear(input_shape, num_outputs, *, bias=True):
    ...     import torch
    ...     return torch.nn.Linear(input_shape[0], num_outputs, bias=bias)
    >>> check_model("linear", {"bais": False}, task="classification")
    ["unknown key train.model_options.bais of 'linear', did you mean 'bias'?"]
    """

    def register(build: F) -> F:
        MODELS[name] = ModelEntry(name, build, inputs, own_recipe)
        return build

    return register


def _is_file(name: str) -> bool:
    from mlflow_privacy.zoo.tables import SUFFIXES

    return Path(name).suffix.lower() in SUFFIXES


def load_entry_points(group: str) -> dict[str, Callable[[], Any]]:
    """What installed packages add to a registry: name → a function that imports and returns it.

    Names are read from the packages' metadata. Only the package whose entry is called for is imported.

    Args:
      group: "mlflow_privacy.datasets" or "mlflow_privacy.models".

    >>> load_entry_points("mlflow_privacy.no_such_group")
    {}
    """
    from importlib.metadata import EntryPoint, entry_points

    def loading(entry: EntryPoint) -> Callable[[], Any]:
        def load() -> Any:
            try:
                return entry.load()
            except Exception as error:  # another package's code may raise anything
                package = entry.dist.name if entry.dist else "an installed package"
                raise ConfigError(
                    f"{entry.name!r} of {package} ({group}) cannot be imported from {entry.value}: "
                    f"{type(error).__name__}: {error}. Repair or remove that package."
                ) from error

        return load

    return {entry.name: loading(entry) for entry in entry_points(group=group)}


def plain_name(name: str) -> str:
    """The name without what does not matter in it.

    >>> plain_name("CIFAR-10"), plain_name("breast_cancer")
    ('cifar10', 'breastcancer')
    """
    return name.lower().replace("-", "").replace("_", "")


def _match(name: str, names: Iterable[str]) -> str | None:
    """The registered name that is meant; a family "hf:" for names that begin so."""
    names = list(names)
    if name in names:
        return name
    family = next((n for n in names if n.endswith(":") and name.lower().startswith(n.lower())), None)
    return family or next((n for n in names if not n.endswith(":") and plain_name(n) == plain_name(name)), None)


def _loader(name: str) -> Callable[..., Any] | None:
    """The loader of a registered name or family, importing the package that adds it if there is one."""
    found = _match(name, DATASETS)
    if found is None:
        entries = load_entry_points(DATASET_GROUP)
        entry = _match(name, entries)
        if entry is None:
            return None
        value = entries[entry]()
        if not callable(value):
            raise ConfigError(f"entry point {entry!r} of {DATASET_GROUP} must be a loader, got {type(value).__name__}.")
        found = _match(name, DATASETS) or entry  # a decorated loader has registered itself
        DATASETS.setdefault(found, value)
    return DATASETS[found]


def loader_options(loader: Callable[..., Any], *, family: bool = False) -> dict[str, inspect.Parameter]:
    """The parameters of a loader that `data.options` may set."""
    parameters = list(inspect.signature(loader).parameters.values())[1 if family else 0 :]
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: p for p in parameters if p.kind in kinds and p.name not in ("data_dir", "folders")}


def _option_faults(name: str, loader: Callable[..., Any], options: Mapping[str, Any]) -> list[str]:
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(loader).parameters.values())
    valid = loader_options(loader, family=(_match(name, DATASETS) or "").endswith(":"))
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

    found = _match(name, DATASETS)
    if found is not None:
        if found.endswith(":") and len(name) == len(found):
            return [f"data set {name!r} names nothing after the colon. Write, for example, {found}NAME."]
        return _option_faults(name, DATASETS[found], options or {})
    entries = load_entry_points(DATASET_GROUP)
    if _match(name, entries) is not None:
        return []
    if _is_file(name):
        return [f"data.options is for registered data sets, {name!r} is a file. Remove it."] if options else []
    hint = nearest(name, sorted({*DATASETS, *entries}), cutoff=0.5, listed=True)
    return [f"unknown data set {name!r}{hint} A file must end in {', '.join(SUFFIXES)}."]


def data_folders(data_dir: str | Path | None, folders: Sequence[str | Path] = ()) -> list[Path]:
    """Where data may lie, in order: data_dir itself, or below each of `folders` and the working directory.

    Args:
      data_dir: absolute, or relative to each of `folders`, then to the working directory; None for these themselves.
      folders: such as the config's.

    >>> [str(p) for p in data_folders("data", ["/configs"])] == ["/configs/data", str(Path.cwd() / "data")]
    True
    """
    bases = [*(Path(folder).expanduser().absolute() for folder in folders), Path.cwd()]
    given = Path(data_dir).expanduser() if data_dir is not None else Path()
    return list(dict.fromkeys([given] if given.is_absolute() else [base / given for base in bases]))


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
        from mlflow_privacy.zoo.tables import find_file, load_table

        places = [*data_folders(data_dir, folders), *(data_folders(None, folders) if data_dir else [])]
        return load_table(find_file(name, places), **table_options)
    family = (_match(name, DATASETS) or "").endswith(":")
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


def find_model(name: str) -> ModelEntry | None:
    """The torch model that a config means by a name, None if it means none.

    In this order: the registered name itself; a scikit-learn class has no entry; the registered name in another case or
    with other "-" and "_"; a builder of an installed package (entry points of "mlflow_privacy.models"); a classifier of
    torchvision, with or without "torchvision:" before its name. Without torchvision its likely names are found too:
    `check_model` says what is missing.

    >>> find_model("WRN28_10").name, find_model("CNN").name, find_model("Cnn").name, find_model("Ridge")
    ('wrn28-10', 'CNN', 'cnn', None)
    """
    if name in MODELS:
        return MODELS[name]
    if name[:1].isupper() and find_estimator(name) is not None:  # classes begin with a capital
        return None
    found = name.lower() if name.lower() in MODELS else _match(name, MODELS)
    if found is not None:
        return MODELS[found]
    entries = load_entry_points(MODEL_GROUP)
    entry = _match(name, entries)
    if entry is None:
        return _torchvision_entry(name)
    builder = entries[entry]()
    if not callable(builder):
        raise ConfigError(f"entry point {entry!r} of {MODEL_GROUP} must be a builder, got {type(builder).__name__}.")
    found = _match(name, MODELS) or entry  # a decorated builder has registered itself
    return MODELS.setdefault(found, ModelEntry(entry, builder))


def _torchvision_entry(name: str) -> ModelEntry | None:
    plain = name.lower().removeprefix(_TORCHVISION)
    asked = name.lower().startswith(_TORCHVISION)
    if not asked and not plain.startswith(_TORCHVISION_NAMES):
        return None

    def build(input_shape: tuple[int, ...], num_outputs: int, *, dropout: float | None = None) -> Any:
        from mlflow_privacy.zoo import torchvision_models

        return torchvision_models.build(plain, input_shape, num_outputs, dropout=dropout)

    known = _torchvision_names()
    return ModelEntry(f"{_TORCHVISION}{plain}", build, "image") if known is None or plain in known else None


def _torchvision_names() -> tuple[str, ...] | None:
    """torchvision's classifiers; None if it cannot be imported."""
    try:
        from mlflow_privacy.zoo.torchvision_models import classifier_names

        return classifier_names()
    except (ImportError, ConfigError):
        return None


def _torchvision_faults(entry: ModelEntry) -> list[str]:
    """Why a classifier of torchvision cannot be built, if torchvision cannot be imported."""
    try:
        from mlflow_privacy.zoo.torchvision_models import torchvision_models

        torchvision_models()
    except ImportError as error:
        return [f"model {entry.name!r} needs torch, which cannot be imported: {error}. Run pip install torch."]
    except ConfigError as error:
        return [f"model {entry.name!r}: {error}"]
    return []


def check_model(name: str, options: Mapping[str, Any], *, task: Task | None, path: str = "train") -> list[str]:
    """Faults of a model's name and options, one sentence each; [] if it can be built.

    Args:
      name: registered name, classifier of torchvision or scikit-learn estimator class.
      options: keywords of the builder, or parameters of the estimator.
      task: None if it is not known before the data is loaded: then it is not checked.
      path: of the config section, for the messages.
    """
    entry = find_model(name)
    if entry is not None:
        takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(entry.build).parameters.values())
        unknown = [] if takes_any else [key for key in options if key not in entry.options]
        return [
            f"unknown key {path}.model_options.{key} of {name!r}{nearest(key, entry.options, listed=True)}"
            for key in unknown
        ] + (_torchvision_faults(entry) if entry.name.startswith(_TORCHVISION) else [])
    from mlflow_privacy.zoo.estimators import check_estimator, estimator_names

    if find_estimator(name) is not None:
        return check_estimator(name, options, task=task, path=path)
    from mlflow_privacy.zoo.families import looks_like_transformer

    if looks_like_transformer(name):
        from mlflow_privacy.zoo.transformers_models import check_transformer

        idle = [f"{path}.model_options has no meaning for the language model {name!r}. Remove it."] if options else []
        return [f"{path}.model_name: {fault}" for fault in check_transformer(name)] + idle
    if name.lower().startswith(_TORCHVISION):
        plain = name[len(_TORCHVISION) :]
        hint = nearest(plain, _torchvision_names() or (), listed=True)
        return [f"{path}.model_name: torchvision has no classifier {plain!r}{hint}"]
    likely = (_torchvision_names() or ()) if name.lower().startswith(_TORCHVISION_NAMES) else ()
    hint = nearest(name, [*MODELS, *likely, *estimator_names()], cutoff=0.5)
    valid = f"; valid are {', '.join(sorted(MODELS))}, torchvision's classifiers and scikit-learn's classes."
    return [f"{path}.model_name: unknown model {name!r}{hint or valid}"]


def find_estimator(name: str) -> type | None:
    """The public scikit-learn classifier or regressor of this name, None if there is none."""
    from mlflow_privacy.zoo import estimators

    return estimators.find_estimator(name)


def model_inputs(name: str) -> Inputs:
    """The form of records a model takes; scikit-learn estimators take flat ones, language models texts."""
    from mlflow_privacy.zoo.families import model_family

    entry = find_model(name)
    if entry is not None:
        return entry.inputs
    return "text" if model_family(name) == "transformers" else "flat"


def build_model(
    name: str, input_shape: tuple[int, ...], num_outputs: int, options: Mapping[str, Any], *, task: Task
) -> Any:
    """Builds a torch module or a scikit-learn estimator by name.

    Args:
      name: registered name, classifier of torchvision or scikit-learn estimator class.
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
    entry = find_model(name)
    if entry is not None:
        try:
            return entry.build(input_shape, num_outputs, **options)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model {name!r} cannot be built with {dict(options)}: {error}") from error
    from mlflow_privacy.zoo.estimators import build_estimator

    return build_estimator(name, options)
