"""Wide residual networks, pre-activation. Imported only when one is built."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mlflow_privacy.zoo.layers import HeInConv2d

_WIDTHS = (16, 32, 64)


class WideBlock(nn.Module):
    """Normalisation, ReLU and a 3×3 convolution, twice, beside a shortcut.

    The shortcut is a 1×1 convolution of the activated input where the number of channels changes or the image is
    halved, else the input itself. Dropout is between the two convolutions.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), HeInConv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), HeInConv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else HeInConv2d(inputs, outputs, 1, stride, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, inputs, h, w) -> (b, outputs, h / stride, w / stride)
        active = F.relu(self.norm1(x))
        y = F.relu(self.norm2(self.conv1(active)))
        if self.dropout is not None:
            y = self.dropout(y)
        return self.conv2(y) + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-depth-width of Zagoruyko & Komodakis (2016), https://arxiv.org/abs/1605.07146.

    Batch normalisation has PyTorch's momentum of 0.1 (the weight of the newest batch). Convolutions begin as in the
    paper's PyTorch code: normal, variance 2 / fan-in (its Lua code has the fan-out). The mean over the whole image,
    whatever its size, goes into the last layer.

    Args:
      channels: of the images.
      outputs: width of the last layer.
      depth: 6 n + 4, with n blocks in each of the three groups.
      width: factor on 16, 32 and 64 channels.
      dropout: between the two convolutions of each block.

    Example:
      >>> sum(p.numel() for p in WideResNet(3, 10, depth=28, width=2).parameters())
      1467610
    """

    def __init__(self, channels: int, outputs: int, *, depth: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.depth, self.width = depth, width
        self.stem = HeInConv2d(channels, _WIDTHS[0], 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = _WIDTHS[0]
        for group, size in enumerate(_WIDTHS):
            for i in range((depth - 4) // 6):
                blocks.append(WideBlock(inputs, size * width, 2 if group and not i else 1, dropout))
                inputs = size * width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> Any:  # (b, channels, h, w) -> (b, outputs)
        return self.head(F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))
