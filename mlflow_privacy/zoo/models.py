"""Torch models by name. The small ones are made of torch's own layers alone, so that they load anywhere."""

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


def check_dropout(dropout: Any) -> float:
    """The option as a number in [0, 1)."""
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ConfigError(f"model_options.dropout must be in [0, 1), got {dropout!r}.")
    return float(dropout)


def _check_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"model_options.{name} must be a positive integer, got {value!r}.")
    return value


def _check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"model_options.{name} must be true or false, got {value!r}.")
    return value


def _activation(name: Any) -> Any:
    """The class of a nonlinearity."""
    from torch import nn

    known = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    if not isinstance(name, str) or name.lower() not in known:
        raise ConfigError(f"model_options.activation must be one of {', '.join(known)}, got {name!r}.")
    return known[name.lower()]


def image_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width).

    Raises:
      ConfigError: the records of this shape are no images.
    """
    if len(shape) != 3:
        raise ConfigError(f"{name} takes images (channels, height, width), got records of shape {tuple(shape)}.")
    return shape[0], shape[1], shape[2]


def rescaled(module: Any, mean: Any, std: Any) -> Any:
    """The module, made to take raw pixel values 0..255: it sees (x / 255 - mean) / std.

    A module with a method `set_scale(mean, std)` scales by itself: it is told both as raw pixel values, times 255, and
    returned as it is. Any other gets `zoo.layers.Rescale` as its first layer.

    Args:
      module: a torch module that takes images (b, channels, height, width).
      mean, std: a number, or one per channel; of pixel values divided by 255.

    Raises:
      ConfigError: they are not finite, of different length, or a deviation is not positive.

    >>> import torch
    >>> rescaled(torch.nn.Identity(), 0.5, 0.5)(torch.tensor([[[[0.0, 255.0]]]])).flatten().tolist()
    [-1.0, 1.0]
    """
    from torch import nn

    from mlflow_privacy.zoo.layers import Rescale, pixel_statistics

    if callable(getattr(module, "set_scale", None)):
        centre, deviation = pixel_statistics(mean, std)
        module.set_scale(255 * centre, 255 * deviation)
        return module
    return nn.Sequential(Rescale(mean, std), module)


@model("mlp", inputs="flat")
def mlp(
    input_shape: tuple[int, ...],
    num_outputs: int,
    *,
    hidden: Sequence[int] = (128,),
    dropout: float = 0.0,
    activation: str = "relu",
) -> Any:
    """Multi-layer perceptron.

    Args:
      input_shape: (d,).
      num_outputs: width of the last layer.
      hidden: widths of the hidden layers; [] is a linear model.
      dropout: after each hidden layer.
      activation: "relu", "tanh" or "gelu", after each hidden layer.

    >>> [tuple(p.shape) for p in mlp((4,), 3, hidden=[8]).parameters()]
    [(8, 4), (8,), (3, 8), (3,)]
    """
    from torch import nn

    dropout = check_dropout(dropout)
    nonlinearity = _activation(activation)
    layers: list[nn.Module] = [nn.Flatten()]
    width = 1
    for size in input_shape:
        width *= size
    for size in _check_widths("hidden", hidden):
        layers += [nn.Linear(width, size), nonlinearity(), *([nn.Dropout(dropout)] if dropout else [])]
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

    dropout = check_dropout(dropout)
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


@model("CNN", inputs="image")
@model("lenet", inputs="image")
def lenet(input_shape: tuple[int, ...], num_outputs: int) -> Any:
    """Two 5×5 convolutions of 6 and 16 channels, each with ReLU and 2×2 pooling, then 120 and 84 hidden units.

    After LeCun et al. (1998), "Gradient-based learning applied to document recognition". It is the net that Privacy
    Meter calls `CNN`; `cnn` in lower case is another.

    Args:
      input_shape: (channels, height, width), at least 16 pixels a side.
      num_outputs: width of the last layer.

    Raises:
      ConfigError: the images are smaller.

    >>> sum(p.numel() for p in lenet((3, 32, 32), 10).parameters())
    62006
    """
    from torch import nn

    planes, height, width = image_shape("lenet", input_shape)
    if min(height, width) < 16:
        raise ConfigError(
            f"lenet takes images of at least 16×16 pixels, got {height}×{width}. Enlarge them, or use cnn."
        )
    layers: list[nn.Module] = []
    for size in (6, 16):
        layers += [nn.Conv2d(planes, size, 5), nn.ReLU(), nn.MaxPool2d(2)]
        planes, height, width = size, (height - 4) // 2, (width - 4) // 2
    layers.append(nn.Flatten())
    features = planes * height * width
    for size in (120, 84):
        layers += [nn.Linear(features, size), nn.ReLU()]
        features = size
    return nn.Sequential(*layers, nn.Linear(features, num_outputs))


@model("wrn", inputs="image")
def wrn(
    input_shape: tuple[int, ...], num_outputs: int, *, depth: int = 28, width: int = 10, dropout: float = 0.0
) -> Any:
    """Wide residual network (Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146), pre-activation.

    Args:
      input_shape: (channels, height, width), any size.
      num_outputs: width of the last layer.
      depth: 6 n + 4 layers: 10, 16, 22, 28, 40, …
      width: factor on the numbers of channels.
      dropout: between the two convolutions of each block; the paper has 0.3 where it uses it.

    Raises:
      ConfigError: an option is out of its range; all faults at once.

    >>> sum(p.numel() for p in wrn((3, 32, 32), 10, depth=16, width=1).parameters())
    175066
    """
    planes, _, _ = image_shape("wrn", input_shape)
    faults = []
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 10 or depth % 6 != 4:
        faults.append(f"model_options.depth must be 6 n + 4 (10, 16, 22, 28, 40, ...), got {depth!r}.")
    for check in (lambda: _check_count("width", width), lambda: check_dropout(dropout)):
        try:
            check()
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    from mlflow_privacy.zoo.wide_resnet import WideResNet

    return WideResNet(planes, num_outputs, depth=depth, width=width, dropout=float(dropout))


def _register_wrn(factor: int) -> None:
    @model(f"wrn28-{factor}", inputs="image")
    def wrn28(input_shape: tuple[int, ...], num_outputs: int, *, dropout: float = 0.0) -> Any:
        return wrn(input_shape, num_outputs, depth=28, width=factor, dropout=dropout)


for _factor in (1, 2, 10):
    _register_wrn(_factor)


def _register_vgg(depth: int) -> None:
    @model(f"vgg{depth}", inputs="image")
    def vgg(
        input_shape: tuple[int, ...],
        num_outputs: int,
        *,
        batch_norm: bool = False,
        dropout: float = 0.5,
        pool: int = 7,
    ) -> Any:
        """VGG (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556), layer by layer as torchvision's.

        A pooling that would leave nothing of a small image is left out.

        Args:
          input_shape: (channels, height, width), any size.
          num_outputs: width of the last layer.
          batch_norm: after each convolution.
          dropout: after each hidden layer.
          pool: side of the map that the first hidden layer sees, averaged or repeated to that size. Images of 32
            pixels end in a single one: `pool: 1` then gives the same functions with 101 million parameters fewer.
        """
        from mlflow_privacy.zoo.vgg import vgg_net

        return vgg_net(
            image_shape(f"vgg{depth}", input_shape),
            num_outputs,
            depth=depth,
            batch_norm=_check_flag("batch_norm", batch_norm),
            dropout=check_dropout(dropout),
            pool=_check_count("pool", pool),
        )


for _depth in (11, 13, 16, 19):
    _register_vgg(_depth)
