"""Base checkpoints of transformers, by hub name or local folder. Their own code is never run, no pickle is read."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.text import MAX_LENGTH, context_length

if TYPE_CHECKING:
    from mlflow_privacy.text import LanguageModel, Objective

HUB = "hf:"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# Names of the Hugging Face hub without an owner before them: of the first years, and no more are added.
_OLD_NAMES = (
    *("albert-", "bert-", "camembert-", "distilbert-", "distilgpt2", "distilroberta-", "gpt2", "openai-gpt"),
    *("roberta-", "xlm-", "xlnet-"),
)


def looks_like_transformer(name: str) -> bool:
    """Whether a name can only mean a language model: by its form, or because such a folder exists."""
    return name.startswith(("hf:", *_OLD_NAMES)) or "/" in name or (Path(name).expanduser() / "config.json").is_file()


def check_transformer(name: str) -> list[str]:
    """What is wrong with the name of a base checkpoint, as sentences; needs no network.

    Args:
      name: a hub name such as "gpt2" or "org/name", the same after "hf:", or a folder with `config.json`.

    >>> check_transformer("gpt2"), check_transformer("hf:org/name")
    ([], [])
    >>> check_transformer("no/such/folder")
    ["'no/such/folder' is neither the name of a model on the Hugging Face hub nor a folder that exists."]
    """
    if not isinstance(name, str) or not name.strip():
        return [f"the name of a language model must be a hub name or a folder, got {name!r}."]
    folder = Path(name).expanduser()
    if not name.startswith(HUB) and folder.is_dir():
        return [] if (folder / "config.json").is_file() else [f"the folder {name!r} holds no config.json."]
    if not _NAME.fullmatch(name.removeprefix(HUB)):
        return [f"{name!r} is neither the name of a model on the Hugging Face hub nor a folder that exists."]
    return []


def load_base(
    name: str, *, objective: Objective, num_labels: int | None = None, tokenizer: str | None = None
) -> LanguageModel:
    """Loads a base checkpoint with its tokenizer, on the CPU, in float32, in evaluation mode.

    Weights are read from safetensors, else by `torch.load` restricted to tensors; code beside them is never run. A
    head that the checkpoint does not have, such as a classifier's, is drawn from seed 0, so that it is always the same.

    Args:
      name: see `check_transformer`.
      objective: "causal_lm" or "sequence_classification".
      num_labels: classes of a classifier.
      tokenizer: of another name or folder; the model's own if None.

    Raises:
      ConfigError: there is no such model, it is not cached and the hub cannot be reached, it would need its own code,
        or its architecture has no such objective.
    """
    import torch
    import transformers

    from mlflow_privacy.seeding import seeded
    from mlflow_privacy.text import LanguageModel

    classes = {
        "causal_lm": transformers.AutoModelForCausalLM,
        "sequence_classification": transformers.AutoModelForSequenceClassification,
    }
    faults = check_transformer(name) + (check_transformer(tokenizer) if tokenizer else [])
    if objective not in classes:
        faults.append(f"objective must be one of {', '.join(classes)}{nearest(objective, classes) or '.'}")
    if objective == "sequence_classification" and (num_labels is None or num_labels < 2):
        faults.append(f"a sequence classifier needs num_labels of at least 2, got {num_labels}.")
    if faults:
        raise ConfigError("\n  - ".join(["The language model cannot be loaded:", *faults]) if faults[1:] else faults[0])
    options: dict[str, Any] = {"num_labels": num_labels} if objective == "sequence_classification" else {}
    place = _place(name)
    with seeded(0), quiet():
        try:
            model = _load(classes[objective], place, options, torch.float32)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise ConfigError(_why(name, place, error)) from error
    found = load_tokenizer(tokenizer or name)
    set_padding(model, found)
    return LanguageModel(model.eval(), found, objective, default_length(model, found))


def load_masked(name: str, tokenizer: str | None = None) -> tuple[Any, Any]:
    """A masked language model with its tokenizer, loaded as `load_base` loads, by hub name or folder.

    Raises:
      ConfigError: there is no such model, or it is none that fills masks.
    """
    import torch
    import transformers

    from mlflow_privacy.seeding import seeded

    faults = check_transformer(name) + (check_transformer(tokenizer) if tokenizer else [])
    if faults:
        raise ConfigError("\n  - ".join(["The masked language model cannot be loaded:", *faults]))
    place = _place(name)
    with seeded(0), quiet():
        try:
            model = _load(transformers.AutoModelForMaskedLM, place, {}, torch.float32)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise ConfigError(_why(name, place, error)) from error
    return model.eval(), load_tokenizer(tokenizer or name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers' logs and progress bars, switched off for a while."""
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()


def _place(name: str) -> str:
    """A folder in full: for one called "gpt2" MLflow would look on the hub, a minute where there is no network."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if not name.startswith(HUB) and folder.is_dir() else name.removeprefix(HUB)


def _load(cls: Any, place: str, options: dict[str, Any], dtype: Any) -> Any:
    """Safetensors if there are any; else transformers' own loading, which reads tensors only (`weights_only`)."""
    options = {**options, "trust_remote_code": False, _dtype_key(): dtype}
    try:
        return cls.from_pretrained(place, use_safetensors=True, **options)
    except OSError as error:
        if "safetensors" not in str(error).lower():
            raise
    return cls.from_pretrained(place, use_safetensors=False, weights_only=True, **options)


def _dtype_key() -> str:
    import transformers

    return "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a hub name or folder, without running code of its own.

    Raises:
      ConfigError: there is none.
    """
    import transformers

    place = _place(name)
    try:
        return transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ConfigError(f"The tokenizer cannot be loaded. {_why(name, place, error)}") from error


def set_padding(model: Any, tokenizer: Any) -> None:
    """Tells a model which token fills batches, so that a classifier finds the last token before them.

    The tokenizer's own, else its end token; the tokenizer itself is not changed.
    """
    config = model.config
    if getattr(config, "pad_token_id", None) is None:
        found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        config.pad_token_id = 0 if found is None else int(found)


def default_length(model: Any, tokenizer: Any) -> int:
    """Tokens a text: what model and tokenizer allow, at most 1,024."""
    named = int(getattr(tokenizer, "model_max_length", None) or MAX_LENGTH)
    return min(context_length(model.config), named, MAX_LENGTH)


def _why(name: str, place: str, error: Exception) -> str:
    """The error of a load, with the files and the remedy."""
    first = str(error).strip().split("\n")[0]
    if Path(place).is_dir():
        config = Path(place) / "config.json"
        try:
            own_code = "auto_map" in json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            own_code = False
        if own_code:
            return (
                f"The model in {name!r} comes with code of its own, which is never run. Use an architecture that "
                "transformers has."
            )
        return (
            f"The folder {name!r} does not hold a language model that can be loaded ({first}). It must hold "
            "config.json, model.safetensors and tokenizer.json, as save_pretrained writes them."
        )
    return (
        f"The language model {name!r} is not in the local cache and cannot be downloaded ({first}). On a machine with "
        f"network, run `hf download {place} config.json model.safetensors tokenizer.json tokenizer_config.json "
        f"--local-dir FOLDER`, and give FOLDER instead of the name."
    )
