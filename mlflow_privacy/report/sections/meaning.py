"""What the verdict means: how far beyond guessing, and beyond what the records alone give away."""

from __future__ import annotations

import math
from typing import Literal

from mlflow_privacy.metrics.names import guessing
from mlflow_privacy.report.text import blind_differs, format_estimate, headline_attack, headline_rate, worst_group
from mlflow_privacy.types import AuditResult, Estimate

Grade = Literal["none", "slight", "clear", "strong"]
# From which lower end on: times as many recognised as by guessing, and AUC. With as many members as non-members, 2
# means that two of three records that the attacker names were used in training, 10 that ten of eleven were.
_RATIO = {"clear": 2.0, "strong": 10.0}
_AUC = {"clear": 0.6, "strong": 0.8}
_WHO = {"slight": "a little of who", "clear": "who", "strong": "plainly who"}


def meaning(result: AuditResult) -> str:
    """How the verdict relates to guessing and to the blind baseline, graded by what the audit surely shows."""
    auc = headline_attack(result).metrics.get("auc")
    if auc is not None and not (auc.resolvable and math.isfinite(auc.value)):
        auc = None
    rate = headline_rate(result)
    of_group = _of_group(result)
    if rate is None and auc is None:
        return "Nothing can be concluded from so few records."
    found = grade(rate, auc)
    if found == "none":
        return _nothing(auc, of_group)
    if blind_differs(result):
        return _beside_a_difference(auc, result.blind)
    blind = result.blind
    if found == "slight" and auc is not None and blind is not None and auc.low <= blind.value:
        text = (
            "The attacker does slightly better than guessing, but no better than a classifier that never saw the model "
            f"(AUC {format_estimate(auc)}, without the model {format_estimate(blind)}): this does not show that the "
            "model gives anything away."
        )
    elif found == "slight":
        text = (
            f"The attacker does slightly better than guessing ({_evidence(found, rate, auc)}): the model gives away a "
            "little of who was in its training data, too little to tell it of most single records."
        )
    else:
        plainly = "plainly " if found == "strong" else ""
        text = f"The model {plainly}gives away who was in its training data: {_evidence(found, rate, auc)}."
    return f"{text} Of the group named above it gives away {of_group} was." if of_group else text


def grade(rate: tuple[float, Estimate] | None, auc: Estimate | None) -> Grade:
    """By the lower ends alone: "strong" if either of TPR and AUC is, and so on down to "none".

    Args:
      rate: FPR and TPR of the verdict, None where no rate shows more than guessing.
      auc: None if it is not known.

    Example:
      >>> grade((0.01, Estimate(0.05, 0.03, 0.08, 900)), Estimate(0.53, 0.5, 0.56, 900))
      'clear'
    """
    ratio = 0.0 if rate is None else rate[1].low / rate[0]
    low = 0.5 if auc is None else auc.low
    for name in ("strong", "clear"):
        if ratio >= _RATIO[name] or low >= _AUC[name]:
            return name  # type: ignore[return-value]
    return "slight" if rate is not None or low > 0.5 else "none"


def _nothing(auc: Estimate | None, of_group: str) -> str:
    """Where nothing was found over all records."""
    if of_group:
        return (
            "Over all records guessing lies inside the interval. Of the group named above, though, the model gives "
            f"away {of_group} was in its training data."
        )
    if auc is not None and auc.high < 0.5:
        return "The attacker does worse than guessing; the attack does not fit this model, so nothing is shown."
    return (
        "Guessing lies inside the interval: this audit found no leak. It has not shown that there is none; a stronger "
        "attack or more records may find one."
    )


def _beside_a_difference(auc: Estimate | None, blind: Estimate | None) -> str:
    """Where a classifier that never saw the model does better than guessing, too."""
    if auc is not None and blind is not None and auc.low > blind.high:
        return (
            "The attacker does better than guessing, and better than the records alone allow (AUC "
            f"{format_estimate(auc)}, without the model {format_estimate(blind)}): the model gives away something of "
            "who was in its training data, but how much cannot be told."
        )
    return (
        "The attacker does better than guessing, but so does a classifier that never saw the model (AUC "
        f"{format_estimate(blind)} against the attack's {format_estimate(auc)}): whether the model gives anything away "
        "cannot be told."
    )


def _evidence(found: Grade, rate: tuple[float, Estimate] | None, auc: Estimate | None) -> str:
    """What earns the grade: the TPR, unless the AUC alone does."""
    if rate is not None and rate[1].low / rate[0] >= _RATIO.get(found, 1.0):
        times = math.floor(10 * rate[1].low / rate[0] + 1e-9) / 10
        return f"at this caution the attacker recognises at least {times:g} times as many as guessing"
    return f"AUC {format_estimate(auc)} over all records, where guessing reaches 0.5"


def _of_group(result: AuditResult) -> str:
    """What is given away of the group that the verdict names, in words; "" without one, or beside a difference."""
    group = worst_group(result)
    if group is None or blind_differs(result):
        return ""
    key = group.worse[0]
    own = group.metrics[key]
    return _WHO.get(grade(None if key == "auc" else (guessing(key), own), group.metrics["auc"]), "")
