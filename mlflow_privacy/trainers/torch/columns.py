"""Records of several arrays each, kept as the columns of one table, so that all else sees a table.

An array "num" of shape (n, 2) is the columns "num[0]" and "num[1]", one of shape (n,) the column of its own name; the
arrays of a tuple are called "0", "1", and so on. Each column keeps its array's type.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

MOST_COLUMNS = 10_000  # a table of more is slow everywhere
_CELL = re.compile(r"(.+)\[(\d+(?:,\d+)*)\]")


def flattened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Column name -> (n,) values.

    >>> list(flattened({"num": np.zeros((5, 2)), "cat": np.zeros(5, int)}))
    ['num[0]', 'num[1]', 'cat']
    """
    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[name] = array
            continue
        flat = array.reshape(len(array), math.prod(array.shape[1:]))
        for column, place in enumerate(itertools.product(*map(range, array.shape[1:]))):
            columns[f"{name}[{','.join(map(str, place))}]"] = flat[:, column]
    return columns


def width(arrays: Mapping[str, np.ndarray]) -> int:
    """How many columns `flattened` gives."""
    return sum(math.prod(array.shape[1:]) for array in arrays.values())


def parts(columns: Iterable[Any]) -> dict[str, tuple[list[int], tuple[int, ...]]]:
    """Name of each array -> the places of its columns, and the shape of one record: () for a column by itself.

    >>> parts(["num[0]", "num[1]", "cat", "odd[1]"])
    {'num': ([0, 1], (2,)), 'cat': ([2], ()), 'odd[1]': ([3], ())}
    """
    names = [str(name) for name in columns]
    cells: dict[str, dict[tuple[int, ...], int]] = {}
    for place, name in enumerate(names):
        if match := _CELL.fullmatch(name):
            cells.setdefault(match[1], {})[tuple(map(int, match[2].split(",")))] = place
    whole: dict[str, tuple[list[int], tuple[int, ...]]] = {}
    for name, found in cells.items():
        shape = tuple(max(axis) + 1 for axis in zip(*found, strict=False))
        grid = list(itertools.product(*map(range, shape))) if len(found) == math.prod(shape) else []
        if name not in names and grid and all(cell in found for cell in grid):
            whole[name] = ([found[cell] for cell in grid], shape)
    out: dict[str, tuple[list[int], tuple[int, ...]]] = {}
    for place, name in enumerate(names):
        match = _CELL.fullmatch(name)
        if match and match[1] in whole:
            out[match[1]] = whole[match[1]]
        else:
            out[name] = ([place], ())
    return out


def expanded(wanted: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns that names stand for: an array's name for all of its columns, any other for itself.

    >>> expanded(["num", "cat"], ["num[0]", "num[1]", "cat"])
    ['num[0]', 'num[1]', 'cat']
    """
    found = parts(columns)
    of = {name: [columns[place] for place in places] for name, (places, _) in found.items()}
    return [column for name in wanted for column in ([name] if name in columns else of.get(name, [name]))]


def arguments(forward: Any) -> tuple[list[str], list[str], bool]:
    """Names of a function's arguments, those of them without a default, and whether it takes any number of others."""
    try:
        known = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # of a compiled function
        return [], [], True
    named = [p for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    more = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in known)
    return [p.name for p in named], [p.name for p in named if p.default is p.empty], more
