"""YAML text to plain values, safely: no tags, no duplicate keys; and dotted overrides on top."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mlflow_privacy.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


class _Loader(yaml.SafeLoader):
    """The safe loader, with floats as YAML 1.2 has them: 1e-3 is a number, not a string."""


_Loader.yaml_implicit_resolvers = copy.deepcopy(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, *, name: str = "the text") -> Any:
    """Plain values of a YAML document.

    Args:
      text: one document.
      name: of the file, for messages.

    Raises:
      ConfigError: it is not YAML, has a key twice (all of them are listed), or a tag that would build an object.

    >>> parse_yaml("train: {learning_rate: 1e-3}")
    {'train': {'learning_rate': 0.001}}
    >>> parse_yaml("a: 1\\na: 2")
    Traceback (most recent call last):
    mlflow_privacy.errors.ConfigError: the text: key a appears twice, on lines 1 and 2. Keep one.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        doubles = _duplicate_keys(node)
        if doubles:
            raise ConfigError("\n".join(f"{name}: {double}" for double in doubles))
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{name}{where} is not plain YAML: {getattr(error, 'problem', None) or error}.") from error
    except ConfigError:
        raise
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{name} is not plain YAML: {error}.") from error


def _duplicate_keys(root: yaml.Node) -> list[str]:
    """One line per key that a mapping holds twice, by dotted path."""
    found: list[str] = []
    seen_nodes: set[int] = set()  # anchors make a graph of the tree

    def walk(node: yaml.Node, path: str) -> None:
        if id(node) in seen_nodes:
            return
        seen_nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                walk(item, f"{path}[{i}]")
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                word = str(key.value)
                dotted = f"{path}.{word}" if path else word
                line = key.start_mark.line + 1
                if word in lines and word != "<<":
                    found.append(f"key {dotted} appears twice, on lines {lines[word]} and {line}. Keep one.")
                lines.setdefault(word, line)
                walk(value, dotted)

    walk(root, "")
    return found


def apply_overrides(mapping: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested mappings with dotted keys set; the mapping itself stays as it is.

    Args:
      mapping: such as a parsed config file.
      overrides: "section.key=value" each, the value being YAML; the last of equal keys wins.

    Raises:
      ConfigError: an override is malformed; all of them are listed.

    >>> apply_overrides({"train": {"epochs": 100}}, ["train.epochs=1", "train.model_options.hidden=[64, 64]"])
    {'train': {'epochs': 1, 'model_options': {'hidden': [64, 64]}}}
    """
    result: dict[str, Any] = copy.deepcopy(dict(mapping))
    faults = []
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key) or "." not in key:
            faults.append(f"override {text!r} must be section.key=value, such as train.epochs=1.")
            continue
        if not value.strip():
            faults.append(f"override {text!r} has no value; write {key}=null to unset the key.")
            continue
        try:
            parsed = parse_yaml(value, name=f"override {text!r}")
        except ConfigError as error:
            faults.append(str(error))
            continue
        *parents, last = key.split(".")
        inner = result
        for depth, part in enumerate(parents):
            below = inner.setdefault(part, {})
            if below is None:
                below = inner[part] = {}
            if not isinstance(below, dict):
                path = ".".join(parents[: depth + 1])
                faults.append(f"override {text!r} cannot be set: {path} is {below!r}, not a mapping of keys.")
                break
            inner = below
        else:
            inner[last] = parsed
    if faults:
        raise ConfigError("\n".join(faults))
    return result
