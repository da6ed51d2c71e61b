"""Everything that a request may hold has an upper bound, by the documents that the services publish."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.services import SERVICES, built

STRING_BOUNDS = {"maxLength", "pattern", "enum", "const", "format"}
NUMBER_BOUNDS = {"maximum", "exclusiveMaximum", "enum", "const"}
METHODS = {"get", "put", "post", "delete", "patch"}


def inputs(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every parameter and body of every operation, with a name for messages."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method not in METHODS:
                continue
            for parameter in operation.get("parameters", []):
                yield f"{method} {path} {parameter['name']}", parameter["schema"]
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"{method} {path} {kind}", content["schema"]


def unbounded(
    schema: dict[str, Any], document: dict[str, Any], where: str, seen: tuple[str, ...] = ()
) -> Iterator[str]:
    """Names every part of a schema that sets no end to what it takes."""
    if (reference := schema.get("$ref")) is not None:
        name = reference.removeprefix("#/components/schemas/")
        if name not in seen:
            yield from unbounded(document["components"]["schemas"][name], document, f"{where} {name}", (*seen, name))
        return
    alternatives = [part for word in ("anyOf", "oneOf", "allOf") for part in schema.get(word, ())]
    kind = schema.get("type")
    # Beside a type they only narrow what it bounds.
    for part in alternatives if kind is None else ():
        yield from unbounded(part, document, where, seen)
    if kind is None and not alternatives and not STRING_BOUNDS & schema.keys():
        yield f"{where}: anything at all"
    if kind == "string" and not STRING_BOUNDS & schema.keys():
        yield f"{where}: a string"
    if kind in ("integer", "number") and not NUMBER_BOUNDS & schema.keys():
        yield f"{where}: a number"
    if kind == "array":
        if "maxItems" not in schema:
            yield f"{where}: an array"
        yield from unbounded(schema.get("items", {}), document, f"{where}[]", seen)
    if kind == "object":
        yield from _unbounded_members(schema, document, where, seen)


def _unbounded_members(
    schema: dict[str, Any], document: dict[str, Any], where: str, seen: tuple[str, ...]
) -> Iterator[str]:
    for name, part in schema.get("properties", {}).items():
        yield from unbounded(part, document, f"{where}.{name}", seen)
    if schema.get("additionalProperties") is False:
        return
    if "maxProperties" not in schema:
        yield f"{where}: an object with free keys"
    patterns = schema.get("patternProperties", {})
    if not patterns:
        yield from unbounded({"type": "string", **schema.get("propertyNames", {})}, document, f"{where}'s keys", seen)
    for part in patterns.values() or [schema.get("additionalProperties", {})]:
        yield from unbounded(part, document, f"{where}'s values", seen)


@pytest.mark.parametrize("service", SERVICES)
def test_whatever_a_request_holds_has_an_upper_bound(service: str, tmp_path: Path) -> None:
    document = built(service, tmp_path).app.openapi()
    parts = list(inputs(document))
    assert len(parts) > 5
    assert [problem for where, schema in parts for problem in unbounded(schema, document, where)] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "array", "maxItems": 3, "items": {"type": "string"}},
        {"type": "array", "items": {"type": "boolean"}},
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        {"type": "object", "additionalProperties": {"type": "boolean"}},
        {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "boolean"}},
        {"type": "number", "minimum": 0},
        {},
    ],
)
def test_what_has_no_bound_is_found(schema: dict[str, Any]) -> None:
    assert list(unbounded(schema, {}, "here"))
