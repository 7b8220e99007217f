"""Which output of a classifier means which label, where lineage says it: `classes`, or the `id2label` of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.text import LanguageModel


def output_classes(native: Any, said: Any, y: np.ndarray) -> tuple[Any, ...] | None:
    """The pool's labels in the order of the model's outputs; None where nothing is said, which means sorted.

    Args:
      native: a model whose config may name its classes, as those of transformers do.
      said: what the caller or the lineage says, the first output's label first.
      y: (n,) labels of the pool.

    Raises:
      ConfigError: `said` does not name every label, or one twice.

    >>> output_classes(None, ["yes", "no"], np.array(["no", "yes"]))
    ('yes', 'no')
    >>> output_classes(None, [1, 0], np.array([0.0, 1.0])), output_classes(None, None, np.array([0, 1]))
    ((1.0, 0.0), None)
    """
    labels = np.unique(y).tolist()
    if said is None:
        return _of_config(native, labels)
    given = plain_classes(said)
    found = _as_labels(given, labels)
    missing = [label for label in labels if label not in found]
    if missing or len(set(map(str, given))) != len(given):
        what = f"does not name the label {missing[0]!r} of the data" if missing else "names a label twice"
        raise ConfigError(
            f"classes={given!r} {what}: it must name every label once, in the order of the model's outputs; the data "
            f"has {labels[:20]!r}."
        )
    return tuple(found)


def plain_classes(said: Any) -> list[Any]:
    """Labels as plain values.

    Raises:
      ConfigError: it is no list of numbers and strings.

    >>> plain_classes(np.array(["yes", "no"]))
    ['yes', 'no']
    """
    given = said.tolist() if hasattr(said, "tolist") else said
    if isinstance(given, (list, tuple)) and len(given) > 1:
        given = [value.item() if isinstance(value, np.generic) else value for value in given]
        if all(isinstance(value, (str, int, float, bool)) for value in given):
            return given
    raise ConfigError(
        f'classes must be a list of labels, that of the first output first, such as ["no", "yes"], got {said!r}.'
    )


def _as_labels(given: Sequence[Any], labels: Sequence[Any]) -> list[Any]:
    """The names given as the data spells them: equal values, else equal texts."""
    by_value, by_text = {label: label for label in labels}, {str(label): label for label in labels}
    return [by_value.get(value, by_text.get(str(value), value)) for value in given]


def _of_config(native: Any, labels: Sequence[Any]) -> tuple[Any, ...] | None:
    """The names of `id2label`, if the labels of the data are among them, whatever their case."""
    model = native.model if isinstance(native, LanguageModel) else native
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, Mapping) or not labels or not all(isinstance(label, str) for label in labels):
        return None
    try:
        ordered = [str(names[key]) for key in sorted(names, key=int)]
    except (TypeError, ValueError):
        return None
    for form in (str, str.casefold):
        known = {form(name): name for name in ordered}
        spelt = {known[form(label)]: label for label in labels if form(label) in known}
        if len(known) == len(ordered) and len(spelt) == len(labels):
            return tuple(spelt.get(name, name) for name in ordered)
    return None
