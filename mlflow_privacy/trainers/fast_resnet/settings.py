"""How a FastResNet is trained, as data. Every key is optional: the network brings its own recipe.

| key | meaning | default |
|---|---|---|
| `epochs` | passes over the members | 10 |
| `batch_size` | most records a step; an epoch is cut into equal batches | 1,024, or a 24th of the members where that is less, but at least 32 |
| `learning_rate` | the peak, of plain SGD on the mean loss | 1.5 for a batch of 1,024, in proportion for others |
| `momentum` | Nesterov's | 0.85 |
| `weight_decay` | as `torch.optim.SGD` has it | 0.00133 |
| `label_smoothing` | of the cross-entropy | 0.2 |
| `augmentation` | as in `mlflow_privacy.trainers.settings`; a flip of probability 0.5 is done in every other epoch | {"flip": 0.5, "crop": 2, "crop_mode": "reflect"} |
| `lookahead` | whether slow weights follow the fast ones | True |
| `optimizer` | must be SGD | SGD |

The defaults are those of Jordan (2024), "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
https://arxiv.org/abs/2404.00498, written for the mean loss.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlflow_privacy.errors import nearest
from mlflow_privacy.trainers.settings import ALIASES, read_settings
from mlflow_privacy.types import Task

KEYS = (
    *("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "label_smoothing", "augmentation"),
    *("lookahead", "optimizer"),
)
BATCH, RATE = 1024, 1.5  # this learning rate belongs to this batch
STEPS_PER_EPOCH, SMALLEST_BATCH = 24, 32  # half of CIFAR-10 in batches of 1,024 is about 24 steps
_START, _PEAK, _END = 0.2, 0.23, 0.07  # of the triangle: first and last height, and when it is highest
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


@dataclasses.dataclass(frozen=True)
class FastSettings:
    """How a FastResNet is trained; see the table above. None stands for the rule given there."""

    epochs: int = 10
    batch_size: int | None = None
    learning_rate: float | None = None
    momentum: float = 0.85
    weight_decay: float = 0.00133
    label_smoothing: float = 0.2
    augmentation: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"flip": 0.5, "crop": 2, "crop_mode": "reflect"}
    )
    lookahead: bool = True


def read_fast_settings(settings: Mapping[str, Any], *, task: Task) -> tuple[FastSettings | None, list[str]]:
    """The settings, or None and every fault as a sentence.

    Args:
      settings: keys of the table above, or their aliases in `mlflow_privacy.trainers.settings`.
      task: only classification is known.

    Example:
      >>> read_fast_settings({"max_epochs": 3, "weight_decay": 0}, task="classification")[0].epochs
      3
      >>> read_fast_settings({"epoch": 3}, task="classification")[1]
      ["unknown key 'epoch' of a FastResNet, did you mean 'epochs'?"]
    """
    faults = [] if task == "classification" else [f"a FastResNet learns classification only, not {task}."]
    names = {key: ALIASES.get(str(key), str(key)) for key in settings}
    faults += [_unknown(key) for key, name in names.items() if name not in KEYS]
    given = {key: settings[key] for key, name in names.items() if name in KEYS and settings[key] is not None}
    lookahead = _FLAGS.get(str(given.pop("lookahead", True)).lower())
    if lookahead is None:
        faults.append(f"lookahead must be true or false, got {settings['lookahead']!r}.")
    present = {names[key] for key in given}
    required = {"optimizer": "sgd", "learning_rate": RATE, "epochs": FastSettings.epochs, "batch_size": BATCH}
    filled = {**{key: value for key, value in required.items() if key not in present}, **given}
    parsed, found = read_settings(filled, task="classification")
    faults += found
    if parsed is not None and parsed.optimizer != "sgd":
        faults.append(f"a FastResNet is trained with optimizer='SGD', not with {parsed.optimizer!r}.")
    if faults or parsed is None:
        return None, faults
    of_optimizer = {"momentum", "weight_decay"}  # where 0 is torch's default, which `read_settings` leaves out
    values: dict[str, Any] = {key: getattr(parsed, key) for key in present - of_optimizer - {"optimizer"}}
    values.update({key: float(parsed.optimizer_options.get(key, 0.0)) for key in present & of_optimizer})
    return FastSettings(**values, lookahead=bool(lookahead)), []


def _unknown(key: Any) -> str:
    valid = [*KEYS, *(alias for alias, name in ALIASES.items() if name in KEYS)]
    return f"unknown key {key!r} of a FastResNet{nearest(key, valid) or nearest(key, KEYS, listed=True)}"


def batches(members: int, settings: FastSettings) -> tuple[int, int]:
    """How many steps an epoch takes, and how many records each of them: (steps, size).

    All batches are of one size, so that a compiled step sees one shape. The fewer than `steps` records left over are
    other ones in each epoch.

    >>> batches(25_000, FastSettings()), batches(25_001, FastSettings()), batches(50_000, FastSettings())
    ((25, 1000), (25, 1000), (49, 1020))
    >>> batches(2_400, FastSettings()), batches(10, FastSettings(batch_size=4))
    ((24, 100), (3, 3))
    """
    most = settings.batch_size or min(BATCH, max(SMALLEST_BATCH, members // STEPS_PER_EPOCH))
    steps = max(1, -(-members // most))
    return steps, members // steps


def triangle(steps: int) -> np.ndarray:
    """(steps,) share of the peak learning rate at each step: a fast linear rise and a long linear fall.

    >>> triangle(101)[[0, 23, 100]].round(2).tolist()
    [0.2, 1.0, 0.07]
    """
    return np.interp(np.linspace(0.0, 1.0, steps), [0.0, _PEAK, 1.0], [_START, 1.0, _END])


def peak_rate(size: int, settings: FastSettings) -> float:
    """The highest learning rate for batches of `size`.

    >>> peak_rate(512, FastSettings()), peak_rate(512, FastSettings(learning_rate=0.1))
    (0.75, 0.1)
    """
    return RATE * size / BATCH if settings.learning_rate is None else settings.learning_rate
