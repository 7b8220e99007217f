"""AlexNet for small images."""

from __future__ import annotations

from typing import Any

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.zoo.models import check_dropout, image_shape
from mlflow_privacy.zoo.registry import model

_SMALLEST = 16  # a stride of 2 and three poolings leave one pixel
_SIDE = 2  # of the map that the fully connected layers see


@model("alexnet", inputs="image")
def alexnet(input_shape: tuple[int, ...], num_outputs: int, *, dropout: float = 0.5) -> Any:
    """AlexNet's five convolutions and two hidden layers of 4096, with 3×3 kernels, for images of about 32 pixels.

    The form that is usual for CIFAR: the first convolution halves the image, and 2×2 poolings follow the first, second
    and fifth, so that 32 pixels become 2. Other sizes are averaged to 2×2. Krizhevsky et al. (2012), "ImageNet
    classification with deep convolutional neural networks".

    Args:
      input_shape: (channels, height, width), at least 16 pixels a side.
      num_outputs: width of the last layer.
      dropout: before each hidden layer.

    Raises:
      ConfigError: the images are smaller.

    >>> [p.shape[0] for p in alexnet((3, 32, 32), 10).parameters() if p.ndim == 4]
    [64, 192, 384, 256, 256]
    """
    from torch import nn

    dropout = check_dropout(dropout)
    planes, height, width = image_shape("alexnet", input_shape)
    if min(height, width) < _SMALLEST:
        raise ConfigError(
            f"alexnet takes images of at least {_SMALLEST}×{_SMALLEST} pixels, got {height}×{width}. Enlarge them, or "
            "use cnn or wrn28-1."
        )
    layers: list[nn.Module] = []
    height, width = (height + 1) // 2, (width + 1) // 2
    for size, stride, pooled in ((64, 2, True), (192, 1, True), (384, 1, False), (256, 1, False), (256, 1, True)):
        layers += [nn.Conv2d(planes, size, 3, stride, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if pooled else [])]
        planes = size
        if pooled:
            height, width = height // 2, width // 2
    if (height, width) != (_SIDE, _SIDE):
        layers.append(nn.AdaptiveAvgPool2d((_SIDE, _SIDE)))
    layers.append(nn.Flatten())
    features = planes * _SIDE**2
    for _ in range(2):
        layers += [nn.Dropout(dropout), nn.Linear(features, 4096), nn.ReLU()]
        features = 4096
    return nn.Sequential(*layers, nn.Linear(features, num_outputs))
