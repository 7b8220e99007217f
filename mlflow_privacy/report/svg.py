"""Figures as SVG text: small, with a title and a description, coloured by the page's style sheet.

Every mark carries a class for the page's themes and, beside it, the light theme's own colour, so that a figure taken
out of the page (or set in print) looks right without a style sheet. Functions of plain values; no drawing library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mlflow_privacy.report.figures import thin_steps
from mlflow_privacy.report.palette import DASHES, SERIES, THEMES
from mlflow_privacy.report.text import plain_text

_LIGHT = THEMES["light"]
_WIDTH, _HEIGHT = 420.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 20.0, 12.0, 46.0
_CELLS = 360


def crowd(people: Mapping[str, Any], name: str) -> str:
    """`base` people as squares: those surely recognised, those that may be, and a line under what guessing reaches."""
    base, low, high, guessing = (int(people[key]) for key in ("base", "low", "high", "guessing"))
    columns = 50 if base >= 500 else 25 if base > 50 else 10
    rows = -(-base // columns)
    step, side = (8.0, 6.2) if columns == 50 else (16.0, 12.6)
    width, height = columns * step, rows * step

    def squares(start: int, end: int) -> str:
        return "".join(
            f"M{_n(i % columns * step)} {_n(i // columns * step)}h{_n(side)}v{_n(side)}h{_n(-side)}z"
            for i in range(start, end)
        )

    parts = [
        f'<path class="who-out" fill="{_LIGHT["rule"]}" d="{squares(high, base)}"/>',
        f'<path class="who-may" fill="{_LIGHT["may"]}" d="{squares(low, high)}"/>',
        f'<path class="who-in" fill="{_LIGHT["member"]}" d="{squares(0, low)}"/>',
    ]
    if guessing:
        parts.append(
            f'<path class="who-guess" fill="none" stroke="{_LIGHT["ink"]}" stroke-width="1.4" '
            f'd="{"".join(_box(i, columns, step, side) for i in range(min(guessing, base)))}"/>'
        )
    desc = f"Of {base:,} people, {low:,} to {high:,} are recognised; guessing would recognise {guessing:,}."
    return _svg(name, (-1.2, -1.2, width + 1.2, height + 1.2), "The verdict as a crowd", desc, "".join(parts), "crowd")


def roc(attacks: Sequence[Mapping[str, Any]], n_members: int, n_nonmembers: int, *, log: bool, name: str) -> str:
    """ROC curves of all attacks with their bands, on linear or logarithmic axes down to one non-member."""
    resolution = min(1 / max(n_nonmembers, 1), 0.5)
    left, bottom = (resolution**1.09, min(resolution, 1 / max(n_members, 1))) if log else (0.0, 0.0)
    place = _Axes(left, bottom, log)
    parts = [place.grid("false-positive rate", "true-positive rate")]
    if log:
        edge = place.x(resolution)
        parts.append(
            f'<rect class="unresolved" fill="{_LIGHT["rule"]}" x="{_n(_LEFT)}" y="{_n(_TOP)}" '
            f'width="{_n(edge - _LEFT)}" height="{_n(_HEIGHT - _TOP - _BOTTOM)}"/>'
        )
    diagonal = np.geomspace(max(resolution, bottom), 1, 2) if log else np.array([0.0, 1.0])
    parts.append(
        f'<path class="chance" fill="none" stroke="{_LIGHT["muted"]}" stroke-width="1.2" stroke-dasharray="2 3" '
        f'd="{place.line(diagonal, diagonal)}"/>'
    )
    low = resolution if log else 0.0
    bands, lines = [], []
    for i, attack in enumerate(attacks):
        curve = {key: np.asarray(attack["roc"][key], np.float64) for key in ("fpr", "tpr", "tpr_low", "tpr_high")}
        fpr = np.maximum(curve["fpr"], low)
        keep = thin_steps(np.floor(place.share_x(fpr) * _CELLS))
        x, y, y_low, y_high = (v[keep] for v in (fpr, curve["tpr"], curve["tpr_low"], curve["tpr_high"]))
        if log:  # what a threshold attains is a step; on linear axes ties slope, as the area counts them
            x, (y, y_low, y_high) = _steps(x, y, y_low, y_high)
        colour = SERIES["light"][i % len(SERIES["light"])]
        dash = DASHES[i % len(DASHES)]
        bands.append(
            f'<path class="band f{i % len(SERIES["light"])}" fill="{colour}" fill-opacity="0.13" '
            f'd="{place.line(x, y_high)}L{place.line(x[::-1], y_low[::-1])[1:]}z"/>'
        )
        lines.append(
            f'<path class="s{i % len(SERIES["light"])}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-linejoin="round"{_dash(dash)} d="{place.line(x, y)}"/>'
        )
    parts += bands + lines[::-1]  # the first on top of the others
    kind = "log-log" if log else "linear"
    names = "; ".join(plain_text(attack["title"], 60) for attack in attacks)
    desc = f"ROC curves on {kind} axes with their bands, point by point: {names}. The dotted line is guessing."
    if log:
        desc += " The shaded strip holds false-positive rates that the non-members cannot resolve."
    return _svg(name, (0, 0, _WIDTH, _HEIGHT), f"ROC, {kind}", desc, "".join(parts), "figure")


def histogram(view: Mapping[str, Any], title: str, name: str) -> str:
    """Scores of members, filled, and of non-members, as an outline, over the same bins."""
    edges = np.asarray(view["edges"], np.float64)
    members, others = (np.asarray(view[key], np.float64) for key in ("members", "nonmembers"))
    log = bool(view["logarithmic"])
    filled = np.concatenate([v[v > 0] for v in (members, others)])
    floor = float(filled.min()) / 2 if log and filled.size else 0.0
    top = max(float(filled.max()) if filled.size else 1.0, 1e-6) * (1.3 if log else 1.06)
    height = 210.0
    place = _Axes(float(edges[0]), floor, False, right=float(edges[-1]), top=top, height=height, log_y=log)
    x = np.repeat(edges, 2)

    def outline(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, np.maximum(np.concatenate([[floor], np.repeat(shares, 2), [floor]]), floor)

    inside, outside = place.line(*outline(members)), place.line(*outline(others))
    parts = [
        place.grid("score", "share of records", percent_x=False),
        f'<path class="in-fill" fill="{_LIGHT["member"]}" fill-opacity="0.32" d="{inside}z"/>',
        f'<path class="in-line" fill="none" stroke="{_LIGHT["member"]}" stroke-width="1.5" stroke-dasharray="5 1.5" '
        f'd="{inside}"/>',
        f'<path class="out-line" fill="none" stroke="{_LIGHT["nonmember"]}" stroke-width="1.8" d="{outside}"/>',
    ]
    plain = plain_text(title, 60)
    desc = f"Distribution of the scores of members (filled) and non-members (outline) under {plain}."
    return _svg(name, (0, 0, _WIDTH, height), f"Scores of {plain}", desc, "".join(parts), "figure")


def whisker(
    estimate: Mapping[str, Any], *, axis: tuple[float, float], reference: float | None, label: str, name: str
) -> str:
    """One estimate with its interval on an axis that the rows of a table share; `reference` is a thin line."""
    width, height = 160.0, 18.0

    def x(value: float) -> float:
        share = (value - axis[0]) / (axis[1] - axis[0]) if axis[1] > axis[0] else 0.5
        return 4 + min(max(share, 0.0), 1.0) * (width - 8)

    parts = [f'<path class="axis-line" stroke="{_LIGHT["rule"]}" d="M4 9H{_n(width - 4)}"/>']
    if reference is not None:
        parts.append(f'<path class="chance" stroke="{_LIGHT["muted"]}" d="M{_n(x(reference))} 1V17"/>')
    if estimate["resolvable"] and estimate["value"] is not None:
        low, high, value = (float(estimate[key]) for key in ("low", "high", "value"))
        parts.append(
            f'<path class="s0" stroke="{SERIES["light"][0]}" stroke-width="2" '
            f'd="M{_n(x(low))} 9H{_n(x(high))}M{_n(x(low))} 5V13M{_n(x(high))} 5V13"/>'
            f'<circle class="f0" fill="{SERIES["light"][0]}" cx="{_n(x(value))}" cy="9" r="3.6"/>'
        )
    plain = plain_text(label, 80)
    return _svg(name, (0, 0, width, height), f"{plain}: interval", f"Interval of {plain}.", "".join(parts), "whisker")


def swatch(index: int, title: str, name: str) -> str:
    """How a curve is drawn, for a legend."""
    i = index % len(SERIES["light"])
    line = (
        f'<path class="s{i}" stroke="{SERIES["light"][i]}" stroke-width="2.4"{_dash(DASHES[index % len(DASHES)])} '
        f'd="M1 5H33"/>'
    )
    plain = plain_text(title, 60)
    return _svg(name, (0, 0, 34, 10), plain, f"How the curve of {plain} is drawn.", line, "swatch")


def curve(figure: Mapping[str, Any], title: str, name: str) -> str:
    """What a game measured: a line over x with its band, further ones, horizontal lines, the diagonal."""
    x, y = _values(figure["x"]), _values(figure["y"])
    low, high = (_values(figure[key]) if figure[key] is not None else y for key in ("low", "high"))
    series = [_values(values) for values in figure["series"].values()]
    lines = _values(list(figure["lines"].values()))
    heights, across = np.concatenate([y, low, high, lines, *series]), x[np.isfinite(x)].tolist()
    heights = heights[np.isfinite(heights)].tolist()
    bottom, top = min([0.0, *heights]), max(heights, default=1.0)
    left, right = min(across, default=0.0), max(across, default=1.0)
    place = _Axes(
        left, bottom, False, right=right if right > left else left + 1.0, top=top if top > bottom else bottom + 1.0
    )
    labels = (plain_text(figure["x_label"], 60), plain_text(figure["y_label"], 60))
    parts = [place.grid(*labels, percent_x=False, percent_y=False)]
    if figure["diagonal"]:
        ends = np.array([max(place.left, place.bottom), min(place.right, place.top)])
        parts.append(
            f'<path class="chance" fill="none" stroke="{_LIGHT["muted"]}" stroke-dasharray="2 3" '
            f'd="{place.line(ends, ends)}"/>'
        )
    known = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    if figure["low"] is not None and figure["high"] is not None and known.any():
        parts.append(
            f'<path class="band f0" fill="{SERIES["light"][0]}" fill-opacity="0.13" '
            f'd="{place.line(x[known], high[known])}L{place.line(x[known][::-1], low[known][::-1])[1:]}z"/>'
        )
    level = np.array([place.left, place.right])
    drawn = [(x, y), *((x, values) for values in series), *((level, np.full(2, value)) for value in lines)]
    for i, (xs, ys) in enumerate(drawn):
        known = np.isfinite(xs) & np.isfinite(ys)
        if known.any():
            k = i % len(SERIES["light"])
            parts.append(
                f'<path class="s{k}" fill="none" stroke="{SERIES["light"][k]}" stroke-width="2"'
                f'{_dash(DASHES[i % len(DASHES)])} d="{place.line(xs[known], ys[known])}"/>'
            )
    plain = plain_text(title, 80) or "Figure"
    return _svg(name, (0, 0, _WIDTH, _HEIGHT), plain, f"{labels[1]} over {labels[0]}.", "".join(parts), "figure")


def _values(values: Sequence[Any]) -> np.ndarray:
    """Floats from JSON: null is NaN."""
    return np.array([math.nan if value is None else float(value) for value in values], np.float64)


class _Axes:
    """Places values in the picture, and draws grid, ticks and names of the axes."""

    def __init__(
        self,
        left: float,
        bottom: float,
        log: bool,
        *,
        right: float = 1.0,
        top: float = 1.0,
        height: float = _HEIGHT,
        log_y: bool | None = None,
    ) -> None:
        self.left, self.right, self.bottom, self.top, self.height = left, right, bottom, top, height
        self.log_x, self.log_y = log, log if log_y is None else log_y

    def share_x(self, value: np.ndarray | float) -> np.ndarray:
        return _share(np.asarray(value, np.float64), self.left, self.right, self.log_x)

    def share_y(self, value: np.ndarray | float) -> np.ndarray:
        return _share(np.asarray(value, np.float64), self.bottom, self.top, self.log_y)

    def x(self, value: float) -> float:
        return float(_LEFT + self.share_x(value) * (_WIDTH - _LEFT - _RIGHT))

    def y(self, value: float) -> float:
        return float(self.height - _BOTTOM - self.share_y(value) * (self.height - _BOTTOM - _TOP))

    def line(self, x: np.ndarray, y: np.ndarray) -> str:
        """ "M52 294L60 280…"."""
        xs = np.round(_LEFT + self.share_x(x) * (_WIDTH - _LEFT - _RIGHT), 1)
        ys = np.round(self.height - _BOTTOM - self.share_y(y) * (self.height - _BOTTOM - _TOP), 1)
        return "M" + "L".join(f"{a:g} {b:g}" for a, b in zip(xs.tolist(), ys.tolist()))

    def grid(self, x_label: str, y_label: str, *, percent_x: bool = True, percent_y: bool = True) -> str:
        bottom = self.height - _BOTTOM
        lines, texts = [], []
        for value in _ticks(self.left, self.right, self.log_x):
            at = _n(self.x(value))
            lines.append(f"M{at} {_n(_TOP)}V{_n(bottom)}")
            texts.append(self._tick(at, _n(bottom + 16), "middle", _label(value, percent_x)))
        for value in _ticks(self.bottom, self.top, self.log_y):
            at = _n(self.y(value))
            lines.append(f"M{_n(_LEFT)} {at}H{_n(_WIDTH - _RIGHT)}")
            texts.append(self._tick(_n(_LEFT - 6), _n(self.y(value) + 4), "end", _label(value, percent_y)))
        middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + bottom) / 2
        names = (
            f'<text class="axis" fill="{_LIGHT["ink"]}" font-size="12.5" text-anchor="middle" x="{_n(middle_x)}" '
            f'y="{_n(self.height - 8)}">{escape(x_label)}</text>'
            f'<text class="axis" fill="{_LIGHT["ink"]}" font-size="12.5" text-anchor="middle" '
            f'transform="translate(12 {_n(middle_y)}) rotate(-90)">{escape(y_label)}</text>'
        )
        frame = f"M{_n(_LEFT)} {_n(_TOP)}V{_n(bottom)}H{_n(_WIDTH - _RIGHT)}"
        return (
            f'<path class="grid" fill="none" stroke="{_LIGHT["rule"]}" stroke-width="1" d="{"".join(lines)}"/>'
            f'<path class="frame" fill="none" stroke="{_LIGHT["muted"]}" stroke-width="1" d="{frame}"/>'
            f"{''.join(texts)}{names}"
        )

    def _tick(self, x: str, y: str, anchor: str, text: str) -> str:
        return (
            f'<text class="tick" fill="{_LIGHT["muted"]}" font-size="11.5" text-anchor="{anchor}" '
            f'x="{x}" y="{y}">{escape(text)}</text>'
        )


def _share(value: np.ndarray, low: float, high: float, log: bool) -> np.ndarray:
    """Where on an axis from `low` to `high` a value lies, in [0, 1]."""
    if log:
        return np.clip(np.log(np.maximum(value, low) / low) / math.log(high / low), 0, 1)
    return np.clip((value - low) / (high - low), 0, 1)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values inside an axis: powers of ten, or about five steps of 1, 2 or 5 times one."""
    if log:
        return [10.0**k for k in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)][:12]


def _label(value: float, percent: bool) -> str:
    """ "0.1%" or "2.5"."""
    value = 0.0 if abs(value) < 1e-12 else value
    return f"{100 * value:.6g}%" if percent else f"{value:.4g}"


def _steps(x: np.ndarray, *ys: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Vertices of the step curves that keep each y up to the next x."""
    return np.repeat(x, 2)[1:], tuple(np.repeat(y, 2)[:-1] for y in ys)


def _box(i: int, columns: int, step: float, side: float) -> str:
    x, y = i % columns * step, i // columns * step
    return f"M{_n(x)} {_n(y)}h{_n(side)}v{_n(side)}h{_n(-side)}z"


def _dash(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _n(value: float) -> str:
    return f"{round(float(value), 1):g}"


def _svg(name: str, box: tuple[float, float, float, float], title: str, desc: str, body: str, kind: str) -> str:
    view = f"{_n(box[0])} {_n(box[1])} {_n(box[2] - box[0])} {_n(box[3] - box[1])}"
    return (
        f'<svg class="{kind}" role="img" aria-labelledby="{name}-t {name}-d" viewBox="{view}">'
        f'<title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(desc)}</desc>{body}</svg>'
    )
