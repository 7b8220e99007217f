"""From a config file to an `ExperimentConfig`, or to one error that lists every fault of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.experiment.games import game_section_faults
from mlflow_privacy.experiment.sections import (
    SECTIONS,
    TEXT_KEYS,
    TORCH_KEYS,
    DataSection,
    ExperimentConfig,
    TrainSection,
    variant_keys,
)
from mlflow_privacy.experiment.yaml_text import apply_overrides, parse_yaml
from mlflow_privacy.types import Task

__all__ = ["ExperimentConfig", "apply_overrides", "load_config", "parse_config"]

_Part = TypeVar("_Part", bound=BaseModel)
_logger = logging.getLogger(__name__)
_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    device: str | None = None,
    seed: int | None = None,
    directory: str | Path | None = None,
) -> ExperimentConfig:
    """Reads and checks a config file.

    Args:
      path: of a YAML file.
      overrides: "section.key=value" each, on top of the file.
      device: for training and inference, instead of the file's; None or "auto" leaves the file's.
      seed: instead of `run.random_seed`.
      directory: where relative folders lie that the file names: `run.log_dir`, and `data.data_dir` unless it is beside
        the file. None: the working directory.

    Raises:
      ConfigError: the file, an override or a value is wrong; all faults at once, each by its dotted path.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config {str(path)!r} cannot be read: {_why(path, error)}") from error
    values = parse_yaml(text, name=path.name)
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name} must hold the sections {', '.join(SECTIONS)}, got {_short(values)}.")
    given = list(overrides)
    if device not in (None, "", "auto"):
        given += [f"train.device={device}", f"audit.device={device}"]
    if seed is not None:
        given.append(f"run.random_seed={seed}")
    values = apply_overrides(_asked_by_name(values, path), given)
    return parse_config(values if directory is None else _placed(values, path, Path(directory)), path=path)


def _asked_by_name(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The game "usage" for a file of Privacy Meter's (it has `audit.privacy_game`) that only its name tells to be DUCI.

    >>> audit = {"privacy_game": "privacy_loss_model"}
    >>> _asked_by_name({"audit": audit}, Path("configs/duci/cifar10.yaml"))["audit"]["game"]
    'usage'
    >>> _asked_by_name({"audit": audit}, Path("configs/cifar10.yaml")) == {"audit": audit}
    True
    """
    audit = values.get("audit")
    words = {path.resolve().parent.name.lower(), *path.stem.lower().replace("-", "_").split("_")}
    if "duci" not in words or not isinstance(audit, Mapping) or "privacy_game" not in audit or "game" in audit:
        return dict(values)
    _logger.info("%s is one of Privacy Meter's for DUCI, so the game is usage; audit.game says otherwise.", path.name)
    return {**values, "audit": {**audit, "game": "usage"}}


def _placed(values: Mapping[str, Any], path: Path, directory: Path) -> dict[str, Any]:
    """The values with their relative folders below a directory."""
    placed = dict(values)
    for section, key in (("run", "log_dir"), ("data", "data_dir")):
        part = placed.get(section)
        name = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(name, str) and name and not Path(name).expanduser().is_absolute():
            beside = key == "data_dir" and (path.parent / name).exists()
            place = (path.parent if beside else directory) / name
            placed[section] = {**part, key: str(place.absolute())}
    return placed


def parse_config(values: Mapping[str, Any], *, path: Path | None = None) -> ExperimentConfig:
    """Checks nested mappings as a config file would hold them.

    Args:
      values: the sections.
      path: of the file they came from; files named in them are looked up beside it.

    Raises:
      ConfigError: all faults at once, each by its dotted path, with the nearest valid key or value.

    >>> parse_config({"data": {"dataset": "digits"}, "train": {"epoch": 3}})
    Traceback (most recent call last):
    mlflow_privacy.errors.ConfigError: the config has 1 fault:
      unknown key train.epoch, did you mean train.epochs?
    """
    values = {str(key): {} if section is None and key != "data" else section for key, section in values.items()}
    faults: list[str] = []
    config = None
    try:
        config = ExperimentConfig.model_validate(values)
    except ValidationError as error:
        faults += _faults(error)
    faults += _variant_faults(values.get("train"))
    faults += _name_faults(values)
    faults += game_section_faults(values)
    if faults or config is None:
        faults = list(dict.fromkeys(faults))
        name = path.name if path else "the config"
        plural = "" if len(faults) == 1 else "s"
        raise ConfigError("\n  ".join([f"{name} has {len(faults)} fault{plural}:", *faults]))
    config._path = path.resolve() if path else None
    return config


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not a text file."
    if path.is_dir():
        return "it is a folder. Name a YAML file."
    if path.exists() or not path.parent.is_dir():
        return f"{getattr(error, 'strerror', None) or error}."
    names = [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")]
    return f"there is no such file{nearest(path.name, names, shown=lambda name: repr(str(path.parent / name))) or '.'}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _faults(error: ValidationError, prefix: tuple[str, ...] = ()) -> list[str]:
    """One sentence per fault of a pydantic error."""
    lines = []
    for fault in error.errors():
        loc = prefix + tuple(part for part in fault["loc"] if part != "[key]")
        path, kind, value = ".".join(map(str, loc)), fault["type"], fault.get("input")
        if kind == "extra_forbidden":
            lines.append(_unknown_key(loc))
        elif kind == "missing":
            info = _field(loc)
            about = f": {info.description}" if info and info.description else ": it is needed."
            lines.append(f"missing {path}{about}" if len(loc) > 1 else f"missing section {path}.")
        elif kind == "literal_error":
            allowed = [w.strip(" '") for w in fault["ctx"]["expected"].replace(" or ", ", ").split(",")]
            hint = nearest(value, allowed, cutoff=0.5, shown=str) or "."
            lines.append(f"{path} must be one of {', '.join(allowed)}, got {_short(value)}{hint}")
        elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
            lines.append(f"{path} must be {_range(loc)}, got {_short(value)}.")
        elif kind == "value_error":
            lines.append(f"{path} {fault['ctx']['error']}, got {_short(value)}.")
        elif kind in _TYPES:
            lines.append(f"{path} must be {_TYPES[kind]}, got {_short(value)}.")
        else:
            lines.append(f"{path}: {fault['msg'].rstrip('.')}, got {_short(value)}.")
    return lines


def _section(loc: Sequence[Any]) -> tuple[str, type[BaseModel]] | None:
    """The section a path is in, and its dotted prefix; variants hold keys of `train`."""
    if not loc or loc[0] not in SECTIONS:
        return None
    if list(loc[:2]) == ["train", "variants"] and len(loc) > 3:
        return ".".join(map(str, loc[:3])), TrainSection
    return str(loc[0]), SECTIONS[str(loc[0])]


def _field(loc: Sequence[Any]) -> FieldInfo | None:
    found = _section(loc)
    return found[1].model_fields.get(str(loc[3 if "." in found[0] else 1])) if found and len(loc) > 1 else None


def _unknown_key(loc: Sequence[Any]) -> str:
    path, word, found = ".".join(map(str, loc)), str(loc[-1]), _section(loc)
    owners = [f"{name}.{word}" for name, section in SECTIONS.items() if word in section.model_fields]
    elsewhere = f", did you mean {owners[0]}?" if owners else ""
    if found is None or len(loc) < 2:
        hint = nearest(word, SECTIONS, cutoff=0.5, shown=str) or elsewhere
        return f"unknown section {path}" + (hint or f"; the sections are {', '.join(SECTIONS)}.")
    prefix, model = found

    def full(key: str) -> str:
        return f"{prefix}.{key}"

    near, far = (nearest(word, model.model_fields, cutoff=cutoff, shown=full) for cutoff in (0.7, 0.5))
    holds = f"; {loc[0]} holds {', '.join(model.model_fields)}."
    return f"unknown key {path}{near or elsewhere or far or holds}"


def _range(loc: Sequence[Any]) -> str:
    """The range of a number in words, from its own constraints."""
    info = _field(loc)
    limits: dict[str, Any] = {}
    metadata = list(info.metadata) if info else []
    if info is not None and not any(hasattr(m, k) for m in metadata for k in ("ge", "gt", "le", "lt")):
        return "in [0, 1)"  # the items of audit.fprs
    for constraint in metadata:
        for key in ("ge", "gt", "le", "lt"):
            if getattr(constraint, key, None) is not None:
                limits[key] = getattr(constraint, key)
    if ("lt" in limits or "le" in limits) and ("gt" in limits or "ge" in limits):
        low = f"({limits['gt']:g}" if "gt" in limits else f"[{limits['ge']:g}"
        high = f"{limits['lt']:g})" if "lt" in limits else f"{limits['le']:g}]"
        return f"in {low}, {high}"
    return f"greater than {limits['gt']:g}" if "gt" in limits else f"at least {limits['ge']:g}"


def _variant_faults(train: Any) -> list[str]:
    """Faults of the variants' own keys; those of the shared keys are reported once, by the section itself."""
    variants = train.get("variants") if isinstance(train, Mapping) else None
    if not isinstance(variants, Mapping):
        return []
    faults = []
    for name, override in variants.items():
        if not isinstance(override, Mapping):
            continue
        if "variants" in override:
            faults.append(f"train.variants.{name}.variants: a variant has no variants of its own.")
        own = {key: value for key, value in override.items() if key != "variants"}
        try:
            TrainSection.model_validate(own)
        except ValidationError as error:
            faults += _faults(error, ("train", "variants", str(name)))
    return faults


def _name_faults(values: Mapping[str, Any]) -> list[str]:
    """Faults of names that registries know: data set, models and their options, attacks; and keys nobody reads."""
    from mlflow_privacy import zoo

    def section(name: str) -> Mapping[str, Any]:
        value = values.get(name)
        return value if isinstance(value, Mapping) else {}

    data, train, audit = section("data"), section("train"), section("audit")
    faults = _attack_faults(audit)
    if isinstance(data.get("dataset"), str) and data["dataset"]:
        given = data.get("options")
        faults += [
            fault if fault.startswith("unknown key data.") else f"data.dataset: {fault}"
            for fault in zoo.check_dataset(data["dataset"], given if isinstance(given, Mapping) else None)
        ]
        is_table = data["dataset"].lower().endswith((".csv", ".tsv", ".parquet", ".jsonl"))
        if is_table and data.get("targets") is None and data.get("text") is None:
            faults.append(f"missing data.targets: the label column of {data['dataset']}.")
    task = data.get("task") if data.get("task") in ("classification", "regression") else None
    base = {"model_name": TrainSection.model_fields["model_name"].default, **train}
    variants = train.get("variants") if isinstance(train.get("variants"), Mapping) else None
    families = set()
    for name, own in (variants or {None: {}}).items():
        if not isinstance(own, Mapping):
            continue
        keys = variant_keys(base, own)
        path = f"train.variants.{name}" if {"model_name", "model_options"} & set(own) else "train"
        model, options = keys["model_name"], keys.get("model_options") or {}
        if not isinstance(model, str) or not isinstance(options, Mapping):
            continue  # already a fault of the section
        faults += zoo.check_model(model, options, task=task, path=path)
        family = zoo.model_family(model)
        families.add(family)
        if family in ("torch", "transformers"):
            faults += _recipe_faults(keys, own, name, task, data)
        idle = _IDLE.get(family or "", ())
        faults += [_idle(f"train.variants.{name}.{key}", model, family) for key in idle if variants and key in own]
    if not variants and families <= set(_IDLE):
        model, family = str(base["model_name"]), next(iter(families), None)
        faults += [_idle(f"train.{key}", model, family) for key in _IDLE.get(family or "", ()) if key in train]
    return faults


def _recipe_faults(
    keys: Mapping[str, Any], own: Mapping[str, Any], variant: str | None, task: Any, data: Mapping[str, Any]
) -> list[str]:
    """What the trainer finds wrong with a recipe whose single values are right."""
    from mlflow_privacy.experiment.models import recipe_faults, recipe_settings

    section = _valid_part(TrainSection, keys)
    settings = recipe_settings(section, _valid_part(DataSection, {"dataset": "unknown", **data}))
    tasks: list[Task] = [task] if task else ["classification", "regression"]
    lines = []
    for sentence in min((recipe_faults(section.model_name, settings, each) for each in tasks), key=len):
        key, _, rest = sentence.partition(" ")
        key = key.strip("':")
        lines.append(f"train.variants.{variant}.{key} {rest}" if key in own else f"train.{key} {rest}")
    return lines


def _valid_part(section: type[_Part], values: Mapping[str, Any]) -> _Part:
    """A section of those keys whose values are right; the others are faults of the section already."""
    valid = dict(values)
    try:
        return section.model_validate(valid)
    except ValidationError as error:
        for fault in error.errors():
            valid.pop(str(fault["loc"][0]), None)
    return section.model_validate(valid)


# Keys of `train` that a family of models would ignore, which nobody wants silently.
_IDLE: dict[str, tuple[str, ...]] = {
    "sklearn": (*TORCH_KEYS, *TEXT_KEYS),
    "torch": TEXT_KEYS,
    "transformers": ("betas", "eps", "momentum", "nesterov", "loss", "augmentation", "drop_last", "dp", "precision"),
}


def _idle(path: str, model: str, family: str | None) -> str:
    if family == "sklearn":
        return (
            f"{path} has no meaning for the scikit-learn estimator {model}; its parameters go into model_options. "
            "Remove it."
        )
    what = "language models" if family == "torch" else "models that are no language model"
    return f"{path} is for {what}, which {model!r} is {'not' if family == 'torch' else 'none of'}. Remove it."


def attack_name(word: str) -> str:
    """An attack's own name: Privacy Meter's `RMIA` and `LOSS` are ours in lower case.

    >>> attack_name("RMIA"), attack_name("lira")
    ('rmia', 'lira')
    """
    return word.lower() if word in ("RMIA", "LOSS") else word


def _attack_faults(audit: Mapping[str, Any]) -> list[str]:
    from mlflow_privacy.attacks import ATTACKS

    named: list[tuple[str, Any]] = []
    if audit.get("algorithm") is not None:
        named.append(("audit.algorithm", audit["algorithm"]))
    if isinstance(audit.get("attacks"), list):
        named += [("audit.attacks", word) for word in audit["attacks"]]
    given = audit.get("attack_options")
    named_options: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    named += [(f"audit.attack_options.{word}", word) for word in named_options]
    faults: list[str] = []
    options_of: dict[str, Mapping[str, Any]] = {}
    for path, word in named:
        if isinstance(word, str) and attack_name(word) not in ATTACKS:
            hint = nearest(word, ATTACKS, cutoff=0.5, shown=str, listed=True)
            faults.append(f"{path}: unknown attack {word!r}{hint}")
        elif isinstance(word, str):
            try:
                options_of[word] = ATTACKS[attack_name(word)].options
            except ConfigError as error:  # of an installed package that is broken
                faults.append(f"{path}: {error}")
    for word, options in named_options.items():
        if word not in options_of or not isinstance(options, Mapping):
            continue
        known = options_of[word]
        for key in options:
            if key not in known:
                hint = nearest(key, known, cutoff=0.5, shown=str, listed=True)
                faults.append(f"unknown key audit.attack_options.{word}.{key}{hint}")
    return faults
