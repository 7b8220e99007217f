"""Whether an audit without reference models is reason to train some, in words."""

from __future__ import annotations

from mlflow_privacy.report.text import format_estimate
from mlflow_privacy.types import AuditResult

GUESSING = 0.01


def worth_references(result: AuditResult) -> str:
    """What the loss alone shows of a model that was audited without references; "" where it was not looked at.

    A figure above guessing shows that there is something to find. One at guessing shows nothing: what the loss alone
    finds says which model gives away more, not how much.
    """
    found = result.screening
    if found is None:
        return ""
    begin = "Is it worth training reference models? "
    if not found.resolvable:
        members = f"{int(result.membership.sum()):,} members"
        return f"{begin}{members} are too few for a first look at the loss alone: train some."
    figure = (
        f"the loss alone recognises a share of {format_estimate(found)} of the non-members as such, while it takes 1 % "
        "of the members for non-members; guessing recognises 0.01"
    )
    if found.low > GUESSING:
        return (
            f"{begin}Yes: {figure}. There is something to find. How much of it an attacker with reference models finds "
            "may be less than this figure or several times as much; only an audit with them tells."
        )
    return (
        f"{begin}This does not tell: {figure}. That is no sign of safety: attacks with reference models also find "
        "members whose loss is like that of others. Train some before anything is decided on this audit."
    )
