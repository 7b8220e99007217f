"""Whether a loaded module is still the one in its file: the fingerprint reads the file, training runs the other."""

from __future__ import annotations

import ast
import functools
import operator
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from mlflow_privacy.trainers.identity.origins import source_files

_GLOBAL = re.compile(rb"(?m)^[ \t]*global[ \t]+([^\n#;]+)")
_SMALL = 1e6  # numbers that are computed with


def changed_since_loaded(roots: Iterable[str]) -> list[str]:
    """What is loaded in another form than its file has: names of functions and constants, at most one a module.

    Functions and methods are compared by their byte code, so that comments do not count, and constants at the top of a
    module by their value, unless a function of the module sets them. Modules that another loader than Python's own has
    read (pytest's, for one) cannot be compared, and are left out.
    """
    found = []
    for root in sorted(roots):
        files = {str(path.resolve()) for path in source_files(root).values() if path.suffix == ".py"}
        for name, module in sorted(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if (
                name.partition(".")[0] != root
                or not file
                or type(getattr(module, "__loader__", None)) is not SourceFileLoader
            ):
                continue
            if str(Path(file).resolve()) in files:
                found += _first_change(module, Path(file))
    return found


def _first_change(module: types.ModuleType, file: Path) -> list[str]:
    try:
        written, constants = _written(file.read_bytes(), str(module.__file__))
    except (OSError, SyntaxError, ValueError):
        return [module.__name__]
    for name, function in _functions(module):
        live = function.__code__
        if live.co_filename == module.__file__ and not any(
            same_code(live, one) for one in written.get(live.co_name, ())
        ):
            return [f"{module.__name__}.{name}"]
    for name, value in constants.items():
        if name in vars(module) and not _same(vars(module)[name], value):
            return [f"{module.__name__}.{name}"]
    return []


@functools.lru_cache(maxsize=1024)
def _written(source: bytes, file: str) -> tuple[dict[str, list[types.CodeType]], dict[str, Any]]:
    """Code objects of a source file by their name, and constants at its top that no function sets."""
    tree = ast.parse(source)
    code = SourceFileLoader("", file).source_to_code(tree, file)  # type: ignore[arg-type]  # read, never run
    written: dict[str, list[types.CodeType]] = {}
    for inner in _nested(code):
        written.setdefault(inner.co_name, []).append(inner)
    state = {name.strip().decode() for names in _GLOBAL.findall(source) for name in names.split(b",")}
    return written, {name: value for name, value in _constants(tree).items() if name not in state}


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _nested(constant)


def _functions(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    """Functions and methods that a module defines."""
    for name, value in sorted(vars(module).items()):
        if isinstance(value, types.FunctionType):
            yield name, value
        elif isinstance(value, type) and value.__module__ == module.__name__:
            for own, member in sorted(vars(value).items()):
                inner = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
                if isinstance(inner, types.FunctionType):
                    yield f"{name}.{own}", inner


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Numbers and strings, and tuples of them, that a module assigns once, at its top."""
    found: dict[str, list[Any]] = {}
    for node in _at_the_top(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                given = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
                found.setdefault(target.id, []).append(None if given is None else _folded(given))
    return {name: values[0] for name, values in found.items() if len(values) == 1 and values[0] is not None}


def _at_the_top(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run when a module is imported, those of its classes left out."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                inner = getattr(node, field, ())
                waiting += inner if isinstance(inner, list) else []


_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}


def _folded(node: ast.expr) -> Any:
    """What a constant, a tuple of constants or arithmetic on numbers, such as 10**-3, comes to; None for the rest."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple):
        items = [_folded(item) for item in node.elts]
        return None if any(item is None for item in items) else tuple(items)
    parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [getattr(node, "operand", None)]
    compute = _OPERATORS.get(type(getattr(node, "op", None)))
    numbers = [_folded(part) for part in parts if part is not None]
    if compute is None or len(numbers) != len(parts):
        return None
    if not all(isinstance(n, (bool, int, float)) and abs(n) < _SMALL for n in numbers):
        return None
    try:
        return compute(*numbers)
    except ArithmeticError:
        return None


def _same(live: Any, written: Any) -> bool:
    return type(live) is type(written) and (live == written or repr(live) == repr(written))


_COMPARED = (
    *("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags", "co_exceptiontable"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount"),
)


def same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """Whether two code objects do the same: all of them but their place in a file.

    >>> same_code(compile("x = 1", "a", "exec"), compile("\\n\\nx = 1", "b", "exec"))
    True
    """
    if any(getattr(one, key, None) != getattr(other, key, None) for key in _COMPARED):
        return False
    return len(one.co_consts) == len(other.co_consts) and all(
        same_code(a, b) if isinstance(a, types.CodeType) and isinstance(b, types.CodeType) else _same(a, b)
        for a, b in zip(one.co_consts, other.co_consts, strict=True)
    )
