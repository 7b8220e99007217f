"""Extra signals: what single attacks need beyond φ, named by one key so that it is asked for before inference.

A key is a kind with its options in words, such as "min_k:k=0.2". An attack says which kinds it needs and which of its
options go into them; `signals.language` computes the keys it is given; both ends meet here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from mlflow_privacy.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ExtraKind:
    """One kind of extra signal.

    Attributes:
      meaning: what the (n,) values are.
      remedy: what to do where it is missing, a sentence.
      checks: of each option: whether a value is valid, and what is valid, in words.
    """

    meaning: str
    remedy: str
    checks: Mapping[str, tuple[Callable[[Any], bool], str]] = dataclasses.field(default_factory=dict)


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    def valid(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return valid, f"a whole number of at least {least}"


_SHARE = (lambda value: _real(value) and 0 < value <= 1, "in (0, 1]")
_TEXT = "Only a causal language model with its tokenizer gives it."

EXTRAS: dict[str, ExtraKind] = {
    "zlib": ExtraKind("bytes of the zlib-compressed text", _TEXT),
    "lowercase": ExtraKind("mean log-probability of the text in lower case", _TEXT),
    "min_k": ExtraKind("mean log-probability of the least likely tokens", _TEXT, {"k": _SHARE}),
    "min_k_plus": ExtraKind("mean standardised log-probability of the least likely tokens", _TEXT, {"k": _SHARE}),
    "base": ExtraKind(
        "mean log-probability under the model before fine-tuning",
        "It needs the model before fine-tuning: pass it as base=..., or audit a model whose recipe names its base.",
    ),
    "neighbours": ExtraKind(
        "mean log-probability of slightly changed texts",
        "It needs a masked language model: pass one with its tokenizer as masked=(model, tokenizer).",
        {"n": _whole(1), "replaced": _whole(1), "seed": _whole(0)},
    ),
    "recall": ExtraKind(
        "mean log-probability after a prefix of non-members",
        "It needs texts that are no members and not audited: pass them as prefix=..., or pass population=....",
    ),
}


def extra_key(kind: str, options: Mapping[str, Any] | None = None) -> str:
    """The key of an extra signal.

    Raises:
      ConfigError: no such kind, or options that it lacks or that are not valid; all at once.

    >>> extra_key("min_k", {"k": 0.2}), extra_key("base")
    ('min_k:k=0.2', 'base')
    """
    if kind not in EXTRAS:
        raise ConfigError(f"There is no extra signal '{kind}'; there are {', '.join(EXTRAS)}.")
    options, checks = dict(options or {}), EXTRAS[kind].checks
    if set(options) != set(checks):
        raise ConfigError(f"Extra signal {kind} takes {', '.join(checks) or 'no options'}, got {', '.join(options)}.")
    faults = [
        f"{name} must be {words}, got {options[name]!r}"
        for name, (valid, words) in checks.items()
        if not valid(options[name])
    ]
    if faults:
        raise ConfigError(f"{'; '.join(faults)}.")
    return kind + (":" + ",".join(f"{name}={options[name]}" for name in checks) if checks else "")


def parse_extra(key: str) -> tuple[str, dict[str, Any]]:
    """Kind and options of a key: the inverse of `extra_key`.

    Raises:
      ConfigError: it is not a key.

    >>> parse_extra("min_k:k=0.2")
    ('min_k', {'k': 0.2})
    """
    kind, _, rest = key.partition(":")
    options = {}
    for part in rest.split(",") if rest else ():
        name, _, value = part.partition("=")
        try:
            options[name] = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError as error:
            raise ConfigError(f"'{key}' is no extra signal: {name} must be a number, got {value!r}.") from error
    extra_key(kind, options)
    return kind, options
