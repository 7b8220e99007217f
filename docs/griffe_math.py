"""Formulas of docstrings as MathML, which browsers draw by themselves: no script, no font, no network."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

# A directive and its lines: those on its own line, and those indented below it.
_MATH = re.compile(r"^([ \t]*)\.\. math::[ \t]*(.*(?:\n\1[ \t]+\S.*)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")


class FormulaExtension(griffe.Extension):
    """Replaces `.. math::` and ``:math:`…` `` in every docstring."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_mathml(obj.docstring.value)


def with_mathml(text: str) -> str:
    """A docstring with its formulas as MathML.

    >>> with_mathml(".. math:: a = b").startswith('<div class="formula"><math')
    True
    """
    from latex2mathml.converter import convert

    def display(match: re.Match[str]) -> str:
        formula = " ".join(textwrap.dedent(match.group(2)).split())
        return f'{match.group(1)}<div class="formula">{convert(formula, display="block")}</div>'

    return _INLINE.sub(lambda match: convert(match.group(1)), _MATH.sub(display, text))
