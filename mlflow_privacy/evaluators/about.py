"""Who audits when, and whose data: what the report says beside the figures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import numpy as np
from mlflow.entities import Run

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.records_view import column, columns_of
from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.types import About, AuditTarget

_USER = "mlflow.user"


def check_people(target: AuditTarget, people: int | str | None) -> None:
    """Raises `ConfigError` if `people` names no column of the records, or is less than one."""
    if isinstance(people, str) and people not in columns_of(target.pool):
        known = columns_of(target.pool)
        raise ConfigError(
            f"people names {people!r}, which is no column that the model takes{nearest(people, known, listed=True)}. "
            "Where the column is not among them, give the number of people: people=1234."
        )
    if isinstance(people, int) and people < 1:
        raise ConfigError(f"people must be at least 1, or the name of a column, got {people}.")


def about_audit(target: AuditTarget, options: AuditOptions, run: Run, kept: Mapping[str, str]) -> About:
    """What the report says of an audit in `run`; `kept`: fields of the impact assessment, filled in."""
    people, by = options.people, "as the auditor says"
    if isinstance(people, str):
        members = np.asarray(target.membership, bool)
        by = f"different values of {people}"
        people = len(set(map(str, column(target.pool, people)[members])))
    return About(
        date=f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        auditor=options.auditor or str(run.data.tags.get(_USER, "")),
        columns=tuple(columns_of(target.pool)) if hasattr(target.pool.x, "columns") else (),
        people=people,
        people_by="" if people is None else by,
        dpia=dict(kept),
    )
