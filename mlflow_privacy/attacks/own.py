"""Our own attacks: what each takes, needs and supposes of the attacker."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mlflow_privacy.attacks.averages import DEFAULT_A
from mlflow_privacy.attacks.bavaria import bavaria, bavaria_offline
from mlflow_privacy.attacks.definition import Attack
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
from mlflow_privacy.attacks.learned import learned, learned_on_references, too_few_groups
from mlflow_privacy.attacks.lira import lira, lira_offline
from mlflow_privacy.attacks.population import attack_p, loss_threshold
from mlflow_privacy.attacks.reference import attack_r
from mlflow_privacy.attacks.rmia import rmia, rmia_offline
from mlflow_privacy.attacks.tuning import tune_a
from mlflow_privacy.types import Signals

_logger = logging.getLogger(__name__)

_RMIA = "Zarifzadeh, Liu and Shokri (2024), https://arxiv.org/abs/2312.03262"
_LIRA = "Carlini et al. (2022), https://arxiv.org/abs/2112.03570"
_BAVARIA = "Brännvall (2026), https://arxiv.org/abs/2603.11799"
_SHOKRI = "Shokri, Stronati, Song and Shmatikov (2017), https://arxiv.org/abs/1610.05820"
_YE = "Ye et al. (2022), https://arxiv.org/abs/2111.09679"
_YEOM = "Yeom et al. (2018), https://arxiv.org/abs/1709.01604"
_CARLINI = "Carlini et al. (2021), https://arxiv.org/abs/2012.07805"
_CONFIDENCE = frozenset({"link:logit", "link:log"})
_TOKENS = frozenset({"link:log_p"})
_ALL_SIX = ("target", "reference", "member", "population", "population_reference", "population_member")


def _offline_a(signals: Signals, options: Mapping[str, Any]) -> dict[str, Any]:
    """`a` of the offline transform: given, else tuned, or the default where no reference can stand in for a target."""
    if signals.link not in ("logit", "log_p"):
        return {"a": None, "a_tuned": False}
    if options.get("a") is not None:
        return {"a": options["a"], "a_tuned": False}
    nobodys = None if signals.population_member.any() else signals.population_reference
    tuned = tune_a(signals.reference, signals.member, nobodys, link=signals.link)
    if tuned is None:
        m = signals.member.shape[1]
        _logger.info(
            "RMIA offline keeps a=%g: %d reference models are too few to tune it; 4 are enough, 2 with a population.",
            DEFAULT_A,
            m,
        )
        return {"a": DEFAULT_A, "a_tuned": False}
    return {"a": tuned, "a_tuned": True}


OWN: dict[str, Attack] = {
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
            frozenset({"reference", "out", "population", "link:log_p"}) | _CONFIDENCE,
            "Black box with confidences, offline: reference models trained without the record and a population "
            "sample; one reference is enough.",
            _RMIA,
            tune=_offline_a,
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
            "bavaria",
            "BaVarIA",
            bavaria,
            ("target", "reference", "member"),
            frozenset({"reference", "in", "out"}) | _CONFIDENCE,
            "Black box with confidences, online: reference models with and without each record; few do, since the "
            "variances of records are shrunk towards those of all.",
            _BAVARIA,
        ),
        Attack(
            "bavaria_offline",
            "BaVarIA (offline)",
            bavaria_offline,
            ("target", "reference", "member"),
            frozenset({"reference", "out"}) | _CONFIDENCE,
            "Black box with confidences, offline: reference models trained without the record; as BaVarIA, few do.",
            _BAVARIA,
        ),
        Attack(
            "learned",
            "Learned on the references",
            learned,
            ("target", "reference", "member"),
            frozenset({"reference", "in", "out", "link:log_p"}) | _CONFIDENCE,
            "Black box with confidences, online: reference models with and without each record, on which a classifier "
            "of members is trained; two groups of them at least.",
            _SHOKRI,
            check=lambda signals: too_few_groups(signals.member),
            on_references=learned_on_references,
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
