"""Records that are trained on more than once, scored apart from the others: they are usually the most exposed.

They are compared with each other alone (`lineage.copies`): against records that occur once, any model would seem to
have seen them, since what is frequent is easy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.attacks import available
from mlflow_privacy.attacks._arrays import side_by_side
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.references import References
from mlflow_privacy.auditing.scores import attack_result
from mlflow_privacy.design import Design
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.games.game import Question
from mlflow_privacy.types import AuditTarget, Estimate, ModelOutputs, Repeated, Signals

_FEW = 10  # of either side: fewer say nothing


def ask_repeated(target: AuditTarget, design: Design, options: AuditOptions) -> tuple[Question, ...]:
    """What to ask every model besides: about one copy of each repeated record; nothing if that is not wanted."""
    rows = np.array([], np.int64) if target.repeated is None else np.flatnonzero(target.repeated)
    if not options.score_duplicates or not len(rows):
        return ()
    size = options.records_audited(len(rows))
    if size is not None and size < len(rows):
        drawn = design.audited(size, target.repeated)
        rows = rows if drawn is None else drawn
    records = target.pool.take(rows)
    return (Question("repeated records", records, data_digest(records), {"rows": rows}),)


def score_repeated(
    aside: Sequence[Question],
    own: Sequence[ModelOutputs],
    references: References | None,
    signals: Signals,
    target: AuditTarget,
    design: Design,
    attacks: Sequence[str],
    options: AuditOptions,
) -> Repeated | None:
    """Metrics of the attacks on repeated records alone; None if nobody asked.

    Args:
      aside: of `ask_repeated`, the last that every model was asked; own: the target's answers.
      signals: of the audited records, of which the population is used.
      attacks: names of those that ran; those that need extra signals are left out.
    """
    if not aside:
        return None
    rows = aside[0].about["rows"]
    member = np.asarray(target.membership, bool)[rows]
    n_in, n_out = int(member.sum()), int((~member).sum())
    metrics: dict[str, dict[str, Estimate]] = {}
    if min(n_in, n_out) >= _FEW:
        reference, trained_on = np.zeros((len(rows), 0), np.float32), np.zeros((len(rows), 0), bool)
        if references is not None:
            reference = side_by_side([each[-1].signal for each in references.further])
            trained_on = np.ascontiguousarray(design.together(references.rows).T[rows])
        apart = dataclasses.replace(signals, target=own[-1].signal, reference=reference, member=trained_on, extra={})
        for name in attacks:
            if not available(name, apart, options.attack_options.get(name, {})):
                metrics[name] = dict(attack_result(name, apart, member, options).metrics)
    return Repeated(n_in, n_out, metrics)
