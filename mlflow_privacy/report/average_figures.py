"""ROC curves of one target, and of several with their average; one panel a figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.report.average import average_metrics, average_roc
from mlflow_privacy.report.average_tables import Named, by_variant, fewest_nonmembers
from mlflow_privacy.report.figures import (
    _DPI,
    _FONT,
    _SMALL,
    DASHES,
    PALETTE,
    _draw_roc,
    _png,
    _prepare_linear,
    _prepare_loglog,
)
from mlflow_privacy.report.text import format_estimate, headline_attack, plain_text
from mlflow_privacy.types import AuditResult, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _PANEL = 7.2, 4.9  # inches; 1008 pixels wide
_THIN = "#9A9A9A"
_FEW = 4  # with fewer targets Student's quantile is above 4


def target_roc(result: AuditResult, *, log: bool, title: str = "") -> bytes:
    """The headline attack's ROC on one target with its band, linear or log-log.

    Args:
      log: logarithmic axes.
      title: in front of the model's name.

    Returns: PNG, 1008 pixels wide.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> target_roc(example_result(n=100), log=True)[:4]
      b'\\x89PNG'
    """
    attack = headline_attack(result)
    n_members, n_nonmembers = int(result.membership.sum()), int((~result.membership).sum())
    auc = attack.metrics["auc"]
    label = f"{plain_text(attack.title, 40)}: AUC {_estimate(auc)}"
    band = f"band: {100 * auc.confidence:g}% interval at each false-positive rate"
    name = plain_text(f"{title}: {result.model.label}" if title else result.model.label, 60)

    def draw(axes: Axes, low: tuple[float, float]) -> list[tuple[Any, str]]:
        line = _draw_roc(axes, attack.roc, low=low, zorder=4, color=PALETTE[0], linestyle="solid", linewidth=2.2)
        return [(line, label)]

    return _panel(
        name, f"{n_members:,} members, {n_nonmembers:,} non-members; {band}", n_members, n_nonmembers, log, draw
    )


def average_figure(named: Named, *, log: bool, title: str = "") -> bytes:
    """Each target's ROC thin, and the average over each variant's targets thick with its band across targets.

    Args:
      named: each target's variant and audit.
      log: logarithmic axes.
      title: what was audited.

    Returns: PNG, 1008 pixels wide.
    """
    groups = by_variant(named)
    many = len(groups) > 1
    results = [result for _, result in named]
    n_members = min(int(result.membership.sum()) for result in results)
    n_nonmembers = fewest_nonmembers(results)
    fewest = min(len(group) for group in groups.values())
    confidence = headline_attack(results[0]).metrics["auc"].confidence
    kind = "across targets" if fewest > 1 else "within the target" if not many else "across targets, or within one"
    note = f"band: {100 * confidence:g}% interval {kind}, at each false-positive rate"
    if 1 < fewest < _FEW:
        note += f"; wide, as it rests on {fewest} targets"

    def draw(axes: Axes, low: tuple[float, float]) -> list[tuple[Any, str]]:
        handles: list[tuple[Any, str]] = []
        thin: Any = None
        for i, (variant, group) in enumerate(groups.items()):
            attacks = [headline_attack(result) for result in group]
            colour = PALETTE[i % len(PALETTE)]
            if len(group) > 1:
                own = {"color": colour, "alpha": 0.45} if many else {"color": _THIN}
                for attack in attacks:
                    thin = _draw_thin(axes, attack.roc, low, **own)
            rocs = [attack.roc for attack in attacks]
            roc = average_roc(rocs, fewest_nonmembers(group), confidence=confidence, slanted=not log)
            line = _draw_roc(
                axes, roc, low=low, zorder=5 - 0.1 * i, color=colour, linestyle=DASHES[i % len(DASHES)], linewidth=2.6
            )
            auc = average_metrics(attacks)["auc"] if len(group) > 1 else attacks[0].metrics["auc"]
            what = f"average of {len(group)} targets" if len(group) > 1 else "one target"
            head = f"{plain_text(variant, 30)}, " if many else f"{plain_text(attacks[0].title, 30)}, "
            handles.append((line, f"{head}{what}: AUC {_estimate(auc)}"))
        if thin is not None:
            handles.append((thin, "each target"))
        return handles

    name = headline_attack(results[0]).title
    title = f"{title}: {name}" if title and many else title or name
    return _panel(plain_text(title, 60), note, n_members, n_nonmembers, log, draw)


def _draw_thin(axes: Axes, roc: Any, low: tuple[float, float], **style: Any) -> Any:
    """One curve without its band."""
    bare = type(roc)(roc.fpr, roc.tpr, roc.threshold, roc.tpr, roc.tpr)
    return _draw_roc(axes, bare, low=low, zorder=3, linestyle="solid", linewidth=1.0, **style)


def _panel(
    title: str,
    note: str,
    n_members: int,
    n_nonmembers: int,
    log: bool,
    draw: Callable[[Axes, tuple[float, float]], list[tuple[Any, str]]],
) -> bytes:
    """One panel with its title, a note below it, the chance line, and the legend under the axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _PANEL), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    if log:
        low = _prepare_loglog(axes, n_members, n_nonmembers)
    else:
        _prepare_linear(axes)
        low = (0.0, 0.0)
    x = np.geomspace(low[0], 1, 200) if log else np.array([0.0, 1.0])
    (chance,) = axes.plot(x, x, color="#777777", linewidth=1.2, linestyle=(0, (2, 2)), zorder=1.5)
    entries = [*draw(axes, low), (chance, "guessing")]
    _lay_out(figure, axes, title, note, entries)
    return _png(figure)


def _lay_out(figure: Figure, axes: Axes, title: str, note: str, entries: list[tuple[Any, str]]) -> None:
    """A figure as tall as its legend needs, below a panel of one size."""
    bottom, top = 0.75 + 0.25 * len(entries), 0.95
    height = _PANEL + bottom + top - 1.0
    figure.set_size_inches(_WIDTH, height)
    axes.set_position((0.115, bottom / height, 0.855, 1 - (bottom + top) / height))
    figure.text(
        0.115, 1 - 0.13 / height, title, va="top", fontsize=13, fontweight="bold", parse_math=False
    )  # a "$" in a name is no formula
    figure.text(0.115, 1 - 0.42 / height, note, va="top", fontsize=9.5, color="#444444", parse_math=False)
    figure.legend(
        [handle for handle, _ in entries],
        [label.replace("$", r"\$") for _, label in entries],
        loc="lower left",
        bbox_to_anchor=(0.095, 0.04 / height),
        frameon=False,
        handlelength=3.2,
        fontsize=_SMALL,
    )
    axes.title.set_fontsize(_FONT)


def _estimate(estimate: Estimate) -> str:
    """ "0.62 [0.58, 0.66] (95%)"; the value alone where there is no interval."""
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{format_estimate(estimate)} ({100 * estimate.confidence:g}%)"
