"""The stages of both tools side by side as a small PNG: a helper of compare.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAGES = ("imports", "data", "training", "signals", "attack", "blind baseline", "registry", "report", "other")
_COLOURS = ("#999999", "#CCBB44", "#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#DDDDDD")


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Two panels of stacked bars, a bar a tool: seconds, and the short ones again on an axis of their own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    medians = found["medians"]
    ours = [tool for tool in medians if tool != "theirs"]
    names = {"theirs": "Privacy Meter v2"} | {tool: f"mlflow-privacy\n({_what(tool)})" for tool in ours}
    figure = Figure(figsize=(9, 4.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    whole, part = figure.subplots(2, 1, height_ratios=(3, 2))
    for axes, tools in ((whole, list(medians)), (part, ours)):
        for row, tool in enumerate(tools):
            left = 0.0
            for stage, colour in zip(STAGES, _COLOURS):
                seconds = max(medians[tool].get(stage, 0.0), 0.0)
                label = stage if axes is whole and row == 0 else None
                axes.barh(row, seconds, left=left, color=colour, edgecolor="white", linewidth=0.5, label=label)
                left += seconds
            axes.text(left, row, f" {medians[tool]['total']:.1f} s", va="center", fontsize=9)
        longest = max(medians[tool]["total"] for tool in tools)
        axes.set_xlim(0, 1.1 * longest)
        axes.set_yticks(range(len(tools)), [names[tool] for tool in tools], fontsize=9)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
    part.set_xlabel("seconds (lower panel: mlflow-privacy alone)", fontsize=9)
    whole.set_title(f"{found['workload']}: {found['size']}", fontsize=10, loc="left")
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, loc="lower center", frameon=False, fontsize=8)
    figure.subplots_adjust(left=0.17, right=0.97, top=0.92, bottom=0.24, hspace=0.3)
    figure.savefig(path, metadata={"Software": None})


def _what(tool: str) -> str:
    return "the same work" if "same" in tool else "all defaults"
