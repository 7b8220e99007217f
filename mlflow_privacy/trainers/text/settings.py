"""How a language model is fine-tuned, as data: parsed from a mapping with all faults at once, or from run parameters.

| key | meaning |
|---|---|
| `learning_rate` | required |
| `epochs` | required; passes over the members of each reference |
| `batch_size` | required; records a forward pass |
| `gradient_accumulation_steps` | forward passes a step, 1 by default: a step takes `batch_size` times as many records |
| `auto_find_batch_size` | where memory runs out, go on with smaller batches and as many more of them a step |
| `optimizer` | "adamw" (default), another name of `torch.optim`, or one of transformers' `optim`, such as "adafactor" |
| `weight_decay` | 0 by default; biases and normalisation layers are spared, as transformers does |
| `momentum`, `nesterov`, `dampening`, `betas`, `eps`, `alpha`, `amsgrad` | as `torch.optim` has them |
| `schedule` | "linear" (to 0, the default of transformers), "constant", "cosine" (to 0) |
| `warmup_steps`, `warmup_ratio` or `warmup_epochs` | linear from 0, then the schedule; one of the three |
| `max_length` | tokens a text; by default what the model takes, at most 1,024 |
| `grad_clip` | largest norm of the gradient, 1 by default as in transformers; 0 is none |
| `label_smoothing` | of the cross-entropy |
| `text`, `prompt` | columns of the records; tokens of a prompt do not count in the loss |
| `peft` | {"type": "lora", ...}: a method of peft and keys of its configuration; without it all weights are trained |
| `objective` | must be the model's own: "causal_lm" or "sequence_classification" |
| `base`, `tokenizer` | checkpoint that training starts from, by hub name or local folder; only its content counts |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from mlflow_privacy.errors import nearest
from mlflow_privacy.trainers.settings import (
    ALIASES as _TORCH_ALIASES,
)
from mlflow_privacy.trainers.settings import (
    _count,
    _flag,
    _literal,
    _name,
    _number,
    _pair,
    _without_defaults,
    fault_text,
    optimizer_class,
    optimizer_faults,
)

__all__ = ["ALIASES", "TextSettings", "fault_text", "read_text_settings", "text_settings_from_params"]

REQUIRED = ("learning_rate", "epochs", "batch_size")
SCHEDULES = ("constant", "linear", "cosine")
ALIASES = {
    **_TORCH_ALIASES,
    "per_device_train_batch_size": "batch_size",
    "lr_scheduler_type": "schedule",
    "max_seq_length": "max_length",
    "block_size": "max_length",
    "label_smoothing_factor": "label_smoothing",
    "adam_epsilon": "eps",
    "base_model": "base",
    "base_model_name_or_path": "base",
    "text_column": "text",
    "prompt_column": "prompt",
}
KEYS = (
    *("learning_rate", "epochs", "batch_size", "gradient_accumulation_steps", "auto_find_batch_size", "optimizer"),
    *("weight_decay", "schedule", "max_length", "grad_clip", "label_smoothing", "text", "prompt", "peft", "base"),
    *("tokenizer", "objective", "warmup_steps", "warmup_ratio", "warmup_epochs"),
    *("momentum", "dampening", "nesterov", "betas", "eps", "alpha", "amsgrad"),
)
_SCHEDULE_NAMES = {"constant_with_warmup": "constant", "none": "constant"}
_OURS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw"}
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "momentum": _number(0, 1),
    "dampening": _number(0),
    "nesterov": _flag,
    "betas": _pair,
    "eps": _number(0),
    "alpha": _number(0),
    "amsgrad": _flag,
}


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """How a language model is fine-tuned; see the table above.

    Attributes:
      optimizer: lower case; of `torch.optim`, else of transformers.
      warmup: ("steps" | "ratio" | "epochs", how many).
      peft: as given, None where all weights are trained.
      base, tokenizer: names or folders, for whoever loads them; never part of a fingerprint.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    gradient_accumulation_steps: int = 1
    auto_find_batch_size: bool = False
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup: tuple[str, float] = ("steps", 0.0)
    max_length: int | None = None
    grad_clip: float = 1.0
    label_smoothing: float = 0.0
    text: str | None = None
    prompt: str | None = None
    peft: Mapping[str, Any] | None = None
    base: str | None = None
    tokenizer: str | None = None


def read_text_settings(
    settings: Mapping[str, Any], *, objective: str | None = None, complete: bool = True
) -> tuple[TextSettings | None, list[str]]:
    """The settings, or None and every fault as a sentence. What is in `peft` is checked where the model is known.

    Args:
      objective: of the model, if it is known.
      complete: whether a missing key is a fault.

    >>> read_text_settings({"lr": 1e-4, "epoch": 1, "batch_size": 0})[1]
    ["unknown key 'epoch', did you mean 'epochs'?", "'epochs' is missing.",
     'batch_size must be a whole number of at least 1, got 0.']
    """
    readers: dict[str, Callable[[Any], Any]] = {
        "learning_rate": _number(0, open_low=True),
        "epochs": _count,
        "batch_size": _count,
        "gradient_accumulation_steps": _count,
        "auto_find_batch_size": _flag,
        "optimizer": _optimizer_name,
        "weight_decay": _number(0),
        "schedule": _schedule,
        "max_length": _count,
        "grad_clip": _number(0),
        "label_smoothing": _number(0, 1),
        "text": _column,
        "prompt": _column,
        "peft": _mapping,
        "base": _column,
        "tokenizer": _column,
        "objective": lambda value: _objective(value, objective),
        **{f"warmup_{unit}": _number(0, 1 if unit == "ratio" else math.inf) for unit in ("steps", "ratio", "epochs")},
        **_OPTIONS,
    }
    given: dict[str, list[str]] = {}
    for name in settings:
        given.setdefault(ALIASES.get(str(name), str(name)), []).append(name)
    valid = [*readers, *ALIASES]
    faults = [f"unknown key {n!r}{nearest(n, valid) or '.'}" for k, ns in given.items() if k not in readers for n in ns]
    values: dict[str, Any] = {}
    for key, read in readers.items():
        names = [name for name in given.get(key, []) if settings[name] is not None]
        if len({repr(settings[name]) for name in names}) > 1:
            faults.append(f"{' and '.join(map(repr, names))} say different things about {key}.")
        if not names:
            if key in REQUIRED and complete:
                faults.append(f"{key!r} is missing.")
            continue
        try:
            values[key] = read(settings[names[0]])
        except ValueError as error:
            faults.append(f"{names[0]} {error}, got {settings[names[0]]!r}.")
    values.pop("objective", None)
    warmups = [(unit, values.pop(f"warmup_{unit}", 0)) for unit in ("steps", "ratio", "epochs")]
    warmups = [(unit, amount) for unit, amount in warmups if amount]
    if len(warmups) > 1:
        faults.append(f"only one of {', '.join(f'warmup_{unit}' for unit, _ in warmups)} may be given.")
    options = {key: values.pop(key) for key in _OPTIONS if key in values}
    optimizer = values.get("optimizer", "adamw")
    if optimizer_class(optimizer) is not None:
        faults += optimizer_faults(optimizer, options)
    elif options:
        faults.append(f"{', '.join(map(repr, options))} go with an optimizer of torch.optim, not with {optimizer!r}.")
    if faults or not complete:
        return None, faults
    if options:
        options = _without_defaults(optimizer, options)
    return TextSettings(**values, optimizer_options=options, warmup=warmups[0] if warmups else ("steps", 0.0)), []


def text_settings_from_params(params: Mapping[str, str]) -> dict[str, Any]:
    """Settings that a run's parameters hold, such as those that transformers' own MLflow callback logs.

    >>> text_settings_from_params({"per_device_train_batch_size": "8", "num_train_epochs": "3.0", "vocab_size": "9"})
    {'epochs': '3.0', 'batch_size': '8'}
    """
    keys = [f.name for f in dataclasses.fields(TextSettings) if f.name not in ("optimizer_options", "warmup", "peft")]
    keys = [k for k in keys if k not in ("text", "prompt", "tokenizer", "base")]
    keys += ["warmup_steps", "warmup_ratio", "betas", "eps", "momentum"]
    ranked = {**{key: key for key in keys}, **{a: k for a, k in ALIASES.items() if k in keys}}
    found: dict[str, Any] = {}
    for name, key in ranked.items():
        value = str(params.get(name, "")).strip()
        if key not in found and value.lower() not in ("", "none", "null"):
            found[key] = value
    for unit in ("steps", "ratio"):  # 0 is what transformers logs where there is none
        if found.get(f"warmup_{unit}", "").rstrip("0") in ("", "0.", "."):
            found.pop(f"warmup_{unit}", None)
    if "warmup_steps" in found and 0 < _float(found["warmup_steps"]) < 1:  # a share of all steps, in transformers 5
        found["warmup_ratio"] = found.pop("warmup_steps")
    if {"adam_beta1", "adam_beta2"} <= set(params) and "betas" not in found:
        found["betas"] = [_float(params["adam_beta1"]), _float(params["adam_beta2"])]
    if "adam" not in str(found.get("optimizer", "adamw")).lower():
        found.pop("betas", None)
        found.pop("eps", None)
    return found


def _float(text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _optimizer_name(value: Any) -> str:
    name = _name(value).removeprefix("optimizernames.")
    name = _OURS.get(name, name)
    if optimizer_class(name) is None:
        import torch
        from transformers.training_args import OptimizerNames

        theirs = [str(item.value) for item in OptimizerNames]
        if name not in theirs:
            valid = [*theirs, *(key.lower() for key in vars(torch.optim) if optimizer_class(key) is not None)]
            raise ValueError(f"is no name of torch.optim or of transformers' optim{nearest(name, valid)}")
    return name


def _schedule(value: Any) -> str:
    value = _literal(value)
    if isinstance(value, Mapping) and set(value) == {"name"}:
        value = value["name"]
    name = str(value).strip().rpartition(".")[2].lower()
    name = _SCHEDULE_NAMES.get(name, name)
    if name not in SCHEDULES:
        raise ValueError(f"must be one of {', '.join(SCHEDULES)}{nearest(name, SCHEDULES)}")
    return name


def _column(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a name")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    value = _literal(value)
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        raise ValueError('must be a mapping such as {"type": "lora", "r": 8}')
    return dict(value)


def _objective(value: Any, known: str | None) -> str:
    valid = ("causal_lm", "sequence_classification")
    if value not in valid:
        raise ValueError(f"must be one of {', '.join(valid)}{nearest(str(value), valid)}")
    if known is not None and value != known:
        raise ValueError(f"is not that of the model, {known!r}")
    return str(value)
