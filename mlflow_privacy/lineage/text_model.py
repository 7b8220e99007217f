"""The language model inside a loaded pyfunc model: of the transformers flavor, or of a PythonModel that holds one."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from mlflow_privacy.errors import LineageError
from mlflow_privacy.text import LanguageModel, Objective
from mlflow_privacy.types import Records

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_CLASSIFIER = "ForSequenceClassification"


def text_model(loaded: Any) -> LanguageModel | None:
    """The language model of a pyfunc model, None if it holds no transformers model.

    Raises:
      LineageError: it is a transformers model, but neither a causal language model nor a classifier of texts.
    """
    flavor = loaded.metadata.flavors.get("transformers")
    if flavor is not None:
        holder: Any = loaded.get_raw_model()
        kind = f"pipeline of the task {flavor.get('task') or getattr(holder, 'task', None)!r}"
    else:
        holder = _python_model(loaded)
        kind = f"PythonModel {type(holder).__name__}"
        if holder is None or not _is_transformers(getattr(holder, "model", None)):
            return None
    if isinstance(holder, Mapping):
        model, tokenizer = holder.get("model"), holder.get("tokenizer")
    else:
        model, tokenizer = getattr(holder, "model", None), getattr(holder, "tokenizer", None)
    if not _is_transformers(model):
        raise LineageError(
            f"A {kind} whose model is a {type(model).__name__} cannot be audited: log a transformers model for "
            "PyTorch, or an adapter of peft, together with its tokenizer."
        )
    if flavor is not None and not _peft(model):
        _remember_source(model, flavor)
    return language_model(model, tokenizer, kind)


def language_model(model: Any, tokenizer: Any, kind: str = "model") -> LanguageModel:
    """A live transformers or peft model with its tokenizer; its padding is that of the tokenizer, or its end token.

    Raises:
      LineageError: it is neither a causal language model nor a classifier of texts.
    """
    from mlflow_privacy.zoo.transformers_models import default_length, set_padding

    inner = model.get_base_model() if _peft(model) else model
    objective = _objective(inner)
    if objective is None:
        raise LineageError(
            f"A {kind} with a {type(inner).__name__} gives no log-probability of a text or of its class, so it cannot "
            "be audited. Causal language models (…ForCausalLM) and classifiers of texts (…ForSequenceClassification, "
            "one class a text) can."
        )
    if tokenizer is None:
        raise LineageError(f"A {kind} without a tokenizer cannot be audited: log model and tokenizer together.")
    set_padding(inner, tokenizer)
    return LanguageModel(model.eval(), tokenizer, objective, default_length(inner, tokenizer))


def with_settings(native: LanguageModel, settings: Mapping[str, Any], pool: Records) -> LanguageModel:
    """The model with the length its training used, and the columns that the pool has."""
    from mlflow_privacy.trainers.text.settings import ALIASES

    length = next((value for key, value in settings.items() if ALIASES.get(key, key) == "max_length"), None)
    try:
        known = int(float(length)) if length is not None else native.max_length
    except (TypeError, ValueError):  # the recipe will say so
        known = native.max_length
    columns = [str(name) for name in pool.x.columns]
    prompt = columns[0] if len(columns) == 2 else None
    return dataclasses.replace(native, max_length=max(known, 1), text_column=columns[-1], prompt_column=prompt)


def _objective(model: Any) -> Objective | None:
    name, config = type(model).__name__, model.config
    if name.endswith(_CAUSAL) and not getattr(config, "is_encoder_decoder", False):
        return "causal_lm"
    single = getattr(config, "problem_type", None) in (None, "single_label_classification")
    return "sequence_classification" if name.endswith(_CLASSIFIER) and config.num_labels > 1 and single else None


def _python_model(loaded: Any) -> Any:
    """The PythonModel of a pyfunc model, which MLflow has loaded already; None if it is of another kind."""
    from mlflow.exceptions import MlflowException

    if "transformers" not in sys.modules:  # then it holds no model of it
        return None
    try:
        return loaded.unwrap_python_model()
    except (MlflowException, AttributeError):
        return None


def _is_transformers(model: Any) -> bool:
    transformers = sys.modules.get("transformers")
    return transformers is not None and (isinstance(model, transformers.PreTrainedModel) or _peft(model))


def _peft(model: Any) -> bool:
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def _remember_source(model: Any, flavor: Mapping[str, Any]) -> None:
    """The name under which training loaded the model: MLflow loads it from its own files, and calls it so."""
    name = str(flavor.get("source_model_name") or "")
    if name:
        model.config.name_or_path = name
