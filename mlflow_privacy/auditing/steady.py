"""Whether a model gives the same answer twice: one that draws at random when asked hides what it knows in noise."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlflow_privacy.auditing.questions import Asking
from mlflow_privacy.types import AuditTarget, ModelOutputs

_ASKED = 16  # records; random layers differ on nearly every one
_ROUNDING = 1e-3  # of the answers' size: what order of summation may do on a GPU


def check_steady(target: AuditTarget, ask: Asking) -> tuple[str, ...]:
    """A sentence for the report if the target, asked twice about a few records, answers differently; else none."""
    few = ask.pool.take(np.arange(min(len(ask.pool), _ASKED)))
    again = dataclasses.replace(ask, data=(few,), keys=ask.keys[:1], n_further=0)
    first, second = (_answer(again(target.model.native)[0], target.task) for _ in range(2))
    differ = np.abs(first - second) > _ROUNDING * np.maximum(1e-30, np.maximum(np.abs(first), np.abs(second)).max())
    if not differ.any():
        return ()
    return (
        f"The model answers at random: asked twice about the same {len(few)} records it answered differently for "
        f"{int(differ.sum())} of them, by up to {np.abs(first - second).max():.3g}. The noise hides members, so that "
        "the audit shows less than repeated questions would. Some layer draws while it predicts, such as a dropout "
        "that ignores eval(): use torch.nn.Dropout, or F.dropout(x, p, training=self.training).",
    )


def _answer(outputs: ModelOutputs, task: str) -> np.ndarray:
    """(n,) what is compared: residuals of a regressor, because its σ is taken from the answers themselves."""
    return np.sqrt(outputs.loss) if task == "regression" else np.asarray(outputs.signal, np.float64)
