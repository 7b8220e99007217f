"""The network of Privacy Meter's `speedyresnet`, for evaluation alone. Imported only when weights are read into it."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from mlflow_privacy.errors import RecipeError

WIDTHS = (32, 64, 256, 512)  # channels after the projection and after each group
CLASSES = 10
_TEMPERATURE = 1 / 9  # of the logits
_EPS = 1e-12  # of its batch normalisation


class HlbGroup(nn.Module):
    """Halves the image, then adds a second convolution to what the first gave.

    Args:
      before, after: channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after, eps=_EPS)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after, eps=_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, before, h, w) -> (b, after, h // 2, w // 2)
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return x + F.gelu(self.norm2(self.conv2(x)))


class HlbNet(nn.Module):
    """Whitening, projection, three groups, the largest value of each channel, a linear layer, a temperature.

    The logits are the mean of those of the image and its mirror image. Privacy Meter trains it by a recipe of its own
    (whitening from the data, a moving average of the weights, half precision), which is not repeated here, so the
    network refuses training mode.

    >>> with torch.inference_mode():
    ...     HlbNet().eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 12, 2, bias=False)
        self.project = nn.Conv2d(12, WIDTHS[0], 1, bias=False)
        self.groups = nn.Sequential(*(HlbGroup(before, after) for before, after in itertools.pairwise(WIDTHS)))
        self.head = nn.Linear(WIDTHS[-1], CLASSES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, 3, h, w) -> (b, 10)
        if self.training:
            raise RecipeError(
                "This speedyresnet was imported from a Privacy Meter log directory, and its training cannot be "
                "repeated here. Leave num_ref_models out, so that the imported reference models alone are used, ask "
                "for no more than were imported, or set num_ref_models to 0 for attacks without reference models."
            )
        return (self._logits(x) + self._logits(x.flip(-1))) / 2

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        x = self.groups(F.gelu(self.project(self.whiten(x))))
        return self.head(x.amax((2, 3))) * _TEMPERATURE
