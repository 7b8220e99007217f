"""Figures of an audit: `AuditResult` to PNG. No pyplot and no global state, so that threads may draw at once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.report.text import format_estimate, plain_text
from mlflow_privacy.types import AttackResult, AuditResult, Roc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart with any colour vision; yellow is left out as
# too pale on white. Each attack also has its own dash pattern, for print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (5, 1.5)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 2)),
)
MEMBER, NONMEMBER = "#D55E00", "#0072B2"
# 10 inches at 140 dpi; MLflow's artifact pane halves it to about 700 pixels, where 12 points are still 11 pixels high.
_WIDTH, _DPI = 10.0, 140
_STYLE = {
    "font.size": 12,
    "axes.titlesize": 12.5,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11.5,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#555555",
    "text.parse_math": False,
    "svg.fonttype": "none",
}


def roc_figure(result: AuditResult) -> bytes:
    """The ROC curves of all attacks with their bands, linear and log-log side by side.

    Curves are drawn as the steps they are: between two thresholds no further record is recognised. (Where members
    and non-members tie, the AUC counts half of the tie and may exceed the area under the drawn line.) On the
    logarithmic axes a TPR of 0 lies on the lower edge, and FPRs below 1 / n_nonmembers are marked as not resolvable.

    Args:
      result: with at least one attack.

    Returns: PNG, 1400 pixels wide, under 200 kB.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> roc_figure(example_result(n=100))[:8]
      b'\\x89PNG\\r\\n\\x1a\\n'
    """
    from matplotlib import rc_context

    n_members = int(result.membership.sum())
    n_nonmembers = len(result.membership) - n_members
    rows = len(result.attacks) + 1
    legend_rows = (rows + 1) // 2
    with rc_context(_STYLE):
        figure = _figure(5.05 + 0.26 * legend_rows)
        height = figure.get_figheight()
        bottom = (0.85 + 0.26 * legend_rows) / height
        linear, loglog = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.075, right=0.985, top=1 - 0.75 / height, bottom=bottom, wspace=0.22)
        _prepare_linear(linear)
        floor = _prepare_loglog(loglog, n_members, n_nonmembers)
        grid = np.geomspace(floor[0], 1, 200)
        chance = None
        for axes, x in ((linear, np.array([0.0, 1.0])), (loglog, grid)):
            (chance,) = axes.plot(x, x, color="#777777", linewidth=1.2, linestyle=(0, (2, 2)), zorder=1.5)
        handles, labels = [], []
        # The headline's curve on top of the others.
        for i, attack in reversed(list(enumerate(result.attacks))):
            style = {"color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.9}
            for axes, low in ((linear, (0.0, 0.0)), (loglog, floor)):
                line = _draw_roc(axes, attack.roc, low=low, log=axes is loglog, zorder=4 - 0.1 * i, **style)
            handles.insert(0, line)
            labels.insert(0, f"{plain_text(attack.title, 30)}: AUC {format_estimate(attack.metrics.get('auc'))}")
        figure.suptitle(
            f"{plain_text(result.model.label, 60)}: {n_members:,} members, {n_nonmembers:,} non-members",
            x=0.075,
            y=1 - 0.12 / height,
            ha="left",
            va="top",
            fontsize=13,
            fontweight="bold",
        )
        confidence = next(iter(result.attacks[0].metrics.values())).confidence
        figure.legend(
            [*handles, chance],
            [*labels, f"guessing (bands: {100 * confidence:g} % interval, point by point)"],
            loc="lower left",
            bbox_to_anchor=(0.06, 0.0),
            ncols=2,
            frameon=False,
            handlelength=3.2,
            columnspacing=2.0,
        )
        return _png(figure)


def score_histograms(result: AuditResult) -> bytes:
    """Scores of members and of non-members, one panel per attack, both over the same bins.

    Scores beyond the central 99.8 % are counted in the outermost bins, so that a few extreme (or infinite) ones do
    not squeeze the rest into a line; scores that are all equal give one bin.

    Args:
      result: with at least one attack.

    Returns: PNG, 1400 pixels wide, under 200 kB.
    """
    from matplotlib import rc_context

    columns = 2 if len(result.attacks) > 1 else 1
    rows = -(-len(result.attacks) // columns)
    with rc_context(_STYLE):
        figure = _figure(1.0 + 2.75 * rows)
        height = figure.get_figheight()
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        figure.subplots_adjust(
            left=0.085, right=0.985, top=1 - 0.85 / height, bottom=0.62 / height, hspace=0.62, wspace=0.22
        )
        handles: Sequence[Any] = ()
        for i, axes in enumerate(panels):
            if i >= len(result.attacks):
                axes.set_axis_off()
                continue
            handles = _draw_histogram(axes, result.attacks[i], result.membership)
            if i % columns == 0:
                axes.set_ylabel("share of records" + (" (log)" if axes.get_yscale() == "log" else ""))
            if i >= len(result.attacks) - columns:
                axes.set_xlabel("score (higher: more likely a member)")
        figure.suptitle(
            plain_text(result.model.label, 60),
            x=0.085,
            y=1 - 0.12 / height,
            ha="left",
            va="top",
            fontsize=13,
            fontweight="bold",
        )
        figure.legend(
            handles,
            [f"members ({int(result.membership.sum()):,})", f"non-members ({int((~result.membership).sum()):,})"],
            loc="upper right",
            bbox_to_anchor=(0.99, 1 - 0.02 / height),
            ncols=2,
            frameon=False,
        )
        return _png(figure)


def thin_steps(cell: np.ndarray) -> np.ndarray:
    """(v,) bool: which vertices of a rising step curve to draw so that the picture stays the same.

    Within one cell of the x axis a rising step curve paints the stretch from its first to its last vertex, whatever
    lies between; so those two are kept. A hull, or every k-th vertex, would be another curve.

    Args:
      cell: (v,) index of each vertex's cell on the x axis, ascending.

    Example:
      >>> thin_steps(np.array([0, 0, 0, 1, 4, 4])).tolist()
      [True, False, True, True, True, True]
    """
    cell = np.asarray(cell)
    keep = np.ones(len(cell), bool)
    keep[1:-1] = (cell[1:-1] != cell[:-2]) | (cell[1:-1] != cell[2:])
    return keep


def histogram_bins(values: np.ndarray, max_bins: int = 60) -> np.ndarray:
    """(b + 1,) ascending edges for scores that may be heavy-tailed, tied, constant or infinite.

    Args:
      values: (n,) scores of members and non-members together; NaN and infinities do not count.

    Example:
      >>> histogram_bins(np.array([3.0, 3.0, 3.0])).tolist()
      [2.5, 3.5]
      >>> bool(histogram_bins(np.r_[np.linspace(0, 1, 2000), 1e9])[-1] < 2)
      True
    """
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return np.array([-0.5, 0.5])
    low, high = np.quantile(finite, [0.001, 0.999])
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        low, high = finite.min(), finite.max()
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        half = max(0.5, abs(low) * 1e-6)
        return np.array([low - half, low + half])
    count = min(max_bins, max(10, round(2 * finite.size ** (1 / 3))))
    return np.linspace(low, high, count + 1)


def _figure(height: float) -> Figure:
    """An empty figure of the common width with its own Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    """PNG with a palette of 256 colours, a third of the size; the same bytes for the same result."""
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=_DPI, metadata={"Software": None})
    raw.seek(0)
    out = io.BytesIO()
    Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()


def _prepare_linear(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="false-positive rate", ylabel="true-positive rate")
    axes.set_title("linear", loc="left", color="#444444")


def _prepare_loglog(axes: Axes, n_members: int, n_nonmembers: int) -> tuple[float, float]:
    """Log-log axes down to one non-member in all; returns where the curves begin, (x, y)."""
    resolution = 1 / n_nonmembers
    left = resolution ** 1.09 if n_nonmembers > 1 else 0.5
    bottom = min(resolution, 1 / n_members, 0.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlim=(left, 1), ylim=(bottom, 1.05), xlabel="false-positive rate (log)", ylabel="true-positive rate (log)")
    axes.set_title("log-log: what few false alarms allow", loc="left", color="#444444")
    axes.axvspan(left, resolution, facecolor="#EEEEEE", edgecolor="#BBBBBB", hatch="////", linewidth=0, zorder=1)
    axes.text(
        (left * resolution) ** 0.5,
        0.5,
        f"not resolvable: FPR < 1/{n_nonmembers:,}",
        transform=axes.get_xaxis_transform(),
        rotation=90,
        ha="center",
        va="center",
        fontsize=10,
        color="#333333",
        zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percent)
    return resolution, bottom


def _percent(value: float, position: int | None = None) -> str:
    """0.001 as "0.1%"."""
    return f"{100 * value:g}%"


def _draw_roc(axes: Axes, roc: Roc, *, low: tuple[float, float], log: bool, zorder: float, **style: Any) -> Any:
    """One step curve with its band, at most two vertices per half pixel; returns the line."""
    x = np.maximum(roc.fpr, low[0])
    cells = 2 * _WIDTH / 2 * _DPI  # an axis is under half of the figure wide
    share = np.log(x / low[0]) / np.log(1 / low[0]) if log and low[0] < 1 else x
    keep = thin_steps(np.floor(share * cells))
    x = x[keep]
    y, band_low, band_high = (np.maximum(v[keep], low[1]) for v in (roc.tpr, roc.tpr_low, roc.tpr_high))
    axes.fill_between(
        x, band_low, band_high, step="post", color=style["color"], alpha=0.13, linewidth=0, zorder=zorder - 2
    )
    (line,) = axes.plot(x, y, drawstyle="steps-post", solid_joinstyle="miter", zorder=zorder, **style)
    return line


def _draw_histogram(axes: Axes, attack: AttackResult, membership: np.ndarray) -> list[Any]:
    """One panel; the y axis is logarithmic where a single bin would hide all others."""
    value = np.asarray(attack.scores.value, np.float64)
    edges = histogram_bins(value)
    inside = np.clip(value, edges[0], edges[-1])
    shares = []
    for group in (membership, ~membership):
        counts = np.histogram(inside[group & ~np.isnan(value)], edges)[0]
        shares.append(counts / max(int(group.sum()), 1))
    handles = [
        axes.stairs(shares[0], edges, fill=True, color=MEMBER, alpha=0.4, zorder=2),
        axes.stairs(shares[1], edges, color=NONMEMBER, linewidth=1.8, zorder=4),
    ]
    axes.stairs(shares[0], edges, color=MEMBER, linewidth=1.3, linestyle=(0, (4, 1.2)), zorder=3)
    filled = np.concatenate([s[s > 0] for s in shares])
    if filled.size and filled.max() > 0.3 and filled.max() > 20 * np.median(filled):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5 / len(value))
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_title(
        f"{plain_text(attack.title, 30)}: AUC {format_estimate(attack.metrics.get('auc'))}", loc="left", color="#444444"
    )
    outside = int(((value < edges[0]) | (value > edges[-1])).sum())
    if outside:
        axes.annotate(
            f"{outside:,} beyond the axis are in the end bins",
            (1, 1),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            fontsize=9,
            color="#555555",
        )
    return handles
