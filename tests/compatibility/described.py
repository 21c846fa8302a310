"""Compares the committed surface with the reference's own description (its ``openapi.json``).

A name that only one of them has is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.compatibility.surface import Operation, operations

COMPARED = ("path.", "query.", "header.", "body.", "answer.")
ELSEWHERE = frozenset({"answer.extracted", "answer.ttl"})
"""The description has one schema for all threads; these are answered by a search with ``extract``, a read with ``include=ttl``."""
Document = dict[str, Any]


def surface_differences(description: Document) -> list[str]:
    """One line for each operation whose parameters differ; of bodies the names at the top are compared."""
    described = {
        f"{method.upper()} {path}": set(_described(operation, description))
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    committed = {one.name: set(_committed(one)) for one in operations()}
    lines = []
    for name in sorted(described.keys() | committed.keys()):
        more, fewer = described.get(name, set()), committed.get(name, set())
        if (more - fewer) - ELSEWHERE or fewer - more or name not in committed or name not in described:
            lines.append(f"{name}: only described {sorted(more - fewer)}, only committed {sorted(fewer - more)}")
    return lines


def _committed(operation: Operation) -> Iterator[str]:
    for name in operation.parameters:
        if name.startswith(COMPARED) and name not in operation.undescribed:
            place, _, rest = name.partition(".")
            yield f"{place}.{rest.partition('=')[0].partition('.')[0]}"


def _described(operation: Document, description: Document) -> Iterator[str]:
    yield from (f"{one['in']}.{one['name']}" for one in operation.get("parameters", ()))
    for name in _names(_json_of(operation.get("requestBody", {})), description):
        yield f"body.{name}"
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            yield from (f"answer.{name}" for name in _names(_json_of(answer), description))


def _json_of(content: Document) -> Document:
    found: Document = content.get("content", {}).get("application/json", {}).get("schema", {})
    return found


def _names(schema: Document, description: Document) -> set[str]:
    """The properties of an object, of the entries of a list, of all alternatives."""
    if "$ref" in schema:
        return _names(description["components"]["schemas"][schema["$ref"].rpartition("/")[2]], description)
    parts = [*schema.get("allOf", ()), *schema.get("oneOf", ())]
    if schema.get("type") == "array":
        parts.append(schema["items"])
    return set(schema.get("properties", ())).union(*(_names(part, description) for part in parts))
