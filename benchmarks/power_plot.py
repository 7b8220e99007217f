"""Strength by the number of references as a small SVG: a helper of bench_power.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.report.palette import DASHES, SERIES, THEMES

LINES = {"auto": "auto (default)", "learned": "learned", "rmia": "RMIA", "lira": "LiRA", "bavaria": "BaVarIA"}
THEIRS = ("Privacy Meter", "Privacy Meter's RMIA")
PANELS = ("mlp", "logistic", "words", "cnn")


def plot(found: Mapping[str, Any], titles: Mapping[str, str], path: Path) -> None:
    """A panel a family: TPR at 1 % FPR, mean over the targets with a bar of one standard error."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink, theme = THEMES["light"], SERIES["light"]
    shown = [name for name in PANELS if name in found] or list(found)[:4]
    with mpl.rc_context({"svg.hashsalt": "power", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(2.3 * len(shown) + 0.4, 3.1), facecolor="white")
        FigureCanvasSVG(figure)
        for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown):
            for place, (attack, label) in enumerate({**LINES, THEIRS[0]: THEIRS[1]}.items()):
                points = [(int(n), _tpr(cell[attack])) for n, cell in found[name].items() if attack in cell]
                if not points:
                    continue
                counts, values = zip(*points)
                mean, error = np.array(values).T
                bold = attack == "auto"
                axes.errorbar(
                    counts, mean, error, label=label, color=ink["ink"] if bold else theme[_COLOURS[attack]],
                    linestyle=_dash(DASHES[place]), linewidth=2.2 if bold else 1.3, elinewidth=0.8, capsize=0,
                    marker="o", markersize=3.5 if bold else 2.5, zorder=3 if bold else 2,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            ticks = [int(n) for n in found[name]]
            axes.set_xticks(ticks, [str(n) for n in ticks], fontsize=8)
            axes.minorticks_off()
            axes.set_ylim(bottom=0)
            axes.tick_params(axis="y", labelsize=8)
            axes.set_title(titles[name], fontsize=9, loc="left", color=ink["ink"])
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color=ink["rule"], linewidth=0.6)
            axes.set_axisbelow(True)
        figure.axes[0].set_ylabel("TPR at 1 % FPR", fontsize=9)
        figure.supxlabel("reference models", fontsize=9, y=0.12)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=len(labels), loc="lower center", frameon=False, fontsize=8)
        figure.subplots_adjust(left=0.065, right=0.99, top=0.91, bottom=0.25, wspace=0.24)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


_COLOURS = {"learned": 0, "rmia": 1, "lira": 2, "bavaria": 3, "Privacy Meter": 5}


def _dash(pattern: str) -> Any:
    return (0, tuple(float(x) for x in pattern.split())) if pattern else "-"


def _tpr(rows: Any) -> tuple[float, float]:
    values = np.array([row["figures"][1] for row in rows])
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
