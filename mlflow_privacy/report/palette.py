"""Colours of the page, in a light and a dark theme; text reaches WCAG AA's contrast of 4.5, marks reach 3."""

from __future__ import annotations

THEMES: dict[str, dict[str, str]] = {
    "light": {
        "bg": "#FFFFFF",
        "surface": "#F6F5F2",
        "ink": "#1C1E21",
        "muted": "#5A5E66",
        "rule": "#DDDAD4",
        "link": "#0B5C96",
        "ok": "#1C6B3C",
        "look": "#8A5300",
        "wrong": "#A8261B",
        "unknown": "#5A5E66",
        "member": "#C9480B",
        "may": "#F2B48F",
        "nonmember": "#0B69A8",
    },
    "dark": {
        "bg": "#15171A",
        "surface": "#1E2126",
        "ink": "#E9E7E2",
        "muted": "#A6ABB4",
        "rule": "#3A3F47",
        "link": "#7CC0F0",
        "ok": "#6FCF97",
        "look": "#F0B35A",
        "wrong": "#FF8F80",
        "unknown": "#A6ABB4",
        "member": "#F58549",
        "may": "#8A4A26",
        "nonmember": "#62B2EE",
    },
}
# After Okabe and Ito (https://jfly.uni-koeln.de/color/): told apart with any colour vision, and each has a dash beside.
SERIES: dict[str, tuple[str, ...]] = {
    "light": ("#0B69A8", "#C9480B", "#007F5F", "#B0528B", "#1C1E21", "#9A6500", "#3D7F9E"),
    "dark": ("#62B2EE", "#F58549", "#35C49A", "#E294C2", "#E9E7E2", "#E8B23D", "#8CCBE8"),
}
DASHES = ("", "7 2.5", "2 2", "9 2.5 2 2.5", "4 1.5 1.5 1.5 1.5 1.5", "12 3", "1 3")
# Text on which ground; checked in the tests.
TEXT = ("ink", "muted", "link", "ok", "look", "wrong", "unknown")
GROUNDS = ("bg", "surface")


def contrast(a: str, b: str) -> float:
    """Contrast of two colours, 1 to 21, as WCAG 2.2 defines it.

    >>> round(contrast("#000000", "#FFFFFF"), 6)
    21.0
    """
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def variables(theme: str) -> str:
    """The theme as CSS custom properties."""
    named = {**THEMES[theme], **{f"s{i}": colour for i, colour in enumerate(SERIES[theme])}}
    return ";".join(f"--{name}:{colour}" for name, colour in named.items())


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
