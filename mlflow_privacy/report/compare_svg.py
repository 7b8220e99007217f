"""The ROC curves of several models in one drawing: `Roc` to SVG, without a library."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.report.figures import PALETTE, thin_steps
from mlflow_privacy.report.text import plain_text
from mlflow_privacy.types import Roc

DASHES = ("", "7 3", "2 3", "8 3 2 3", "4 2 1 2 1 2")
_WIDTH, _HEIGHT = 440, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 26, 46
_Scale = Callable[[Any], np.ndarray]


def roc_svg(curves: Sequence[tuple[str, Roc]], *, floor: tuple[float, float] | None = None) -> str:
    """Raw step curves with their bands, linear, or log-log from `floor` on.

    On the logarithmic axes a TPR of 0 lies on the lower edge.

    Args:
      curves: name and curve, the baseline first.
      floor: (x, y) where logarithmic axes begin, such as (1 / n_nonmembers, 1 / n_members); None for linear axes.

    Returns: an SVG element that scales to its container.

    Example:
      >>> from mlflow_privacy.metrics import roc_curve
      >>> roc_svg([("v1", roc_curve(np.arange(8.0), np.arange(8) > 3))]).startswith("<svg")
      True
    """
    x_of, y_of = _scale(floor and floor[0], _LEFT, _WIDTH - _RIGHT), _scale(floor and floor[1], _HEIGHT - _BOTTOM, _TOP)
    names = ", ".join(name for name, _ in curves)
    kind = "log-log: what few false alarms allow" if floor else "linear"
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="ROC curves, {kind}, of {_safe(names)}">',
        f'<text x="{_LEFT}" y="16" class="t">{kind}</text>',
        *_axes(floor, x_of, y_of),
    ]
    guess = np.geomspace(max(floor), 1, 60) if floor else np.array([0.0, 1.0])
    parts.append(f'<polyline points="{_points(x_of(guess), y_of(guess))}" class="guess"/>')
    for i, (_, roc) in reversed(list(enumerate(curves))):
        parts += _curve(roc, x_of, y_of, PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)], bool(floor))
    return "".join([*parts, "</svg>"])


def swatch(i: int) -> str:
    """The line of curve `i`, for a legend."""
    dash = DASHES[i % len(DASHES)]
    return (
        f'<svg viewBox="0 0 34 10" class="swatch" aria-hidden="true"><path d="M0 5H34" fill="none" stroke-width="3" '
        f'stroke="{PALETTE[i % len(PALETTE)]}" stroke-dasharray="{dash}"/></svg>'
    )


def _scale(low: float | None, start: float, end: float) -> _Scale:
    """From a rate to a coordinate; logarithmic from `low` on, if there is one."""
    if low is None:
        return lambda v: start + (end - start) * np.asarray(v, np.float64)
    span = -math.log(low)
    return lambda v: end + (end - start) * np.log(np.maximum(np.asarray(v, np.float64), low)) / span


def _axes(floor: tuple[float, float] | None, x_of: _Scale, y_of: _Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for axis, low in enumerate(floor or (None, None)):
        ticks: tuple[float, ...] = (0, 0.2, 0.4, 0.6, 0.8, 1.0)
        if low is not None:
            ticks = tuple(10.0**-k for k in range(6, -1, -1) if 10.0**-k >= low * 0.999)
        for tick in ticks:
            text = f"{100 * tick:g}%"
            if axis == 0:
                x = float(x_of(tick))
                parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" class="grid"/>')
                parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
            else:
                y = float(y_of(tick))
                parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" class="grid"/>')
                parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" class="axis"/>')
    parts.append(f'<text x="{middle_x}" y="{_HEIGHT - 8}" text-anchor="middle">false-positive rate</text>')
    turned = f'transform="rotate(-90 13 {middle_y})"'
    parts.append(f'<text x="13" y="{middle_y}" text-anchor="middle" {turned}>true-positive rate</text>')
    return parts


def _curve(roc: Roc, x_of: _Scale, y_of: _Scale, colour: str, dash: str, steps: bool) -> list[str]:
    x = x_of(roc.fpr)
    keep = thin_steps(np.floor(2 * x))
    x, y, low, high = (v[keep] for v in (x, y_of(roc.tpr), y_of(roc.tpr_low), y_of(roc.tpr_high)))
    if steps:  # a slanted edge is a block of ties, within which no threshold lies
        x = np.repeat(x, 2)[1:]
        y, low, high = (np.repeat(v, 2)[:-1] for v in (y, low, high))
    band = _points(np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]]))
    return [
        f'<polygon points="{band}" fill="{colour}" fill-opacity="0.10"/>',
        f'<polyline points="{_points(x, y)}" fill="none" stroke="{colour}" stroke-dasharray="{dash}" class="roc"/>',
    ]


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist()))


def _safe(text: str) -> str:
    return html.escape(plain_text(text, 200), quote=True)
