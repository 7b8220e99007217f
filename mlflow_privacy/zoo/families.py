"""Which framework trains a model of some name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Family = Literal["torch", "sklearn", "transformers"]
# Names of the Hugging Face hub without an owner before them: of the first years, and no more are added.
_OLD_NAMES = (
    *("albert-", "bert-", "camembert-", "distilbert-", "distilgpt2", "distilroberta-", "gpt2", "openai-gpt"),
    *("roberta-", "xlm-", "xlnet-"),
)


def model_family(name: str) -> Family | None:
    """The framework that trains a model of this name, None if nobody knows the name.

    A language model is one of the Hugging Face hub ("gpt2", "owner/name", "hf:name") or a local folder with its files.

    >>> model_family("mlp"), model_family("LogisticRegression"), model_family("gpt2"), model_family("mpl")
    ('torch', 'sklearn', 'transformers', None)
    """
    from mlflow_privacy.zoo.registry import find_estimator, find_model

    if find_model(name) is not None:
        return "torch"
    if find_estimator(name) is not None:
        return "sklearn"
    return "transformers" if looks_like_transformer(name) else None


def looks_like_transformer(name: str) -> bool:
    """Whether a name can only mean a language model: by its form, or because such a folder exists."""
    return name.startswith(("hf:", *_OLD_NAMES)) or "/" in name or (Path(name).expanduser() / "config.json").is_file()
