"""Adapters of peft: their configuration as data, put onto a base that stays as it is, stored without the base."""

from __future__ import annotations

import dataclasses
import enum
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_privacy.errors import RecipeError, StoreError, nearest
from mlflow_privacy.text import Objective
from mlflow_privacy.trainers.settings import fault_text
from mlflow_privacy.trainers.text.base import own_trainable, shared_copy

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_TASKS = {"causal_lm": "CAUSAL_LM", "sequence_classification": "SEQ_CLS"}
# Set here, not by a recipe; or names of code.
_OURS = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "megatron_config", "megatron_core", "tokenizer_kwargs",
}  # fmt: skip
# What `to_dict()` of a configuration says besides, and what changes no training here.
_SAID_BY_THE_WAY = {"auto_mapping", "peft_version", "base_model_name_or_path", "inference_mode", "megatron_core"}
_ALL_LINEAR = "all-linear"
_REFUSED = (ValueError, TypeError, RuntimeError, NotImplementedError, KeyError, AttributeError, ImportError)


def peft_config(peft: Mapping[str, Any], objective: Objective, *, steps: int = 1) -> Any:
    """The configuration object that a mapping describes, checked by peft's own class.

    Raises:
      RecipeError: with every fault that `read_peft` finds.
    """
    config, faults = read_peft(peft, objective, steps=steps)
    if faults:
        raise RecipeError(fault_text("The recipe's peft section is wrong", faults))
    return config


def read_peft(peft: Mapping[str, Any], objective: Objective, *, steps: int = 1) -> tuple[Any, list[str]]:
    """The configuration object, or None, and every fault as a sentence.

    An unknown method or key comes with the nearest valid one; for values peft's own class decides.

    Args:
      peft: {"type": a name of `peft.PeftType` in any case, and keys of its configuration class}, or what `to_dict()` of
        such a configuration gives.
      steps: of training, for methods that plan over them (AdaLoRA), where the mapping does not say it.

    >>> read_peft({"type": "lora", "rank": 4, "lora_alpa": 8}, "causal_lm")[1]
    ['peft.rank is no key of LoraConfig.',
     "peft.lora_alpa is no key of LoraConfig, did you mean 'lora_alpha'?"]
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    classes = {str(getattr(key, "value", key)).lower(): cls for key, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    given = {str(k): _plain(v) for k, v in peft.items() if v is not None and k not in _SAID_BY_THE_WAY}
    other_name, task = given.pop("peft_type", "lora"), given.pop("task_type", _TASKS[objective])
    name = str(given.pop("type", other_name)).strip().lower().replace("-", "_")
    if name not in classes:
        valid_names = sorted(classes)
        return None, [f"peft.type {name!r} is none of {', '.join(valid_names)}{nearest(name, valid_names) or '.'}"]
    fields = {f.name for f in dataclasses.fields(classes[name]) if f.init} - _OURS
    faults = [
        f"peft.{key} is no key of {classes[name].__name__}{nearest(key, sorted(fields)) or '.'}"
        for key in given
        if key not in fields
    ]
    if task != _TASKS[objective]:
        faults.append(f"peft.task_type {task!r} is not that of the audited model, {_TASKS[objective]}; leave it out.")
    valid = {key: value for key, value in given.items() if key in fields}
    start = valid.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in ("gaussian", "orthogonal"):
        faults.append(
            f"peft.init_lora_weights={start!r} changes the weights of the base, which all references share; use true, "
            "false, gaussian or orthogonal."
        )
        del valid["init_lora_weights"]
    planned = "total_step" in fields and "total_step" not in given
    config = None
    try:
        if planned:
            valid["total_step"] = max(steps, 1 + int(valid.get("tinit", 0)) + int(valid.get("tfinal", 0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = classes[name](task_type=_TASKS[objective], **valid)
            config._planned = planned  # type: ignore[attr-defined]
    except (ValueError, TypeError, KeyError, ImportError) as error:
        faults.append(f"{classes[name].__name__} refuses peft: {error}")
    return (None if faults else config), faults


def peft_values(config: Any) -> dict[str, Any]:
    """{"type": ..., and what differs from the defaults of its class}: the mapping of which `peft_config` makes it.

    >>> from peft import LoraConfig
    >>> peft_values(LoraConfig(r=4, lora_alpha=8, target_modules=["b", "a"]))
    {'r': 4, 'target_modules': ['a', 'b'], 'type': 'lora'}
    """
    values: dict[str, Any] = {"type": str(getattr(config.peft_type, "value", config.peft_type)).lower()}
    for field in dataclasses.fields(config):
        if not field.init or field.name in _OURS:
            continue
        if field.name == "total_step" and getattr(config, "_planned", False):
            continue
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        value = getattr(config, field.name)
        if value is not None and _plain(value) != _plain(default):
            values[field.name] = _plain(value)
    return dict(sorted(values.items()))


def _plain(value: Any) -> Any:
    """JSON values: sets as sorted lists, enums by value, nested configurations as mappings."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def attach(base: Any, peft: Mapping[str, Any], objective: Objective, *, steps: int = 0, inference: bool = False) -> Any:
    """A PEFT model with fresh adapters over the tensors of `base`, which stays as it is.

    Args:
      base: a plain transformers model, on its device.
      steps: of training, for methods that plan over them (AdaLoRA).
      inference: adapters as they are loaded, not to be trained.

    Raises:
      RecipeError: peft cannot put these adapters into this architecture.
    """
    from peft import get_peft_model

    config = peft_config(peft, objective, steps=steps)
    choices = [peft]
    if hasattr(config, "target_modules") and config.target_modules is None:
        choices.append({**peft, "target_modules": _ALL_LINEAR})  # where peft knows no default for the architecture
    for choice in choices:
        config = peft_config(choice, objective, steps=steps)
        config.inference_mode = inference
        try:
            model = _attach(get_peft_model, base, config)
            break
        except _REFUSED as error:
            if choice is choices[-1] or "target_modules" not in str(error):
                name = peft.get("type", "lora")
                raise RecipeError(f"peft cannot put {name!r} on a {type(base).__name__}: {error}") from error
    if not inference:
        own_trainable(model)
    return model


def _attach(get_peft_model: Any, base: Any, config: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out of Conv1D is set right by peft, with a warning
        return get_peft_model(shared_copy(base), config)


def save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapter's tensors as safetensors and its configuration as JSON; nothing of the base."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file({key: value.detach().cpu().clone().contiguous() for key, value in state.items()}, Path(folder) / ADAPTER)
    values = peft_values(model.peft_config[model.active_adapter])
    (Path(folder) / CONFIG).write_text(json.dumps(_as_peft_writes(values), indent=2, sort_keys=True), encoding="utf-8")


def _as_peft_writes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"peft_type": str(values["type"]).upper(), **{k: v for k, v in values.items() if k != "type"}}


def load_adapter(base: Any, peft: Mapping[str, Any], objective: Objective, folder: Path) -> Any:
    """What `save_adapter` wrote, on a base; the configuration must be that of the recipe.

    Raises:
      StoreError: files are missing, damaged, or of another recipe.
    """
    import torch
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    missing = [name for name in (ADAPTER, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise StoreError(f"{folder} holds no {' and no '.join(missing)}; this reference model must be trained again.")
    try:
        stored = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = peft_config({"type": stored.pop("peft_type"), **stored}, objective)
        state = load_file(folder / ADAPTER)
    except (SafetensorError, ValueError, KeyError, OSError, AttributeError, RecipeError) as error:
        raise StoreError(f"{folder} does not hold an adapter: {error}") from error
    expected = peft_config(peft, objective)
    if config.peft_type != expected.peft_type:
        raise StoreError(
            f"{folder} holds a {config.peft_type.value} adapter, the recipe asks for {expected.peft_type.value}."
        )
    # The encoder of virtual tokens is not stored, only what it gives.
    model = attach(base, peft_values(config), objective, inference=bool(config.is_prompt_learning))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = get_peft_model_state_dict(model, save_embedding_layers=False)
        wrong = sorted(set(own) ^ set(state)) or sorted(k for k in own if own[k].shape != state[k].shape)
        if wrong:
            raise StoreError(f"{folder} holds an adapter of another shape: {', '.join(wrong[:3])} do not fit.")
        with torch.no_grad():
            set_peft_model_state_dict(model, state)
    return model.requires_grad_(False)
