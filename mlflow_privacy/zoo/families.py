"""Which framework trains a model of some name, and on what form of records."""

from __future__ import annotations

from typing import Literal

from mlflow_privacy.zoo.building import find_model
from mlflow_privacy.zoo.data import Inputs
from mlflow_privacy.zoo.estimators import find_estimator
from mlflow_privacy.zoo.transformers_models import looks_like_transformer

Family = Literal["torch", "sklearn", "transformers"]


def model_family(name: str) -> Family | None:
    """The framework that trains a model of this name, None if nobody knows the name.

    A language model is one of the Hugging Face hub ("gpt2", "owner/name", "hf:name") or a local folder with its files.

    >>> model_family("mlp"), model_family("LogisticRegression"), model_family("gpt2"), model_family("mpl")
    ('torch', 'sklearn', 'transformers', None)
    """
    if find_model(name) is not None:
        return "torch"
    if find_estimator(name) is not None:
        return "sklearn"
    return "transformers" if looks_like_transformer(name) else None


def model_inputs(name: str) -> Inputs:
    """The form of records a model takes; scikit-learn estimators take flat ones, language models texts."""
    entry = find_model(name)
    if entry is not None:
        return entry.inputs
    return "text" if model_family(name) == "transformers" else "flat"
