"""The API description and the route table agree with each other and with the standard."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator, SchemaError
from pydantic import BaseModel

from perdure.gateway.app import Gateway, Servers
from perdure.gateway.http.openapi import describe, for_page
from perdure.gateway.http.problems import TITLES
from perdure.gateway.http.route import Route
from perdure.gateway.settings import GatewaySettings
from perdure.schemas.bodies import RunConfig

PATH_PARAMETER = re.compile(r"{(\w+)}")


@pytest.fixture(scope="module")
async def routes() -> AsyncIterator[tuple[Route, ...]]:
    nobody = "127.0.0.1:9"
    settings = GatewaySettings(
        mongodb_uri=f"mongodb://{nobody}/perdure", kafka_bootstrap_servers=nobody, opensearch_url=f"http://{nobody}"
    )
    servers = Servers.of(settings)
    yield Gateway(settings, servers).routes()
    await servers.close()


@pytest.fixture(scope="module")
def specification(routes: tuple[Route, ...]) -> dict[str, Any]:
    return describe(routes, "1.0")


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    return [found for item in value for found in references(item)] if isinstance(value, list) else []


def test_it_is_json(specification: dict[str, Any]) -> None:
    assert json.loads(json.dumps(specification)) == specification


def test_every_reference_leads_somewhere(specification: dict[str, Any], routes: tuple[Route, ...]) -> None:
    known = {f"#/components/schemas/{name}" for name in specification["components"]["schemas"]}
    used = set(references(specification))
    assert len(used) > len(routes) // 4
    assert used <= known


def test_every_schema_is_valid(specification: dict[str, Any]) -> None:
    schemas = specification["components"]["schemas"]
    assert {"Run", "Thread", "ThreadState", "Problem"} <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    with pytest.raises(SchemaError):
        Draft202012Validator.check_schema({"type": "no such type"})


def test_every_operation_names_its_path_parameters_and_answers(
    specification: dict[str, Any], routes: tuple[Route, ...]
) -> None:
    ids: list[str] = []
    for path, operations in specification["paths"].items():
        for operation in operations.values():
            ids.append(operation["operationId"])
            named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert named == set(PATH_PARAMETER.findall(path))
            assert any(status.startswith("2") for status in operation["responses"])
            assert all(answer["description"] for answer in operation["responses"].values())
    assert len(ids) == len(set(ids)) == len(routes)


def test_every_answer_with_a_body_says_what_it_is(specification: dict[str, Any]) -> None:
    answers = {
        (operation["operationId"], status): answer
        for operations in specification["paths"].values()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
    }
    assert {key[1] for key, answer in answers.items() if "content" not in answer} == {"204"}
    schemas = {name: next(iter(answers[name, "200"]["content"].items())) for name in ("countThreads", "metrics")}
    assert schemas["countThreads"] == ("application/json", {"schema": {"type": "integer", "minimum": 0}})
    assert schemas["metrics"] == ("text/plain", {"schema": {"type": "string"}})


def test_problems_of_the_table_exist(routes: tuple[Route, ...]) -> None:
    named = {name for route in routes for name in route.problems}
    assert named
    assert named <= set(TITLES)


def test_the_page_sees_no_null_type(specification: dict[str, Any]) -> None:
    shown = for_page(specification)
    assert shown["openapi"] == "3.0.3"
    assert '{"type": "null"}' not in json.dumps(shown)


def test_every_configuration_that_a_client_sends_is_checked(routes: tuple[Route, ...]) -> None:
    """A field named ``config`` of a request body has the model that refuses reserved keys, however deep it is."""
    seen, checked = set(), 0
    waiting: list[Any] = [row.body for row in routes if row.body is not None]
    while waiting:
        model = waiting.pop()
        waiting.extend(get_args(model))
        if model in seen or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        seen.add(model)
        for name, field in model.model_fields.items():
            waiting.append(field.annotation)
            if name == "config":
                checked += 1
                assert RunConfig in (field.annotation, *get_args(field.annotation)), model
    assert checked >= 3
