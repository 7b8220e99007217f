"""VGG networks as PyTorch modules. Imported only when one is built."""

from __future__ import annotations

from torch import nn

from mlflow_privacy.zoo.layers import HeConv2d, NormalLinear

_WIDTHS = (64, 128, 256, 512, 512)
BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
HIDDEN = 4096


def vgg_net(
    input_shape: tuple[int, ...], outputs: int, *, depth: int, batch_norm: bool, dropout: float, pool: int
) -> nn.Sequential:
    """3×3 convolutions in five blocks with pooling, then two hidden layers; see `zoo.models`.

    >>> net = vgg_net((3, 32, 32), 10, depth=11, batch_norm=False, dropout=0.5, pool=1)
    >>> sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in net)
    11
    """
    planes, height, width = input_shape
    layers: list[nn.Module] = []
    for size, count in zip(_WIDTHS, BLOCKS[depth], strict=True):
        for _ in range(count):
            layers += [HeConv2d(planes, size, 3, padding=1), *([nn.BatchNorm2d(size)] if batch_norm else []), nn.ReLU()]
            planes = size
        if min(height, width) > 1:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    if (height, width) != (pool, pool):
        layers.append(nn.AdaptiveAvgPool2d((pool, pool)))
    layers.append(nn.Flatten())
    features = planes * pool * pool
    for _ in range(2):
        layers += [NormalLinear(features, HIDDEN), nn.ReLU(), nn.Dropout(dropout)]
        features = HIDDEN
    return nn.Sequential(*layers, NormalLinear(features, outputs))
