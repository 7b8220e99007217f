"""Reference language models: each starts from the base checkpoint and is fine-tuned by a recipe that is data."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError, RecipeError, SignalError, StoreError
from mlflow_privacy.seeding import seeded
from mlflow_privacy.text import LanguageModel, TokenizedText, context_length, padding_id, tokenize, tokenizer_digest
from mlflow_privacy.trainers.base import Progress, Trainer
from mlflow_privacy.trainers.canonical import Walk
from mlflow_privacy.trainers.identity.modules import names_of_parts, own_modules
from mlflow_privacy.trainers.text.base import config_values, is_peft, plain_base, shared_copy, state_digest
from mlflow_privacy.trainers.text.data import TextData
from mlflow_privacy.trainers.text.peft import attach, load_adapter, peft_values, read_peft, save_adapter
from mlflow_privacy.trainers.text.settings import TextSettings, fault_text, read_text_settings
from mlflow_privacy.trainers.text.training import fit, total_steps
from mlflow_privacy.trainers.torch.kept_memory import keeping_memory
from mlflow_privacy.types import Recipe, Records, Task, to_json

_logger = logging.getLogger(__name__)
FILE = "model.safetensors"
_NOT_A_RECIPE = ("base", "tokenizer", "peft", "max_length", "text", "prompt")  # told in the spec by their content


def transformers_recipe(
    model: LanguageModel,
    settings: Mapping[str, Any],
    *,
    task: Task,
    source: str = "",
    data: Records | None = None,
) -> Recipe:
    """The recipe of a fine-tuned language model: the checkpoint it started from, and how it is trained.

    The base is `settings["base"]`: a live `LanguageModel`, a hub name or a local folder. Without it, it is the base
    inside a PEFT model, or what a whole model's configuration says it was loaded from.

    Args:
      model: the target, or any model of its architecture if the base is given.
      settings: see `mlflow_privacy.trainers.text.settings`; `base_digest` is checked against the base.
      data: the pool, if known; its classes are then part of a classifier's recipe.

    Raises:
      RecipeError: with every fault of the settings, or why there is no base.
    """
    given = dict(settings)
    live = given.pop("base") if isinstance(given.get("base"), LanguageModel) else None
    asked = given.pop("base_digest", None)
    parsed, faults = read_text_settings(given, objective=model.objective)
    asked_peft = _peft_of(model, given)
    config, peft_faults = (None, []) if asked_peft is None else read_peft(asked_peft, model.objective)
    faults += peft_faults
    peft = None if config is None else peft_values(config)
    if faults or parsed is None:
        title = "The recipe of this language model is wrong"
        if not settings:
            title = (
                "This language model has no recipe: log it with mlflow_privacy.log_lineage(recipe={...}), or pass "
                'evaluator_config={"privacy_meter": {"recipe": {...}}}'
            )
        raise RecipeError(fault_text(title, faults))
    base = _base(model, parsed, live)
    found = state_digest(base.model)
    if asked is not None and found != asked:
        raise RecipeError(
            f"The base {parsed.base!r} is not the one that was logged: its tensors have the SHA-256 {found[:12]}…, "
            f"logged was {str(asked)[:12]}…. Name the checkpoint that training started from as base."
        )
    base = dataclasses.replace(
        base,
        max_length=_max_length(base, model, parsed),
        text_column=parsed.text or model.text_column,
        prompt_column=parsed.prompt or model.prompt_column,
    )
    if peft is not None:
        with seeded(0):
            attach(base.model, peft, base.objective)
    values = dataclasses.asdict(parsed)
    spec: dict[str, Any] = {
        "objective": base.objective,
        "base": found,
        "architecture": {"class": type(plain_base(base.model)).__name__, "config": to_json(config_values(base.model))},
        "tokenizer": tokenizer_digest(base.tokenizer),
        "max_length": base.max_length,
        "columns": {"text": base.text_column, "prompt": base.prompt_column},
        "settings": to_json({key: value for key, value in values.items() if key not in _NOT_A_RECIPE}),
        "peft": to_json(peft),
        "task": task,
    }
    architecture = plain_base(base.model)
    walk = Walk(parts=names_of_parts(architecture))
    own = own_modules(architecture, walk)
    if own:
        spec["own"] = own
    if data is not None and base.objective == "sequence_classification":
        spec["classes"] = to_json(np.unique(data.y))
    return Recipe("transformers", spec, base, source, walk.code())


def settings_of(recipe: Recipe) -> TextSettings:
    """The parsed settings that a recipe holds as plain values."""
    values = dict(recipe.spec["settings"])
    return TextSettings(**{**values, "warmup": tuple(values["warmup"]), "peft": recipe.spec["peft"]})


class TransformersTrainer(Trainer):
    """Fine-tunes language models from one base, which is in memory once and never changed.

    With peft each reference is a set of adapters over the tensors of the base; without, a copy of it that the caller
    drops before the next one is made.
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
    ) -> Iterator[LanguageModel]:
        from mlflow_privacy.trainers.torch.tensors import resolve_device

        template, settings, where = _template(recipe), settings_of(recipe), resolve_device(device)
        base = plain_base(template.model)
        base = base if _device_of(base) == where else shared_copy(base).to(where)
        texts = text_data(recipe, data)
        rows = [np.flatnonzero(row) for row in np.asarray(members, bool)]
        _check_texts(texts, rows)
        totals = np.cumsum([0, *(total_steps(len(row), settings) for row in rows)])
        for i, (row, seed) in enumerate(zip(rows, seeds, strict=True)):

            def report(step: int, done: int = int(totals[i])) -> None:
                if progress is not None:
                    progress(done + step, int(totals[-1]))

            model = _fitted(base, recipe, texts, row, settings, int(seed), where, report)
            yield dataclasses.replace(template, model=model)
            del model

    def save(self, recipe: Recipe, model: LanguageModel, folder: Path) -> bool:
        """Writes adapters alone, or the whole state, as safetensors."""
        from safetensors.torch import save_model

        if recipe.spec["peft"] is not None:
            save_adapter(model.model, folder)
            return True
        if not all(hasattr(value, "untyped_storage") for value in model.model.state_dict().values()):
            return False
        save_model(model.model, str(Path(folder) / FILE))
        return True

    def load(self, recipe: Recipe, folder: Path) -> LanguageModel:
        """The stored model on the CPU, in evaluation mode; adapters over the tensors of the recipe's base."""
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        template = _template(recipe)
        base = plain_base(template.model)
        if recipe.spec["peft"] is not None:
            model = load_adapter(base, recipe.spec["peft"], template.objective, Path(folder))
            return dataclasses.replace(template, model=model.eval())
        path = Path(folder) / FILE
        if not path.is_file():
            raise StoreError(f"{folder} holds no {FILE}; this reference model must be trained again.")
        model = copy.deepcopy(base).cpu()
        try:
            load_model(model, str(path), strict=True)
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            raise StoreError(f"{path.name} does not hold this model's state: {error}") from error
        return dataclasses.replace(template, model=model.eval())


# --- the base ----------------------------------------------------------------------------------------------------


def _peft_of(model: LanguageModel, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The adapters' configuration: what the settings say, else that of the model; None where all weights train."""
    if settings.get("peft") is not None:
        peft = settings["peft"]
        return peft if isinstance(peft, Mapping) else {"type": peft} if isinstance(peft, str) else None
    if is_peft(model.model):
        return peft_values(model.model.peft_config[model.model.active_adapter])
    return None


def _base(model: LanguageModel, parsed: TextSettings, live: LanguageModel | None) -> LanguageModel:
    """The live base; loaded by name where it is not at hand.

    Raises:
      RecipeError: there is none, or it is the audited model itself.
    """
    if live is not None:
        return dataclasses.replace(live, model=plain_base(live.model))
    if parsed.base is None and is_peft(model.model):
        return dataclasses.replace(model, model=plain_base(model.model))
    from mlflow_privacy.zoo.transformers_models import load_base

    config = plain_base(model.model).config if not is_peft(model.model) else model.model.get_base_model().config
    name = parsed.base or str(config.name_or_path or "")
    remedy = 'Log it with mlflow_privacy.log_lineage(recipe={"base": "FOLDER OR HUB NAME", ...}).'
    if not name:
        raise RecipeError(f"The checkpoint that this model was fine-tuned from is not known. {remedy}")
    labels = int(config.num_labels) if model.objective == "sequence_classification" else None
    try:
        base = load_base(name, objective=model.objective, num_labels=labels, tokenizer=parsed.tokenizer)
    except ConfigError as error:
        raise RecipeError(f"The checkpoint that this model was fine-tuned from cannot be loaded: {error}") from error
    if parsed.tokenizer is None:
        base = dataclasses.replace(base, tokenizer=model.tokenizer)
    if not is_peft(model.model) and state_digest(base.model) == state_digest(model.model):
        raise RecipeError(
            f"The base {name!r} holds the weights of the audited model itself, not those it was fine-tuned from: every "
            f"reference would have seen the target's data. {remedy}"
        )
    return base


def _max_length(base: LanguageModel, model: LanguageModel, parsed: TextSettings) -> int:
    """Tokens a text, at most what the model's positions reach."""
    limit = context_length(plain_base(base.model).config)
    wanted = parsed.max_length or min(model.max_length, limit)
    if wanted > limit:
        raise RecipeError(f"max_length is {wanted}, but the model takes at most {limit} tokens. Use {limit} or less.")
    return wanted


def _template(recipe: Recipe) -> LanguageModel:
    if not isinstance(recipe.template, LanguageModel):
        raise RecipeError("The recipe's base is not at hand: make the recipe again from the registered model.")
    return recipe.template


def _device_of(model: Any) -> Any:
    return next(model.parameters()).device


# --- one reference -----------------------------------------------------------------------------------------------


def _fitted(
    base: Any,
    recipe: Recipe,
    texts: TextData,
    rows: np.ndarray,
    settings: TextSettings,
    seed: int,
    device: Any,
    report: Any,
) -> Any:
    """One trained model; with smaller batches from the start again where memory runs out and that is allowed."""
    import torch

    size = settings.batch_size
    while True:
        with seeded(seed):
            model = fresh(base, recipe, steps=total_steps(len(rows), settings))
            try:
                fit(model, texts, rows, settings, seed=seed, device=device, batch_size=size, report=report)
                return model.eval()
            except torch.cuda.OutOfMemoryError:
                if not settings.auto_find_batch_size or size == 1:
                    raise
        del model
        torch.cuda.empty_cache()
        size = max(d for d in range(1, size) if size % d == 0)
        _logger.warning("Out of memory; training again with batches of %d texts.", size)


def fresh(base: Any, recipe: Recipe, *, steps: int = 0) -> Any:
    """An untrained reference: new adapters over the base, or a copy of it. Draws from torch's global generator."""
    if recipe.spec["peft"] is not None:
        return attach(base, recipe.spec["peft"], recipe.spec["objective"], steps=steps)
    model = copy.deepcopy(base)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model


def text_data(recipe: Recipe, data: Records) -> TextData:
    """The pool as tokens, with class indices for a classifier.

    Raises:
      RecipeError: the records have no such column, or labels that are no class of the model.
    """
    template = _template(recipe)
    try:
        tokens = tokenize(
            template.tokenizer,
            data.x,
            max_length=template.max_length,
            text_column=template.text_column,
            prompt_column=template.prompt_column,
        )
    except SignalError as error:
        raise RecipeError(str(error)) from error
    labels = None
    if template.objective == "sequence_classification":
        from mlflow_privacy.trainers.torch.tensors import label_indices

        classes = recipe.spec.get("classes")
        known = np.unique(data.y) if classes is None else np.asarray(classes)
        labels = label_indices(data.y, known, int(plain_base(template.model).config.num_labels))
        labels = np.asarray(labels, np.int64)
    return TextData(tokens, labels, padding_id(template.tokenizer), template.objective)


def _check_texts(data: TextData, rows: Sequence[np.ndarray]) -> None:
    """Every member must say something: a loss over no token is not a number."""
    tokens: TokenizedText = data.tokens
    lengths = np.diff(tokens.offsets)
    if data.objective == "causal_lm":
        counted = tokens.is_response.copy()
        counted[tokens.offsets[:-1][lengths > 0]] = False
        lengths = np.diff(np.concatenate([[0], np.cumsum(counted)])[tokens.offsets])
    used = np.unique(np.concatenate([*rows, np.zeros(0, np.int64)])).astype(np.int64)
    empty = used[lengths[used] == 0]
    if len(empty):
        raise RecipeError(
            f"{len(empty)} of {len(used)} records have no token to learn, the first is record {int(empty[0])}: texts "
            "that are empty, of a single token, or whose prompt alone fills max_length. Leave them out, or raise "
            "max_length."
        )
    if any(not len(row) for row in rows):
        raise RecipeError("A reference model would train on no record: use a larger pool or a larger fraction.")
