"""`privacy_result.json`: a report's content as JSON, and the JSON Schema of it, made from the records' own types."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mlflow_privacy.report.document import DOCUMENT_VERSION, Document, ReportOptions
from mlflow_privacy.report.sections import build_document
from mlflow_privacy.types import AuditResult, Estimate, to_json

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def result_json(result: AuditResult, options: ReportOptions | None = None) -> str:
    """Everything that the report of an audit shows, as JSON that `result_schema` describes.

    NaN is null, infinities are the strings "inf" and "-inf". `render_html(json.loads(...))` gives the page again.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> json.loads(result_json(example_result(n=100)))["headline"]
      'rmia'
    """
    return json_text(to_json(build_document(result, options)))


def json_text(values: Any) -> str:
    """A document's JSON values as text."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def without_records(values: Mapping[str, Any]) -> dict[str, Any]:
    """A document's JSON values as `ReportOptions(top=0)` gives them: for a copy that must not name anybody.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> result = example_result(n=100)
      >>> json_text(without_records(json.loads(result_json(result)))) == result_json(result, ReportOptions(top=0))
      True
    """
    sections = [view for view in values["sections"] if not (view["section"] or {}).get("names_records")]
    return {**values, "exposure": {**values["exposure"], "records": []}, "sections": sections}


def result_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `result_json`.

    Example:
      >>> result_schema()["$ref"]
      '#/$defs/Document'
    """
    records = sorted(_records(Document), key=lambda record: record.__name__)
    return {
        "$schema": DIALECT,
        "title": "Privacy audit of a registered model",
        "description": f"What privacy_result.json holds, version {DOCUMENT_VERSION}. Made from the package's records.",
        "$ref": f"#/$defs/{Document.__name__}",
        "$defs": {
            "number": {
                "description": "A number; null where it is not defined, a string where it is infinite.",
                "anyOf": [{"type": "number"}, {"type": "null"}, {"enum": ["inf", "-inf"]}],
            },
            **{record.__name__: _object(record) for record in records},
        },
    }


def schema_text() -> str:
    """The schema as it is published."""
    return json.dumps(result_schema(), indent=2, ensure_ascii=False) + "\n"


def _object(record: type) -> dict[str, Any]:
    """A frozen record as a closed object: its JSON has all of its fields and no others."""
    hints = _hints(record)
    fields = [field.name for field in dataclasses.fields(record) if field.repr]
    return {
        "type": "object",
        "description": " ".join((record.__doc__ or "").split("\n\n")[0].split()),
        "properties": {name: _schema(hints[name]) for name in fields},
        "required": fields,
        "additionalProperties": False,
    }


def _schema(hint: Any) -> dict[str, Any]:
    """The schema of one type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(argument) for argument in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if dataclasses.is_dataclass(hint):
        return {"$ref": f"#/$defs/{hint.__name__}"}  # type: ignore[union-attr]
    if hint is float:
        return {"$ref": "#/$defs/number"}
    simple = {str: "string", int: "integer", bool: "boolean", type(None): "null"}
    return {"type": simple[hint]}


def _records(record: type) -> set[type]:
    """The record and all that its fields are made of."""
    found: set[type] = set()

    def visit(hint: Any) -> None:
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if hint not in found:
                found.add(hint)
                for field in dataclasses.fields(hint):
                    if field.repr:
                        visit(_hints(hint)[field.name])
            return
        for argument in typing.get_args(hint):
            visit(argument)

    visit(record)
    return found


@functools.lru_cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record, localns={"Estimate": Estimate})
