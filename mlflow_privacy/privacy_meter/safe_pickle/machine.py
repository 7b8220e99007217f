"""The machine that reads a pickle: a stack, a memo, and a dozen names.

A pickle is a program. Python's unpickler is not used for it, because what that does between two names (`BUILD`,
`NEWOBJ`, attributes of attributes) is open to whoever wrote the file. Here every opcode is spelled out, every name
means a constructor of `pickle_values` or `pickle_torch` that checks its arguments, and all else ends the reading.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_privacy.errors import StoreError, UnsafeError
from mlflow_privacy.privacy_meter.safe_pickle import torch_files as pickle_torch
from mlflow_privacy.privacy_meter.safe_pickle import values as pickle_values
from mlflow_privacy.privacy_meter.safe_pickle.values import Name, Plain, Unbuilt, checked_keys, checked_pairs, described

_MARK = object()
_NAMES: dict[str, Callable[..., Any] | None] = {**pickle_values.NAMES, **pickle_torch.NAMES}


class Machine:
    """The stack machine of one pickle."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                if len(self.stack) != 1:
                    raise StoreError(f"this is not a complete pickle: {len(self.stack)} values are left at its end.")
                return self.stack[0]
            step = _STEPS.get(name)
            if step is None:
                raise UnsafeError(
                    f"the pickle uses {name}{_named(self.stack, argument)}, which makes objects of other kinds than "
                    "tensors, arrays and plain containers. It was not executed."
                )
            step(self, argument)
        raise StoreError("this is not a complete pickle: it does not end.")

    def pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def pop(self) -> Any:
        item = self.stack.pop()
        if item is _MARK:
            raise StoreError("this is not a complete pickle: a value is missing.")
        return item

    def push_string(self, argument: str) -> None:
        data = argument.encode("latin-1")
        self.stack.append(data if self.encoding == "bytes" else data.decode(self.encoding))

    def put(self, key: int) -> None:
        top = self.stack[-1]
        if isinstance(top, Unbuilt):
            top.slots.append(key)
        self.memo[key] = top

    def get(self, key: int) -> None:
        value = self.memo[key]
        if isinstance(value, Unbuilt):
            raise UnsafeError(f"the pickle uses {value.name} before it is complete.")
        self.stack.append(value)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise UnsafeError(f"the pickle appends to {described(target)}.")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, Plain):
            raise UnsafeError(f"the pickle sets items of {described(target)}.")
        target.update(checked_pairs(items))

    def add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise UnsafeError(f"the pickle adds to {described(target)}.")
        target.update(checked_keys(items))

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise UnsafeError(f"the pickle builds the name of a global from {type(module)} and {type(name)}.")
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
        module, _, attribute = known.rpartition(".")
        if module == "torch" and attribute in pickle_torch.DTYPES:
            self.stack.append(pickle_torch.dtype(attribute))
        elif known in _NAMES:
            self.stack.append(Name(known, _NAMES[known]))
        else:
            raise UnsafeError(
                f"the pickle names the global {known}; admitted are tensors, arrays and plain containers alone. "
                "It was not imported. Save the values anew, with numpy.savez or safetensors."
            )

    def reduce(self) -> None:
        arguments, made = self.pop(), self.pop()
        if not isinstance(made, Name) or made.make is None or not isinstance(arguments, tuple):
            raise UnsafeError(f"the pickle calls {described(made)}.")
        try:
            self.stack.append(made.make(*arguments))
        except TypeError as error:
            raise UnsafeError(f"the pickle calls {made.name} with arguments of another kind: {error}.") from error

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, Unbuilt):
            try:
                built = target.build(state)
            except TypeError as error:
                raise UnsafeError(f"the pickle gives {target.name} a state of another kind: {error}.") from error
            for slot in target.slots:
                self.memo[slot] = built
            self.stack.append(built)
        elif type(target) is Plain and isinstance(state, dict):  # a state dict's version numbers: not needed
            self.stack.append(target)
        else:
            raise UnsafeError(f"the pickle sets the state of {described(target)}.")


def _named(stack: list[Any], argument: Any) -> str:
    """The name that a refused opcode is about, where there is one."""
    if argument is not None:
        return f" of {str(argument)[:100].replace(' ', '.')}"
    names = [item.name for item in reversed(stack[-4:]) if isinstance(item, Name)]
    return f" of {names[0]}" if names else ""


def check_plain(value: Any) -> None:
    """Raises `UnsafeError` if a value holds anything that only the machine knows."""
    seen, todo = set(), [value]
    while todo:
        item = todo.pop()
        if isinstance(item, (Name, Unbuilt, pickle_torch.Storage)) or item is _MARK:
            raise UnsafeError(f"the pickle holds {described(item)} as a value.")
        if isinstance(item, (list, tuple, dict)) or (isinstance(item, np.ndarray) and item.dtype.hasobject):
            if id(item) in seen:
                continue
            seen.add(id(item))
            todo.extend(item.values() if isinstance(item, dict) else item.ravel() if hasattr(item, "ravel") else item)


def _pushed(machine: Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _tuple(size: int) -> Callable[[Machine, Any], None]:
    def step(machine: Machine, _: Any) -> None:
        items = [machine.pop() for _ in range(size)]
        machine.stack.append(tuple(reversed(items)))

    return step


def _dict_item(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _stack_name(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _duplicate(machine: Machine, _: Any) -> None:
    if isinstance(machine.stack[-1], Unbuilt):
        raise UnsafeError(f"the pickle uses {machine.stack[-1].name} before it is complete.")
    machine.stack.append(machine.stack[-1])


_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    **dict.fromkeys(
        [
            "INT",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG",
            "LONG1",
            "LONG4",
            "FLOAT",
            "BINFLOAT",
            "UNICODE",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE8",
            "BINBYTES",
            "SHORT_BINBYTES",
            "BINBYTES8",
            "BYTEARRAY8",
        ],
        _pushed,
    ),
    **dict.fromkeys(["STRING", "BINSTRING", "SHORT_BINSTRING"], Machine.push_string),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], Machine.put),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], Machine.get),
    **dict.fromkeys(["PROTO", "FRAME"], lambda machine, _: None),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": _duplicate,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_mark()),
    "DICT": lambda machine, _: machine.stack.append(dict(checked_pairs(machine.pop_mark()))),
    "FROZENSET": lambda machine, _: machine.stack.append(frozenset(checked_keys(machine.pop_mark()))),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": _dict_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_mark()),
    "GLOBAL": lambda machine, argument: machine.name(*argument.rsplit(" ", 1)),
    "STACK_GLOBAL": _stack_name,
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
