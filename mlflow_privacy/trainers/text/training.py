"""One fine-tuning run through transformers' `Trainer`: quiet, seeded, on texts that are packed or padded by batches."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.text import Objective
from mlflow_privacy.trainers.settings import optimizer_class
from mlflow_privacy.trainers.text.data import IGNORED, TextData, collate
from mlflow_privacy.trainers.text.packing import Packing, keeps_texts_apart
from mlflow_privacy.trainers.text.private import on_one_device
from mlflow_privacy.trainers.text.settings import TextSettings

_logger = logging.getLogger(__name__)
_WORK_FOR_THREADS = 2**26  # multiplications of a forward pass


def fit(
    model: Any,
    data: TextData,
    rows: np.ndarray,
    settings: TextSettings,
    *,
    seed: int,
    device: Any,
    batch_size: int | None = None,
    report: Callable[[int], None] | None = None,
) -> None:
    """Trains `model` on the texts at `rows` (n,) in place, and leaves nothing on disk.

    Args:
      batch_size: a divisor of that of the settings: smaller batches, more of them a step; a step takes as many texts.
      report: called with the steps done.

    Raises:
      RecipeError: the optimizer is not installed, or transformers refuses the settings.
    """
    import transformers

    size = batch_size or settings.batch_size
    accumulate = settings.gradient_accumulation_steps * (settings.batch_size // size)
    steps = total_steps(len(rows), settings)
    tokens = size * max(int(np.diff(data.tokens.offsets).max(initial=1)), 1)
    with (
        tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as folder,
        _quiet(),
        _on(device),
        _threads(tokens * sum(p.numel() for p in model.parameters()), device),
    ):
        try:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulate,
                num_train_epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.grad_clip,
                lr_scheduler_type=_schedule(settings),
                warmup_steps=warmup_steps(settings, steps),
                optim="adamw_torch" if optimizer_class(settings.optimizer) is not None else settings.optimizer,
                bf16=device.type == "cuda" and _has_bf16(),
                use_cpu=device.type == "cpu",
                seed=seed % 2**32,
                remove_unused_columns=False,
                dataloader_pin_memory=device.type != "cpu",
                save_strategy="no",
                eval_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                log_level="error",
                average_tokens_across_devices=False,
            )
            trainer = transformers.Trainer(
                model=model,
                args=on_one_device(arguments),
                train_dataset=[int(row) for row in rows],  # type: ignore[arg-type]
                data_collator=_collator(model, data, rows, size),
                compute_loss_func=_loss(model, settings, data.objective),
                callbacks=[_callback(model, report)],
                optimizers=(optimizer_of(model, settings), None),
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        except (ImportError, ValueError) as error:
            raise RecipeError(f"transformers cannot train a {type(model).__name__} so: {error}") from error
    model.zero_grad(set_to_none=True)


def _collator(model: Any, data: TextData, rows: np.ndarray, size: int) -> Callable[[list[int]], dict[str, Any]]:
    """Makes batches: packed where the model keeps texts apart, else padded."""
    packing = Packing.of(model, data)
    if size == 1 or not keeps_texts_apart(model, packing, rows):
        return lambda batch: collate(data, batch)
    return lambda batch: packing(batch) or collate(data, batch)


def total_steps(n: int, settings: TextSettings) -> int:
    """Optimizer steps of one model that trains on n records."""
    batches = math.ceil(n / settings.batch_size)
    return settings.epochs * max(math.ceil(batches / settings.gradient_accumulation_steps), 1)


def warmup_steps(settings: TextSettings, steps: int) -> int:
    """Steps of the linear rise."""
    unit, amount = settings.warmup
    return min(steps, round(amount * {"epochs": steps / settings.epochs, "steps": 1, "ratio": steps}[unit]))


def batch_loss(logits: Any, labels: Any, objective: Objective, *, n: Any = None, smoothing: float = 0.0) -> Any:
    """Cross-entropy of what counts, over `n` (by default how many count), in float32.

    Args:
      logits: (b, T', vocabulary) with T' >= T for virtual tokens before the text, or (b, classes).
      labels: (b, T) or (b,).
    """
    import torch.nn.functional as F

    if objective == "causal_lm":
        labels = labels[:, 1:]
        logits = logits[:, logits.shape[1] - labels.shape[1] - 1 : -1]
    counted = labels != IGNORED
    total = F.cross_entropy(logits[counted].float(), labels[counted], reduction="sum", label_smoothing=smoothing)
    return total / (counted.sum().clamp(min=1) if n is None else n)


def _loss(model: Any, settings: TextSettings, objective: Objective) -> Callable[..., Any]:
    tuner = getattr(model, "base_model", None)
    orthogonal = _orthogonality(model) if hasattr(tuner, "update_and_allocate") else None

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        value = batch_loss(outputs.logits, labels, objective, n=num_items_in_batch, smoothing=settings.label_smoothing)
        if orthogonal is None:
            return value
        share = 1.0 if num_items_in_batch is None else float((labels != IGNORED).sum()) / float(num_items_in_batch)
        return value + share * orthogonal()

    return loss


def _orthogonality(model: Any) -> Callable[[], Any]:
    """AdaLoRA's mean Frobenius norm of PᵀP - I and QQᵀ - I (Zhang et al. 2023, https://arxiv.org/abs/2303.10512)."""
    import torch

    weight = model.peft_config[model.active_adapter].orth_reg_weight
    parts = [(name, p) for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name]

    def value() -> Any:
        norms = []
        for name, p in parts:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            norms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)))
        return weight * torch.stack(norms).mean()

    return value


def optimizer_of(model: Any, settings: TextSettings) -> Any:
    """An optimizer of `torch.optim`, weight decay on matrices only; None for those that transformers makes itself.

    Fused where torch has it so: one kernel for all weights, instead of several for each.
    """
    cls = optimizer_class(settings.optimizer)
    if cls is None:
        return None
    decayed: list[Any] = []
    spared: list[Any] = []
    norms = {
        id(p)
        for part in model.modules()
        if "norm" in type(part).__name__.lower()
        for p in part.parameters(recurse=False)
    }
    for name, p in model.named_parameters():
        if p.requires_grad:
            (spared if id(p) in norms or name.rpartition(".")[2].endswith("bias") else decayed).append(p)
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.optimizer_options.items()}
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    try:
        return cls(groups, lr=settings.learning_rate, **options, fused=True)
    except (RuntimeError, TypeError):  # not for this optimizer, type or device
        return cls(groups, lr=settings.learning_rate, **options)


def _schedule(settings: TextSettings) -> str:
    return "constant_with_warmup" if settings.schedule == "constant" and settings.warmup[1] else settings.schedule


def _callback(model: Any, report: Callable[[int], None] | None) -> Any:
    from transformers import TrainerCallback

    allocate = getattr(getattr(model, "base_model", None), "update_and_allocate", None)

    class Progress(TrainerCallback):
        """Says how far it is; lets AdaLoRA move its ranks while gradients are there."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if allocate is not None:
                allocate(state.global_step + 1)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if report is not None:
                report(state.global_step)

    return Progress()


def _has_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported()


@contextlib.contextmanager
def _on(device: Any) -> Iterator[None]:
    """The current CUDA device, which transformers trains on."""
    import torch

    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


def _threads(work: int, device: Any) -> contextlib.AbstractContextManager[object]:
    """One CPU thread for a model whose step is so short that threads would wait for each other most of it."""
    from mlflow_privacy.trainers.torch.loop import one_thread

    return one_thread() if device.type == "cpu" and work < _WORK_FOR_THREADS else contextlib.nullcontext()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers' warnings and logs, switched off for a while."""
    import warnings

    from transformers.utils import logging as theirs

    before = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(before)
