"""The fields of an impact assessment that only the controller can fill: which there are, and a file to fill them in.

What was filled in once is kept with the audit run, and the next audit of the model starts from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from mlflow_privacy.errors import ConfigError, nearest

_LONGEST = 4000  # characters of a text


class Field(NamedTuple):
    """One field: its key in the file, the part of Art. 35 it belongs to, its title, and what to write there."""

    key: str
    part: str
    title: str
    hint: str


FIELDS = (
    Field("purposes", "a", "Purposes, and the interests pursued", "Why the model exists, who uses it, and for what."),
    Field(
        "categories",
        "a",
        "Categories of data, and of people",
        "Whose data it was trained on, such as customers or patients; and whether special categories are among them "
        "(Art. 9: health, origin, beliefs, …).",
    ),
    Field("legal_basis", "b", "Legal basis", "And for special categories of data, the exception that applies."),
    Field(
        "necessity",
        "b",
        "Why these data, and why so many",
        "Could the purpose be reached with fewer records, fewer columns, or synthetic data?",
    ),
    Field(
        "retention",
        "b",
        "Retention, and the rights of the people concerned",
        "How long data and model are kept; what happens to the model when somebody asks for erasure.",
    ),
    Field(
        "access",
        "b",
        "Who has access to the model",
        "Its file, its confidences, or its labels only. The attacks above say what each of them can do.",
    ),
    Field(
        "severity",
        "c",
        "Severity and likelihood for the people concerned",
        "What follows for a person who is recognised, and who would try.",
    ),
    Field(
        "measures",
        "d",
        "Measures chosen, by whom and until when",
        "Of those above, or others. With the advice of the data protection officer (Art. 35(2)).",
    ),
    Field(
        "views",
        "9",
        "Views of the people concerned, or of their representatives",
        "Whom you asked and what they said; or why it was not appropriate to ask, such as for reasons of security.",
    ),
    Field(
        "review",
        "11",
        "Next review, and who does it",
        "A date, and what brings it forward: new training data, another kind of model, other people with access, a "
        "stronger attack.",
    ),
)
_KEYS = tuple(field.key for field in FIELDS)


def check_texts(texts: Mapping[str, Any]) -> dict[str, str]:
    """What the controller wrote, by key; empty texts are left out.

    Raises: ConfigError: a key is no field, or its value no text; all of them together.

    >>> check_texts({"purposes": "Credit decisions.", "views": ""})
    {'purposes': 'Credit decisions.'}
    """
    faults = []
    for key, text in texts.items():
        if key not in _KEYS:
            faults.append(f"dpia has {key!r}, which is no field{nearest(str(key), _KEYS, listed=True)}")
        elif text is not None and not isinstance(text, str):
            faults.append(f"dpia[{key!r}] must be a text, got {text!r}.")
        elif text is not None and len(text) > _LONGEST:
            faults.append(f"dpia[{key!r}] has {len(text):,} characters; {_LONGEST:,} are allowed.")
    if faults:
        raise ConfigError("The fields of the impact assessment cannot be used:\n" + "\n".join(f"  {f}" for f in faults))
    return {key: texts[key].strip() for key in _KEYS if (texts.get(key) or "").strip()}


def kept_texts(values: Any) -> dict[str, str]:
    """What an earlier audit kept, as far as it is fit for use; anybody may have written it."""
    if not isinstance(values, Mapping):
        return {}
    return {key: values[key][:_LONGEST].strip() for key in _KEYS if isinstance(values.get(key), str) and values[key]}


def merged_texts(kept: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    """What was kept, and what is given now; an empty text takes a kept one out.

    >>> merged_texts({"purposes": "Credit.", "views": "None."}, {"views": ""})
    {'purposes': 'Credit.'}
    """
    both = {**kept, **given}
    return {key: text for key in _KEYS if (text := (both.get(key) or "").strip())}


def form_text(texts: Mapping[str, str]) -> str:
    """The fields as a YAML file to fill in, with what is filled in already.

    >>> print(form_text({"purposes": "Credit."}).splitlines()[4])
    purposes: "Credit."
    """
    lines = ["# Fill in between the quotes and audit again: mlflow-privacy audit MODEL_URI --dpia THIS_FILE", ""]
    for field in FIELDS:
        value = yaml.safe_dump(texts.get(field.key, ""), default_style='"', allow_unicode=True, width=1 << 30)
        lines += [f"# {field.title}", f"# {field.hint}", f"{field.key}: {value}"]
    return "\n".join(lines)
