"""What reference models cost, in words: how many are found, how many are missing, time and place on the store."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow_privacy.types import Recipe

_RECORD_BYTES = 9  # signal and loss in float32, and whether the label is right
_FILES_BYTES = 4096  # headers, and the JSON beside them


@dataclasses.dataclass(frozen=True)
class Price:
    """What the reference models of an audit cost.

    Attributes:
      found: in the store, or imported.
      missing: to be trained.
      seconds: to train the missing ones; None where nobody knows before the first one is trained.
      told_by: whose training tells `seconds`, in words.
      size: bytes that the missing ones take on the store; None if that is not known.

    Example:
      >>> print(Price(4, 4, 150.0, "those found", 140_000))
      8 reference models: 4 found in the store, 4 to train. About 2.5 min, by those found; about 140 kB on the store.
      >>> print(Price(0, 2))
      2 reference models: 0 found in the store, 2 to train. How long they take is told once the first one is trained.
    """

    found: int
    missing: int
    seconds: float | None = None
    told_by: str = ""
    size: int | None = None

    def __str__(self) -> str:
        count = self.found + self.missing
        models = f"{count} reference model{'' if count == 1 else 's'}"
        if not self.missing:
            return f"{models}: found in the store, none to train."
        size = "" if self.size is None else f"about {sized(self.size)} on the store"
        found = f"{models}: {self.found} found in the store, {self.missing} to train."
        if self.seconds is not None:
            return f"{found} About {lasting(self.seconds)}, by {self.told_by}{size and '; '}{size}."
        later = "How long they take is told once the first one is trained"
        return f"{found} {later}{size and '; '}{size}."


def lasting(seconds: float) -> str:
    """A time as people say it, in two digits.

    >>> lasting(0.3), lasting(42.4), lasting(147), lasting(5400)
    ('less than a second', '42 s', '2.5 min', '1.5 h')
    """
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    value, unit = (seconds / 60, "min") if seconds < 5400 else (seconds / 3600, "h")
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def sized(n_bytes: float) -> str:
    """A size as people say it.

    >>> sized(300), sized(140_000), sized(2.5e9)
    ('1 kB', '140 kB', '2.5 GB')
    """
    value, unit = max(n_bytes / 1e3, 1.0), "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1e3, larger
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def reference_bytes(recipe: Recipe, trained: Any, n_asked: int, n_pool: int, trainer: Any) -> int:
    """About how much one reference takes on the store: its answers, its membership row, its weights.

    Args:
      trained: the audited model itself, as the trainer knows it; its weights are as large.
      n_asked: records that a model is asked about.
      n_pool: records of the pool.
    """
    return n_asked * _RECORD_BYTES + n_pool + _FILES_BYTES + _weights_bytes(recipe, trained, trainer)


def _weights_bytes(recipe: Recipe, trained: Any, trainer: Any) -> int:
    """Size of the weights, by counting parameters or by writing the audited model aside; 0 without a safe form."""
    peft = recipe.kind == "transformers" and recipe.spec.get("peft")
    module = getattr(recipe.template, "model", recipe.template)  # of a language model, its module
    if not peft and hasattr(module, "parameters") and hasattr(module, "state_dict"):
        return sum(int(p.numel()) * int(p.element_size()) for p in module.parameters())
    # Only what `save` takes: a model of the recipe's own class, or one with adapters, which alone are stored.
    has_adapters = peft and hasattr(getattr(trained, "model", None), "peft_config")
    if not has_adapters and not (recipe.kind == "sklearn" and type(trained) is type(recipe.template)):
        return 0
    with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as name:
        trainer.save(recipe, trained, Path(name))
        return sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())


def mean_seconds(seconds: Sequence[float | None]) -> float | None:
    """Mean of what is known, None if nothing is.

    >>> mean_seconds([2.0, None, 4.0]), mean_seconds([None])
    (3.0, None)
    """
    known = [value for value in seconds if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def left_out(n: int, wanted: int, seconds: float) -> str:
    """What a report says of references that a time budget left out, and what they would be worth."""
    return (
        f"The time budget of {lasting(seconds)} was enough for {n} of the {wanted} reference models that were to be. "
        f"The same call with more time trains the other {wanted - n} alone. They make the attacks stronger, the first "
        "ones most: of an MLP that memorises, 2 references recognised 29 % of the members at 1 % false alarms, 4 of "
        "them 41 %, 8 of them 45 %, 16 of them 46 % (docs/attacks.md)."
    )
