"""What an attack is, and how one runs on `Signals`. The table of the attacks that there are is in `registry`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.attacks._arrays import missing_references, to_numpy
from mlflow_privacy.attacks.extras import EXTRAS, extra_key
from mlflow_privacy.errors import ConfigError, DesignError, nearest
from mlflow_privacy.types import Link, Scores, Signals

INPUTS = tuple(field.name for field in dataclasses.fields(Signals) if field.name not in ("link", "extra"))
LINKS = ("link:logit", "link:log", "link:log_p", "link:label")
NEEDS = ("reference", "in", "out", "population", *LINKS)
# Metrics are called privacy/<attack>/<metric>. These names are taken: by two checks, our games, and
# the attack of the verdict, whose metrics stand under `privacy/headline/` too.
_TAKEN = ("blind", "dp", "fidelity", "headline", "range", "screening", "usage")


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attack: the function and what a reader must know about it.

    Attributes:
      name: key of `ATTACKS`.
      title: for figures and tables.
      function: pure function over arrays; its keyword-only parameters are the attack's options.
      inputs: fields of `Signals` that it takes, in order.
      needs: "reference", "in", "out" (every record has such a reference), "population", and the links it accepts
        ("link:logit", "link:log", "link:log_p", "link:label"). One that accepts "link:log" gets log-probabilities too.
      threat_model: what the attacker sees and has, in one sentence.
      paper: citation with address.
      labels_only: it works with a model that gives labels only.
      extras: kinds of extra signals (`attacks.extras.EXTRAS`) that the function takes after `inputs`, each with the
        options it is computed with and their defaults. They are options of the attack.
      tune: chooses options by the reference models: it gets the signals and the options that were given, and returns
        the options to run with. It must not look at the target's signals.
      on_references: of references in the target's place their column, its scores and their memberships, where it can
        give them for less than running anew on each; it gets the signals and the attack's options.
      check: why it cannot run on these signals though all that it needs is there, in a sentence; "" if it can.
    """

    name: str
    title: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    needs: frozenset[str]
    threat_model: str
    paper: str
    labels_only: bool = False
    extras: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    tune: Callable[[Signals, Mapping[str, Any]], Mapping[str, Any]] | None = None
    check: Callable[[Signals], str] | None = None
    on_references: Callable[..., Sequence[tuple[int, Scores, np.ndarray]]] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options and their defaults."""
        of_signals = {name: default for options in self.extras.values() for name, default in options.items()}
        return {**of_signals, **self.of_function}

    @property
    def of_function(self) -> dict[str, Any]:
        """Those options that the function itself takes, with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "link"}

    def extra_keys(self, options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Keys of the extra signals that it takes with these options, in order.

        Raises: ConfigError: an option of a signal is not valid.
        """
        given = options or {}
        return tuple(
            extra_key(kind, {name: given.get(name, default) for name, default in defaults.items()})
            for kind, defaults in self.extras.items()
        )

    def __call__(self, signals: Signals, **options: Any) -> Scores:
        """`run` without the options in use."""
        return run(self, signals, options)[0]


def check_attack(name: str, attack: Any) -> None:
    """Raises one `ConfigError` of all that keeps `attack` from standing under `name` in the table."""
    if not isinstance(attack, Attack):
        raise ConfigError(
            f"The attack {name!r} is a {type(attack).__name__}, not an Attack. Put "
            f"@mlflow_privacy.attacks.attack({name!r}, ...) over its function, under the same name as its entry point."
        )
    faults = []
    if name != attack.name:
        faults.append(f"it calls itself {attack.name!r}")
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in _TAKEN:
        faults.append(f"a name is of letters, digits and _, and none of {', '.join(_TAKEN)}")
    if not callable(attack.function):
        faults.append(f"function must be callable, got {attack.function!r}")
    for key in ("title", "threat_model", "paper"):
        value = getattr(attack, key)
        if not isinstance(value, str) or not value.strip():
            faults.append(f"{key} must be a text, got {value!r}")
    for key, given, valid in (("inputs", attack.inputs, INPUTS), ("needs", attack.needs, NEEDS)):
        wrong = [given] if isinstance(given, str) else [word for word in given if word not in valid]
        faults += [f"{key} has {word!r}{nearest(word, valid, listed=True)}" for word in wrong]
    faults += [
        f"extras has {kind!r}{nearest(kind, EXTRAS, listed=True)}" for kind in attack.extras if kind not in EXTRAS
    ]
    if not set(attack.needs) & set(LINKS):
        faults.append(f"needs must name a link that it can work with: {', '.join(LINKS)}")
    if faults:
        raise ConfigError(f"The attack {name!r} cannot be used: {'; '.join(faults)}.")


def _link_for(attack: Attack, link: Link) -> Link:
    """The link that an attack is told: a log-probability is a log-density to one that does not ask for the difference.

    Another link than its own if it cannot work with these signals.
    """
    return "log" if link == "log_p" and "link:log_p" not in attack.needs else link


def why_not(attack: Attack, signals: Signals, options: Mapping[str, Any] | None = None) -> str:
    """Why an attack cannot run on these signals, in a sentence with the remedy; "" if it can."""
    name = attack.name
    links = sorted(need.removeprefix("link:") for need in attack.needs if need.startswith("link:"))
    if _link_for(attack, signals.link) not in links:
        if attack.labels_only:
            return f"Attack {name} works on predicted labels only; this model gives more, use the other attacks."
        if attack.extras:
            return (
                f'Attack {name} needs the log-probabilities of tokens (link log_p), this model gives "{signals.link}": '
                "it is for causal language models."
            )
        return f'Attack {name} needs confidences (link {" or ".join(links)}), this model gives "{signals.link}" only.'
    if "reference" in attack.needs:
        reason = missing_references(signals.member, need_in="in" in attack.needs, need_out="out" in attack.needs)
        if reason:
            return reason
    reason = "" if attack.check is None else attack.check(signals)
    if reason:
        return reason
    if "population" in attack.needs and not signals.population.shape[0]:
        return f"Attack {name} needs population records, there are none. Pass population=..., or a larger holdout."
    for kind, key in zip(attack.extras, attack.extra_keys(options)):
        if key not in signals.extra:
            return f'Attack {name} needs the signal "{key}" ({EXTRAS[kind].meaning}). {EXTRAS[kind].remedy}'
    return ""


def check_given(attack: Attack, options: Mapping[str, Any]) -> None:
    """Raises `ConfigError` with every option that the attack does not have, or that is not valid for its signals."""
    defaults = attack.options
    unknown = [key for key in options if key not in defaults]
    if unknown:
        has = ", ".join(defaults) or "none"
        raise ConfigError(
            " ".join(
                f"Attack {attack.name} has no option '{key}'{nearest(key, defaults)}; it has {has}." for key in unknown
            )
        )
    attack.extra_keys(options)


def run(attack: Attack, signals: Signals, options: Mapping[str, Any]) -> tuple[Scores, dict[str, Any]]:
    """Runs an attack: its scores as NumPy arrays, and all options in use.

    Raises:
      ConfigError: unknown options, all at once.
      DesignError: the attack cannot run on these signals, or gives no score for some record.
    """
    check_given(attack, options)
    reason = why_not(attack, signals, options)
    if reason:
        raise DesignError(f"Attack {attack.name} cannot run: {reason}")
    used = {**attack.options, **options}
    if attack.tune is not None:
        used |= attack.tune(signals, options)
    keywords = {key: value for key, value in used.items() if key in attack.of_function and value is not None}
    if "link" in inspect.signature(attack.function).parameters:
        keywords["link"] = _link_for(attack, signals.link)
    arrays = [getattr(signals, field) for field in attack.inputs]
    arrays += [signals.extra[key] for key in attack.extra_keys(used)]
    return _scores(attack, attack.function(*arrays, **keywords), len(signals.target)), used


def _scores(attack: Attack, found: Any, n: int) -> Scores:
    """What the function gave as NumPy arrays, (n,) each; an array alone has no tie-break."""
    given = found if isinstance(found, Scores) else Scores(found)
    value = _column(attack, "value", given.value, n)
    return Scores(value, None if given.tie is None else _column(attack, "tie", given.tie, n))


def _column(attack: Attack, part: str, given: Any, n: int) -> np.ndarray:
    """One number per record, checked: a function of somebody else's may give anything."""
    values = to_numpy(given) if hasattr(given, "shape") else np.asarray(given)
    undefined = int(np.isnan(values).sum()) if values.dtype.kind in "bifu" else values.size
    if values.shape != (n,) or undefined:
        raise DesignError(
            f"Attack {attack.name} must give one number for each of the {n} records; the {part} of its scores has "
            f"shape {values.shape}, and {undefined} are not numbers."
        )
    return values
