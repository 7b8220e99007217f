"""What a game is: one question that an audit answers from the same models that its attacks run on.

    check ─▶ questions ─▶ (every model is asked) ─▶ answer

Membership is one of them. A game of one's own is one class, registered by `GAMES.register(name)` or through the
entry-point group "mlflow_privacy.games"; nothing else of the audit knows it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.plugins import Registry
from mlflow_privacy.types import AttackResult, AuditTarget, GameResult, ModelOutputs, Records, Signals


class GameOptions(BaseModel):
    """Base of a game's options: plain values of exactly the type that is written, no further keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a game knows of the audit that it is part of.

    Attributes:
      seed: of everything random.
      confidence: of intervals, unless the game has an option of its own.
      fprs: the false-positive rates of the audit.
      device: to ask models on.
      attack_options: by attack.
      masked: a masked language model (`signals.language.neighbours.MaskedModel`), if the caller gave one.
    """

    seed: int = 0
    confidence: float = 0.95
    fprs: Sequence[float] = (0.1, 0.01, 0.001, 0.0)
    device: str = "auto"
    attack_options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    masked: Any = None


@dataclasses.dataclass(frozen=True)
class Question:
    """Further records that every model is asked about.

    Attributes:
      name: by which the game finds the answers again.
      records: any number of them.
      key: under which a model's answers are stored: equal records, equal key.
      about: what else the game needs to know of them later.
    """

    name: str
    records: Records
    key: str
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GameEvidence:
    """What the models said: all that an answer is made of.

    Attributes:
      target: the model with its whole pool.
      pool: the n audited records; member: (n,) bool, whether the target trained on each.
      signals: of target and references on `pool` and population.
      attacks: their results; headline: the name of the one that the verdict is about.
      questions: those that the game asked; own: the target's outputs on each; further: those of each reference.
      trained_on: (n_pool, 1 + m) bool, whether the target, then each reference, trained on each record of
        `target.pool`, audited or not; None where that is not known.
    """

    target: AuditTarget
    pool: Records
    member: np.ndarray
    signals: Signals
    attacks: tuple[AttackResult, ...]
    headline: str
    questions: tuple[Question, ...] = ()
    own: tuple[ModelOutputs, ...] = ()
    further: tuple[tuple[ModelOutputs, ...], ...] = ()
    trained_on: np.ndarray | None = None


class Game:
    """A question beside the attacks; subclass it, and say what the options are.

    Attributes:
      Options: the pydantic model of `game_options`.
      name: key of `GAMES`, and of the answer in `AuditResult.games`.
      uses_references: reference models are needed although no attack may use them.
    """

    Options: ClassVar[type[GameOptions]] = GameOptions
    name: ClassVar[str]
    uses_references: ClassVar[bool] = False

    def __init__(self, options: Any = None, setting: Setting | None = None) -> None:
        self.options = self.Options() if options is None else options
        self.setting = setting or Setting()

    def check(self, target: AuditTarget, n_references: int, attacks: Sequence[str] | None) -> None:
        """Raises what stands in the way before anything is trained.

        Args:
          n_references: that the audit will have.
          attacks: names of those that run; None while they are not known yet (it is then called again).

        Raises:
          ConfigError: an option does not fit this target, or what the game needs is missing.
          DesignError: the pool is none that this game can be played on.
        """

    def questions(self, target: AuditTarget, pool: Records) -> tuple[Question, ...]:
        """Further records to ask every model about; they may depend on the pool, never on who is a member.

        Args:
          pool: the audited records.
        """
        return ()

    def answer(self, evidence: GameEvidence) -> GameResult | None:
        """The answer; None where the attacks themselves are it."""
        raise NotImplementedError(f"The game {self.name!r} gives no answer.")


# What an audit's metrics "privacy/NAME/…" or its tags "privacy.NAME" are called already, besides the attacks.
_TAKEN = {
    *("blind", "fidelity", "headline"),
    *("auc", "tpr", "caution", "audit_run", "gate", "gate_policy", "gate_audit", "imported", "epsilon"),
}


def _refuse_taken(name: str) -> None:
    """Raises `ConfigError` if metrics or tags of an audit would not tell a game of this name from something else."""
    from mlflow_privacy.attacks import ATTACKS

    if name in ATTACKS or name in _TAKEN:
        what = "an attack" if name in ATTACKS else "a metric or a tag of every audit"
        raise ConfigError(
            f"The game {name!r} is called like {what}: its metrics would be privacy/{name}/… as those are. Choose "
            "another name."
        )


def _check_game(name: str, entry: Any) -> None:
    _refuse_taken(name)
    if not (isinstance(entry, type) and issubclass(entry, Game)):
        raise ConfigError(f"The game {name!r} must be a subclass of mlflow_privacy.games.Game, got {entry!r}.")
    if getattr(entry, "name", None) != name:
        raise ConfigError(f"The game {name!r} calls itself {getattr(entry, 'name', None)!r}: both names must be equal.")


GAMES: Registry[type[Game]] = Registry(
    "mlflow_privacy.games",
    {
        "membership": "mlflow_privacy.games.membership:MembershipGame",
        "dp": "mlflow_privacy.games.dp.game:DpGame",
        "range": "mlflow_privacy.games.range.game:RangeGame",
        "usage": "mlflow_privacy.games.usage.game:UsageGame",
    },
    _check_game,
)


def game_name(value: Any) -> Any:
    """The name of a game that there is.

    Raises: ValueError: there is none of that name; the message says which there are.

    >>> game_name("usage")
    'usage'
    """
    if isinstance(value, str) and value in GAMES:
        return value
    raise ValueError(f"must be one of {', '.join(GAMES)}{nearest(value, GAMES)}")


def make_game(name: str, given: Mapping[str, Any] | None = None, setting: Setting | None = None) -> Game:
    """A game with its options checked.

    Args:
      name: key of `GAMES`.
      given: its options.

    Raises: ConfigError: every unknown key with the nearest one, and every value that is not allowed.

    Example:
      >>> make_game("dp", {"delta": 1e-6}).options.delta
      1e-06
      >>> make_game("usage", {"treshold": 0})
      Traceback (most recent call last):
      mlflow_privacy.errors.ConfigError: game_options of the game "usage": unknown key 'treshold', did you mean ...?
    """
    _refuse_taken(name)  # an attack of that name may have come after the game
    given = {} if given is None else given
    faults = game_faults(name, given)
    if faults:
        title = f'game_options of the game "{name}":'
        raise ConfigError(f"{title} {faults[0]}" if len(faults) == 1 else "\n  ".join([title, *faults]))
    kind = GAMES[name]
    return kind(kind.Options(**given), setting)


def game_faults(name: str, given: Mapping[str, Any]) -> list[str]:
    """What is wrong with a game's options, a sentence each that begins with the key."""
    record = GAMES[name].Options
    if given and not record.model_fields:
        return [f"{', '.join(map(repr, given))}: {name} has none; its attacks have, see docs."]
    try:
        record.model_validate({str(key): value for key, value in given.items()})
    except ValidationError as error:
        first = {str(fault["loc"][0]): fault for fault in reversed(error.errors())}  # of a union each branch has one
        return [_fault(record, key, first[str(key)], given[key]) for key in given if str(key) in first]
    return []


_OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def _fault(record: type[GameOptions], key: str, fault: Any, value: Any) -> str:
    """One fault as a sentence."""
    if fault["type"] == "extra_forbidden":
        valid = record.model_fields
        return f"unknown key {key!r}{nearest(key, valid) or f'; valid are {chr(44).join(valid)}.'}"
    if fault["type"] == "value_error":
        return f"{key}: {fault['msg'].removeprefix('Value error, ')}"
    field = record.model_fields[key]
    if fault["type"] in _OUTSIDE and len(fault["loc"]) == 1:
        return f"{key} must be in {_interval(field.metadata)}, got {value!r}."
    return f"{key} must be {_words(field.annotation)}, got {value!r}."


def _interval(metadata: Sequence[Any]) -> str:
    """The bounds of a field, such as [0, 1)."""
    found = {name: getattr(one, name) for one in metadata for name in ("ge", "gt", "le", "lt") if hasattr(one, name)}
    low = f"[{found['ge']:g}" if "ge" in found else f"({found.get('gt', -math.inf):g}"
    high = f"{found['le']:g}]" if "le" in found else f"{found.get('lt', math.inf):g})"
    return f"{low}, {high}"


def _words(hint: Any) -> str:
    """What a value may be, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_words(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "a name", Any: "anything"}
    return plain[hint] if hint in plain else f"a list, each {_words(arguments[0])}"
