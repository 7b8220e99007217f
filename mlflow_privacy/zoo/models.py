"""Small torch models made of torch's own layers alone, so that they load anywhere and every layer can be reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.zoo.registry import model


def _check_widths(name: str, widths: Any) -> list[int]:
    if not isinstance(widths, (list, tuple)) or not all(
        isinstance(w, int) and not isinstance(w, bool) and w > 0 for w in widths
    ):
        raise ConfigError(f"model_options.{name} must be a list of positive integers, got {widths!r}.")
    return list(widths)


def _check_dropout(dropout: Any) -> float:
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ConfigError(f"model_options.dropout must be in [0, 1), got {dropout!r}.")
    return float(dropout)


@model("mlp", inputs="flat")
def mlp(input_shape: tuple[int, ...], num_outputs: int, *, hidden: Sequence[int] = (128,), dropout: float = 0.0) -> Any:
    """Multi-layer perceptron with ReLU.

    Args:
      input_shape: (d,).
      num_outputs: width of the last layer.
      hidden: widths of the hidden layers; [] is a linear model.
      dropout: after each hidden layer.

    >>> [tuple(p.shape) for p in mlp((4,), 3, hidden=[8]).parameters()]
    [(8, 4), (8,), (3, 8), (3,)]
    """
    from torch import nn

    dropout = _check_dropout(dropout)
    layers: list[nn.Module] = [nn.Flatten()]
    width = 1
    for size in input_shape:
        width *= size
    for size in _check_widths("hidden", hidden):
        layers += [nn.Linear(width, size), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


@model("cnn", inputs="image")
def cnn(
    input_shape: tuple[int, ...],
    num_outputs: int,
    *,
    channels: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (128,),
    dropout: float = 0.0,
) -> Any:
    """Small convolutional net: per entry of `channels` a 3×3 convolution, ReLU and 2×2 pooling, then an MLP.

    Args:
      input_shape: (channels, height, width).
      num_outputs: width of the last layer.
      channels: of the convolutions; as many as the image can be halved.
      hidden: widths of the fully connected hidden layers.
      dropout: after each hidden layer.

    >>> net = cnn((1, 8, 8), 10, channels=[4], hidden=[])
    >>> [tuple(p.shape) for p in net.parameters()]
    [(4, 1, 3, 3), (4,), (10, 64), (10,)]
    """
    from torch import nn

    dropout = _check_dropout(dropout)
    planes, height, width = input_shape
    layers: list[nn.Module] = []
    for size in _check_widths("channels", channels):
        if min(height, width) < 2:
            raise ConfigError(
                f"model_options.channels {list(channels)} halves a {input_shape[1]}×{input_shape[2]} image too often: "
                f"give at most {len(layers) // 3} entries."
            )
        layers += [nn.Conv2d(planes, size, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        planes, height, width = size, height // 2, width // 2
    layers.append(nn.Flatten())
    features = planes * height * width
    for size in _check_widths("hidden", hidden):
        layers += [nn.Linear(features, size), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, num_outputs))
