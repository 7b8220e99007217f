"""The attacks by name, what each needs, and how to run one on `Signals`."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlflow_privacy.attacks._arrays import missing_references, to_numpy
from mlflow_privacy.attacks.extras import EXTRAS, extra_key
from mlflow_privacy.attacks.gap import gap
from mlflow_privacy.attacks.language import (
    base_ratio,
    lowercase_ratio,
    min_k,
    min_k_plus,
    neighbourhood,
    recall,
    zlib_ratio,
)
from mlflow_privacy.attacks.lira import lira, lira_offline
from mlflow_privacy.attacks.population import attack_p, loss_threshold
from mlflow_privacy.attacks.reference import attack_r
from mlflow_privacy.attacks.rmia import rmia, rmia_offline, tune_a
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.types import Link, Scores, Signals

_logger = logging.getLogger(__name__)

_RMIA = "Zarifzadeh, Liu and Shokri (2024), https://arxiv.org/abs/2312.03262"
_LIRA = "Carlini et al. (2022), https://arxiv.org/abs/2112.03570"
_YE = "Ye et al. (2022), https://arxiv.org/abs/2111.09679"
_YEOM = "Yeom et al. (2018), https://arxiv.org/abs/1709.01604"
_CARLINI = "Carlini et al. (2021), https://arxiv.org/abs/2012.07805"
_CONFIDENCE = frozenset({"link:logit", "link:log"})
_TOKENS = frozenset({"link:log"})
_ALL_SIX = ("target", "reference", "member", "population", "population_reference", "population_member")


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attack: the function and what a reader must know about it.

    Attributes:
      name: key of `ATTACKS`.
      title: for figures and tables.
      function: pure function over arrays; its keyword-only parameters are the attack's options.
      inputs: fields of `Signals` that it takes, in order.
      needs: "reference", "in", "out" (every record has such a reference), "population", and the links it accepts
        ("link:logit", "link:log", "link:label").
      threat_model: what the attacker sees and has, in one sentence.
      paper: citation with address.
      labels_only: it works with a model that gives labels only.
      extras: kinds of extra signals (`attacks.extras.EXTRAS`) that the function takes after `inputs`, each with the
        options it is computed with and their defaults. They are options of the attack.
    """

    name: str
    title: str
    function: Callable[..., Scores]
    inputs: tuple[str, ...]
    needs: frozenset[str]
    threat_model: str
    paper: str
    labels_only: bool = False
    extras: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Options and their defaults."""
        of_signals = {name: default for options in self.extras.values() for name, default in options.items()}
        return {**of_signals, **self._of_function}

    @property
    def _of_function(self) -> dict[str, Any]:
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
        """`run_attack` without the options in use."""
        return run_attack(self.name, signals, **options)[0]


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack(
            "rmia",
            "RMIA",
            rmia,
            _ALL_SIX,
            frozenset({"reference", "in", "out", "population"}) | _CONFIDENCE,
            "Black box with confidences, online: the attacker trains reference models with and without each record "
            "and has a population sample; strong from a few references on.",
            _RMIA,
        ),
        Attack(
            "rmia_offline",
            "RMIA (offline)",
            rmia_offline,
            _ALL_SIX,
            frozenset({"reference", "out", "population"}) | _CONFIDENCE,
            "Black box with confidences, offline: reference models trained without the record and a population "
            "sample; one reference is enough.",
            _RMIA,
        ),
        Attack(
            "lira",
            "LiRA",
            lira,
            ("target", "reference", "member"),
            frozenset({"reference", "in", "out"}) | _CONFIDENCE,
            "Black box with confidences, online: reference models with and without each record; at its best with 64 "
            "and more.",
            _LIRA,
        ),
        Attack(
            "lira_offline",
            "LiRA (offline)",
            lira_offline,
            ("target", "reference", "member"),
            frozenset({"reference", "out"}) | _CONFIDENCE,
            "Black box with confidences, offline: reference models trained without the record; at its best with 64 "
            "and more.",
            _LIRA,
        ),
        Attack(
            "reference",
            "Reference (Attack-R)",
            attack_r,
            ("target", "reference", "member"),
            frozenset({"reference", "out"}) | _CONFIDENCE,
            "Black box with confidences, offline: reference models trained without the record, no population.",
            _YE,
        ),
        Attack(
            "population",
            "Population (Attack-P)",
            attack_p,
            ("target", "population"),
            frozenset({"population"}) | _CONFIDENCE,
            "Black box with confidences: a population sample and no reference models.",
            _YE,
        ),
        Attack(
            "loss",
            "Loss threshold",
            loss_threshold,
            ("target",),
            _CONFIDENCE,
            "Black box with confidences: the loss of the record and nothing else.",
            _YEOM,
        ),
        Attack(
            "gap",
            "Gap (labels only)",
            gap,
            ("target",),
            frozenset({"link:label"}),
            "Black box that shows predicted labels only; no reference models, no population.",
            _YEOM,
            labels_only=True,
        ),
        Attack(
            "base_ratio",
            "Base-model ratio",
            base_ratio,
            ("target",),
            _TOKENS,
            "Black box with log-probabilities of tokens, offline: the public model before fine-tuning is the one "
            "reference; nothing is trained.",
            "Mireshghallah et al. (2022), https://arxiv.org/abs/2205.12506",
            extras={"base": {}},
        ),
        Attack(
            "min_k_plus",
            "Min-K%++",
            min_k_plus,
            (),
            _TOKENS,
            "Grey box: the whole next-token distribution at each place; no reference models.",
            "Zhang et al. (2025), https://arxiv.org/abs/2404.02936",
            extras={"min_k_plus": {"k": 0.2}},
        ),
        Attack(
            "min_k",
            "Min-K%",
            min_k,
            (),
            _TOKENS,
            "Black box with log-probabilities of tokens, offline; no reference models.",
            "Shi et al. (2024), https://arxiv.org/abs/2310.16789",
            extras={"min_k": {"k": 0.2}},
        ),
        Attack(
            "zlib",
            "zlib ratio",
            zlib_ratio,
            ("target",),
            _TOKENS,
            "Black box with log-probabilities of tokens, offline; a compressor stands in for a reference model.",
            _CARLINI,
            extras={"zlib": {}},
        ),
        Attack(
            "lowercase",
            "Lower-case ratio",
            lowercase_ratio,
            ("target",),
            _TOKENS,
            "Black box with log-probabilities of tokens, offline: a second query with the text in lower case; no "
            "reference models.",
            _CARLINI,
            extras={"lowercase": {}},
        ),
        Attack(
            "neighbourhood",
            "Neighbourhood",
            neighbourhood,
            ("target",),
            _TOKENS,
            "Black box with log-probabilities of tokens, offline: a public masked language model writes neighbours of "
            "each text; many queries a record, no reference models.",
            "Mattern et al. (2023), https://arxiv.org/abs/2305.18462",
            extras={"neighbours": {"n": 25, "replaced": 1, "seed": 0}},
        ),
        Attack(
            "recall",
            "ReCaLL",
            recall,
            ("target",),
            _TOKENS,
            "Black box with log-probabilities of tokens, offline: a few texts known to be no members serve as prefix; "
            "no reference models.",
            "Xie et al. (2024), https://arxiv.org/abs/2406.15968",
            extras={"recall": {}},
        ),
    )
}


def default_attacks(
    has_references: bool, link: Link, *, language: bool = False, has_base: bool = False
) -> tuple[str, ...]:
    """The attacks of an audit that names none, the strongest first.

    Args:
      language: the model is a causal language model; link "log" alone may as well be a regressor.
      has_base: the language model before fine-tuning is at hand.

    >>> default_attacks(True, "logit")
    ('rmia', 'rmia_offline', 'lira', 'population')
    >>> default_attacks(False, "logit"), default_attacks(True, "label")
    (('population', 'loss'), ('gap',))
    >>> default_attacks(False, "log", language=True, has_base=True)
    ('base_ratio', 'min_k_plus', 'zlib', 'loss')
    """
    if language and link == "log":
        base = ("base_ratio",) * has_base
        if has_references:
            return ("rmia", "rmia_offline", "lira", *base, "min_k_plus", "loss")
        return (*base, "min_k_plus", "zlib", "loss")
    if link == "label":
        return ("gap",)
    return ("rmia", "rmia_offline", "lira", "population") if has_references else ("population", "loss")


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
    attack = _attack(name)
    links = sorted(need.removeprefix("link:") for need in attack.needs if need.startswith("link:"))
    if signals.link not in links:
        if attack.labels_only:
            return f"Attack {name} works on predicted labels only; this model gives more, use the other attacks."
        if attack.extras:
            return (
                f'Attack {name} needs the log-probabilities of tokens (link log), this model gives "{signals.link}": '
                "it is for causal language models."
            )
        return f'Attack {name} needs confidences (link {" or ".join(links)}), this model gives "{signals.link}" only.'
    if "reference" in attack.needs:
        reason = missing_references(signals.member, need_in="in" in attack.needs, need_out="out" in attack.needs)
        if reason:
            return reason
    if "population" in attack.needs and not signals.population.shape[0]:
        return f"Attack {name} needs population records, there are none. Pass population=..., or a larger holdout."
    for kind, key in zip(attack.extras, attack.extra_keys(options)):
        if key not in signals.extra:
            return f'Attack {name} needs the signal "{key}" ({EXTRAS[kind].meaning}). {EXTRAS[kind].remedy}'
    return ""


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises `ConfigError` with every option that an attack does not have, and the nearest one it has.

    The options of its extra signals are checked too, because they are needed before anything is computed.

    Example:
      >>> check_options("rmia", {"gamma": 2.0})
    """
    defaults = _attack(name).options
    unknown = [key for key in options if key not in defaults]
    if unknown:
        raise ConfigError(
            " ".join(
                f"Attack {name} has no option '{key}'{_nearest(key, defaults)}; it has {', '.join(defaults) or 'none'}."
                for key in unknown
            )
        )
    _attack(name).extra_keys(options)


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
    attack = _attack(name)
    defaults = attack.options
    check_options(name, options)
    reason = available(name, signals, options)
    if reason:
        raise DesignError(f"Attack {name} cannot run: {reason}")
    used = {**defaults, **options}
    if attack.function is rmia_offline:
        used |= _offline_a(signals, options, used["a"])
    keywords = {key: value for key, value in used.items() if key in attack._of_function and value is not None}
    if "link" in inspect.signature(attack.function).parameters:
        keywords["link"] = signals.link
    arrays = [getattr(signals, field) for field in attack.inputs]
    arrays += [signals.extra[key] for key in attack.extra_keys(used)]
    scores = attack.function(*arrays, **keywords)
    tie = None if scores.tie is None else to_numpy(scores.tie)
    return Scores(to_numpy(scores.value), tie), used


def _offline_a(signals: Signals, options: dict[str, Any], default: float) -> dict[str, Any]:
    """`a` of the offline transform: as given, tuned, or the default where no reference can stand in."""
    if signals.link != "logit":
        return {"a": None, "a_tuned": False}
    if options.get("a") is not None:
        return {"a": options["a"], "a_tuned": False}
    nobodys = None if signals.population_member.any() else signals.population_reference
    tuned = tune_a(signals.reference, signals.member, nobodys)
    if tuned is None:
        m = signals.member.shape[1]
        _logger.info(
            "RMIA offline keeps a=%g: %d reference models are too few to tune it; 4 are enough, 2 with a population.",
            default,
            m,
        )
        return {"a": default, "a_tuned": False}
    return {"a": tuned, "a_tuned": True}


def _attack(name: str) -> Attack:
    """The attack of that name."""
    if name not in ATTACKS:
        raise ConfigError(f"There is no attack '{name}'{_nearest(name, ATTACKS)}; there are {', '.join(ATTACKS)}.")
    return ATTACKS[name]


def _nearest(name: str, valid: Any) -> str:
    """', did you mean ...?' if something valid is near."""
    near = difflib.get_close_matches(str(name), list(valid), n=1)
    return f", did you mean '{near[0]}'?" if near else ""
