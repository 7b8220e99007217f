"""How a PyTorch module is trained, as data: parsed from a mapping with all faults at once, or from run parameters.

| key | meaning |
|---|---|
| `optimizer` | required; a name of `torch.optim`, in any case: "sgd", "adam", "adamw", "rmsprop", ... |
| `learning_rate` | required |
| `epochs` | required; passes over the members of each reference |
| `batch_size` | required |
| `weight_decay`, `momentum`, `nesterov`, `dampening`, `betas`, `eps`, `alpha`, `amsgrad` | as `torch.optim` has them; its default if absent |
| `schedule` | "constant" (default), "cosine", "linear" (both to 0), "onecycle", {"name": "step", "step_size": epochs, "gamma": 0.1}, {"name": "multistep", "milestones": [epochs], "gamma": 0.1}, {"name": "exponential", "gamma": per epoch}, "privacy_meter" (Privacy Meter's own, for comparisons) |
| `warmup_epochs`, `warmup_steps` or `warmup_ratio` | linear from 0 to the learning rate, then the schedule; one of the three |
| `loss` | "cross_entropy" (default for classifiers of two or more outputs), "nll" (for log-softmax outputs), "bce_with_logits" (default for one output, and for several labels of a record), "bce" (default there for probabilities, as after a sigmoid); "mse" (default for regressors), "l1", "huber", "smooth_l1" |
| `label_smoothing` | of the cross-entropy |
| `augmentation` | for image tensors (n, channels, height, width): {"crop": padding, "flip": probability, "cutout": size}, or a list such as ["flip", {"crop": 4}]; `crop_mode` "zeros" (default) or "reflect" |
| `grad_clip` | largest norm of the gradient |
| `drop_last` | whether the last, smaller batch of an epoch is left out; False by default |
| `precision` | on a GPU: "auto" (default: TF32 in convolutions, float32 in products of matrices), "float32", "tf32" (both), or "bf16" (forward pass in bfloat16 where torch's autocast has it so, on every device; weights and optimizer in float32) |
| `dp` | differential privacy by DP-SGD: {"noise_multiplier" or "target_epsilon", "max_grad_norm", "delta"}, see `mlflow_privacy.trainers.dp` |
"""  # noqa: E501

from __future__ import annotations

import ast
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError, nearest
from mlflow_privacy.trainers.dp import read_dp
from mlflow_privacy.types import Task

REQUIRED = ("optimizer", "learning_rate", "epochs", "batch_size")
CLASSIFICATION_LOSSES = ("cross_entropy", "nll", "bce_with_logits", "bce")
MULTILABEL_LOSSES = ("bce_with_logits", "bce")
REGRESSION_LOSSES = ("mse", "l1", "huber", "smooth_l1")
PRECISIONS = ("auto", "float32", "tf32", "bf16")

# The names under which people and autologging keep the same thing.
ALIASES = {
    "lr": "learning_rate",
    "base_lr": "learning_rate",
    "initial_lr": "learning_rate",
    "optimizer_name": "optimizer",
    "optim": "optimizer",
    "opt": "optimizer",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "num_train_epochs": "epochs",
    "train_batch_size": "batch_size",
    "bs": "batch_size",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "lr_schedule": "schedule",
    "warmup": "warmup_epochs",
    "criterion": "loss",
    "loss_fn": "loss",
    "loss_function": "loss",
    "augment": "augmentation",
    "augmentations": "augmentation",
    "gradient_clip_val": "grad_clip",
    "max_grad_norm": "grad_clip",
    "grad_clip_norm": "grad_clip",
    "clip_grad_norm": "grad_clip",
}
_LOSS_NAMES = {
    "crossentropyloss": "cross_entropy",
    "crossentropy": "cross_entropy",
    "ce": "cross_entropy",
    "nllloss": "nll",
    "bcewithlogitsloss": "bce_with_logits",
    "bceloss": "bce",
    "binarycrossentropywithlogits": "bce_with_logits",
    "binarycrossentropy": "bce",
    "multilabelsoftmarginloss": "bce_with_logits",
    "multilabelsoftmargin": "bce_with_logits",
    "mseloss": "mse",
    "l1loss": "l1",
    "mae": "l1",
    "huberloss": "huber",
    "smoothl1loss": "smooth_l1",
}
_SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": (),
    "linear": (),
    "onecycle": ("pct_start", "div_factor", "final_div_factor"),
    "step": ("step_size", "gamma"),
    "multistep": ("milestones", "gamma"),
    "exponential": ("gamma",),
    "privacy_meter": (),
}
_SCHEDULE_NAMES = {
    "none": "constant",
    "constantlr": "constant",
    "cosineannealing": "cosine",
    "cosineannealinglr": "cosine",
    "linearlr": "linear",
    "onecyclelr": "onecycle",
    "steplr": "step",
    "multisteplr": "multistep",
    "exponentiallr": "exponential",
}
_AUGMENTATIONS = {"crop": 4, "flip": 0.5, "cutout": 8}  # and what their bare name means


@dataclasses.dataclass(frozen=True)
class TorchSettings:
    """How a module is trained; see the table above.

    Attributes:
      optimizer: lower case.
      optimizer_options: keyword arguments of the optimizer besides the learning rate.
      schedule: {"name": ..., and its options}.
      warmup: ("epochs" | "steps" | "ratio", how many).
      augmentation: {"crop": padding, "crop_mode": ..., "flip": probability, "cutout": size}, what is absent is off.
      dp: of `trainers.dp.read_dp`; None without differential privacy.
      precision: one of `PRECISIONS`.
    """

    optimizer: str
    learning_rate: float
    epochs: int
    batch_size: int
    optimizer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schedule: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "constant"})
    warmup: tuple[str, float] = ("epochs", 0.0)
    loss: str | None = None
    label_smoothing: float = 0.0
    augmentation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grad_clip: float | None = None
    drop_last: bool = False
    dp: Mapping[str, Any] | None = None
    precision: str = "auto"


def plain_loss(loss: str | None) -> str:
    """The name of a loss in lower case without module and underscores; "" for none.

    >>> plain_loss("torch.nn.BCE_with_logits")
    'bcewithlogits'
    """
    return (loss or "").lower().rpartition(".")[2].replace("_", "")


def parse_settings(settings: Mapping[str, Any], *, task: Task) -> TorchSettings:
    """Checks and completes settings.

    Raises:
      RecipeError: with every fault: unknown keys with the nearest valid one, missing keys, values out of range.

    Example:
      >>> parse_settings(
      ...     {"optimizer": "SGD", "lr": "0.1", "epochs": 5, "batch_size": 32, "momentum": 0.9}, task="classification"
      ... ).optimizer_options
      {'momentum': 0.9}
    """
    parsed, faults = read_settings(settings, task=task)
    if faults or parsed is None:
        raise RecipeError(fault_text("The recipe of this PyTorch module is wrong", faults))
    return parsed


def fault_text(title: str, faults: Sequence[str]) -> str:
    """One message of several faults, one a line."""
    return f"{title}: {faults[0]}" if len(faults) == 1 else "\n  - ".join([f"{title}:", *faults])


def read_settings(
    settings: Mapping[str, Any], *, task: Task | None, complete: bool = True
) -> tuple[TorchSettings | None, list[str]]:
    """`parse_settings` that returns the faults instead of raising them.

    Args:
      task: None where the model is not known yet: then losses of any task will do.
      complete: whether a missing key is a fault.
    """
    reader = _Reader(settings, complete)
    optimizer = reader("optimizer", _name)
    options = {
        "weight_decay": reader("weight_decay", _number(0)),
        "momentum": reader("momentum", _number(0, 1)),
        "dampening": reader("dampening", _number(0)),
        "nesterov": reader("nesterov", _flag),
        "betas": reader("betas", _pair),
        "eps": reader("eps", _number(0)),
        "alpha": reader("alpha", _number(0)),
        "amsgrad": reader("amsgrad", _flag),
    }
    options = {key: value for key, value in options.items() if value is not None}
    values: dict[str, Any] = {
        "learning_rate": reader("learning_rate", _number(0, open_low=True)),
        "epochs": reader("epochs", _count),
        "batch_size": reader("batch_size", _count),
        "schedule": reader("schedule", _schedule),
        "loss": reader("loss", lambda value: _loss(value, task)),
        "label_smoothing": reader("label_smoothing", _number(0, 1)),
        "augmentation": reader("augmentation", _augmentation),
        "grad_clip": reader("grad_clip", _number(0, open_low=True)),
        "drop_last": reader("drop_last", _flag),
        "dp": reader("dp", lambda value: read_dp(_literal(value))),
        "precision": reader("precision", _precision),
    }
    warmups = {
        unit: reader(f"warmup_{unit}", _number(0, 1 if unit == "ratio" else math.inf))
        for unit in ("epochs", "steps", "ratio")
    }
    given = [(unit, value) for unit, value in warmups.items() if value]
    faults = reader.finish()
    if len(given) > 1:
        faults.append(f"only one of {', '.join(f'warmup_{unit}' for unit, _ in given)} may be given.")
    elif given:
        values["warmup"] = given[0]
    if values["label_smoothing"] and values["loss"] not in (None, "cross_entropy"):
        faults.append(f"label_smoothing goes with loss='cross_entropy', not with {values['loss']!r}.")
    if values["dp"] is not None and values["grad_clip"] is not None:
        faults.append("grad_clip clips the mean gradient, dp each record's (max_grad_norm): leave one of them out.")
    if values["dp"] is not None and values["precision"] == "bf16":
        faults.append("precision='bf16' does not go with dp: gradients of single records are taken in float32.")
    if isinstance(optimizer, str):
        faults += optimizer_faults(optimizer, options)
    if faults or not complete:
        return None, faults
    options = _without_defaults(optimizer, options)
    values = {key: value for key, value in values.items() if value is not None}
    return TorchSettings(optimizer=optimizer, optimizer_options=options, **values), []


class _Reader:
    """Takes keys out of a mapping, under their own name or an alias, and collects what is wrong with them."""

    def __init__(self, settings: Mapping[str, Any], complete: bool = True) -> None:
        self._given: dict[str, list[str]] = {}
        self._complete = complete
        self._settings, self._known, self.faults = settings, [], []  # type: ignore[var-annotated]
        for key in settings:
            self._given.setdefault(ALIASES.get(str(key), str(key)), []).append(key)

    def __call__(self, key: str, read: Callable[[Any], Any]) -> Any:
        self._known.append(key)
        names = self._given.pop(key, [])
        if len(names) > 1 and len({repr(self._settings[name]) for name in names}) > 1:
            self.faults.append(f"{' and '.join(map(repr, names))} say different things about {key}.")
        if not names:
            if key in REQUIRED and self._complete:
                aliases = [alias for alias, meant in ALIASES.items() if meant == key]
                self.faults.append(f"{key!r} is missing (also known as {', '.join(aliases)}).")
            return None
        value = self._settings[names[0]]
        if value is None and key not in REQUIRED:
            return None
        try:
            return read(value)
        except ValueError as error:
            self.faults.append(f"{names[0]} {error}, got {value!r}.")
            return None

    def finish(self) -> list[str]:
        """All faults; what nobody asked for is unknown."""
        valid = [*self._known, *ALIASES]
        unknown = [
            f"unknown key {name!r}{nearest(name, valid) or '.'}" for names in self._given.values() for name in names
        ]
        return unknown + self.faults


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a name")
    return value.strip().rpartition(".")[2].lower()


def _number(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable[[Any], float]:
    interval = f"in {'(' if open_low else '['}{low:g}, {high:g})"

    def read(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be a number {interval}") from None
        if isinstance(value, bool) or not (low < number if open_low else low <= number) or not number < high:
            raise ValueError(f"must be a number {interval}")
        return number

    return read


def _count(value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("must be a whole number of at least 1") from None
    if isinstance(value, bool) or not number.is_integer() or number < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(number)


def _flag(value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in known:
        raise ValueError("must be true or false")
    return known[str(value).lower()]


def _pair(value: Any) -> list[float]:
    try:
        pair = [float(item) for item in _literal(value)]
    except (TypeError, ValueError):
        pair = []
    if len(pair) != 2 or not all(0 <= item < 1 for item in pair):
        raise ValueError("must be two numbers in [0, 1)")
    return pair


def _literal(value: Any) -> Any:
    """A list or mapping that a run parameter holds as text."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _plain(value: str) -> str:
    return value.strip().rpartition(".")[2].lower().removesuffix("()").replace("-", "_").replace(" ", "_")


def _loss(value: Any, task: Task | None) -> str:
    by_task = {"classification": CLASSIFICATION_LOSSES, "multilabel": MULTILABEL_LOSSES}
    valid = by_task.get(task, REGRESSION_LOSSES) if task else (*CLASSIFICATION_LOSSES, *REGRESSION_LOSSES)
    name = _plain(value) if isinstance(value, str) else repr(value)
    name = _LOSS_NAMES.get(name.replace("_", ""), name)
    if name not in valid:
        raise ValueError(f"must be one of {', '.join(valid)}{f' for {task}' if task else ''}{nearest(name, valid)}")
    return name


def _precision(value: Any) -> str:
    name = {"fp32": "float32", "bfloat16": "bf16"}.get(_plain(str(value)), _plain(str(value)))
    if name not in PRECISIONS:
        raise ValueError(f"must be one of {', '.join(PRECISIONS)}{nearest(name, PRECISIONS)}")
    return name


def _schedule(value: Any) -> dict[str, Any]:
    value = _literal(value)
    given = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = _plain(str(given.pop("name", None)))
    name = _SCHEDULE_NAMES.get(name.replace("_", ""), name)
    if name not in _SCHEDULES:
        raise ValueError(f"must be one of {', '.join(_SCHEDULES)}{nearest(name, list(_SCHEDULES))}")
    unknown = sorted(set(given) - set(_SCHEDULES[name]))
    if unknown:
        raise ValueError(f"has no option {unknown[0]!r} for {name!r}{nearest(unknown[0], _SCHEDULES[name])}")
    defaults: dict[str, Any] = {"gamma": 0.1, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}
    needed: list[str] = [key for key in ("step_size", "milestones") if key in _SCHEDULES[name] and key not in given]
    if name == "exponential" and "gamma" not in given:
        needed.append("gamma")
    if needed:
        raise ValueError(f"{name!r} needs {needed[0]}")
    options = {}
    for key in _SCHEDULES[name]:
        raw: Any = given.get(key, defaults.get(key))
        if key == "milestones" and not isinstance(raw, (list, tuple)):
            raise ValueError("has milestones that must be a list of epochs")
        options[key] = [_count(item) for item in raw] if key == "milestones" else _number(0, open_low=True)(raw)
    return {"name": name, **options}


def _augmentation(value: Any) -> dict[str, Any]:
    value = _literal(value)
    if value in (None, False, "", "none", "None"):
        return {}
    items: dict[str, Any] = {}
    if not isinstance(value, (str, Mapping, list, tuple)):
        raise ValueError(f"must be a list or mapping of {', '.join(_AUGMENTATIONS)}")
    for item in [value] if isinstance(value, (str, Mapping)) else value:
        items.update(item if isinstance(item, Mapping) else {str(item): True})
    mode = items.pop("crop_mode", "zeros")
    if mode not in ("zeros", "reflect"):
        raise ValueError("has a crop_mode that must be zeros or reflect")
    unknown = sorted(set(items) - set(_AUGMENTATIONS))
    if unknown:
        raise ValueError(
            f"knows {', '.join(_AUGMENTATIONS)}, not {unknown[0]!r}{nearest(unknown[0], list(_AUGMENTATIONS))}"
        )
    out: dict[str, Any] = {}
    for key, raw in items.items():
        if raw is False or raw is None:
            continue
        amount = _AUGMENTATIONS[key] if raw is True else raw
        out[key] = _number(0, 1 + 1e-9)(amount) if key == "flip" else _count(amount)
    return {**out, "crop_mode": mode} if "crop" in out else out


def optimizer_class(name: str) -> Any:
    """The `torch.optim` class of a name in any case, None if there is none that fits a plain training loop."""
    import torch

    classes = {key.lower(): cls for key, cls in vars(torch.optim).items() if isinstance(cls, type)}
    found = classes.get(name.lower())
    usable = found is not None and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer
    return found if usable and name.lower() not in ("lbfgs", "sparseadam", "muon") else None


def optimizer_faults(name: str, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with an optimizer's name and options."""
    import inspect

    import torch

    from mlflow_privacy.trainers.torch.optimizers import without_compiler

    cls = optimizer_class(name)
    if cls is None:
        valid = sorted(key.lower() for key in vars(torch.optim) if optimizer_class(key) is not None)
        return [f"optimizer {name!r} is none of {', '.join(valid)}{nearest(name, valid) or '.'}"]
    takes = set(inspect.signature(cls).parameters)
    foreign = [f"{key!r} is no option of the optimizer {cls.__name__}." for key in options if key not in takes]
    if foreign:
        return foreign
    try:
        without_compiler(cls)([torch.nn.Parameter(torch.zeros(1))], lr=1.0, **options)
    except ValueError as error:
        return [f"the optimizer {cls.__name__} refuses its options: {error}."]
    return []


def _without_defaults(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that differ from the optimizer's defaults, so that writing a default out changes no fingerprint."""
    import inspect

    known = inspect.signature(optimizer_class(name)).parameters
    defaults = {key: known[key].default for key in options}
    return {
        key: value
        for key, value in options.items()
        if value != (list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key])
    }


def learning_rates(settings: TorchSettings, steps_per_epoch: int) -> np.ndarray:
    """(steps,) learning rate of each step.

    The warm-up is linear and reaches the full rate at its last step; the schedule runs over the steps after it.
    "cosine" is Loshchilov & Hutter (2017), https://arxiv.org/abs/1608.03983, per step and without restarts;
    "onecycle" is Smith & Topin (2018), https://arxiv.org/abs/1708.07120, with cosine phases. "privacy_meter" is that of
    Privacy Meter v2, factor and all, for side-by-side comparisons: a tenth of the learning rate times cos(7π/16 · part
    done), after a linear rise from 0 over the first hundredth.

    Example:
      >>> settings = TorchSettings("sgd", 1.0, epochs=4, batch_size=1, schedule={"name": "linear"})
      >>> learning_rates(settings, steps_per_epoch=1).tolist()
      [1.0, 0.75, 0.5, 0.25]
    """
    steps = settings.epochs * steps_per_epoch
    unit, amount = settings.warmup
    warmup = min(steps, round(amount * {"epochs": steps_per_epoch, "steps": 1, "ratio": steps}[unit]))
    step = np.arange(steps - warmup, dtype=np.float64)
    options = settings.schedule
    name = options["name"]
    epoch = np.arange(warmup, steps) // steps_per_epoch
    if name == "constant":
        rate = np.ones_like(step)
    elif name == "cosine":
        rate = 0.5 * (1 + np.cos(np.pi * step / max(len(step), 1)))
    elif name == "linear":
        rate = 1 - step / max(len(step), 1)
    elif name == "onecycle":
        rate = _one_cycle(step, **{key: options[key] for key in _SCHEDULES["onecycle"]})
    elif name == "privacy_meter":
        part = step / max(len(step), 1)
        rate = 0.1 * np.cos(7 * np.pi / 16 * part) * np.minimum(100 * part, 1)
    elif name == "step":
        rate = options["gamma"] ** (epoch // options["step_size"])
    elif name == "multistep":
        rate = options["gamma"] ** np.searchsorted(np.sort(options["milestones"]), epoch, side="right")
    else:
        rate = options["gamma"] ** epoch
    rise = (np.arange(warmup) + 1.0) / max(warmup, 1)
    return settings.learning_rate * np.concatenate([rise, rate])


def _one_cycle(step: np.ndarray, *, pct_start: float, div_factor: float, final_div_factor: float) -> np.ndarray:
    """Rises from 1 / div_factor to 1 over the first `pct_start`, then falls; both along a half cosine."""
    last = max(len(step) - 1, 1)
    peak = max(min(pct_start, 1.0) * len(step) - 1, 1e-9)
    rising = _half_cosine(1 / div_factor, 1.0, np.clip(step / peak, 0, 1))
    falling = _half_cosine(
        1.0, 1 / (div_factor * final_div_factor), np.clip((step - peak) / max(last - peak, 1e-9), 0, 1)
    )
    return np.where(step <= peak, rising, falling)


def _half_cosine(start: float, end: float, part: np.ndarray) -> np.ndarray:
    return end + (start - end) * 0.5 * (1 + np.cos(np.pi * part))


_OPTIMIZER_OPTIONS = {
    "momentum": ("sgd", "rmsprop"),
    "dampening": ("sgd",),
    "nesterov": ("sgd",),
    "betas": ("adam", "adamw", "adamax", "nadam", "radam"),
    "amsgrad": ("adam", "adamw"),
    "alpha": ("rmsprop", "asgd"),
    "eps": ("adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta"),
}
_PARAMS = (
    *REQUIRED,
    *("weight_decay", "momentum", "dampening", "nesterov", "betas", "eps", "alpha", "amsgrad"),
    *("schedule", "warmup_epochs", "warmup_steps", "warmup_ratio"),
    *("loss", "label_smoothing", "augmentation", "grad_clip", "drop_last", "dp"),
)
KEYS = (*_PARAMS, "precision")  # of a recipe


def recipe_settings_from_params(params: Mapping[str, str]) -> dict[str, Any]:
    """Training settings that an MLflow run's parameters hold under their usual names; others are ignored.

    Understands hand-logged names and those of MLflow's PyTorch autologging ("optimizer_name", "lr", "epochs", ...).
    Of two names of one thing the canonical one wins. Options that the optimizer does not take are left out, and what
    says "None". A schedule or loss that is not known stays, so that `make_recipe` refuses it instead of training
    something else.

    Args:
      params: names and texts, as `Run.data.params` has them; a prefix such as "train/" or "hparams." is skipped.

    Returns:
      A mapping for `make_recipe`, possibly incomplete.

    Example:
      >>> recipe_settings_from_params({"optimizer_name": "Adam", "lr": "0.001", "max_epochs": "3", "user": "x"})
      {'optimizer': 'Adam', 'learning_rate': '0.001', 'epochs': '3'}
    """
    found: dict[str, str] = {}
    aliases = list(ALIASES)
    rank: dict[str, int] = {}
    for name, value in params.items():
        plain = name.replace("/", ".").rpartition(".")[2].strip().lower().replace("-", "_").replace(" ", "_")
        key = ALIASES.get(plain, plain)
        if key not in _PARAMS or str(value).strip().lower() in ("", "none", "null"):
            continue
        place = (aliases.index(plain) + 1 if plain in ALIASES else 0) * 2 + (plain != name)
        if place < rank.get(key, sys.maxsize):
            found[key], rank[key] = value, place
    optimizer = _plain(found.get("optimizer", ""))
    for key, takers in _OPTIMIZER_OPTIONS.items():
        if key in found and optimizer not in takers:
            del found[key]
    if "loss" in found and _is_number(found["loss"]):  # a result that was logged as a parameter
        del found["loss"]
    return {key: found[key] for key in _PARAMS if key in found}


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
