"""Augmentation of image batches on their device, the same on every device for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from mlflow_privacy.errors import RecipeError


def draw(
    options: Mapping[str, Any], n: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> dict[str, torch.Tensor]:
    """What happens to each of n images in one epoch, drawn on the CPU so that no device changes it.

    Args:
      options: {"crop": padding, "flip": probability, "cutout": size}; what is absent is off.
      shape: (channels, height, width).

    Raises:
      RecipeError: the records are not images.
    """
    if not options:
        return {}
    if len(shape) != 3:
        raise RecipeError(
            f"augmentation={dict(options)} needs image records (n, channels, height, width), but a record has shape "
            f"{tuple(shape)}. Reshape the data, or leave out the augmentation."
        )
    _, height, width = shape
    drawn = {}
    if "crop" in options:
        drawn["crop"] = torch.randint(0, 2 * options["crop"] + 1, (n, 2), generator=generator)
    if "flip" in options:
        drawn["flip"] = torch.rand(n, generator=generator) < options["flip"]
    if "cutout" in options:
        centre = torch.rand(n, 2, generator=generator) * torch.tensor([height, width])
        drawn["cutout"] = centre.long()
    return {name: value.to(device) for name, value in drawn.items()}


def apply(batch: torch.Tensor, options: Mapping[str, Any], drawn: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The augmented batch; `drawn` holds this batch's rows of `draw`.

    Random crop of the padded image, horizontal flip (He et al. 2016, https://arxiv.org/abs/1512.03385), then cutout
    of a square whose centre may lie at the border (DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552).

    Padding and cutout fill with 0 in the units of the batch: black for raw pixels, which the model scales only later,
    and the mean colour for images that were standardised before.

    Args:
      batch: (b, channels, height, width) of any type.

    Example:
      >>> image = torch.arange(4.0).reshape(1, 1, 2, 2)
      >>> apply(image, {"flip": 0.5}, {"flip": torch.tensor([True])}).flatten().tolist()
      [1.0, 0.0, 3.0, 2.0]
    """
    if "crop" in drawn:
        batch = _crop(batch, drawn["crop"], int(options["crop"]), options.get("crop_mode", "zeros"))
    if "flip" in drawn:
        batch = torch.where(drawn["flip"][:, None, None, None], batch.flip(-1), batch)
    if "cutout" in drawn:
        rows = torch.arange(batch.shape[2], device=batch.device)
        columns = torch.arange(batch.shape[3], device=batch.device)
        size, centre = int(options["cutout"]), drawn["cutout"]
        low = centre - size // 2  # (b, 2)
        in_rows = (rows >= low[:, :1]) & (rows < low[:, :1] + size)  # (b, height)
        in_columns = (columns >= low[:, 1:]) & (columns < low[:, 1:] + size)
        batch = batch.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)
    return batch


def _crop(batch: torch.Tensor, offset: torch.Tensor, padding: int, mode: str) -> torch.Tensor:
    """Each image from its own place in the padded one; offset (b, 2)."""
    around = (padding, padding, padding, padding)
    # Reflection is not implemented for whole numbers; float32 holds them exactly up to 2**24.
    reflect = mode == "reflect"
    padded = F.pad(batch.float(), around, mode="reflect").to(batch.dtype) if reflect else F.pad(batch, around)
    b, _, height, width = batch.shape
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (b, channels, 2p + 1, 2p + 1, height, width)
    # Picking whole windows copies rows at a time: a quarter of the time of picking pixel by pixel on a CPU.
    return windows[torch.arange(b, device=batch.device), :, offset[:, 0], offset[:, 1]]
