"""Whether a model knows the records that it is said to have been trained on.

Lineage may be wrong without anybody noticing: a file that was replaced, another month's data under the same name and
digest. But the training run may have logged how well the model did on its records; and a model that treats its
"members" like records it never saw, where models of the same recipe tell theirs from others, was not trained on them.

Both tests are for what cannot happen by chance. A weak model of a weak recipe passes: its references are weak too. A
model that generalises unlike its references passes as well: then the recipe is another one, which `findings` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.auditing.references import References
from mlflow_privacy.errors import LineageError
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import AuditTarget, ModelOutputs

_OFF = {True: 0.05, False: 0.15}  # how much worse than logged, by whether the metric is of the finished model itself
_ERRORS = 5  # standard errors
_KNOWN = 0.6  # AUC from which references count as telling their records from others
_SHARE = 0.2  # of what references show beyond 0.5, below which a model counts as showing nothing
_ALIKE = 0.05  # accuracy, and distribution of the signal, on records that nobody trained on
_MOST_RECORDS, _MOST_REFERENCES = 20_000, 16  # looked at: more would tell no more


def check_logged_quality(
    target: AuditTarget, own: ModelOutputs, member: np.ndarray, y: np.ndarray, *, allow: bool
) -> tuple[str, ...]:
    """Holds the model's quality on its members against what its training run logged.

    Args:
      own: the model's outputs on the audited records; member: (n,) bool; y: (n,) labels.
      allow: return a sentence for the report instead of raising.

    Raises:
      LineageError: it is far worse.
    """
    said = _below_logged(target, own, member, y)
    return _refused(target, said, allow) if said else ()


def check_familiar(
    target: AuditTarget, own: ModelOutputs, member: np.ndarray, references: References | None, *, allow: bool
) -> tuple[str, ...]:
    """Asks whether the model tells its members from others at all, where models of the same recipe do.

    Args: as of `check_logged_quality`.

    Raises:
      LineageError: it does not.
    """
    if references is None or target.always is not None:
        return ()
    said = unfamiliar(own, member, references.pool, references.member)
    return _refused(target, said, allow) if said else ()


def unfamiliar(
    own: ModelOutputs, member: np.ndarray, references: Sequence[ModelOutputs], trained_on: np.ndarray
) -> str:
    """How a model treats its members like records it never saw, though models of its recipe know theirs; "" if not.

    All of these must hold: references tell their own records from others (AUC of the signal); this model shows less
    than a fifth of that, by five standard errors; and on records that nobody trained on it is like them, so that it is
    of the same recipe.

    Args:
      own: outputs on n records; member: (n,) bool.
      references: of m models; trained_on: (n, m) bool.
    """
    some = slice(0, _MOST_RECORDS)
    member, signal = member[some], own.signal[some]
    count = min(len(references), _MOST_REFERENCES)
    rows = [trained_on[some, j] for j in range(count)]
    if count < 2 or not _both(member) or not all(_both(row) for row in rows):
        return ""
    theirs = [one.signal[some] for one in references[:count]]
    known = np.array([mann_whitney(values[row], values[~row]) for values, row in zip(theirs, rows)])
    mine, mean = mann_whitney(signal[member], signal[~member]), float(known.mean())
    n_in, n_out = int(member.sum()), int((~member).sum())
    error = math.hypot(math.sqrt((len(member) + 1) / (12 * n_in * n_out)), float(known.std()))
    if mean < _KNOWN or mine - 0.5 >= _SHARE * (mean - 0.5) or mean - mine < _ERRORS * error:
        return ""
    outside = [values[~row] for values, row in zip(theirs, rows)]
    if not _alike(signal[~member], outside):
        return ""
    said = (
        f"it treats its members like records it never saw (by its signal alone they differ with AUC {mine:.3f}), while "
        f"{count} models of the same recipe tell theirs from others (AUC {mean:.3f})"
    )
    if own.correct is None:
        return said
    right = own.correct[some]
    pairs = [(one.correct[some], row) for one, row in zip(references, rows) if one.correct is not None]
    of_others = np.array([[values[row].mean(), values[~row].mean()] for values, row in pairs])
    accuracy = (float(right[member].mean()), float(right[~member].mean()))
    off = abs(accuracy[1] - of_others[:, 1].mean())
    if off > max(_ALIKE, 3 * math.hypot(of_others[:, 1].std(), math.sqrt(0.25 / n_out))):
        return ""
    their_in, their_out = of_others.mean(axis=0)
    return (
        f"{said}: its accuracy is {accuracy[0]:.3f} on members and {accuracy[1]:.3f} on non-members, theirs "
        f"{their_in:.3f} and {their_out:.3f}"
    )


def _both(row: np.ndarray) -> bool:
    return bool(row.any() and not row.all())


def _alike(signal: np.ndarray, outside: Sequence[np.ndarray]) -> bool:
    """Whether signals of unseen records are distributed like those of the references, as these are among themselves."""
    ordered = [np.sort(values) for values in (signal, *outside)]
    mine = np.array([_distance(ordered[0], other) for other in ordered[1:]])
    pairs = np.array([_distance(a, b) for i, a in enumerate(ordered[1:]) for b in ordered[2 + i :]])
    return bool(mine.mean() <= pairs.mean() + max(_ALIKE, 2 * float(pairs.std())))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov's distance of two sorted samples."""
    at = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max())


def _below_logged(target: AuditTarget, own: ModelOutputs, member: np.ndarray, y: np.ndarray) -> str:
    quality, scored = target.quality, True if target.scored is None else target.scored
    pool_members = int(np.sum(target.membership & scored))  # copies are not asked about
    if quality is None or target.always is not None or not member.any():
        return ""
    n = int(member.sum())
    left_out = max(0.0, 1 - pool_members / target.n_trained) if target.n_trained else 0.0
    if quality.kind == "accuracy":
        if own.correct is None:
            return ""
        found = float(own.correct[member].mean())
        # Records that were left out may all have been right: at least this is the accuracy on the others.
        least = (quality.value - left_out) / (1 - left_out)
        chance = math.sqrt(max(least * (1 - least), 0.25 / n) / n) if n < pool_members else 0.0
        least -= _OFF[quality.exact] + _ERRORS * chance
        title = "accuracy"
    else:
        if left_out or n < pool_members or np.ndim(y) != 1 or not np.var(y[member]) > 0:
            return ""
        found = 1 - float(np.mean(own.loss[member], dtype=np.float64)) / float(np.var(y[member]))
        least, title = quality.value - _OFF[quality.exact], "R²"
    if found >= least:
        return ""
    return f"its {title} on them is {found:.3f}, the training run logged {quality.name} = {quality.value:.3f}"


def _refused(target: AuditTarget, said: str, allow: bool) -> tuple[str, ...]:
    """Raises, or returns the same as a sentence for the report."""
    uri, doubts = target.model.uri, "".join(f" {doubt}" for doubt in target.doubts)
    if allow:
        return (
            f"The members may not be the records this model was trained on: {said}.{doubts} They were used because "
            "allow_unfamiliar_members is set.",
        )
    raise LineageError(
        f"{uri}: these are not the records this model was trained on: {said}.{doubts} Log those it was trained on with "
        "mlflow_privacy.log_lineage(train=..., holdout=..., run_id=...), or pass them: "
        'evaluator_config={"privacy_meter": {"train": ..., "holdout": ...}}. If the recipe is not the one that trained '
        "it, log that. To audit with these records all the same, pass allow_unfamiliar_members=True."
    )
