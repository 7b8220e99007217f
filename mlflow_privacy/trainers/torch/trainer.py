"""Reference models of a PyTorch module: re-initialised and trained by a recipe that is data."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
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
from mlflow_privacy.trainers.dp import check_module
from mlflow_privacy.trainers.settings import (
    TorchSettings,
    fault_text,
    read_settings,
)
from mlflow_privacy.trainers.stacked import ensemble
from mlflow_privacy.trainers.stacked.groups import Halving, Meter, blocks, run_groups
from mlflow_privacy.trainers.torch.exported import restore_exported
from mlflow_privacy.trainers.torch.inputs import float_dtype, inputs_of, looks_up, plain
from mlflow_privacy.trainers.torch.kept_memory import keeping_memory
from mlflow_privacy.trainers.torch.last_operation import Watched
from mlflow_privacy.trainers.torch.loop import (
    few_threads,
    fit,
    last_batch,
    make_optimizer,
    one_thread,
    reproducible,
    step_engine,
    steps_an_epoch,
)
from mlflow_privacy.trainers.torch.reinit import describe, kept_buffers, plain_module, reinitialise
from mlflow_privacy.trainers.torch.tensors import (
    Feeder,
    compact,
    first_tensor,
    label_indices,
    label_matrix,
    regression_targets,
    resolve_device,
)
from mlflow_privacy.types import Recipe, Records, Task, to_json

_logger = logging.getLogger(__name__)
FILE = "model.safetensors"


def torch_recipe(
    module: torch.nn.Module,
    settings: Mapping[str, Any],
    *,
    task: Task,
    source: str = "",
    data: Records | None = None,
) -> Recipe:
    """The recipe of a module: its architecture without what it learned, and how it is trained.

    Args:
      settings: see `mlflow_privacy.trainers.settings`.
      data: the pool, if known; its classes are then part of the recipe.

    Raises:
      RecipeError: with every submodule that cannot be re-initialised and every fault of the settings.
    """
    module = restore_exported(module)
    parsed, faults = read_settings(settings, task=task)
    problems = []
    try:
        reinitialise(module, seed=0)
    except RecipeError as error:
        problems.append(str(error))
    if faults:
        title = "The recipe of this PyTorch module is wrong"
        if not settings:
            title = (
                "This PyTorch module has no recipe: log it with mlflow_privacy.log_lineage(recipe={...}), or pass "
                'evaluator_config={"privacy_meter": {"recipe": {...}}}'
            )
        problems.append(fault_text(title, faults))
    if problems or parsed is None:
        raise RecipeError("\n".join(problems))
    if parsed.dp is not None:
        module = check_module(module, parsed.dp)
    walk = Walk()
    spec: dict[str, Any] = {
        "module": describe(module, walk),
        "settings": to_json(dataclasses.asdict(parsed)),
        "task": task,
    }
    if parsed.dp is None:  # the fingerprints of all other recipes are older than this key
        del spec["settings"]["dp"]
    if parsed.precision == "auto":  # likewise
        del spec["settings"]["precision"]
    if data is not None and task == "classification":
        spec["classes"] = to_json(np.unique(data.y))
    if data is not None and len(data):
        told = inputs_of(copy.deepcopy(plain_module(module)).cpu(), data.x).told()
        # The type was once guessed from the first layer: where that may have been another, so are the models.
        if looks_up(module) or told != str(float_dtype(module)).removeprefix("torch."):
            spec["input"] = told
    return Recipe("torch", spec, module, source, walk.code())


def settings_of(recipe: Recipe) -> TorchSettings:
    """The parsed settings that a recipe holds as plain values."""
    values = dict(recipe.spec["settings"])
    return TorchSettings(**{**values, "warmup": tuple(values["warmup"])})


class TorchTrainer(Trainer):
    """Re-initialises the recipe's module and trains it: many at once where that is faster, else one after another.

    Features stay on the device as one tensor (a GPU that is too small gets batches from pinned memory); labels too.
    Initialisation, minibatch order and augmentation are drawn on the CPU from the seed, whatever the device.
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
    ) -> Iterator[torch.nn.Module]:
        if recipe.template is None:
            raise RecipeError("The recipe's module is not at hand: make the recipe again from the registered model.")
        module, settings, where = plain_module(recipe.template), settings_of(recipe), resolve_device(device)
        inputs = inputs_of(copy.deepcopy(module).cpu(), data.x)
        module = inputs.around(module)
        feeder = Feeder(compact(inputs.tensor), where, inputs.dtype)
        targets, loss = _targets_and_loss(recipe, module, settings, data, feeder, where)
        constants = kept_buffers(module)
        rows = [torch.from_numpy(np.flatnonzero(row)) for row in np.asarray(members, bool)]
        shape = tuple(inputs.tensor.shape[1:])
        way = ensemble.choose(
            module, settings, where, n_models=len(rows), record_shape=shape, record_dtype=inputs.dtype
        )
        _logger.info("Reference models train on %s %s.", where, way)
        lengths = [len(row) for row in rows]
        steps = sum(settings.epochs * steps_an_epoch(n, settings, module) for n in lengths)
        meter = Meter(None if progress is None else lambda done: progress(min(done, steps), steps))
        alone = way.together == 1 and way.workers == 1
        engine = step_engine(module, feeder, targets, rows, loss, settings) if alone else None
        halving, shared = Halving(), way.workers > 1
        for groups in blocks(lengths, way.together, way.workers):
            # In this thread: initialisation draws from the global generator.
            with one_thread():
                fresh = {i: reinitialise(module, int(seeds[i])) for group in groups for i in group}

            def run(group: Sequence[int], fresh: dict[int, torch.nn.Module] = fresh) -> dict[int, torch.nn.Module]:
                drawn, report = [int(seeds[i]) for i in group], meter.of(group)
                if len(group) == 1 and (not shared or way.kind == "one by one"):
                    model = fresh[group[0]].to(where)
                    # Nothing in nets of several threads draws from the generators that all of them share.
                    own = contextlib.nullcontext() if shared else seeded(drawn[0])
                    with own, few_threads(model, settings.batch_size, where):
                        fit(
                            model,
                            feeder,
                            targets,
                            rows[group[0]],
                            loss,
                            settings,
                            seed=drawn[0],
                            report=report,
                            engine=engine,
                        )
                    return {group[0]: model}
                with few_threads(module, settings.batch_size * len(group), where):
                    trained = ensemble.fit_together(
                        [fresh[i] for i in group],
                        feeder,
                        targets,
                        [rows[i] for i in group],
                        loss,
                        settings,
                        seeds=drawn,
                        optimizer_of=make_optimizer,
                        take=last_batch(lengths[group[0]], settings, module),
                        report=report,
                    )
                    return dict(zip(group, trained, strict=True))

            with reproducible(where, settings.precision):
                models = run_groups(groups, run, way.workers, halving, share=way.kind == "one by one")
            fresh.clear()
            for i in sorted(models):
                model = models.pop(i)
                _check_constants(module, model, constants)
                yield plain(model).eval()

    def save(self, recipe: Recipe, model: torch.nn.Module, folder: Path) -> bool:
        """Writes the state as safetensors; False if a module keeps state that is not a tensor."""
        from safetensors.torch import save_model

        if not all(isinstance(value, torch.Tensor) for value in model.state_dict().values()):
            return False
        save_model(model, str(Path(folder) / FILE))
        return True

    def load(self, recipe: Recipe, folder: Path) -> torch.nn.Module:
        """The recipe's module on the CPU, in evaluation mode, with the stored state."""
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        path = Path(folder) / FILE
        if not path.is_file():
            raise StoreError(f"{folder} holds no {FILE}; this reference model must be trained again.")
        model = copy.deepcopy(plain_module(recipe.template)).cpu()
        try:
            load_model(model, str(path), strict=True)
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            raise StoreError(f"{path.name} does not hold this module's state: {error}") from error
        return model.eval()


def _targets_and_loss(
    recipe: Recipe,
    module: torch.nn.Module,
    settings: TorchSettings,
    data: Records,
    feeder: Feeder,
    device: torch.device,
) -> tuple[torch.Tensor, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """(n, ...) targets on the device and the loss; one forward pass tells how many outputs there are."""
    probe = copy.deepcopy(module).to(device).eval()
    record = feeder.slice(0, 1)
    watched = Watched(probe)
    try:
        with torch.no_grad():
            output = first_tensor(watched(record))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise RecipeError(
            f"The module does not take records of shape {tuple(record.shape[1:])} and type {record.dtype}: {error}"
        ) from error
    float_dtype = output.dtype
    if recipe.spec["task"] == "regression":
        targets = regression_targets(data, float_dtype)
        if output.numel() != targets.shape[1]:
            raise RecipeError(
                f"The module gives {output.numel()} outputs a record, but the targets have {targets.shape[1]}."
            )
        return targets.to(device), _regression_loss(settings.loss or "mse")
    of_each = "bce" if watched.reading == "probabilities" else "bce_with_logits"
    if recipe.spec["task"] == "multilabel":
        targets = label_matrix(data.y, output.numel()).to(float_dtype)
        return targets.to(device), _binary_loss(settings.loss or of_each)
    if output.ndim > 2:
        raise RecipeError(
            f"The module gives outputs of shape {tuple(output.shape)} for one record; a classifier gives (n, classes)."
        )
    n_outputs = output.shape[-1] if output.ndim == 2 else 1
    name = settings.loss or ("cross_entropy" if n_outputs > 1 else of_each)
    binary = name in ("bce", "bce_with_logits")
    if binary is not (n_outputs == 1):
        raise RecipeError(f"loss={name!r} does not go with a module of {n_outputs} output(s) a record.")
    classes = recipe.spec.get("classes")
    classes = np.unique(data.y) if classes is None else np.asarray(classes)
    index = torch.from_numpy(label_indices(data.y, classes, max(n_outputs, 2))).to(device)
    if binary:
        return index.to(float_dtype), _binary_loss(name)
    if name == "nll":
        return index, F.nll_loss
    smoothing = settings.label_smoothing
    return index, lambda output, y: F.cross_entropy(output, y, label_smoothing=smoothing)


def _regression_loss(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    losses: dict[str, Any] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss, "smooth_l1": F.smooth_l1_loss}
    return lambda output, y: losses[name](output.reshape(y.shape), y)


def _binary_loss(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    function = F.binary_cross_entropy if name == "bce" else F.binary_cross_entropy_with_logits
    return lambda output, y: function(output.reshape(y.shape), y)


def _check_constants(before: torch.nn.Module, after: torch.nn.Module, names: Sequence[str]) -> None:
    """A buffer that nobody resets but training changes would carry the target's data into its references."""
    old, new = dict(before.named_buffers()), dict(after.named_buffers())
    changed = [
        name
        for name in names
        if name not in new
        or old[name].shape != new[name].shape
        or not torch.equal(old[name].detach().cpu(), new[name].detach().cpu())
    ]
    if changed:
        raise RecipeError(
            f"Training changes the buffers {', '.join(changed)}, which no reset_parameters resets: references would "
            "start from what the target saw. Reset them in reset_parameters(self) of their submodule, or pass train_fn."
        )
