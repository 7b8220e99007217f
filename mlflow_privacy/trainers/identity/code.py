"""What functions and classes do: their byte code, with all that it uses.

Byte code, not source: a class that was loaded from a pickle has none, and what is found under its name in a file may be
another version of it. So keys of a recipe with own code hold for one minor version of Python.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from mlflow_privacy.trainers.identity import Untold
from mlflow_privacy.trainers.identity.origins import Origin, origin, qualified_name, root_of


class Walker(Protocol):
    """What looks at the values that code uses; see `canonical.Walk`."""

    def __call__(self, value: Any) -> Any: ...
    def at(self, place: str) -> AbstractContextManager[None]: ...
    def rests_on(self, root: str) -> Origin: ...
    def own_code(self, thing: Any) -> None: ...
    def number(self, thing: Any, told: Callable[[], Any]) -> int: ...


def function_form(function: types.FunctionType, walk: Walker) -> dict[str, Any]:
    """A function: its name where a library's version says the rest, else with a number under which its code is told.

    A function that a library made around something (a decorated one) is told by that, too. Where it is from, its
    globals say: its own name for its module may be that of what it wraps.
    """
    form = {"function": qualified_name(function)}
    where = walk.rests_on(str(function.__globals__.get("__name__", "__main__")).partition(".")[0])
    if where == "this package":
        form["source"] = _source_digest(str(function.__globals__.get("__name__", "")))
    if where != "own" and not function.__closure__ and "<locals>" not in function.__qualname__:
        return form
    if where == "own":
        walk.own_code(function)
        return {**form, "code": walk.number(function, lambda: {**_held(function, walk), **_used(function, walk)})}
    return {**form, "code": walk.number(function, lambda: _held(function, walk))}


def _held(function: types.FunctionType, walk: Walker) -> dict[str, Any]:
    """Its byte code, and the values that it carries."""
    code, name = function.__code__, function.__qualname__
    cells = dict(zip(code.co_freevars, function.__closure__ or ()))
    kept = {key: value for key, value in vars(function).items() if key != "__wrapped__"}
    return {
        "code": code_form(code, walk),
        "defaults": within(walk, f"a default of {name}", [function.__defaults__, function.__kwdefaults__]),
        "closure": {k: within(walk, f"{k!r}, which {name} encloses", _cell(cells[k])) for k in sorted(cells)},
        "attributes": within(walk, f"an attribute of {name}", kept),
    }


def _used(function: types.FunctionType, walk: Walker) -> dict[str, Any]:
    """What it finds in its module, in others of the caller's, and what it imports."""
    own, name, uses = function.__globals__, function.__qualname__, _Uses.of(function.__code__)
    used = {key: own[key] for key in sorted(uses.names) if key in own}
    for key, member in sorted(uses.members):
        module = own.get(key)
        if _is_own_module(module) and not isinstance(vars(module).get(member, module), types.ModuleType):
            used[f"{key}.{member}"] = vars(module)[member]
    package = own.get("__package__") or str(own.get("__name__", "")).rpartition(".")[0]
    imports = sorted({_absolute(level, module, package) for level, module in uses.imports})
    for module in imports:
        walk.rests_on(module.partition(".")[0])
    return {
        "globals": {key: within(walk, f"{key!r}, which {name} uses", value) for key, value in used.items()},
        "imports": imports,
    }


def within(walk: Walker, place: str, value: Any) -> Any:
    """What `walk` makes of a value at a place that has a name."""
    with walk.at(place):
        return walk(value)


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _is_own_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and origin(root_of(value)) == "own"


def _absolute(level: int, module: str, package: str) -> str:
    """The full name of a module that is imported, also where the import is relative."""
    if not level:
        return module
    base = package.rsplit(".", level - 1)[0]
    return f"{base}.{module}".strip(".")


def code_form(code: types.CodeType, walk: Walker) -> list[Any]:
    """All of a code object but where it stands in a file."""
    constants = [code_form(c, walk) if isinstance(c, types.CodeType) else walk(c) for c in code.co_consts]
    return [
        code.co_code.hex(),
        [list(code.co_names), list(code.co_varnames), list(code.co_freevars), list(code.co_cellvars)],
        [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags],
        getattr(code, "co_exceptiontable", b"").hex(),
        constants,
    ]


class _Uses:
    """Names of globals that code uses, members that it takes of them, and modules that it imports."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.members: set[tuple[str, str]] = set()
        self.imports: set[tuple[int, str]] = set()

    @classmethod
    def of(cls, code: types.CodeType) -> _Uses:
        uses = cls()
        uses._add(code)
        return uses

    def _add(self, code: types.CodeType) -> None:
        before: list[dis.Instruction] = []
        for one in dis.get_instructions(code):
            if one.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                self.names.add(one.argval)
            elif one.opname in ("LOAD_ATTR", "LOAD_METHOD") and before and before[-1].opname == "LOAD_GLOBAL":
                self.members.add((before[-1].argval, one.argval))
            elif one.opname == "IMPORT_NAME":
                level = [i.argval for i in before[-2:] if isinstance(i.argval, int) and not isinstance(i.argval, bool)]
                self.imports.add((level[0] if level else 0, one.argval))
            elif one.argval in ("import_module", "__import__"):
                self.imports |= {(0, name) for name in _strings(code)}
            if one.opname not in ("CACHE", "EXTENDED_ARG", "PUSH_NULL"):
                before = [*before[-1:], one]
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._add(constant)


def _strings(code: types.CodeType) -> Iterator[str]:
    """Constants that could name a module which is imported by its name."""
    for constant in code.co_consts:
        if isinstance(constant, str) and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", constant):
            yield constant


# What Python, its tools and pickles put on a class; nothing that its methods do depends on it.
_NOT_BODY = frozenset(
    {
        *("__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__annotate__"),
        *("__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__slotnames__"),
        *("__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__", "__match_args__"),
        *("__parameters__", "__orig_bases__", "__pydantic_validator__", "__pydantic_serializer__"),
        *("__pydantic_core_schema__", "_sklearn_auto_wrap_output_keys"),
    }
)


def class_form(cls: type, walk: Walker) -> dict[str, Any]:
    """A class: its name where a library's version says the rest, else with a number under which it is told."""
    form = {"class": qualified_name(cls)}
    where = walk.rests_on(root_of(cls))
    if where == "this package":
        return {**form, "source": _source_digest(cls.__module__)}
    if where != "own":
        return form
    walk.own_code(cls)
    return {**form, "code": walk.number(cls, lambda: _class(cls, walk))}


def _class(cls: type, walk: Walker) -> dict[str, Any]:
    """Its bases and its body."""
    body = {
        name: within(walk, f"{name!r} of the class {cls.__qualname__}", member)
        for name, member in sorted(vars(cls).items())
        if name not in _NOT_BODY
    }
    notes = {name: _without_addresses(note) for name, note in _annotations(cls).items()}
    return {"bases": walk(list(cls.__bases__)), "body": body, "notes": notes, "metaclass": walk(type(cls))}


def _annotations(cls: type) -> dict[str, Any]:
    try:
        return dict(inspect.get_annotations(cls))
    except (NameError, TypeError, AttributeError):  # names that are known to a type checker alone
        return {}


def _without_addresses(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", value if isinstance(value, str) else repr(value))


@functools.lru_cache(maxsize=256)
def _source_digest(module: str) -> str:
    """SHA-256 of the file of one of this package's modules, which nobody edits while it runs."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


BUILTINS = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)


def builtin_form(function: Any, walk: Walker) -> dict[str, Any]:
    """A function or method of a compiled module, by its name.

    Raises:
      Untold: nothing says which one it is.
    """
    name = getattr(function, "__qualname__", None) or function.__name__
    of = getattr(function, "__objclass__", None)
    if of is not None:
        return {"function": f"{qualified_name(of)}.{function.__name__}", "of": walk(of)}
    owner, module = getattr(function, "__self__", None), getattr(function, "__module__", None)
    if isinstance(owner, type):
        return {"function": f"{qualified_name(owner)}.{function.__name__}", "of": walk(owner)}
    if not module and owner is not None and not isinstance(owner, types.ModuleType):
        return {"method": function.__name__, "of": walk(owner)}
    module = module or getattr(owner, "__name__", "")
    if not module:
        raise Untold("it is compiled and says of no module that it belongs there")
    walk.rests_on(module.partition(".")[0])
    # As ever, without the class that torch keeps its functions in.
    return {"function": f"{module}.{name.rpartition('.')[2]}"}
