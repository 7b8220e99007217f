"""The game "usage": the share of the pool that a target trained on, from raw signals and reference models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.games.game import Game, GameEvidence
from mlflow_privacy.games.usage.estimate import UsageEstimate, usages
from mlflow_privacy.games.usage.options import UsageOptions
from mlflow_privacy.types import AuditTarget, Estimate, GameResult

TITLE = "Share of the data set that was used"
# Of the pool. Where a model has about as many weights as records, a smaller difference bends the estimate too.
_SIZES_DIFFER = 0.05
_LEVELS = np.linspace(0.1, 0.9, 17)


def play_usage(
    targets: np.ndarray,
    reference: np.ndarray,
    member: np.ndarray,
    options: UsageOptions | None = None,
    *,
    true_share: float | None = None,
    names: Sequence[str] = (),
    confidence: float = 0.95,
) -> GameResult:
    """Estimates the share of n records that one target, or each of several, trained on.

    Args:
      targets: (n,) raw signals φ of one target, or (n, t) of several. Not scores of an attack: those are calibrated by
        the references, with which the target shares records, the more the larger the share is (docs/games.md).
      reference: (n, m) signals of the references.
      member: (n, m) bool, who trained on what.
      true_share: of the one target, if its lineage tells; shown beside the estimate, never used for it.
      names: of the targets, for the rows.

    Raises: DesignError: there are no references, or see `usage`.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> member = rng.random((2000, 8)) < 0.5
      >>> used = np.arange(2000) < 1000
      >>> play_usage(2 * used + rng.normal(size=2000), 2 * member + rng.normal(size=(2000, 8)), member).summary
      '0.515 [0.484, 0.545]'
    """
    options = options or UsageOptions()
    confidence = confidence if options.confidence is None else options.confidence
    targets = np.asarray(targets)
    columns = targets[:, None] if targets.ndim == 1 else targets
    if not np.asarray(reference).shape[1]:
        raise DesignError(
            "The game usage needs reference models: set num_ref_models to 8 or so, for a model whose recipe is known."
        )
    chosen = {"confidence": confidence, "threshold": options.threshold, "correlation": options.correlation}
    found = usages(columns, reference, member, **chosen)
    first = found[0]
    labels = list(names) or [
        f"target {i + 1}" if len(found) > 1 else "Share of the records used" for i in range(len(found))
    ]
    rows = [(label, _estimate(estimate)) for label, estimate in zip(labels, found, strict=True)]
    n = first.n
    if true_share is not None:
        rows.append(("Share that the lineage says", Estimate(true_share, true_share, true_share, n, 1.0)))
    size = float(np.asarray(member, bool).mean())
    return GameResult(
        name="usage",
        title=TITLE,
        sentence=_sentence(found, true_share, size),
        summary=f"{first.value:.3f} [{first.low:.3f}, {first.high:.3f}]" if first.resolvable else "not resolvable",
        rows=tuple(rows),
        metrics={"share" if i == 0 else f"share_{i + 1}": _estimate(e) for i, e in enumerate(found)},
        options={
            **options.model_dump(),
            "confidence": confidence,
            **{key: getattr(first, key) for key in ("threshold", "mean_guess", "tpr", "fpr", "n_references")},
        },
        assumption="The target was trained like the references, on as many records.",
        figure=_figure(columns[:, 0], reference, member, options, confidence),
    )


def _sentence(found: Sequence[UsageEstimate], true_share: float | None, size: float) -> str:
    """The answer in words, with what could bend it."""
    parts = []
    for estimate in found:
        if estimate.resolvable:
            parts.append(
                f"Of these {estimate.n:,} records the model trained on about {100 * estimate.value:.0f} %: "
                f"between {100 * estimate.low:.0f} and {100 * estimate.high:.0f} % "
                f"({100 * estimate.confidence:g} % confidence)."
            )
        if estimate.problem:
            parts.append(estimate.problem)
    if true_share is not None and abs(true_share - size) > _SIZES_DIFFER:
        parts.append(
            f"The lineage says {100 * true_share:.0f} %, while each reference trained on {100 * size:.0f} % of them: "
            "models of another amount of data, so the estimate may be bent, most so where references trained on fewer. "
            f"Set reference_fraction to {true_share:.2f} or a little more."
        )
    return " ".join(parts)


def _figure(target, reference, member, options: UsageOptions, confidence: float) -> dict | None:
    """The estimate against the threshold: where it is flat, it does not hang on the choice."""
    points: list[tuple[float, UsageEstimate]] = []
    cuts: set[float] = set()
    for level in _LEVELS:
        cut = float(np.quantile(reference, level))
        (estimate,) = usages(
            target[:, None], reference, member, threshold=cut, confidence=confidence, correlation=options.correlation
        )
        if estimate.resolvable and cut not in cuts:
            points.append((float(level), estimate))
            cuts.add(cut)
    if len(points) < 2:
        return None
    return {
        "x": [level for level, _ in points],
        "y": [e.value for _, e in points],
        "low": [e.low for _, e in points],
        "high": [e.high for _, e in points],
        "x_label": 'threshold of "member": share of the references\' signals below it',
        "y_label": "estimated share",
        "label": "estimate at each threshold alone",
    }


def _estimate(found: UsageEstimate) -> Estimate:
    return Estimate(found.value, found.low, found.high, found.n, found.confidence, found.resolvable)


class UsageGame(Game):
    """Dataset usage (DUCI): which share of these records did the model train on?"""

    Options = UsageOptions
    name = "usage"
    uses_references = True

    def check(self, target: AuditTarget, n_references: int, attacks: Sequence[str] | None) -> None:
        if n_references < 1:
            raise ConfigError(
                'The game "usage" compares the target with reference models, and there are none. '
                f"{target.recipe_problem or 'Set num_ref_models to 8 or so.'}"
            )

    def answer(self, evidence: GameEvidence) -> GameResult:
        signals, confidence = evidence.signals, self.setting.confidence
        share = float(np.mean(evidence.member))
        return play_usage(
            signals.target, signals.reference, signals.member, self.options, true_share=share, confidence=confidence
        )
