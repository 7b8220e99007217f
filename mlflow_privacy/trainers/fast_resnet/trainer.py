"""Reference models of a FastResNet: many short trainings of one network on one device.

The images are on the device once, as bytes; flips and crops are done there, a batch at a time. On a GPU the forward
pass and the loss are compiled once for all references, whose weights are then written into the same network, and
nothing in an epoch waits for the device. All random numbers are drawn on the CPU from the seed. On a CPU equal seeds
give equal models to the last bit; on a GPU rounding may differ between processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mlflow_privacy.errors import RecipeError, StoreError
from mlflow_privacy.seeding import seeded
from mlflow_privacy.trainers.base import Progress, Trainer
from mlflow_privacy.trainers.canonical import Walk
from mlflow_privacy.trainers.fast_resnet.settings import FastSettings, batches, peak_rate, read_fast_settings, triangle
from mlflow_privacy.trainers.settings import fault_text
from mlflow_privacy.trainers.torch import augment
from mlflow_privacy.trainers.torch.kept_memory import keeping_memory
from mlflow_privacy.trainers.torch.private import copy_all, lerp_all
from mlflow_privacy.trainers.torch.reinit import plain_module
from mlflow_privacy.trainers.torch.tensors import Feeder, features, label_indices, resolve_device
from mlflow_privacy.types import Recipe, Records, Task, to_json
from mlflow_privacy.zoo.fast_resnet import FastResNet, patch_statistics

_logger = logging.getLogger(__name__)
FILE = "model.safetensors"
_BIAS_RATE = 64.0  # the shifts of the normalisations learn so much faster
_WHITEN_IMAGES, _WHITEN_CHUNK = 5000, 250  # 2×2 patches have few statistics: more images change nothing
_WHITEN_BIAS_EPOCHS = 3  # after these no gradient needs to reach the first layer
_LOOK_EVERY, _LOOK_DECAY = 5, 0.95**5
_PROGRESS_STEPS = 10


def fast_resnet_recipe(
    module: torch.nn.Module,
    settings: Mapping[str, Any],
    *,
    task: Task,
    source: str = "",
    data: Records | None = None,
) -> Recipe:
    """The recipe of a FastResNet: its form without what it learned, and how it is trained.

    Args:
      module: a FastResNet, compiled or not.
      settings: see `mlflow_privacy.trainers.fast_resnet.settings`; {} gives the network's own recipe.
      data: the pool, if known; its classes are then part of the recipe.

    Raises:
      RecipeError: with every fault of the settings.

    Example:
      >>> recipe = fast_resnet_recipe(FastResNet((1, 28, 28), 10), {"epochs": 4}, task="classification")
      >>> recipe.kind, recipe.spec["settings"]["epochs"], recipe.spec["settings"]["momentum"]
      ('fast_resnet', 4, 0.85)
    """
    network = _network(module)
    parsed, faults = read_fast_settings(settings, task=task)
    if faults or parsed is None:
        raise RecipeError(fault_text("The recipe of this FastResNet is wrong", faults))
    spec: dict[str, Any] = {
        "module": network.description(),
        "settings": to_json(dataclasses.asdict(parsed)),
        "task": task,
    }
    walk = Walk()
    if type(network) is not FastResNet:  # a class of the caller's, with methods of its own
        spec["type"] = walk(type(network))
    if data is not None:
        spec["classes"] = to_json(np.unique(data.y))
    return Recipe("fast_resnet", spec, network, source, walk.code())


def _network(module: torch.nn.Module) -> FastResNet:
    """The FastResNet itself, inside `torch.compile` or DataParallel."""
    network = plain_module(module)
    if not isinstance(network, FastResNet):
        raise RecipeError(f"trainer_kind='fast_resnet' is for FastResNet alone, not for a {type(network).__name__}.")
    return network


class FastResNetTrainer(Trainer):
    """Trains one FastResNet after another.

    The whitening of the first layer is estimated on each reference's own members: statistics of other records would
    carry them into a model that must not know them. All batches of an epoch have one size (`batches`), so that the
    compiled step sees one shape as long as the references have equally many members; another number compiles once more.
    """

    @keeping_memory
    def train(
        self,
        recipe: Recipe,
        data: Records,
        members: np.ndarray,
        seeds: Sequence[int],
        *,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> Iterator[FastResNet]:
        if recipe.template is None:
            raise RecipeError("The recipe's module is not at hand: make the recipe again from the registered model.")
        template, settings = _network(recipe.template), FastSettings(**recipe.spec["settings"])
        where = resolve_device(device)
        feeder = Feeder(_pixels(data, template), where, torch.float32)
        known = recipe.spec.get("classes")
        known = np.unique(data.y) if known is None else np.asarray(known)
        labels = torch.from_numpy(label_indices(data.y, known, template.classes)).to(where)
        rows = [torch.from_numpy(np.flatnonzero(row)) for row in np.asarray(members, bool)]
        if any(len(row) < 2 for row in rows):
            raise RecipeError("A FastResNet needs at least 2 members: batch normalisation cannot train on one record.")
        totals = np.cumsum([0] + [settings.epochs * batches(len(row), settings)[0] for row in rows])
        engine = _engine(template.input_shape, template.classes, template.width, settings.label_smoothing, str(where))
        for i, (row, seed) in enumerate(zip(rows, seeds, strict=True)):

            def report(step: int, done: int = int(totals[i])) -> None:
                if progress is not None:
                    progress(done + step, int(totals[-1]))

            with engine.lock, seeded(int(seed)), _exact(where):
                fresh = template.fresh()
                _fit(engine, fresh, feeder, labels, row, settings, seed=int(seed), report=report)
            yield fresh.to(where).eval()

    def recipe_for(
        self, model: Any, settings: Mapping[str, Any], *, task: Task, source: str = "", data: Records | None = None
    ) -> Recipe:
        return fast_resnet_recipe(model, settings, task=task, source=source, data=data)

    def save(self, recipe: Recipe, model: FastResNet, folder: Path) -> bool:
        """Writes the state as safetensors."""
        from safetensors.torch import save_model

        save_model(model, str(Path(folder) / FILE))
        return True

    def load(self, recipe: Recipe, folder: Path) -> FastResNet:
        """The recipe's network on the CPU, in evaluation mode, with the stored state."""
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        path = Path(folder) / FILE
        if not path.is_file():
            raise StoreError(f"{folder} holds no {FILE}; this reference model must be trained again.")
        with seeded(0):
            model = _network(recipe.template).fresh()
        try:
            load_model(model, str(path), strict=True)
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            raise StoreError(f"{path.name} does not hold this network's state: {error}") from error
        return model.eval()


def _pixels(data: Records, template: FastResNet) -> torch.Tensor:
    """(n, channels, height, width) pixel values on the CPU, as bytes if they are whole numbers of 0..255."""
    images = features(data.x, torch.float32)
    if tuple(images.shape[1:]) != template.input_shape:
        raise RecipeError(
            f"This FastResNet takes images of shape {template.input_shape}, but a record has shape "
            f"{tuple(images.shape[1:])}. Build it for these images, or resize them."
        )
    if images.dtype != torch.uint8 and len(images):
        low, high = images.aminmax()
        if low >= 0 and high <= 255 and bool((images == images.round()).all()):
            images = images.to(torch.uint8)
    return images


def _warn_not_compiled(error: Exception) -> None:
    _logger.warning("torch.compile does not work here, going on without: %s", str(error).split("\n")[0])


def _compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor] | None:
    try:
        return torch.compile(function, dynamic=False)
    except RuntimeError as error:  # a platform or a Python that it does not know
        _warn_not_compiled(error)
        return None


class _Engine:
    """The network that all references of one form are trained in, and its loss; compiled on a GPU."""

    def __init__(self, net: FastResNet, smoothing: float, device: torch.device) -> None:
        self.net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.half = device, half_type(device)
        self._smoothing = smoothing
        # Dynamic shapes would give slower kernels for the one shape that comes.
        self._compiled = _compiled(self._loss) if device.type == "cuda" else None
        self.lock = threading.Lock()  # one training at a time: there is one set of weights

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = images.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.half or torch.bfloat16, enabled=self.half is not None):
            logits = self.net(images)
        return F.cross_entropy(logits.float(), labels, label_smoothing=self._smoothing)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch; where there is no compiler, of the same code as it stands."""
        if self._compiled is not None:
            try:
                return self._compiled(images, labels)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:  # dynamo's and inductor's errors are such: no Triton, no C compiler
                _warn_not_compiled(error)
                self._compiled = None
        return self._loss(images, labels)


@functools.lru_cache(maxsize=2)
def _engine(input_shape: tuple[int, int, int], classes: int, width: float, smoothing: float, device: str) -> _Engine:
    """One engine a form and device in a process, so that targets and references compile once together."""
    with seeded(0):
        return _Engine(FastResNet(input_shape, classes, width=width), smoothing, torch.device(device))


def half_type(device: torch.device) -> torch.dtype | None:
    """The type of activations on a device: bfloat16 or float16 on a GPU, None for float32 on a CPU.

    Weights, their updates, batch statistics and the first layer stay in float32 everywhere.

    >>> half_type(torch.device("cpu"))
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


@torch.no_grad()
def whiten_on(net: FastResNet, feeder: Feeder, rows: torch.Tensor) -> None:
    """Sets the first layer from the records at `rows` (k,), and from nothing else."""
    chunks = (feeder.take(rows[start : start + _WHITEN_CHUNK]) for start in range(0, len(rows), _WHITEN_CHUNK))
    net.set_whitening(*patch_statistics(chunks))


def _fit(
    engine: _Engine,
    fresh: FastResNet,
    feeder: Feeder,
    labels: torch.Tensor,
    rows: torch.Tensor,
    settings: FastSettings,
    *,
    seed: int,
    report: Any,
) -> None:
    """Trains `fresh`, a network on the CPU, in place on the records at `rows` (n,), by way of the engine's."""
    net, device = engine.net, engine.device
    generator = torch.Generator().manual_seed(seed)
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    whiten_on(fresh, feeder, shuffled[:_WHITEN_IMAGES])
    _copy_state(fresh, net)
    net.train()
    steps, size = batches(len(rows), settings)
    rates = (peak_rate(size, settings) * triangle(settings.epochs * steps)).tolist()
    optimizer = _optimizer(net, settings)
    scaler = _scaler(engine.half is torch.float16)
    slow = _Lookahead(net, len(rates)) if settings.lookahead else None
    turns = torch.rand(len(rows), generator=generator) < 0.5  # which images are flipped in even epochs
    step = 0
    for epoch in range(settings.epochs):
        _set_bias_learning(net, epoch < _WHITEN_BIAS_EPOCHS)
        place = torch.randperm(len(rows), generator=generator)
        drawn = augment.draw(settings.augmentation, len(rows), fresh.input_shape, generator, device)
        if settings.augmentation.get("flip") == 0.5:
            drawn["flip"] = (turns ^ bool(epoch % 2))[place].to(device)
        order = rows[place].to(device)
        source = order if feeder.resident else rows[place]
        for start in range(0, steps * size, size):
            index = order[start : start + size]
            part = {name: value[start : start + size] for name, value in drawn.items()}
            images = augment.apply(feeder.take(source[start : start + size]), settings.augmentation, part)
            for group in optimizer.param_groups:
                group["lr"] = rates[step] * group["factor"]
            loss = engine.loss(images, labels.index_select(0, index))
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            step += 1
            if slow is not None:
                slow.after(step)
            if step % _PROGRESS_STEPS == 0:
                report(step)
    if slow is not None:
        slow.finish()
    optimizer.zero_grad(set_to_none=True)
    report(step)
    _copy_state(net, fresh)
    if not all(bool(value.isfinite().all()) for value in fresh.state_dict().values()):
        raise RecipeError(
            f"The training of this FastResNet diverged at a peak learning rate of {max(rates):g} with batches of "
            f"{size}. Lower learning_rate, or leave it out."
        )


@torch.no_grad()
def _copy_state(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Writes all parameters and buffers into those of another network, which stay where they are."""
    new = source.state_dict()
    for name, tensor in target.state_dict().items():
        tensor.copy_(new[name])


def _set_bias_learning(net: FastResNet, learns: bool) -> None:
    bias = net.whiten.bias
    assert bias is not None
    bias.requires_grad_(learns)
    if not learns:
        bias.grad = None


def _optimizer(net: FastResNet, settings: FastSettings) -> torch.optim.SGD:
    """Nesterov SGD; the shifts of the normalisations have a learning rate and a weight decay of their own.

    Their decay per step is that of all others, weight_decay times the learning rate.
    """
    shifts = [p for name, p in net.named_parameters() if "norm" in name and p.requires_grad]
    ids = {id(p) for p in shifts} | {id(net.whiten.weight)}
    others = [p for name, p in net.named_parameters() if id(p) not in ids and "norm" not in name]
    groups = [
        {"params": others, "factor": 1.0, "weight_decay": settings.weight_decay},
        {"params": shifts, "factor": _BIAS_RATE, "weight_decay": settings.weight_decay / _BIAS_RATE},
    ]
    options: dict[str, Any] = {"lr": 1.0, "momentum": settings.momentum, "nesterov": settings.momentum > 0}
    if next(net.parameters()).is_cuda:
        with contextlib.suppress(TypeError, RuntimeError):  # older versions have no fused SGD
            return torch.optim.SGD(groups, **options, fused=True)
    return torch.optim.SGD(groups, **options)


def _scaler(enabled: bool) -> Any:
    """Scales the loss so that gradients fit into float16; does nothing if it is not enabled.

    With the fused optimizer, steps that overflow are left out without asking the device.
    """
    cls = getattr(torch.amp, "GradScaler", None)
    return cls("cuda", enabled=enabled) if cls else torch.cuda.amp.GradScaler(enabled=enabled)


class _Lookahead:
    """Slow weights that move towards the fast ones every few steps, and become them.

    Zhang et al. (2019), https://arxiv.org/abs/1907.08610, with Jordan's growing share: hardly any memory at the
    beginning, 77 % of the old slow weights at the end. Batch statistics move along.
    """

    def __init__(self, net: FastResNet, steps: int) -> None:
        kept = {"mean", "std"}
        state = [(name, value) for name, value in net.state_dict().items() if value.is_floating_point()]
        self._fast = [value for name, value in state if name not in kept]
        self._slow = [value.clone() for value in self._fast]
        self._steps = steps

    @torch.no_grad()
    def after(self, step: int) -> None:
        """What happens after the given number of steps."""
        if step % _LOOK_EVERY == 0:
            keep = _LOOK_DECAY * (step / self._steps) ** 3
            lerp_all(self._slow, self._fast, 1.0 - keep)
            self.finish()

    @torch.no_grad()
    def finish(self) -> None:
        """The fast weights take the slow ones' values."""
        copy_all(self._fast, self._slow)


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Convolutions that give the same sums each time, the fastest of them."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=True):
        yield
