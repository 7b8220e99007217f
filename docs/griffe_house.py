"""Docstrings for the API reference: this project's short form as the long one, formulas as MathML.

`Returns: text` and `Raises: Error: text` on one line, and `a, b: text` for two arguments, are what the code uses; the
parser wants a block and one name each. Formulas become MathML, which browsers draw by themselves: no script, no font,
no network.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

# A directive and its lines: those on its own line, and those indented below it.
_MATH = re.compile(r"^([ \t]*)\.\. math::[ \t]*(.*(?:\n\1[ \t]+\S.*)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
_HEADER = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example|Examples):[ \t]*(.*)")
_NAMES = re.compile(r"([ \t]+)(\w+(?:, \w+)+): (.*)")
_RAISED = re.compile(r"[A-Z]\w*: ")


class HouseExtension(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_mathml(long_form(textwrap.dedent(obj.docstring.value)))


def long_form(text: str) -> str:
    r"""Sections as blocks, one name an entry.

    >>> print(long_form("Does.\n\nReturns: what\n  it does.\n\nRaises: DesignError: no.\n\nArgs:\n  a, b: two."))
    Does.
    <BLANKLINE>
    Returns:
        what it does.
    <BLANKLINE>
    Raises:
        DesignError: no.
    <BLANKLINE>
    Args:
      a: two.
      b: two.
    """
    lines, out, i = text.splitlines(), [], 0
    while i < len(lines):
        header = _HEADER.fullmatch(lines[i])
        i += 1
        if not header:
            out.append(lines[i - 1])
            continue
        name, inline = header.groups()
        block = []
        while i < len(lines) and (lines[i].startswith((" ", "\t")) or (not lines[i] and _goes_on(lines, i))):
            block.append(lines[i])
            i += 1
        if inline and name in ("Args", "Attributes"):  # "Args: as `lira`." names nothing
            out += ["", f"Arguments: {inline}", *(line.strip() for line in block)]
            continue
        out.append("Examples:" if name == "Example" else f"{name}:")
        if inline:
            out += _entries(name, [inline, *(line.strip() for line in block)])
        elif name in ("Args", "Attributes") and not any(re.match(r"[ \t]+\*{0,2}\w+(, \w+)*: ", b) for b in block):
            out[-1:] = ["", f"Arguments: {' '.join(line.strip() for line in block)}"]
        elif name in ("Args", "Attributes"):
            out += _one_name_each(block)
        else:
            out += block
    return "\n".join(out)


def _goes_on(lines: list[str], i: int) -> bool:
    """Whether a blank line lies inside a block: what follows is indented."""
    rest = next((line for line in lines[i:] if line), "")
    return rest.startswith((" ", "\t"))


def _entries(name: str, words: list[str]) -> list[str]:
    """An inline section as a block: one entry, or for `Raises` one per error that begins a line."""
    entries: list[str] = []
    for line in words:
        if not entries or (name == "Raises" and _RAISED.match(line)):
            entries.append(line)
        else:
            entries[-1] = f"{entries[-1]} {line}".rstrip()
    return [f"    {entry}" for entry in entries]


def _one_name_each(block: list[str]) -> list[str]:
    """ "a, b: text" with its further lines, once for a and once for b."""
    out: list[str] = []
    i = 0
    while i < len(block):
        found = _NAMES.fullmatch(block[i])
        i += 1
        if not found:
            out.append(block[i - 1])
            continue
        indent, names, said = found.groups()
        more = []
        while i < len(block) and block[i].startswith(indent + " "):
            more.append(block[i])
            i += 1
        for one in names.split(", "):
            out += [f"{indent}{one}: {said}", *more]
    return out


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
