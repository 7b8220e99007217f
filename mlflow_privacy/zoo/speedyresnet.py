"""The network of the short recipe, under the name that Privacy Meter's configs use."""

from __future__ import annotations

from typing import Any

from mlflow_privacy.zoo.registry import model


@model("speedyresnet", inputs="image", own_recipe=True)
def speedyresnet(input_shape: tuple[int, ...], num_outputs: int, *, width: float = 1.0) -> Any:
    """A convolutional network that brings its own recipe: seconds a model on a GPU.

    Args:
      input_shape: (channels, height, width); 1 or 3 channels, 28 to 64 pixels a side.
      num_outputs: number of classes.
      width: factor on the numbers of channels; 1 has two million parameters.

    Raises:
      ConfigError: the images are of another size, or the width is not positive.

    >>> net = speedyresnet((3, 32, 32), 10, width=0.125)
    >>> net.trainer_kind, net.stages[0].conv1.weight.shape
    ('fast_resnet', torch.Size([8, 24, 3, 3]))
    """
    from mlflow_privacy.zoo.fast_resnet import FastResNet

    return FastResNet(input_shape, num_outputs, width=width)
