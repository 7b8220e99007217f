"""Measures that lower the risk, each with what this audit says about its likely effect, and no more than that."""

from __future__ import annotations

import json
import math
from typing import Any

from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.metrics.names import guessing
from mlflow_privacy.report.document import Exposure, Measure
from mlflow_privacy.report.sections.families import ADVICE, family_of, settings_of
from mlflow_privacy.report.text import format_estimate, joint_rates
from mlflow_privacy.types import AuditResult

_SMALL_GAP = 0.02
_LONG = 60  # characters of a setting's value
_SHOW_LESS = {
    "language": "Show less: texts without log-probabilities, fewer queries",
    "regression": "Show less: rounded predictions, fewer queries",
    "classification": "Show less: labels instead of confidences, fewer queries",
}


def measures(result: AuditResult, exposure: Exposure) -> tuple[Measure, ...]:
    """What lowers the risk in a model of this family, in the order in which it is tried."""
    advice, gap = ADVICE[family_of(result)], _gap(result)
    no_proof = "A small gap is no proof of safety: single records can be memorised by a model that generalises."
    closely = []
    for i, step in enumerate(advice.steps):
        evidence = [gap] if i < 2 else []
        evidence += [_recipe(result, step.settings)] + ([no_proof] if i == 1 else [])
        said = " ".join(part for part in evidence if part)
        closely.append(Measure(step.name, step.how, said or "This audit does not measure it."))
    return (
        *closely,
        Measure(advice.private.name, advice.private.how, _dp(result)),
        Measure(
            "Remove or reweight the most exposed records",
            "Takes single records out of the training data, or lets them count less.",
            _removal(exposure),
        ),
        Measure(
            _SHOW_LESS.get(result.task, "Show less, to fewer queries"),
            "Takes away what the attacker sees. Who holds the model file is not hindered.",
            _labels(result),
        ),
    )


def _gap(result: AuditResult) -> str:
    """The generalisation gap in words."""
    own = result.fidelity.target
    for what, name in (("accuracy", "accuracy"), ("r2", "R²")):
        if {f"member_{what}", f"nonmember_{what}"} <= own.keys():
            inside, outside = own[f"member_{what}"], own[f"nonmember_{what}"]
            figure = f"The target reaches {name} {inside:.3f} on its members and {outside:.3f} on others"
            if inside - outside > _SMALL_GAP:
                return f"{figure}, a gap of {inside - outside:.3f}: there is overfitting to take away."
            return f"{figure}: hardly any gap, so this is unlikely to change much."
    if {"member_loss", "nonmember_loss"} <= own.keys():
        inside, outside = own["member_loss"], own["nonmember_loss"]
        return f"The target's mean loss is {inside:.3f} on its members and {outside:.3f} on others."
    return "This audit has no figures of how well the target generalises."


def _recipe(result: AuditResult, names: tuple[str, ...]) -> str:
    """The settings that a measure would change, as the recipe has them."""
    found = [f"{name} = {_plain(value)}" for name, value in settings_of(result, names).items()]
    return f"The recipe says {', '.join(found)}." if found else ""


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, (int, float)):
        return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def _dp(result: AuditResult) -> str:
    """How the rates that this audit resolves stand to a guarantee."""
    rates = {guessing(key): tpr for key, tpr in joint_rates(result).items()}
    if not rates:
        return "The audit is too small to compare its rates with a guarantee."
    begin = "A guarantee of ε (with δ near zero) keeps the recognised share below e^ε times the false-alarm rate."
    fpr, tpr = max(rates.items(), key=lambda item: item[1].low / item[0])
    ratio = tpr.low / fpr
    if ratio <= 1:
        return (
            f"{begin} At the rates that this audit resolves that share may be guessing's, so no ε is sure to lower it."
        )
    return (
        f"{begin} At {100 * fpr:g}% false alarms it is {tpr.value / fpr:.2f} [{ratio:.2f}, {tpr.high / fpr:.2f}] times "
        f"that rate, so only a guarantee of ε below {math.log(ratio):.2f} is sure to lower it; larger ones often do."
    )


def _removal(exposure: Exposure) -> str:
    """What is left without the records that stand out."""
    if exposure.trimmed is None:
        return "Too few members to say."
    change = exposure.overall.value - exposure.trimmed.value
    excess = exposure.overall.value - 0.5
    text = (
        f"Without the {100 * exposure.trimmed_share:g}% of members that score highest, the AUC of these scores is "
        f"{format_estimate(exposure.trimmed)} instead of {format_estimate(exposure.overall)}"
    )
    if excess > 0 and change > 0.5 * excess:
        text += ": much of the risk lies with few records."
    else:
        text += ": the risk is not that of few records alone."
    return (
        f"{text} This is arithmetic on one model's scores and no prediction: once they are removed and the model is "
        "trained anew, other records become the exposed ones."
    )


def _labels(result: AuditResult) -> str:
    """What an attacker who sees labels alone reaches."""
    gap = next((attack for attack in result.attacks if attack.name == "gap"), None)
    if result.task != "classification":
        return "No attack of this audit sees so little, so it cannot say what would remain."
    if gap is None:
        return "This audit ran no attack that sees labels only (attack “gap”), so it cannot say what would remain."
    text = f"The attack that sees labels only reaches AUC {format_estimate(gap.metrics.get('auc'))}"
    tpr = gap.metrics.get(fpr_key(0.1))
    return f"{text} and {format_estimate(tpr)} at ten per cent false alarms." if tpr is not None else f"{text}."
