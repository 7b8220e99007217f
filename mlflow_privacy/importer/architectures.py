"""Privacy Meter's architectures: which of ours each is, and under which names its files keep the layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.zoo.registry import nearest

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
_OUTPUTS = {"vgg16": 1000}  # whatever the number of classes
_MOMENTUM = 0.9  # of the newest batch, in the batch normalisation of its wide residual networks
_BLOCK = (("proj_conv", "shortcut"), ("norm_1", "norm1"), ("conv_1", "conv1"), ("norm_2", "norm2"), ("conv_2", "conv2"))
_CANNOT = {
    "speedyresnet": "its network differs from ours of that name, so its weights cannot be taken over",
    "gpt2": "language models cannot be imported yet",
}


@dataclasses.dataclass(frozen=True)
class Template:
    """An architecture without weights.

    Attributes:
      module: on the CPU, as it will be registered.
      names: by the name of each entry of its state that is loaded, the name under which files have it.
    """

    module: Any
    names: Mapping[str, str]


def check_name(name: str) -> list[str]:
    """Faults of a model's name in Privacy Meter's metadata.

    >>> check_name("wrn28-2"), check_name("gpt2")
    ([], ["model 'gpt2' is not imported: language models cannot be imported yet."])
    """
    if name in _CANNOT:
        return [f"model {name!r} is not imported: {_CANNOT[name]}."]
    known = [*_LAYERS, *_WIDE]
    return [] if name in known else [f"unknown model {name!r}{nearest(name, known)}."]


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


def state_faults(template: Template, state: Mapping[str, Any]) -> list[str]:
    """What is wrong with a file's tensors: every name must be used once, every shape fit, every number be finite."""
    expected = template.module.state_dict()
    wanted = {theirs: tuple(expected[ours].shape) for ours, theirs in template.names.items()}
    missing, stray = [name for name in wanted if name not in state], [name for name in state if name not in wanted]
    faults = []
    if missing:
        faults.append(f"it lacks {_some(missing)}")
    if stray:
        faults.append(f"it has {_some(stray)}, which this architecture has not")
    for name, shape in wanted.items():
        if name in state and tuple(state[name].shape) != shape:
            faults.append(f"{name} has the shape {tuple(state[name].shape)} instead of {shape}")
    broken = [name for name, tensor in state.items() if not _finite(tensor)]
    if broken:
        faults.append(f"{_some(broken)} hold NaN or infinite numbers")
    return faults


def _finite(tensor: Any) -> bool:
    return not tensor.dtype.is_floating_point or bool(tensor.isfinite().all())


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def with_state(template: Template, state: Mapping[str, Any]) -> Any:
    """A copy of the template's module with the weights of a file, in evaluation mode."""
    import copy

    module = copy.deepcopy(template.module)
    module.load_state_dict({ours: state[theirs] for ours, theirs in template.names.items()}, strict=False)
    return module.eval()


def takes_flat(name: str) -> bool:
    """Whether the model takes rows of numbers."""
    return name == "mlp"


def raw_pixels(x: Any) -> bool:
    """Whether records are images of bytes."""
    return bool(getattr(x, "dtype", None) == np.uint8)
