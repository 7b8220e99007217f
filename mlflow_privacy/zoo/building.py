"""Models by name. Names are looked up, never imported: a config file cannot run code of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.plugins import load_entry_points
from mlflow_privacy.types import Task
from mlflow_privacy.zoo import registry
from mlflow_privacy.zoo.estimators import build_estimator, check_estimator, estimator_names, find_estimator
from mlflow_privacy.zoo.registry import ModelEntry, match
from mlflow_privacy.zoo.transformers_models import check_transformer, looks_like_transformer

GROUP = "mlflow_privacy.models"  # entry points with which installed packages add builders
_TORCHVISION = "torchvision:"
# What names of torchvision's classifiers begin with: only for such names is torchvision imported.
_TORCHVISION_NAMES = (
    *("alexnet", "convnext", "densenet", "efficientnet", "googlenet", "inception", "maxvit", "mnasnet", "mobilenet"),
    *("regnet", "resnet", "resnext", "shufflenet", "squeezenet", "swin", "vgg", "vit", "wide_resnet"),
)


def find_model(name: str) -> ModelEntry | None:
    """The torch model that a config means by a name, None if it means none.

    In this order: the registered name itself; a scikit-learn class has no entry; the registered name in another case or
    with other "-" and "_"; a builder of an installed package (entry points of "mlflow_privacy.models"); a classifier of
    torchvision, with or without "torchvision:" before its name. Without torchvision its likely names are found too:
    `check_model` says what is missing.

    >>> find_model("WRN28_10").name, find_model("CNN").name, find_model("Cnn").name, find_model("Ridge")
    ('wrn28-10', 'CNN', 'cnn', None)
    """
    if name in registry.MODELS:
        return registry.MODELS[name]
    if name[:1].isupper() and find_estimator(name) is not None:  # classes begin with a capital
        return None
    found = name.lower() if name.lower() in registry.MODELS else match(name, registry.MODELS)
    if found is not None:
        return registry.MODELS[found]
    entries = load_entry_points(GROUP)
    entry = match(name, entries)
    if entry is None:
        return _torchvision_entry(name)
    builder = entries[entry]()
    if not callable(builder):
        raise ConfigError(f"entry point {entry!r} of {GROUP} must be a builder, got {type(builder).__name__}.")
    found = match(name, registry.MODELS) or entry  # a decorated builder has registered itself
    return registry.MODELS.setdefault(found, ModelEntry(entry, builder))


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
    if find_estimator(name) is not None:
        return check_estimator(name, options, task=task, path=path)
    if looks_like_transformer(name):
        idle = [f"{path}.model_options has no meaning for the language model {name!r}. Remove it."] if options else []
        return [f"{path}.model_name: {fault}" for fault in check_transformer(name)] + idle
    if name.lower().startswith(_TORCHVISION):
        plain = name[len(_TORCHVISION) :]
        hint = nearest(plain, _torchvision_names() or (), listed=True)
        return [f"{path}.model_name: torchvision has no classifier {plain!r}{hint}"]
    likely = (_torchvision_names() or ()) if name.lower().startswith(_TORCHVISION_NAMES) else ()
    hint = nearest(name, [*registry.MODELS, *likely, *estimator_names()], cutoff=0.5)
    valid = f"; valid are {', '.join(sorted(registry.MODELS))}, torchvision's classifiers and scikit-learn's classes."
    return [f"{path}.model_name: unknown model {name!r}{hint or valid}"]


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
    return build_estimator(name, options)
