"""A small convolutional network that learns CIFAR-10 in seconds on a GPU.

It follows Jordan (2024), https://arxiv.org/abs/2404.00498: a frozen first layer that whitens 2×2 patches, convolutions
that begin as the identity (so that the untrained network passes its input on, as a residual network does), batch
normalisation without a learned scale, GELU, and a linear layer on the largest value of each channel.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mlflow_privacy.errors import ConfigError

SMALLEST, LARGEST = 28, 64  # pixels a side: three poolings leave 3×3 to 7×7
WIDTHS = (64, 256, 256)
PATCH = 2
_LOGIT_SCALE = 1 / 9
_BN_MOMENTUM = 0.4  # weight of the newest batch: training is short
_WHITEN_EPSILON = 5e-4  # of the mean variance, so that the scale of the pixels does not matter


class _IdentityConv(nn.Conv2d):
    """A 3×3 convolution without bias whose first filters begin as the identity."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])


class _Norm(nn.BatchNorm2d):
    """Batch normalisation with a learned shift and no learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=_BN_MOMENTUM)
        self.weight.requires_grad_(False)


class _Stage(nn.Module):
    """Convolution, 2×2 pooling, convolution; each normalised, each with GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _IdentityConv(inputs, outputs), _Norm(outputs)
        self.conv2, self.norm2 = _IdentityConv(outputs, outputs), _Norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, inputs, h, w) -> (b, outputs, h // 2, w // 2)
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class FastResNet(nn.Module):
    """Raw pixel values in, logits out; `mlflow_privacy.trainers.fast_resnet.trainer` trains it.

    Args:
      input_shape: (channels, height, width): 1 or 3 channels, 28 to 64 pixels a side.
      classes: number of outputs, at least 2.
      width: factor on the numbers of channels, 64, 256 and 256.

    Raises:
      ConfigError: with every argument that is out of its range.

    Example:
      >>> net = FastResNet((3, 32, 32), 10, width=0.125).eval()
      >>> net(torch.full((2, 3, 32, 32), 255.0)).shape
      torch.Size([2, 10])
    """

    trainer_kind = "fast_resnet"
    mean: torch.Tensor  # (1, channels, 1, 1)
    std: torch.Tensor  # (1, channels, 1, 1)

    def __init__(self, input_shape: Sequence[int], classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        _check(input_shape, classes, width)
        channels, height, inner = int(input_shape[0]), int(input_shape[1]), int(input_shape[2])
        self.input_shape, self.classes, self.width = (channels, height, inner), int(classes), float(width)
        patch = channels * PATCH**2
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 127.5))
        self.register_buffer("std", torch.full((1, channels, 1, 1), 64.0))
        self.whiten = nn.Conv2d(channels, 2 * patch, PATCH)
        self.whiten.weight.requires_grad_(False)
        widths = [2 * patch, *(max(1, round(size * width)) for size in WIDTHS)]
        self.stages = nn.Sequential(*(_Stage(a, b) for a, b in itertools.pairwise(widths)))
        self.head = nn.Linear(widths[-1], int(classes), bias=False)

    def set_scale(self, mean: Any, std: Any) -> FastResNet:
        """Sets what pixel values are normalised with, (x - mean) / std.

        Args:
          mean, std: a number, or one per channel; of raw pixel values.

        Raises:
          ConfigError: another number of channels, or a deviation that is not positive.
        """
        channels = self.input_shape[0]
        for name, value in (("mean", mean), ("std", std)):
            tensor = torch.as_tensor(value, dtype=torch.float32).reshape(-1)
            valid = tensor.numel() in (1, channels) and bool(tensor.isfinite().all())
            if not valid or (name == "std" and not bool((tensor > 0).all())):
                kind = "positive numbers" if name == "std" else "numbers"
                raise ConfigError(f"{name} must be 1 or {channels} finite {kind}, got {tensor.tolist()}.")
            getattr(self, name).copy_(tensor.expand(channels).reshape(1, channels, 1, 1))
        return self

    def description(self) -> dict[str, Any]:
        """All that decides what training makes of it, as plain JSON values; nothing that it learned."""
        return {
            "network": "FastResNet",
            "version": 1,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "width": self.width,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    def fresh(self) -> FastResNet:
        """A network of the same form and scale on the CPU, with an initialisation drawn from torch's generator."""
        other = type(self)(self.input_shape, self.classes, width=self.width)
        return other.set_scale(self.mean.flatten().cpu(), self.std.flatten().cpu())

    def extra_repr(self) -> str:
        return f"input_shape={self.input_shape}, classes={self.classes}, width={self.width:g}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (b, channels, height, width), 0..255 -> (b, classes)
        if tuple(x.shape[1:]) != self.input_shape:
            raise RuntimeError(  # signals and trainers turn it into their own error
                f"this FastResNet takes images of shape {self.input_shape}, got {tuple(x.shape[1:])}"
            )
        # Half precision has as few digits as a pixel; whitening divides by differences of pixels that are small.
        with torch.autocast(x.device.type, enabled=False):
            x = F.gelu(self.whiten((x.to(self.mean.dtype) - self.mean) / self.std))
        x = self.stages(x)
        # By pooling, which remembers where the largest value was: the gradient of `amax` looks for an equal one, and a
        # compiler that keeps the values in half precision and the maximum in full finds none and divides by zero.
        x = F.max_pool2d(x, tuple(x.shape[2:])).flatten(1)
        return self.head(x).float() * _LOGIT_SCALE

    @torch.no_grad()
    def set_whitening(self, mean: torch.Tensor, covariance: torch.Tensor) -> None:
        """Sets the first layer so that its outputs on such patches have mean 0 and covariance 1; each with both signs.

        Along an axis of variance λ the variance becomes λ / (λ + ε), with ε a small share of the mean variance.

        Args:
          mean: (d,) of raw patches, d = channels · 4.
          covariance: (d, d) of raw patches.
        """
        channels = self.input_shape[0]
        shift = self.mean.double().cpu().expand(1, channels, PATCH, PATCH).flatten()
        scale = self.std.double().cpu().expand(1, channels, PATCH, PATCH).flatten()
        centre = (mean.double().cpu() - shift) / scale
        weight = whitening(covariance.double().cpu() / torch.outer(scale, scale))
        weight = torch.cat([weight, -weight])
        self.whiten.weight.copy_(weight.reshape(self.whiten.weight.shape))
        self.whiten.bias.copy_(-weight @ centre)  # type: ignore[union-attr]


def whitening(covariance: torch.Tensor) -> torch.Tensor:
    """(d, d) matrix W with W C Wᵀ = 1 up to ε; rows are the scaled eigenvectors, the largest first.

    Args:
      covariance: (d, d), float64.

    >>> whitening(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))).round(decimals=2).abs().tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    values, vectors = torch.linalg.eigh(covariance)
    vectors = vectors.flip(1)
    # A sign of an eigenvector is anybody's choice: the largest entry shall be positive.
    largest = vectors.abs().argmax(0)
    vectors = vectors * vectors.gather(0, largest[None]).sign()
    values = values.flip(0).clamp(min=0)
    epsilon = _WHITEN_EPSILON * values.mean() + torch.finfo(torch.float32).tiny
    return (vectors / (values + epsilon).sqrt()).T


def patch_statistics(parts: Sequence[torch.Tensor] | Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) and covariance (d, d) of all 2×2 patches of images, in float64 on the CPU.

    Sums of whole pixel values and of their products are exact in float64, so that no order of summation and no device
    changes them.

    Args:
      parts: (m, channels, height, width) pixel values, chunk by chunk.
    """
    total, products, count = None, None, 0
    for images in parts:
        images = images.cpu() if images.device.type == "mps" else images  # which has no float64
        patches = images.double().unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (m, c, h - 1, w - 1, 2, 2)
        flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * PATCH**2)
        total = flat.sum(0) if total is None else total + flat.sum(0)
        products = flat.T @ flat if products is None else products + flat.T @ flat
        count += len(flat)
    if total is None or products is None:
        raise ValueError("patch_statistics needs at least one image.")
    mean = total.cpu() / count
    return mean, products.cpu() / count - torch.outer(mean, mean)


def _check(input_shape: Any, classes: Any, width: Any) -> None:
    """All faults of a network's arguments at once."""
    faults = []
    shape = tuple(input_shape) if isinstance(input_shape, (tuple, list, torch.Size)) else ()
    if len(shape) != 3 or shape[0] not in (1, 3) or not all(SMALLEST <= side <= LARGEST for side in shape[1:]):
        faults.append(
            f"takes images (channels, height, width) of 1 or 3 channels and {SMALLEST} to {LARGEST} pixels a side, got "
            f"{input_shape!r}; resize them, or use another model"
        )
    if isinstance(classes, bool) or not isinstance(classes, numbers.Integral) or classes < 2:
        faults.append(f"needs at least 2 classes, got {classes!r}")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not (math.isfinite(width) and width > 0):
        faults.append(f"width must be a positive number, got {width!r}")
    if faults:
        raise ConfigError(f"FastResNet: {'; '.join(faults)}.")
