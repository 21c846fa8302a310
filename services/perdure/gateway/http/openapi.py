"""The OpenAPI 3.1 description, generated from the pydantic models and the route table.

Contract: a pure function of the table, built once at start. :func:`for_page` turns it into what a viewer of OpenAPI 3.0 reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from perdure.gateway.http.problems import TITLES, URN
from perdure.schemas.problem import MEDIA_TYPE, Problem
from perdure.schemas.scopes import Exempt

if TYPE_CHECKING:
    from perdure.gateway.http.route import Answer, Parameter, Route

Document = dict[str, Any]

SPECIFICATION: web.AppKey[Document] = web.AppKey("specification", dict)
REFERENCES = "#/components/schemas/{model}"
ALWAYS = ("invalid-request", "store-unavailable", "internal-error")
ASKED = ("not-authorized", "scope-missing", "tenant-refused", "auth-refused", "auth-unavailable")
"""Of every row that needs a caller."""
SCHEMES: Document = {
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of the configured issuer."},
}
LIMITED = ("quota-exceeded",)
"""Of what makes something or waits for something."""
_PLACE = re.compile(r"{(\w+)}")


def describe(routes: Iterable[Route], version: str, credentials: Mapping[str, Any] | None = None) -> Document:
    """The whole description; ``credentials``: ``securitySchemes`` and ``security`` of the project, besides those of Perdure."""
    more = credentials or {}
    table = list(routes)
    models = {model for route in table for model in _models(route)} | {Problem}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=REFERENCES)
    paths: Document = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = operation = _operation(route)
        if operation["security"]:
            operation["security"] += more.get("security", [])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Perdure",
            "version": version,
            "description": "Start, watch and search long-lived LangGraph agents. Shapes follow the LangGraph Agent Server; "
            "a start is answered 202 with the run's Location, and 200 to `fetch`. Errors are RFC 9457 problem documents.",
        },
        "tags": [{"name": name} for name in dict.fromkeys(route.tag for route in table)],
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {**SCHEMES, **more.get("securitySchemes", {})},
        },
    }


def for_page(specification: Document) -> Document:
    """The same for OpenAPI 3.0: the version, and ``null`` as ``nullable``."""
    found: Document = _nullable(specification)
    return {**found, "openapi": "3.0.3"}


def _models(route: Route) -> Iterable[type[BaseModel]]:
    if route.body is not None:
        yield _entry_of(route.body)
    for answer in route.answers.values():
        if isinstance(answer, tuple):
            yield answer[0]
        elif isinstance(answer, type):
            yield answer


def _operation(route: Route) -> Document:
    operation: Document = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {str(status): _answer(status, answer) for status, answer in route.answers.items()},
    }
    parameters = [_place(name) for name in _PLACE.findall(route.path)] + [_parameter(one) for one in route.parameters]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": any(field.is_required() for field in _entry_of(route.body).model_fields.values()),
            "content": {"application/json": {"schema": _schema(route.body)}},
        }
    if isinstance(route.scope, Exempt):
        operation |= {"security": [], "x-perdure-no-caller": route.scope.why}
        asked: tuple[str, ...] = ()
    else:
        operation |= {"security": [{name: []} for name in SCHEMES], "x-perdure-scope": route.scope}
        asked = ASKED
    always = ALWAYS if route.tag != "System" else ()
    limited = LIMITED if route.method == "POST" or route.path.endswith(("/join", "/stream")) else ()
    for status, names in _by_status(dict.fromkeys((*route.problems, *asked, *always, *limited))).items():
        sentences = "; ".join(f"`{URN}{name}`: {TITLES[name][1]}" for name in names)
        operation["responses"].setdefault(
            str(status), {"description": sentences, "content": {MEDIA_TYPE: {"schema": _reference(Problem)}}}
        )
    return operation


def _answer(status: int, answer: Answer) -> Document:
    if isinstance(answer, str):
        return {"description": answer}
    if not isinstance(answer, type | tuple):
        return {"description": answer.description, "content": {answer.media_type: {"schema": answer.schema}}}
    described: Document = {
        "description": "Accepted and durable; poll the Location." if status == 202 else "Done.",
        "content": {"application/json": {"schema": _schema(answer)}},
    }
    if status == 202:
        described["headers"] = {"Location": {"schema": {"type": "string"}, "description": "What to poll."}}
    return described


def _entry_of(body: type[BaseModel] | tuple[type[BaseModel]]) -> type[BaseModel]:
    return body[0] if isinstance(body, tuple) else body


def _schema(body: type[BaseModel] | tuple[type[BaseModel]]) -> Document:
    """A model, or a list of it."""
    return {"type": "array", "items": _reference(body[0])} if isinstance(body, tuple) else _reference(body)


def _by_status(names: Iterable[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name in names:
        found.setdefault(TITLES[name][0], []).append(name)
    return dict(sorted(found.items()))


def _place(name: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(one: Parameter) -> Document:
    described: Document = {"name": one.name, "in": one.where, "schema": one.schema}
    if one.description:
        described["description"] = one.description
    return described


def _reference(model: type[BaseModel]) -> Document:
    return {"$ref": REFERENCES.format(model=model.__name__)}


def _nullable(value: Any) -> Any:
    if isinstance(value, list):
        return [_nullable(item) for item in value]
    if not isinstance(value, dict):
        return value
    branches = value.get("anyOf")
    if isinstance(branches, list) and {"type": "null"} in branches:
        rest = [_nullable(branch) for branch in branches if branch != {"type": "null"}]
        others = {name: _nullable(item) for name, item in value.items() if name != "anyOf"}
        return {**others, "nullable": True, **(rest[0] if len(rest) == 1 else {"anyOf": rest})}
    shown = {name: _nullable(item) for name, item in value.items() if name not in {"const", "examples"}}
    if "const" in value:
        shown["enum"] = [value["const"]]
    return shown
