"""The figure of a game: its curve with its band, and the lines it is read against. `GameResult` to PNG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlflow_privacy.report.figures import _FONT, _SMALL, PALETTE, _figure, _png, _style
from mlflow_privacy.types import AuditResult, GameResult


def game_figure(result: AuditResult, game: GameResult) -> bytes | None:
    """One curve: x and y, the band low to high, further `series`, horizontal `lines`; None if the game has none.

    Returns: PNG, 1400 pixels wide.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> game = GameResult("dp", "Bound", "", "", (), {}, figure={"x": [1, 2], "y": [0.1, 0.2]})
      >>> game_figure(example_result(n=50), game)[:4]
      b'\\x89PNG'
    """
    values: Mapping[str, Any] | None = game.figure
    if not values:
        return None
    series, lines = values.get("series") or {}, values.get("lines") or {}
    rows = 1 + len(series) + len(lines)
    height = 4.6 + 0.26 * rows
    figure = _figure(height, game.title, result)
    axes = figure.subplots(1, 1)
    figure.subplots_adjust(left=0.085, right=0.975, top=1 - 0.75 / height, bottom=(0.8 + 0.26 * rows) / height)
    _style(axes, game.summary.replace("$", r"\$"))
    x, y = np.asarray(values["x"], float), np.asarray(values["y"], float)
    if values.get("diagonal"):
        axes.plot([0, 1], [0, 1], color="#777777", linewidth=1.2, linestyle=(0, (2, 2)))
    if values.get("low") is not None:
        low, high = (np.asarray(values[end], float) for end in ("low", "high"))
        axes.fill_between(x, low, high, color=PALETTE[0], alpha=0.15, linewidth=0)
    label = str(values.get("label", "the estimate")) + (" (band: interval, point by point)" if "low" in values else "")
    handles = axes.plot(x, y, color=PALETTE[0], linewidth=2, marker="o" if len(x) <= 30 else None, markersize=4)
    labels = [label]
    for i, (name, other) in enumerate(series.items(), 1):
        handles += axes.plot(x, np.asarray(other, float), color=PALETTE[i], linestyle=(0, (4, 1.5)), linewidth=1.6)
        labels.append(str(name))
    for i, (name, at) in enumerate(lines.items(), 1 + len(series)):
        handles.append(axes.axhline(float(at), color=PALETTE[i], linestyle=(0, (1, 1.2)), linewidth=1.8))
        labels.append(str(name))
    axes.set_xlabel(str(values.get("x_label", "")), fontsize=_FONT)
    axes.set_ylabel(str(values.get("y_label", "")), fontsize=_FONT)
    if min(y.min(), *(float(at) for at in lines.values()), 0.0) >= 0:
        axes.set_ylim(bottom=0)
    figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.065, 0.0), frameon=False, fontsize=_SMALL + 0.5)
    return _png(figure)
