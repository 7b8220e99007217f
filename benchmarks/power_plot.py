"""Strength by the number of references as a small SVG: a helper of bench_power.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.report.palette import DASHES, SERIES, THEMES

# Label, place of colour and dash. The wide band is what the verdict takes; the thin lines lie on it.
LINES = {
    "auto": ("auto (default)", 4),
    "learned": ("learned", 0),
    "rmia": ("RMIA", 1),
    "lira": ("LiRA", 2),
    "bavaria": ("BaVarIA", 3),
    "Privacy Meter": ("Privacy Meter's RMIA", 5),
}
PANELS = ("mlp", "logistic", "words", "cnn")
FIGURES = ("AUC", "TPR at 1 % FPR")


def plot(found: Mapping[str, Any], titles: Mapping[str, str], path: Path) -> None:
    """A column a family: AUC and TPR at 1 % FPR, means over the targets with bars of one standard error."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = [name for name in PANELS if name in found] or list(found)[:4]
    with mpl.rc_context({"svg.hashsalt": "power", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(2.3 * len(shown) + 0.4, 4.6), facecolor="white")
        FigureCanvasSVG(figure)
        panels = figure.subplots(2, len(shown), sharex="col", squeeze=False)
        for column, name in enumerate(shown):
            for row in (0, 1):
                _panel(panels[row, column], found[name], row)
            panels[0, column].set_title(titles[name], fontsize=9, loc="left", color=THEMES["light"]["ink"])
        for row, words in enumerate(FIGURES):
            panels[row, 0].set_ylabel(words)
        figure.supxlabel("reference models", fontsize=9, y=0.075)
        figure.align_ylabels()
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=len(labels), loc="lower center", frameon=False, fontsize=8.5)
        figure.subplots_adjust(left=0.078, right=0.99, top=0.94, bottom=0.17, wspace=0.26, hspace=0.12)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _panel(axes: Any, found: Mapping[str, Any], figure: int) -> None:
    for attack, (label, place) in LINES.items():
        points = [(int(n), *_figure(cell[attack], figure)) for n, cell in found.items() if attack in cell]
        if not points:
            continue
        counts, mean, error = zip(*points)
        bold = attack == "auto"
        axes.errorbar(
            counts, mean, None if bold else error, label=label, color=SERIES["light"][place],
            linestyle="-" if bold else _dash(DASHES[place]), linewidth=6 if bold else 1.4, alpha=0.22 if bold else 1,
            elinewidth=0.8, marker="" if bold else "o", markersize=2.5, zorder=1 if bold else 2, capsize=0,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(n) for n in found], list(found), fontsize=8)
    axes.minorticks_off()
    if figure:
        axes.set_ylim(bottom=0)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=THEMES["light"]["rule"], linewidth=0.6)
    axes.set_axisbelow(True)


def _dash(pattern: str) -> Any:
    return (0, tuple(float(x) for x in pattern.split())) if pattern else "-"


def _figure(rows: Any, place: int) -> tuple[float, float]:
    values = np.array([row["figures"][place] for row in rows])
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
