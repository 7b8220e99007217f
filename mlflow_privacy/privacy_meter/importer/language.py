"""Language models of a log directory: the checkpoint they started from, and their weights in it."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_privacy.errors import ConfigError, StoreError
from mlflow_privacy.privacy_meter.importer.architectures import name_faults, some, tensor_faults
from mlflow_privacy.privacy_meter.importer.weights import read_config
from mlflow_privacy.text import LanguageModel, context_length
from mlflow_privacy.trainers.text.private import ignored_on_load
from mlflow_privacy.types import Records

if TYPE_CHECKING:
    from mlflow_privacy.zoo import DataSet

_TOKENS, _WARMUP = 512, 500  # tokens a text, and steps until the full learning rate, in all its training
_ADAPTER = re.compile(r"(^|\.)(base_model\.model|lora_\w+|base_layer|modules_to_save)\.")
# Buffers that older versions of transformers stored; newer ones compute them.
_BUFFERS = (r"\.attn\.(bias|masked_bias)$", r"\.rotary_emb\.inv_freq$")
# Of a configuration what changes no output of the model in evaluation mode.
_NO_OUTPUT = re.compile(
    r"_.*|architectures|transformers_version|(torch_)?dtype|use_cache|auto_map|name_or_path|.*_token_id|.*(dropout|pdrop)"
    r"|summary_.*|initializer_range|task_specific_params|problem_type|id2label|label2id|num_labels|tie_word_embeddings"
    r"|(output|return)_.*|gradient_checkpointing"
)


def is_language_model(name: str) -> bool:
    """Whether a model of the metadata is one of transformers.

    >>> is_language_model("gpt2"), is_language_model("CNN")
    (True, False)
    """
    from mlflow_privacy.privacy_meter.importer.architectures import check_name
    from mlflow_privacy.zoo.transformers_models import looks_like_transformer

    return bool(check_name(name)) and looks_like_transformer(name)


@dataclasses.dataclass(frozen=True)
class LanguageTemplate:
    """The checkpoint that all models of the directory started from.

    Attributes:
      base: with the tokenizer, the text column and the length of the training.
    """

    base: LanguageModel

    def faults(self, state: Mapping[str, Any]) -> list[str]:
        """What is wrong with a file's tensors.

        As in transformers' own loading, one name of tied weights is enough, the prefix of the inner model may be
        missing, and computed buffers count as nothing. All else must be there once and fit.
        """
        adapters = [name for name in state if _ADAPTER.search(name)]
        if adapters:
            return [
                f"it holds adapters of peft ({some(adapters)}). Merge them into the model with merge_and_unload(), "
                "and save its state dict"
            ]
        groups, names, stray = self._groups(), self._names(state), []
        for theirs, ours in names.items():
            if ours is None and not self._is_ignored(theirs):
                stray.append(theirs)
        given: dict[str, str] = {ours: theirs for theirs, ours in names.items() if ours is not None}
        twice = [theirs for theirs, ours in names.items() if ours is not None and given[ours] != theirs]
        missing = [group[0] for group in groups if not any(name in given for name in group)]
        shapes = {name: tuple(value.shape) for name, value in self.base.model.state_dict().items()}
        used = {theirs: state[theirs] for theirs in given.values()}
        faults = name_faults(missing, stray) + tensor_faults(used, {given[name]: shapes[name] for name in given})
        if twice:
            faults.append(f"it has {some(twice)} twice, with the inner model's prefix and without")
        for group in groups:
            first, *others = [given[name] for name in group if name in given] or [""]
            faults += [
                f"{first} and {other} differ, but are one tensor in this architecture"
                for other in others
                if state[first].shape == state[other].shape and not bool((state[first] == state[other]).all())
            ]
        return faults

    def filled(self, state: Mapping[str, Any], trained_on: Any = None) -> LanguageModel:
        """The model with the weights of a file, in evaluation mode; the base stays as it is."""
        given = {ours: theirs for theirs, ours in self._names(state).items() if ours is not None}
        values = {
            name: state[next(given[other] for other in group if other in given)]
            for group in self._groups()
            for name in group
        }
        model = copy.deepcopy(self.base.model)
        model.load_state_dict(values, strict=True)
        return dataclasses.replace(self.base, model=model.eval())

    def config_faults(self, folder: Path) -> list[str]:
        """In what the `config.json` beside a model's weights says another computation than the base's."""
        try:
            theirs = read_config(folder)
        except StoreError as error:
            return [str(error)]
        ours = self.base.model.config.to_dict()
        other = {
            key: value
            for key, value in theirs.items()
            if key in ours and not _NO_OUTPUT.fullmatch(key) and value != ours[key]
        }
        return [
            f"its config.json has {key} {value!r}, the checkpoint that training started from has {ours[key]!r}. Name "
            "the right one with --base"
            for key, value in other.items()
        ]

    def is_base(self, state: Mapping[str, Any]) -> bool:
        """Whether sound weights are those of the base itself."""
        own = self.base.model.state_dict()
        return all(bool((state[theirs] == own[ours]).all()) for theirs, ours in self._names(state).items() if ours)

    def _groups(self) -> list[list[str]]:
        """Names of the state's tensors; those of one tensor together."""
        groups: dict[int, list[str]] = {}
        for name, value in self.base.model.state_dict(keep_vars=True).items():
            groups.setdefault(id(value), []).append(name)
        return list(groups.values())

    def _names(self, state: Mapping[str, Any]) -> dict[str, str | None]:
        """By each name in a file, the name in the base's state; None if it has none."""
        own, prefix = self.base.model.state_dict(), f"{self.base.model.base_model_prefix}."
        return {name: name if name in own else prefix + name if prefix + name in own else None for name in state}

    def _is_ignored(self, name: str) -> bool:
        patterns = [*_BUFFERS, *ignored_on_load(self.base.model)]
        computed = {key for key, _ in self.base.model.named_buffers()}
        return name in computed or any(re.search(pattern, f".{name}") for pattern in patterns)


def language_template(base: str, data: DataSet, tokenizer: str | None) -> LanguageTemplate:
    """The checkpoint of a name or folder, for texts as Privacy Meter cuts them off.

    Raises:
      ConfigError: it cannot be loaded, or the data set holds no texts.
    """
    from mlflow_privacy.zoo.transformers_models import load_base

    if data.modality != "text":
        raise ConfigError(f"it is a language model, but {data.name!r} holds {data.modality} records.")
    try:
        found = load_base(base, objective="causal_lm", tokenizer=tokenizer)
    except ConfigError as error:
        raise ConfigError(f"{error} Name the checkpoint that its training started from with --base.") from error
    length = min(_TOKENS, context_length(found.model.config))
    return LanguageTemplate(dataclasses.replace(found, max_length=length, text_column=str(data.records.x.columns[0])))


def language_settings(
    metadata: Mapping[str, Any], base: str, tokenizer: str | None, max_length: int | None
) -> dict[str, Any]:
    """How Privacy Meter fine-tunes: transformers' own training, with a warm-up that no key changes."""
    settings = {
        "base": base,
        "tokenizer": tokenizer,
        **{key: metadata[key] for key in ("optimizer", "batch_size", "epochs", "learning_rate", "weight_decay")},
        "schedule": "linear",
        "warmup_steps": _WARMUP,
        "max_length": max_length,
    }
    return {key: value for key, value in settings.items() if value is not None}


def as_trained(data: DataSet, name: str) -> DataSet:
    """The texts of its data set of this name as Privacy Meter trains on them: in AG News a backslash is a blank."""
    if name != "agnews" or data.modality != "text":
        return data
    population = None if data.population is None else _without_backslashes(data.population)
    return dataclasses.replace(data, records=_without_backslashes(data.records), population=population)


def _without_backslashes(records: Records) -> Records:
    column = records.x.columns[0]
    texts = [text.replace("\\", " ") for text in records.x[column]]
    return Records(records.x.assign(**{column: texts}), records.y, records.row_ids)
