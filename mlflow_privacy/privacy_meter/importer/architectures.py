"""Privacy Meter's architectures: which of ours each is, and under which names its files keep the layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError, nearest

# Of each layer with parameters, in the order of the forward pass.
_LAYERS = {
    "mlp": ("fc1", "fc2"),
    "CNN": ("conv1", "conv2", "fc1", "fc2", "fc3"),
    "alexnet": (*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6))),
    "vgg16": (
        *(f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
        *(f"classifier.{i}" for i in (0, 3, 6)),
    ),
}
_WIDE = ("wrn28-1", "wrn28-2", "wrn28-10")
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"mlp": {"hidden": [128], "activation": "tanh"}}
_OUTPUTS = {"vgg16": 1000, "speedyresnet": 10}  # whatever the number of classes
_MOMENTUM = 0.9  # of the newest batch, in the batch normalisation of its wide residual networks
_BLOCK = (("proj_conv", "shortcut"), ("norm_1", "norm1"), ("conv_1", "conv1"), ("norm_2", "norm2"), ("conv_2", "conv2"))
_EMA = "net_ema.net_dict."  # before the names of the moving average that it stores
_FAST = (("whiten", "initial_block.whiten"), ("project", "initial_block.project"), ("head", "linear"))


@dataclasses.dataclass(frozen=True)
class Template:
    """An architecture without weights.

    Attributes:
      module: on the CPU, as it will be registered.
      names: by the name of each entry of its state that is loaded, the name under which files have it.
      own_scale: whether each model scales pixels by the mean and deviation of its own training records.
    """

    module: Any
    names: Mapping[str, str]
    own_scale: bool = False

    def faults(self, state: Mapping[str, Any]) -> list[str]:
        """What is wrong with a file's tensors: every name must be used once, every shape fit, all numbers be finite."""
        expected = self.module.state_dict()
        wanted = {theirs: tuple(expected[ours].shape) for ours, theirs in self.names.items()}
        missing, stray = [name for name in wanted if name not in state], [name for name in state if name not in wanted]
        return name_faults(missing, stray) + tensor_faults(state, wanted)

    def filled(self, state: Mapping[str, Any], trained_on: Any = None) -> Any:
        """A copy of the module with the weights of a file, in evaluation mode.

        Args:
          trained_on: the images (n, channels, height, width) of this model's training, for `own_scale`.
        """
        import copy

        import torch

        module = copy.deepcopy(self.module)
        module.load_state_dict({ours: state[theirs] for ours, theirs in self.names.items()}, strict=False)
        if self.own_scale:
            for name, values in zip(("mean", "std"), _pixel_moments(trained_on), strict=True):
                getattr(module[0], name).copy_(torch.from_numpy(values).reshape(-1, 1, 1))
        return module.eval()


def check_name(name: str) -> list[str]:
    """Faults of the name of a model that is no language model, in Privacy Meter's metadata.

    >>> check_name("wrn28-2"), check_name("wrn28-3")
    ([], ["unknown model 'wrn28-3', did you mean 'wrn28-2'?"])
    """
    known = [*_LAYERS, *_WIDE, "speedyresnet"]
    return [] if name in known else [f"unknown model {name!r}{nearest(name, known) or '.'}"]


def template_of(name: str, shape: tuple[int, ...], classes: int, *, raw_pixels: bool) -> Template:
    """The architecture that Privacy Meter means by a name.

    Args:
      name: of its metadata, see `check_name`.
      shape: of one record: (d,) for `mlp`, else (channels, height, width).
      classes: of the data set.
      raw_pixels: whether records are bytes 0..255; else images are in [0, 1].

    Raises:
      ConfigError: the architecture does not take such records.

    >>> template_of("mlp", (4,), 2, raw_pixels=False).names["1.weight"]
    'fc1.weight'
    """
    from mlflow_privacy import zoo

    faults = check_name(name)
    if faults:
        raise ConfigError("\n".join(faults))
    if name == "speedyresnet":
        return _fast_template(shape, classes)
    module = zoo.build_model(name, shape, _OUTPUTS.get(name, classes), _OPTIONS.get(name, {}), task="classification")
    if name in _WIDE:
        layers = dict(_wide_layers(len(module.blocks)))
        for sub in module.modules():
            if hasattr(sub, "running_mean"):
                sub.momentum = _MOMENTUM
    else:
        layers = dict(zip(_stateful(module), _LAYERS[name], strict=True))
    names = {key: f"{layers[layer]}.{own}" for key in module.state_dict() for layer, _, own in [key.rpartition(".")]}
    if name != "mlp":  # it trains on (x / 255 - 0.5) / 0.5
        half = 0.5 if raw_pixels else 0.5 / 255
        module = zoo.rescaled(module, half, half)
        names = {f"1.{key}": theirs for key, theirs in names.items()}
    return Template(module, names)


def own_template(module: Any) -> Template:
    """A module whose files have its own names."""
    return Template(module, {key: key for key in module.state_dict()})


def _stateful(module: Any) -> list[str]:
    """Names of submodules that own parameters, in order."""
    return [name for name, sub in module.named_modules() if list(sub.parameters(recurse=False))]


def _wide_layers(blocks: int) -> Iterator[tuple[str, str]]:
    """Our names of a wide residual network's layers, and theirs: one list, with an activation and pooling before the
    last one."""
    yield "stem", "layers.0"
    for i in range(blocks):
        yield from ((f"blocks.{i}.{ours}", f"layers.{i + 1}.{theirs}") for theirs, ours in _BLOCK)
    yield "norm", f"layers.{blocks + 1}"
    yield "head", f"layers.{blocks + 5}"


def _fast_template(shape: tuple[int, ...], classes: int) -> Template:
    """Its network behind a scaling of pixels that each model has of its own."""
    from mlflow_privacy import zoo
    from mlflow_privacy.zoo.hlb_net import HlbNet

    if shape[0] != 3 or classes > _OUTPUTS["speedyresnet"]:
        raise ConfigError(f"it takes 3 channels and at most 10 classes, got {shape[0]} and {classes}.")
    module = zoo.rescaled(HlbNet(), np.zeros(3), np.ones(3))
    layers = {f"1.{ours}": _EMA + theirs for ours, theirs in _FAST}
    for i in range(3):
        own = {f"1.groups.{i}.{part}": part for part in ("conv1", "norm1", "conv2", "norm2")}
        layers.update({ours: f"{_EMA}residual{i + 1}.{part}" for ours, part in own.items()})
    names = {
        key: f"{layers[layer]}.{own}"
        for key in module.state_dict()
        for layer, _, own in [key.rpartition(".")]
        if layer in layers
    }
    return Template(module, names, own_scale=True)


def _pixel_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (c,) float32 of each channel, as the scaling takes them: of x / 255, whatever x is."""
    count = x.size // x.shape[1]
    # In parts: float64 copies of a whole data set would need gigabytes.
    starts = range(0, len(x), 1024)
    mean = np.sum([x[i : i + 1024].sum((0, 2, 3), dtype=np.float64) for i in starts], axis=0) / 255 / count
    distances = (x[i : i + 1024].astype(np.float64) / 255 - mean.reshape(-1, 1, 1) for i in starts)
    squares = np.sum([(part**2).sum((0, 2, 3)) for part in distances], axis=0)
    return mean.astype(np.float32), np.sqrt(squares / max(count - 1, 1)).astype(np.float32)


def name_faults(missing: list[str], stray: list[str]) -> list[str]:
    """Weights that a file lacks, and that it has in vain."""
    faults = [f"it lacks {some(missing)}"] if missing else []
    return faults + ([f"it has {some(stray)}, which this architecture has not"] if stray else [])


def tensor_faults(state: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Tensors of another shape, and those whose numbers are not finite."""
    faults = [
        f"{name} has the shape {tuple(state[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    broken = [name for name, tensor in state.items() if not _finite(tensor)]
    return [*faults, f"{some(broken)} hold NaN or infinite numbers"] if broken else faults


def _finite(tensor: Any) -> bool:
    return not tensor.dtype.is_floating_point or bool(tensor.isfinite().all())


def some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def takes_flat(name: str) -> bool:
    """Whether the model takes rows of numbers."""
    return name == "mlp"


def raw_pixels(x: Any) -> bool:
    """Whether records are images of bytes."""
    return bool(getattr(x, "dtype", None) == np.uint8)
