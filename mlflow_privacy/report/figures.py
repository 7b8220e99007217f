"""Figures of an audit: `AuditResult` to PNG. No pyplot and no global state, so that threads may draw at once."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlflow_privacy.report.text import format_estimate, plain_text
from mlflow_privacy.types import AttackResult, AuditResult, Roc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from PIL.Image import Image

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
_FONT, _SMALL, _GREY = 12, 11, "#444444"
_SAMPLED = 29  # one pixel of so many is counted to tell how common a colour is; no divisor of a figure's width


def roc_figure(result: AuditResult) -> bytes:
    """The ROC curves of all attacks with their bands, linear and log-log side by side.

    The curves are raw steps. They differ between the two panels only where members and non-members tie: the linear
    one cuts the corner, so that the area under it is the AUC, which counts half of a tie; the logarithmic one does
    not, so that it shows the TPR at an FPR that a threshold really attains. On the logarithmic axes a TPR of 0 lies
    on the lower edge, and FPRs below 1 / n_nonmembers are marked as not resolvable.

    Args:
      result: with at least one attack.

    Returns: PNG, 1400 pixels wide, under 200 kB.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> roc_figure(example_result(n=100))[:8]
      b'\\x89PNG\\r\\n\\x1a\\n'
    """
    n_members = int(result.membership.sum())
    n_nonmembers = len(result.membership) - n_members
    legend_rows = (len(result.attacks) + 2) // 2
    figure = _figure(5.05 + 0.26 * legend_rows, f"{n_members:,} members, {n_nonmembers:,} non-members", result)
    height = figure.get_figheight()
    linear, loglog = figure.subplots(1, 2)
    figure.subplots_adjust(
        left=0.085, right=0.965, top=1 - 0.75 / height, bottom=(0.85 + 0.26 * legend_rows) / height, wspace=0.26
    )
    _prepare_linear(linear)
    floor = _prepare_loglog(loglog, n_members, n_nonmembers)
    for axes, low in ((linear, (0.0, 0.0)), (loglog, floor)):
        x = np.geomspace(low[0], 1, 200) if axes is loglog else np.array([0.0, 1.0])
        lines = axes.plot(x, x, color="#777777", linewidth=1.2, linestyle=(0, (2, 2)), zorder=1.5)
        for i, attack in enumerate(result.attacks):  # the first on top of the others
            style = {"color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.9}
            lines.append(_draw_roc(axes, attack.roc, low=low, zorder=4 - 0.1 * i, **style))
    confidence = next(iter(result.attacks[0].metrics.values())).confidence
    figure.legend(
        [*lines[1:], lines[0]],
        [*map(_label, result.attacks), f"guessing (bands: {100 * confidence:g}% interval, point by point)"],
        loc="lower left",
        bbox_to_anchor=(0.065, 0.0),
        ncols=2,
        frameon=False,
        handlelength=3.2,
        columnspacing=2.0,
        fontsize=_SMALL + 0.5,
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
    columns = 2 if len(result.attacks) > 1 else 1
    rows = -(-len(result.attacks) // columns)
    figure = _figure(1.35 + 2.7 * rows, "", result)
    height = figure.get_figheight()
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.085, right=0.985, top=1 - 0.85 / height, bottom=0.95 / height, hspace=0.5, wspace=0.2)
    for axes in panels[len(result.attacks) :]:
        axes.set_axis_off()
    n_outside = 0
    for i, (axes, attack) in enumerate(zip(panels, result.attacks)):
        handles, outside = _draw_histogram(axes, attack, result.membership)
        n_outside = max(n_outside, outside)
        if i % columns == 0:
            axes.set_ylabel("share of records", fontsize=_FONT)
        if i >= len(result.attacks) - columns:
            axes.set_xlabel("score (higher: more likely a member)", fontsize=_FONT)
    figure.legend(
        handles,
        [f"members ({int(result.membership.sum()):,})", f"non-members ({int((~result.membership).sum()):,})"],
        loc="upper right",
        bbox_to_anchor=(0.99, 1 - 0.02 / height),
        ncols=2,
        frameon=False,
        fontsize=_SMALL + 0.5,
    )
    if n_outside:
        total = len(result.membership)
        note = f"Up to {n_outside:,} of {total:,} scores lie beyond an axis; its outermost bins count them."
        figure.text(0.085, 0.12 / height, note, fontsize=10, color=_GREY)
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
      values: (n,) scores of members and non-members together; NaN and infinities do not count, and what lies beyond
        ±1e300 counts as that.

    Example:
      >>> histogram_bins(np.array([3.0, 3.0, 3.0])).tolist()
      [2.5, 3.5]
      >>> bool(histogram_bins(np.r_[np.linspace(0, 1, 2000), 1e9])[-1] < 2)
      True
    """
    finite = np.asarray(values, np.float64)
    finite = np.clip(finite[np.isfinite(finite)], -1e300, 1e300)  # a range that itself is finite
    if not finite.size:
        return np.array([-0.5, 0.5])
    for low, high in (
        (np.quantile(finite, 0.001, method="lower"), np.quantile(finite, 0.999, method="higher")),
        (finite.min(), finite.max()),
    ):
        if high - low > max(1e-9 * max(abs(low), abs(high)), 1e-300):
            return np.linspace(low, high, min(max_bins, max(10, round(2 * finite.size ** (1 / 3)))) + 1)
    half = max(0.5, abs(low) * 1e-6)
    return np.array([low - half, low + half])


def _figure(height: float, title: str, result: AuditResult) -> Figure:
    """An empty figure of the common width with its own Agg canvas, named after the model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    label = plain_text(result.model.label, 60)
    figure.text(
        0.085,
        1 - 0.12 / height,
        f"{label}: {title}" if title else label,
        ha="left",
        va="top",
        fontsize=13,
        fontweight="bold",
        parse_math=False,  # the name is not ours: a "$" in it is no formula
    )
    return figure


def _style(axes: Axes, title: str) -> None:
    """The common look, set on these axes alone."""
    # Placed by hand: to find out by itself that no tick is in its way, the title measures every label once more.
    axes.set_title(title, loc="left", y=1.0, color=_GREY, fontsize=_FONT + 0.5)
    axes.tick_params(labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#555555")
    axes.grid(True, color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def _label(attack: AttackResult) -> str:
    """ "RMIA: AUC 0.621 [0.583, 0.658]"."""
    return f"{plain_text(attack.title, 30)}: AUC {format_estimate(attack.metrics.get('auc'))}".replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    """PNG with a palette of 256 colours, a third of the size; the same bytes for the same result."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # no PNG in between: to write and read one takes a sixth of the time
    out = io.BytesIO()
    # The strongest compression takes eight times as long for 6 % fewer bytes.
    _with_palette(np.asarray(canvas.buffer_rgba())).save(out, format="PNG", compress_level=6)
    return out.getvalue()


def _with_palette(pixels: np.ndarray) -> Image:
    """An opaque picture (height, width, 4) uint8 in its 256 most useful colours, by median cut.

    Every colour occurs where a run of equal pixels ends, a few per cent of a figure. The palette is chosen from those
    and from a sample, which says how common each is; then each pixel looks up its colour's entry.
    """
    from PIL import Image

    height, width, _ = pixels.shape
    flat = pixels.reshape(-1, 4)
    codes = (flat[:, 0].astype(np.uint32) << 16) | (flat[:, 1].astype(np.uint32) << 8) | flat[:, 2]
    ends = np.flatnonzero(codes[1:] != codes[:-1])
    chosen = np.concatenate([ends, np.arange(len(codes) - 1, 0, -_SAMPLED)])
    some = Image.fromarray(np.ascontiguousarray(flat[chosen, :3])[None]).quantize(256, dither=Image.Dither.NONE)
    entry = np.zeros(2**24, np.uint8)
    entry[codes[chosen]] = np.asarray(some)[0]
    picture = Image.fromarray(entry[codes].reshape(height, width), mode="P")
    picture.putpalette(some.getpalette() or [])
    return picture


def _prepare_linear(axes: Axes) -> None:
    _style(axes, "linear")
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    axes.set_xlabel("false-positive rate", fontsize=_FONT)
    axes.set_ylabel("true-positive rate", fontsize=_FONT)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percent)


def _prepare_loglog(axes: Axes, n_members: int, n_nonmembers: int) -> tuple[float, float]:
    """Log-log axes down to one non-member in all; returns where the curves begin, (x, y)."""
    resolution = min(1 / n_nonmembers, 0.5)
    left, bottom = resolution**1.09, min(resolution, 1 / n_members)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _style(axes, "log-log: what few false alarms allow")
    axes.set(xlim=(left, 1), ylim=(bottom, 1.05))
    axes.set_xlabel("false-positive rate (log)", fontsize=_FONT)
    axes.set_ylabel("true-positive rate (log)", fontsize=_FONT)
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
    for axis, end in ((axes.xaxis, left), (axes.yaxis, bottom)):
        axis.set_major_formatter(_percent)
        _minor_ticks(axes, axis, end)
    return resolution, bottom


def _minor_ticks(axes: Axes, axis: Axis, low: float, high: float = 1.0) -> None:
    """The minor ticks between a logarithmic axis' powers of ten as one line of markers.

    matplotlib's own are five objects each, hundreds a figure: a third of its time. Where an axis is so short that it
    labels some of them, they stay.

    Args:
      low, high: ends of the axis; no tick lies above 1.
    """
    if low > 0.01 or high < 0.1:
        return
    from matplotlib.markers import TICKDOWN, TICKLEFT
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())
    places = np.outer(10.0 ** np.arange(np.floor(np.log10(low)), 0), np.arange(2, 10)).ravel()
    places = places[(places >= low * (1 - 1e-9)) & (places <= high * (1 + 1e-9))]
    flat = axis is axes.xaxis
    axes.plot(
        places if flat else np.zeros(len(places)),
        np.zeros(len(places)) if flat else places,
        transform=axes.get_xaxis_transform() if flat else axes.get_yaxis_transform(),
        marker=TICKDOWN if flat else TICKLEFT,
        markersize=2,
        markeredgewidth=0.6,
        linestyle="none",
        color="black",
        clip_on=False,
        zorder=2.01,
        scalex=False,
        scaley=False,
    )


def _percent(value: float, position: float) -> str:
    """0.001 as "0.1%"."""
    return f"{100 * value:g}%"


def _draw_roc(axes: Axes, roc: Roc, *, low: tuple[float, float], zorder: float, **style: Any) -> Any:
    """One step curve with its band, at most two vertices per half pixel; returns the line.

    `low` is where logarithmic axes begin, (0, 0) on linear ones.
    """
    x = np.maximum(roc.fpr, low[0])
    cells = 2 * _WIDTH / 2 * _DPI  # an axis is under half of the figure wide
    share = np.log(x / low[0]) / np.log(1 / low[0]) if low[0] > 0 else x
    keep = thin_steps(np.floor(share * cells))
    x = x[keep]
    y, band_low, band_high = (np.maximum(v[keep], low[1]) for v in (roc.tpr, roc.tpr_low, roc.tpr_high))
    # The vertices hold both ends of every step: a line through them draws the steps, and slopes where scores tie.
    step: Literal["post"] | None = "post" if low[0] > 0 else None
    axes.fill_between(x, band_low, band_high, step=step, color=style["color"], alpha=0.13, lw=0, zorder=zorder - 2)
    (line,) = axes.plot(
        x, y, drawstyle="steps-post" if step else "default", solid_joinstyle="miter", zorder=zorder, **style
    )
    return line


def _draw_histogram(axes: Axes, attack: AttackResult, membership: np.ndarray) -> tuple[list[Any], int]:
    """One panel; returns its legend's handles and how many scores lie beyond the axis.

    The y axis is logarithmic where a single bin would hide all others.
    """
    value = np.asarray(attack.scores.value, np.float64)
    edges = histogram_bins(value)
    inside = np.clip(value, edges[0], edges[-1])
    shares = []
    for group in (membership, ~membership):
        counts = np.histogram(inside[group & ~np.isnan(value)], edges)[0]
        shares.append(counts / max(int(group.sum()), 1))
    _style(axes, _label(attack))
    handles = [
        axes.stairs(shares[0], edges, fill=True, color=MEMBER, alpha=0.4, zorder=2),
        axes.stairs(shares[1], edges, color=NONMEMBER, linewidth=1.8, zorder=4),
    ]
    axes.stairs(shares[0], edges, color=MEMBER, linewidth=1.3, linestyle=(0, (4, 1.2)), zorder=3)
    filled = np.concatenate([s[s > 0] for s in shares])
    if filled.size and filled.max() > 0.3 and filled.max() > 20 * np.median(filled):
        axes.set_yscale("log")
        _minor_ticks(axes, axes.yaxis, *axes.set_ylim(bottom=0.5 / len(value)))
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xlim(edges[0], edges[-1])
    return handles, int(((value < edges[0]) | (value > edges[-1])).sum())
