"""The options of each game: frozen records, parsed from a mapping with all faults at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.games.dp.bounds import Selection
from mlflow_privacy.games.dp.guesses import Sides
from mlflow_privacy.games.range.functions import RANGE_FUNCTIONS
from mlflow_privacy.games.range.membership import Direction

Method = Literal["one_run", "one_run_fdp"]
Score = Literal["trimmed_mean", "max", "mean"]


@dataclasses.dataclass(frozen=True)
class DpOptions:
    """Options of the game "dp".

    Attributes:
      delta: δ of the bound. None: the δ of the claim if there is one, else 1e-5.
      confidence: one-sided. None: the audit's.
      selection, sides: how guesses are chosen, see `one_run`.
      methods: the bounds shown.
      canaries: "lineage": those that `log_lineage(canaries=...)` named; "all": every audited record, each of which was
        trained on by an independent fair coin. Only the caller can know that.
      claimed_epsilon: the ε to hold the bound against. None: what the training run logged.
      attack: whose scores are taken. None: the headline's.
    """

    delta: float | None = None
    confidence: float | None = None
    selection: Selection = "auto"
    sides: Sides = "any"
    methods: Sequence[Method] = ("one_run", "one_run_fdp")
    canaries: Literal["lineage", "all"] = "lineage"
    claimed_epsilon: float | None = None
    attack: str | None = None


@dataclasses.dataclass(frozen=True)
class RangeOptions:
    """Options of the game "range".

    Attributes:
      function: a key of `RANGE_FUNCTIONS`. None: "word_replace" for texts, "geometric" for images, else "l2".
      n_samples: points drawn in each range.
      radius, clip: of "l2"; without a radius half the median distance between neighbours.
      flip, vertical_flip, rotate, shift: of "geometric".
      columns, num_missing: of "missing_values": the columns that are unknown, or how many are, drawn by the seed.
      col_ranges: by column, or one entry a column in their order: (low, high), or values with `categorical`.
      mask_model, mask_tokenizer, num_masks: of "word_replace": a masked language model by hub name or folder, its
        tokenizer if it is another one, and how many tokens are replaced.
      score: how sample scores become a range's.
      trim_ratio, trim_direction: of the trimmed mean; without a ratio both are tuned on the references.
      moved: also ask about ranges whose centre is not the record itself.
      attack: whose scores the samples get. None: RMIA where it runs, else the headline's.
    """

    function: str | None = None
    n_samples: int = 10
    radius: float | None = None
    clip: Sequence[float] | None = None
    flip: bool = True
    vertical_flip: bool = False
    rotate: float = 15.0
    shift: int = 2
    columns: Sequence[Any] | None = None
    num_missing: int | None = None
    col_ranges: Any = None
    categorical: bool = False
    mask_model: str | None = None
    mask_tokenizer: str | None = None
    num_masks: int = 5
    score: Score = "trimmed_mean"
    trim_ratio: float | None = None
    trim_direction: Direction = "low"
    moved: bool = True
    attack: str | None = None


@dataclasses.dataclass(frozen=True)
class UsageOptions:
    """Options of the game "usage".

    Attributes:
      confidence: of the interval. None: the audit's.
      threshold: of the signal, from which "member" is guessed. None: chosen on the references.
      correlation: bound on the correlation of two guesses under one model, see `usage_of_guesses`. None: by the number
        of records.
    """

    confidence: float | None = None
    threshold: float | None = None
    correlation: float | None = None


GameOptions = DpOptions | RangeOptions | UsageOptions
OPTIONS: dict[str, type[Any]] = {"dp": DpOptions, "range": RangeOptions, "usage": UsageOptions}
# (low, low is allowed, high, high is allowed)
_RANGES: dict[str, tuple[float, bool, float, bool]] = {
    "delta": (0, True, 1, False),
    "confidence": (0.5, False, 1, False),
    "claimed_epsilon": (0, True, math.inf, False),
    "n_samples": (1, True, math.inf, False),
    "radius": (0, False, math.inf, False),
    "rotate": (0, True, math.inf, False),
    "shift": (0, True, math.inf, False),
    "num_missing": (1, True, math.inf, False),
    "num_masks": (1, True, math.inf, False),
    "trim_ratio": (0, True, 1, False),
    "correlation": (0, True, 1, True),
}


def game_options(game: str, given: Mapping[str, Any]) -> GameOptions | None:
    """The options of a game, checked; None for membership, which has none.

    Raises: ConfigError: every unknown key with the nearest one, and every value that is not allowed.

    Example:
      >>> game_options("dp", {"delta": 1e-6}).delta
      1e-06
      >>> game_options("usage", {"treshold": 0})
      Traceback (most recent call last):
      mlflow_privacy.errors.ConfigError: game_options of the game "usage": unknown key 'treshold', did you mean ...?
    """
    record = OPTIONS.get(game)
    faults = game_faults(game, given)
    if faults:
        title = f'game_options of the game "{game}":'
        raise ConfigError(f"{title} {faults[0]}" if len(faults) == 1 else "\n  ".join([title, *faults]))
    return None if record is None else record(**given)


def game_faults(game: str, given: Mapping[str, Any]) -> list[str]:
    """What is wrong with a game's options, a sentence each that begins with the key."""
    record = OPTIONS.get(game)
    if record is None:
        return [] if not given else [f"{', '.join(map(repr, given))}: membership has none; its attacks have, see docs."]
    hints = typing.get_type_hints(record)
    faults = []
    for key, value in given.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            faults.append(
                f"unknown key {key!r}{f', did you mean {near[0]!r}?' if near else f'; valid are {_list(hints)}.'}"
            )
        elif not _fits(value, hints[key]):
            faults.append(f"{key} must be {_words(hints[key])}, got {value!r}.")
        elif key in _RANGES and value is not None and not _inside(value, *_RANGES[key]):
            faults.append(f"{key} must be in {_interval(*_RANGES[key])}, got {value!r}.")
    function = given.get("function")
    if isinstance(function, str) and function not in RANGE_FUNCTIONS:
        near = difflib.get_close_matches(function, RANGE_FUNCTIONS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f"; there are {_list(RANGE_FUNCTIONS)}."
        faults.append(f"function: there is no range function {function!r}{hint}")
    return faults


def _list(names: Any) -> str:
    return ", ".join(names)


def _inside(value: float, low: float, with_low: bool, high: float, with_high: bool) -> bool:
    return (low <= value if with_low else low < value) and (value <= high if with_high else value < high)


def _interval(low: float, with_low: bool, high: float, with_high: bool) -> str:
    return f"{'[' if with_low else '('}{low:g}, {high:g}{']' if with_high else ')'}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type that the options use."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(_fits(item, arguments[0]) for item in value)
    )


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_words(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "a name", Any: "anything"}
    return plain[hint] if hint in plain else f"a list, each {_words(arguments[0])}"
