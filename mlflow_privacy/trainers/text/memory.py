"""Whether reference language models can be trained in the memory that is free, before one of them is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow_privacy.seeding import seeded
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.trainers.text.base import plain_base
from mlflow_privacy.trainers.text.peft import attach
from mlflow_privacy.types import Recipe

# Weights, their gradients and the two moments of Adam, each in the precision of the weights: 16 bytes a float32 weight.
_COPIES_OF_TRAINED = 4
_CGROUP = Path("/sys/fs/cgroup")


def shortage(recipe: Recipe, device: str) -> str:
    """Why references of this recipe cannot be trained here, in a sentence with the remedy; "" if they can.

    Recipes of anything but language models always can: those are small, or their memory is not known beforehand.
    """
    if not isinstance(recipe.template, LanguageModel):
        return ""
    from mlflow_privacy.trainers.torch.tensors import resolve_device

    where = resolve_device(device)
    needed, free = training_bytes(recipe, where), free_bytes(where)
    if free is None or needed <= free:
        return ""
    size = sum(p.numel() for p in recipe.template.model.parameters())
    how = "all weights of" if recipe.spec["peft"] is None else f"{recipe.spec['peft'].get('type', 'lora')} adapters on"
    return (
        f"training {how} a model with {size:,} parameters takes at least {_gib(needed)}, and {_gib(free)} are free on "
        f"{where.type}. Audit on a larger device, or set num_ref_models to train references all the same."
    )


def training_bytes(recipe: Recipe, device: Any) -> int:
    """Bytes that training one reference takes beside the base in memory, activations not counted.

    All weights: a copy of them, gradients and optimizer. Adapters: the same of the adapters alone. A device that does
    not hold the base yet takes a copy of it as well.

    Args:
      device: a `torch.device`.
    """
    base = plain_base(recipe.template.model)
    weights = _bytes(base.parameters())
    trained = weights
    if recipe.spec["peft"] is not None:
        with seeded(0):
            adapted = attach(base, recipe.spec["peft"], recipe.spec["objective"])
        trained = _bytes(p for p in adapted.parameters() if p.requires_grad)
    elsewhere = next(base.parameters()).device.type != device.type
    return _COPIES_OF_TRAINED * trained + elsewhere * weights


def free_bytes(device: Any) -> int | None:
    """Bytes free on a `torch.device`; None where nobody says. On a CPU what the system and its container leave."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [_available(), _container()]
    known = [value for value in found if value is not None]
    return min(known, default=None)


def _available() -> int | None:
    """Bytes that Linux can give away without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container() -> int | None:
    """Bytes below the limit of the container (control groups, version 2); the page cache can be dropped."""
    try:
        limit, used = (
            (_CGROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current")
        )
        cached = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    if not limit.isdigit():  # "max"
        return None
    dropped = next((int(line.split()[1]) for line in cached if line.startswith("inactive_file ")), 0)
    return max(int(limit) - int(used) + dropped, 0)


def _bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _gib(n: int) -> str:
    return f"{n / 2**30:.2f} GiB"
