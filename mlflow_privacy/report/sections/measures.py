"""Measures that lower the risk, each with what this audit says about its likely effect, and no more than that."""

from __future__ import annotations

import math

from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.report.document import Exposure, Finding, Measure
from mlflow_privacy.report.text import format_estimate
from mlflow_privacy.types import AuditResult

_SMALL_GAP = 0.02
_EPOCHS = ("epochs", "num_epochs", "max_epochs", "num_train_epochs", "max_iter", "n_estimators")


def measures(result: AuditResult, finding: Finding, exposure: Exposure) -> tuple[Measure, ...]:
    """The usual measures, in the order in which they are tried."""
    gap = _gap(result)
    return (
        Measure(
            "Stop earlier, or train fewer epochs",
            "Stops training where the error on held-out records no longer falls, before the model fits single records.",
            f"{gap} {_epochs(result)}".strip(),
        ),
        Measure(
            "Regularise: weight decay, augmentation, a smaller model, more records",
            "Makes single records matter less.",
            f"{gap} A small gap is no proof of safety: single records can be memorised by a model that generalises.",
        ),
        Measure(
            "Train with differential privacy (DP-SGD)",
            "The only one of these measures with a guarantee: it bounds every attack, known or not. It costs accuracy "
            "and computing time.",
            _dp(finding),
        ),
        Measure(
            "Remove or reweight the most exposed records",
            "Takes single records out of the training data, or lets them count less.",
            _removal(exposure),
        ),
        Measure(
            "Show less: labels instead of confidences, fewer queries",
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


def _epochs(result: AuditResult) -> str:
    spec = (result.references.get("recipe") or {}).get("spec") or {}
    for holder in (spec, *(v for v in spec.values() if isinstance(v, dict))):
        for key in _EPOCHS:
            if isinstance(holder.get(key), int) and not isinstance(holder.get(key), bool):
                return f"The recipe says {key} = {holder[key]:,}."
    return ""


def _dp(finding: Finding) -> str:
    """How the measured rates stand to a guarantee."""
    tpr, fpr = finding.tpr, finding.fpr
    if tpr is None or not fpr:
        return "The audit is too small to compare its rates with a guarantee."
    ratio = tpr.low / fpr
    text = (
        "A guarantee of ε (with δ near zero) keeps the recognised share below e^ε times the false-alarm rate. Here "
        f"that ratio is {tpr.value / fpr:.2f} [{ratio:.2f}, {tpr.high / fpr:.2f}]"
    )
    if ratio > 1:
        return (
            f"{text}, so only a guarantee of ε below {math.log(ratio):.2f} is sure to lower it; larger ones often do."
        )
    return f"{text}, which no guarantee would be sure to lower."


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
    gap = next((attack for attack in result.attacks if attack.name == "gap"), None)
    if gap is None:
        return "This audit ran no attack that sees labels only (attack “gap”), so it cannot say what would remain."
    text = f"The attack that sees labels only reaches AUC {format_estimate(gap.metrics.get('auc'))}"
    tpr = gap.metrics.get(fpr_key(0.1))
    return f"{text} and {format_estimate(tpr)} at ten per cent false alarms." if tpr is not None else f"{text}."
