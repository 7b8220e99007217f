"""Classifiers of `torchvision.models`, untrained and able to start afresh. Imported only when one is asked for."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from mlflow_privacy.errors import ConfigError, nearest

_AUXILIARY = ("googlenet", "inception_v3")  # have further outputs while they train
_MISFIT = (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError, NotImplementedError)


def torchvision_models() -> Any:
    """The module `torchvision.models`.

    Raises:
      ConfigError: it cannot be imported.
    """
    try:
        import torchvision.models as models
    except (ImportError, RuntimeError, OSError) as error:  # a build for another torch fails in any of these ways
        raise ConfigError(
            f"torchvision cannot be imported: {type(error).__name__}: {error}. Install the version that belongs to "
            f"torch {torch.__version__} (pip install torchvision), or use a model of this package, such as wrn28-2."
        ) from error
    return models


@functools.cache
def classifier_names() -> tuple[str, ...]:
    """Sorted names of torchvision's image classifiers.

    Raises:
      ConfigError: torchvision cannot be imported.

    >>> "resnet18" in classifier_names(), "fcn_resnet50" in classifier_names()
    (True, False)
    """
    models = torchvision_models()
    return tuple(sorted(models.list_models(module=models)))


class TorchvisionModel(nn.Module):
    """One of torchvision's classifiers without pretrained weights. Grayscale images are repeated to three channels.

    `reset_parameters` builds the net again and takes over its state, so that what its constructors initialise (class
    tokens, layer scales, position biases) starts afresh as well.

    Args:
      name: one of `classifier_names()`.
      input_shape: (1 or 3, height, width) of the images.
      outputs: width of the last layer.
      dropout: None is the net's own.

    Raises:
      ConfigError: the net has no such option, or cannot take images of this shape.

    Example:
      >>> net = TorchvisionModel("squeezenet1_1", (1, 32, 32), 10).eval()
      >>> net(torch.zeros(2, 1, 32, 32)).shape
      torch.Size([2, 10])
    """

    def __init__(self, name: str, input_shape: tuple[int, ...], outputs: int, *, dropout: float | None = None) -> None:
        super().__init__()
        if len(input_shape) != 3 or input_shape[0] not in (1, 3):
            raise ConfigError(
                f"torchvision's {name} takes images of 1 or 3 channels, (channels, height, width), got records of "
                f"shape {tuple(input_shape)}. Use wrn28-2, vgg16 or another model of this package."
            )
        self.name, self.input_shape, self.outputs, self.dropout = name, tuple(input_shape), outputs, dropout
        self.net = self._build()
        self._check_shape()

    def _build(self) -> nn.Module:
        """A fresh net, drawn from torch's generator."""
        options: dict[str, Any] = {"num_classes": self.outputs, "weights": None}
        _, height, width = self.input_shape
        if self.name in _AUXILIARY:
            options |= {"aux_logits": False, "init_weights": True}
        if self.name.startswith("vit_"):  # its position embedding has one place per patch
            options["image_size"] = height
        if self.name.startswith("maxvit_"):
            options["input_size"] = (height, width)
        if self.dropout is not None:
            options["dropout"] = self.dropout
        try:
            return torchvision_models().get_model(self.name, **options)
        except TypeError as error:
            if self.dropout is None or "dropout" not in str(error):
                raise
            raise ConfigError(
                f"torchvision's {self.name} has no option dropout. Remove model_options.dropout."
            ) from error
        except _MISFIT as error:
            raise self._misfit(error) from error

    def _check_shape(self) -> None:
        """Raises `ConfigError` if the net cannot train on such images; only shapes are computed."""
        state = {key: t.to("meta") for key, t in [*self.net.named_parameters(), *self.net.named_buffers()]}
        _, height, width = self.input_shape
        try:
            output = torch.func.functional_call(self.net, state, torch.empty(2, 3, height, width, device="meta"))
        except _MISFIT as error:
            raise self._misfit(error) from error
        if tuple(output.shape) != (2, self.outputs):
            raise ConfigError(f"torchvision's {self.name} gives outputs {tuple(output.shape[1:])}, not {self.outputs}.")

    def _misfit(self, error: Exception) -> ConfigError:
        height, width = self.input_shape[1:]
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        return ConfigError(
            f"torchvision's {self.name} does not take images of {height}×{width} pixels: {reason}. Resize the images "
            "to what it was made for (often 224×224), or use a model for small images, such as wrn28-2 or vgg16."
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, 1 or 3, height, width) -> (b, outputs)
        return self.net(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Takes over the state of a net built anew; tensors stay the same objects on the same device."""
        self.net.load_state_dict(self._build().state_dict())

    def extra_repr(self) -> str:
        return f"{self.name}, input_shape={self.input_shape}, outputs={self.outputs}, dropout={self.dropout}"


def build(name: str, input_shape: tuple[int, ...], num_outputs: int, *, dropout: float | None = None) -> Any:
    """The classifier of this name.

    Raises:
      ConfigError: torchvision cannot be imported, has no such model, or the images do not fit it.
    """
    from mlflow_privacy.zoo.models import check_dropout

    if name not in classifier_names():
        raise ConfigError(f"torchvision has no classifier {name!r}{nearest(name, classifier_names(), listed=True)}")
    return TorchvisionModel(
        name, tuple(input_shape), num_outputs, dropout=None if dropout is None else check_dropout(dropout)
    )
