"""The attacks by name, ours and those that others add, and how to run one on `Signals`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from mlflow_privacy.attacks.definition import LINKS, Attack, check_attack, check_given, run, why_not
from mlflow_privacy.attacks.own import OWN
from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.plugins import Registry
from mlflow_privacy.types import Link, Scores, Signals

F = TypeVar("F", bound=Callable[..., Any])

ATTACKS: Registry[Attack] = Registry("mlflow_privacy.attacks", OWN, check_attack)


def attack(
    name: str,
    *,
    title: str,
    threat_model: str,
    paper: str,
    inputs: Iterable[str] = ("target",),
    needs: Iterable[str] = (),
    extras: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[F], F]:
    """A decorator that makes a plain function over arrays an attack of `ATTACKS`; the function stays what it is.

    From then on audits take its name in `attacks=`, config files in `audit.attacks`, thresholds as `<name>/auc`, and
    reports show its title. A package that is to be found without being imported names the function in its entry points
    of the group "mlflow_privacy.attacks", under the same name.

    Args:
      name: letters, digits and _; none of our own attacks.
      title: for figures and tables.
      threat_model: what the attacker sees and has, a sentence.
      paper: citation with address, or who made it.
      inputs: fields of `Signals` that the function takes, in order: "target", "reference", "member", "population",
        "population_reference", "population_member".
      needs: "reference", "in", "out" (every record has such a reference), "population", and the links that it works
        with, "link:logit", "link:log", "link:label"; without a link those of confidences, "link:logit" and "link:log".
        A parameter `link` gets the one at hand. "link:log_p", where a log-probability is to be told from a density.
      extras: kinds of extra signals (`attacks.extras.EXTRAS`) that it takes after `inputs`, with their options.

    The function returns (n,) scores, higher = more likely a member, or `Scores` with a tie-break. Its keyword-only
    parameters are the attack's options.

    Raises: ConfigError: (by the decorator) the name is one of ours, or a value is none of those above; all at once.

    Example:
      >>> @attack("margin", title="Margin", threat_model="Black box with confidences, references without the record.",
      ...         paper="An example", inputs=("target", "reference", "member"), needs=("reference", "out"))
      ... def margin(target, reference, member, *, scale=1.0):
      ...     return scale * (target - (reference * ~member).sum(axis=1) / (~member).sum(axis=1))
      >>> ATTACKS["margin"].options, "margin" in ATTACKS
      ({'scale': 1.0}, True)
      >>> del ATTACKS["margin"]
    """
    if name in OWN:
        raise ConfigError(f"There is an attack {name!r} already, one of our own; give yours another name.")
    given = frozenset([needs] if isinstance(needs, str) else needs)
    links = frozenset() if given & set(LINKS) else frozenset({"link:logit", "link:log"})

    def add(function: F) -> F:
        fields = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        labels = given & set(LINKS) == {"link:label"}
        ATTACKS[name] = Attack(
            name, title, function, fields, given | links, threat_model, paper, labels_only=labels, extras=extras or {}
        )
        return function

    return add


def default_attacks(groups: int, link: Link, *, language: bool = False, has_base: bool = False) -> tuple[str, ...]:
    """The attacks of an audit that names none; which of them the verdict is about is chosen on the references.

    Args:
      groups: of references (`Design.group` in each); the learned attack needs two.
      language: the model is a causal language model; a link alone does not say so.
      has_base: the language model before fine-tuning is at hand.

    >>> default_attacks(4, "logit"), default_attacks(1, "logit")
    (('rmia', 'lira', 'bavaria', 'learned', 'rmia_offline'), ('rmia', 'lira', 'bavaria', 'rmia_offline'))
    >>> default_attacks(0, "logit"), default_attacks(4, "label")
    (('population', 'loss'), ('gap',))
    >>> default_attacks(0, "log_p", language=True, has_base=True)
    ('base_ratio', 'min_k_plus', 'zlib', 'loss')
    """
    if link == "label":
        return ("gap",)
    compared = ("rmia", "lira", "bavaria", *("learned",) * (groups > 1), "rmia_offline") if groups else ()
    if language and link == "log_p":
        return (*compared, *("base_ratio",) * has_base, "min_k_plus", *("zlib",) * (not groups), "loss")
    return compared or ("population", "loss")


def loadable_attacks() -> dict[str, Attack]:
    """All attacks, less those of installed packages that cannot be loaded: nobody has asked for these here.

    >>> "rmia" in loadable_attacks()
    True
    """
    found = {}
    for name in ATTACKS:
        with contextlib.suppress(ConfigError):
            found[name] = ATTACKS[name]
    return found


def extra_signals(names: Iterable[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[str, ...]:
    """Keys of all extra signals that these attacks need, to be computed for the audited model; each once, in order.

    Args:
      names: keys of `ATTACKS`.
      options: the options of each attack by its name.

    Raises: ConfigError: no attack has that name, or an option is not valid.

    >>> extra_signals(["rmia", "min_k_plus", "min_k", "base_ratio"], {"min_k": {"k": 0.1}})
    ('min_k_plus:k=0.2', 'min_k:k=0.1', 'base')
    """
    given = options or {}
    return tuple(dict.fromkeys(key for name in names for key in _attack(name).extra_keys(given.get(name))))


def available(name: str, signals: Signals, options: Mapping[str, Any] | None = None) -> str:
    """Why an attack cannot run on these signals, in a sentence with the remedy; "" if it can.

    Args:
      options: of the attack; they decide which extra signals it needs.

    Raises: ConfigError: no attack has that name, or an option of an extra signal is not valid.

    Example:
      >>> import numpy as np
      >>> none = np.zeros((2, 0))
      >>> signals = Signals(np.zeros(2), none, none.astype(bool), np.zeros(2), none, none.astype(bool))
      >>> available("loss", signals)
      ''
      >>> available("rmia", signals)
      'There are no reference models. Train some with num_ref_models=8, or use the attacks that need none.'
    """
    return why_not(_attack(name), signals, options)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises `ConfigError` with every option that an attack does not have, and the nearest one it has.

    The options of its extra signals are checked too, because they are needed before anything is computed.

    Example:
      >>> check_options("rmia", {"gamma": 2.0})
    """
    check_given(_attack(name), options)


def run_attack(name: str, signals: Signals, **options: Any) -> tuple[Scores, dict[str, Any]]:
    """Runs one attack. `rmia_offline` tunes `a` on the reference models if it is not given.

    Args:
      name: key of `ATTACKS`.
      signals: of the target, the references and the population.
      **options: the attack's options, such as γ.

    Returns: (scores as NumPy arrays, all options in use). Those of `rmia_offline` hold `a_tuned`.

    Raises:
      ConfigError: unknown attack or options, all at once, with the nearest valid name.
      DesignError: the attack cannot run on these signals.

    Example:
      >>> import numpy as np
      >>> none = np.zeros((2, 0))
      >>> signals = Signals(np.array([1.0, 2.0]), none, none.astype(bool), np.zeros(2), none, none.astype(bool))
      >>> scores, used = run_attack("population", signals)
      >>> scores.value.tolist(), used
      ([1.0, 1.0], {})
    """
    return run(_attack(name), signals, options)


def _attack(name: str) -> Attack:
    """The attack of that name."""
    if name not in ATTACKS:
        raise ConfigError(f"There is no attack '{name}'{nearest(name, ATTACKS)}; there are {', '.join(ATTACKS)}.")
    return ATTACKS[name]
