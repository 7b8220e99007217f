"""Whether a classifier's outputs are read in their right order: a net does not say which output is which label."""

from __future__ import annotations

import math

import numpy as np

from mlflow_privacy.auditing.questions import Asking
from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.types import AuditTarget, ModelOutputs, Records

_RIGHT = 0.5  # of its members: above, no other order could be far better
_GAIN, _LEAST, _ERRORS = 0.25, 0.4, 6.5  # in κ; the last over √n
_ENOUGH = 5  # members of a label that must gain; of fewer none may be lost
_MOST_CLASSES, _PER_CLASS, _MOST = 200, 20, 2000  # classes; members asked about for each, and in all at least


def check_label_order(target: AuditTarget, ask: Asking, own: ModelOutputs, member: np.ndarray) -> None:
    """Refuses a classifier whose predictions fit its own records far better under another order of the labels.

    A weak model passes, and one that is trained to prefer a rare class: what counts is Cohen's κ, the agreement beyond
    what predictions and labels would have by chance. Only the members are looked at, which a model knows best.

    Args:
      own: the model's outputs on the audited records; member: (n,) bool.

    Raises:
      SignalError: it asks for `classes`.
    """
    if target.task != "classification" or own.correct is None or target.always is not None:  # canaries are mislabelled
        return
    if not member.any() or float(own.correct[member].mean()) >= _RIGHT:
        return
    classes = np.unique(target.pool.y) if target.classes is None else np.asarray(target.classes)
    rows = np.flatnonzero(member)[: max(_MOST, _PER_CLASS * len(classes))]
    if not 2 <= len(classes) <= _MOST_CLASSES or len(rows) < _PER_CLASS * len(classes) / 2:
        return
    label = np.searchsorted(np.sort(classes), ask.pool.y[rows])
    label = np.argsort(classes, kind="stable")[label]  # position among the classes, in whatever order these are
    table = _confusion(label, _predicted(target, ask, rows, classes, own.correct[rows], label), len(classes))
    order = better_order(table)
    if order is None:
        return
    read, best = float(np.trace(table)) / table.sum(), float(table[np.arange(len(order)), order].sum()) / table.sum()
    names = [None] * len(order)
    for i, place in enumerate(order):
        names[place] = classes[i].item() if isinstance(classes[i], np.generic) else classes[i]
    assumed = "in the order given" if target.classes is not None else "sorted"
    raise SignalError(
        f"The outputs of {target.model.uri} are not in the order of its labels ({assumed}: {_some(classes.tolist())}): "
        f"read so, it is right for {read:.3f} of the records it was trained on, in the order {_some(names)} for "
        f"{best:.3f}. Say which output means which label: log_lineage(classes={_some(names)}), or "
        f'evaluator_config={{"privacy_meter": {{"classes": {_some(names)}}}}}.'
    )


def better_order(table: np.ndarray) -> np.ndarray | None:
    """(k,) output of each label under the order that fits best, if it fits far better than the present one; else None.

    Args:
      table: (k, k) counts of records by label (row) and by the output that was highest (column).

    >>> better_order(np.array([[2, 48], [47, 3]])).tolist(), better_order(np.array([[30, 20], [22, 28]]))
    ([1, 0], None)
    >>> better_order(np.array([[0, 60, 0], [0, 6, 0], [0, 0, 34]])) is None  # prefers a rare class to a common one
    True
    """
    from scipy.optimize import linear_sum_assignment

    n, k = table.sum(), len(table)
    if not n:
        return None
    order = linear_sum_assignment(-table)[1]
    now, best = _kappa(table), _kappa(table[:, order])
    # The best of all orders gains by chance, too: up to 4 / √n in simulations, with two lopsided classes 6 / √n.
    if best < _LEAST or best - max(now, 0.0) < max(_GAIN, _ERRORS / math.sqrt(n)):
        return None
    # Of outputs in another order every label gains; a rare label that is preferred to a common one loses.
    here = np.arange(k)
    gain = table[here, order] - table[here, here]
    least = np.where((order != here) & (table.sum(axis=1) >= _ENOUGH), 1, 0)
    return order if (gain >= least).all() else None


def _kappa(table: np.ndarray) -> float:
    """Cohen's κ: agreement beyond chance, 0 for predictions that do not depend on the label."""
    share = table / table.sum()
    chance = float(share.sum(axis=1) @ share.sum(axis=0))
    return 0.0 if chance >= 1 else (float(np.trace(share)) - chance) / (1 - chance)


def _confusion(label: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    table = np.zeros((k, k), np.int64)
    known = predicted >= 0
    np.add.at(table, (label[known], predicted[known]), 1)
    return table


def _predicted(
    target: AuditTarget, ask: Asking, rows: np.ndarray, classes: np.ndarray, correct: np.ndarray, label: np.ndarray
) -> np.ndarray:
    """(n,) the highest output of each record, -1 where no label is called right."""
    if len(classes) == 2:
        return np.where(correct, label, 1 - label)
    records = ask.pool.take(rows)
    predicted = np.full(len(rows), -1)
    for i, name in enumerate(classes):  # whoever would be right if all had this label
        y = np.full(len(rows), name, dtype=ask.pool.y.dtype)
        outputs = model_outputs(
            target.model.native,
            Records(records.x, y, records.row_ids),
            task="classification",
            classes=ask.classes,
            device=ask.options.device,
            batch_size=ask.options.batch_size,
        )
        if outputs.correct is not None:
            predicted[outputs.correct] = i
    return predicted


def _some(names: list) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return f"[{shown}{', …' if len(names) > 20 else ''}]"
