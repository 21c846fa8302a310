"""What an answer to a question must fit: JSON Schema 2020-12, the same where a question is asked and where it is answered.

Contract: no I/O, and a bounded time (:mod:`perdure.registry.answer_keywords`), up to seconds where schema and answer are as large
as they may be: not for an event loop. A reference (``$ref``) leads into the schema itself or to the standard's own meta-schemas;
nothing is fetched.
``format`` is an annotation, as the standard has it: use ``pattern`` or ``enum`` for what must hold.

::

    ValueError
    └── BrokenSchema        no answer can be judged by this schema: a mistake in the question
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from perdure.registry.answer_keywords import Judge, TooCostly, compiled, judging

SCHEMA_STEPS: Final = 400_000
"""Keywords of the judgement of a schema, whose own schema has about a hundred for each part of it."""
REASONS_LIMIT: Final = 100
REASON_LENGTH: Final = 500


class BrokenSchema(ValueError):
    """No answer can be judged by this schema."""


def require_schema(schema: Mapping[str, Any]) -> None:
    """Refuse a schema that is none, or that refers to something outside itself.

    Raises:
        BrokenSchema: with the first reason, for the author of the question.

    """
    try:
        with judging(SCHEMA_STEPS):
            _require(schema)
    except SchemaError as error:
        raise BrokenSchema(
            f"at {_pointer(error.absolute_path) or 'its root'}: {error.message}"[:REASON_LENGTH]
        ) from error
    except Unresolvable as error:
        raise BrokenSchema(f"the reference {error.ref!r} leads nowhere in the schema; nothing is fetched") from error
    except TooCostly as error:
        raise BrokenSchema(str(error)) from error
    except Exception as error:  # a reference into the middle of nothing makes the library stumble in many ways
        raise BrokenSchema(f"it cannot be read: {error!r}"[:REASON_LENGTH]) from error


def reasons(schema: Mapping[str, Any], answer: Any) -> list[tuple[str, str]]:
    """Everything that keeps an answer from fitting: JSON Pointer into the answer and sentence; at most ``REASONS_LIMIT``.

    Raises:
        BrokenSchema: the schema is none.

    """
    require_schema(schema)
    found: dict[tuple[str, str], None] = {}
    try:
        with judging():
            for error in Judge(schema, registry=REGISTRY).iter_errors(answer):
                found[_pointer(error.absolute_path), _sentence(error)] = None
                if len(found) == REASONS_LIMIT:
                    break
    except TooCostly as error:
        raise BrokenSchema(str(error)) from error
    except Exception as error:  # a schema that refers to itself without end, among others
        raise BrokenSchema(f"an answer cannot be judged by it: {error!r}"[:REASON_LENGTH]) from error
    return list(found)


def _require(schema: Mapping[str, Any]) -> None:
    """Raise what is wrong with a schema, as the libraries say it."""
    _require_valid(schema)
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    uri = resource.id() or ""
    # Crawled once here, as each reference to an anchor would do it anew.
    resolver = REGISTRY.with_resource(uri, resource).crawl().resolver(uri)
    judged = {id(schema)}
    for reference, within in _references(resource, resolver):
        target = within.lookup(reference).contents
        if id(target) not in judged:
            judged.add(id(target))
            _require_valid(target)
    used = [inner.contents for inner in _within(resource) if isinstance(inner.contents, Mapping)]
    for one in used:
        for pattern in (one.get("pattern"), *one.get("patternProperties", ())):
            if isinstance(pattern, str):
                compiled(pattern)
    if any("unevaluatedProperties" in one for one in used) and any("patternProperties" in one for one in used):
        raise TooCostly("it has unevaluatedProperties and patternProperties, which are not judged together")


def _require_valid(schema: Any) -> None:
    for error in Judge(Draft202012Validator.META_SCHEMA, registry=REGISTRY).iter_errors(schema):
        raise SchemaError.create_from(error)


def _within(resource: Resource[Any]) -> Iterator[Resource[Any]]:
    """A schema and all schemas within it."""
    yield resource
    for inner in resource.subresources():
        yield from _within(inner)


def _references(resource: Resource[Any], resolver: Any) -> Iterator[tuple[str, Any]]:
    """Every ``$ref`` of a schema and of those within it, with what it is resolved against."""
    if isinstance(resource.contents, Mapping):
        for keyword in ("$ref", "$dynamicRef"):
            if isinstance(resource.contents.get(keyword), str):
                yield resource.contents[keyword], resolver
    for inner in resource.subresources():
        yield from _references(inner, resolver.in_subresource(inner))


def _sentence(error: ValidationError) -> str:
    """A reason; where several alternatives were tried, with what each of them lacks."""
    tried = "; ".join(_sentence(inner) for inner in error.context or ())
    return f"{error.message[:REASON_LENGTH]}{f' ({tried})' if tried else ''}"[: 4 * REASON_LENGTH]


def _pointer(path: Any) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
