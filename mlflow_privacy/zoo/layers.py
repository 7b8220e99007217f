"""Layers with an initialisation of their own, and pixel scaling. Imported only when a torch model is built."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mlflow_privacy.errors import ConfigError


class HeConv2d(nn.Conv2d):
    """A convolution that begins with normal weights of variance 2 / fan-out, and no bias.

    He et al. (2015), https://arxiv.org/abs/1502.01852; the fan-out keeps the variance of gradients.

    >>> layer = HeConv2d(3, 64, 3)
    >>> round(float(layer.weight.detach().std() * (64 * 9 / 2) ** 0.5), 1), float(layer.bias.detach().abs().sum())
    (1.0, 0.0)
    """

    fan: Literal["fan_in", "fan_out"] = "fan_out"

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode=self.fan, nonlinearity="relu")
        if self.bias is not None:
            self.bias.zero_()


class HeInConv2d(HeConv2d):
    """The same with the fan-in, which keeps the variance of activations.

    >>> layer = HeInConv2d(64, 3, 3)
    >>> round(float(layer.weight.detach().std() * (64 * 9 / 2) ** 0.5), 1)
    1.0
    """

    fan = "fan_in"


class NormalLinear(nn.Linear):
    """A linear layer that begins with normal weights of deviation 0.01, and no bias."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, 0.01)
        if self.bias is not None:
            self.bias.zero_()


class Rescale(nn.Module):
    """Raw pixel values 0..255 to (x / 255 - mean) / std, so that a model that begins with it takes raw images.

    Computed in float32 (float64 if the layer is), then cast to the layer's own type: that of the model it is part of.

    Args:
      mean, std: a number, or one per channel; of pixel values divided by 255.

    Raises:
      ConfigError: they are not finite, of different length, or a deviation is not positive.

    Example:
      >>> layer = Rescale([0.5], [0.25])
      >>> layer(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)).flatten().tolist()
      [-2.0, 2.0]
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Any, std: Any) -> None:
        super().__init__()
        centre, deviation = pixel_statistics(mean, std)
        self.register_buffer("mean", torch.tensor(centre, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(deviation, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, channels, height, width) -> the same shape
        kind = torch.promote_types(self.mean.dtype, torch.float32)
        return ((x.to(kind) / 255 - self.mean.to(kind)) / self.std.to(kind)).to(self.mean.dtype)

    def extra_repr(self) -> str:
        return f"channels={self.mean.numel()}"


def pixel_statistics(mean: Any, std: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per channel (c,), float64, checked.

    Raises:
      ConfigError: they are not finite, of different length, or a deviation is not positive; all faults at once.

    >>> [a.tolist() for a in pixel_statistics(0.5, [0.25, 0.5])]
    [[0.5, 0.5], [0.25, 0.5]]
    """
    centre, deviation = (np.asarray(value, np.float64).reshape(-1) for value in (mean, std))
    faults = []
    if not centre.size or not np.isfinite(centre).all():
        faults.append(f"mean must be finite numbers, got {centre.tolist()}")
    if not deviation.size or not np.isfinite(deviation).all() or not (deviation > 0).all():
        faults.append(f"std must be positive numbers, got {deviation.tolist()}")
    if not faults and 1 not in (centre.size, deviation.size) and centre.size != deviation.size:
        faults.append(f"mean has {centre.size} channels and std {deviation.size}; give equally many")
    if faults:
        raise ConfigError(f"Pixel scaling: {'; '.join(faults)}.")
    size = max(centre.size, deviation.size)
    return np.broadcast_to(centre, size).copy(), np.broadcast_to(deviation, size).copy()
