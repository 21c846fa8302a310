"""The machinery behind docs/compatibility.md: what is claimed must be used, and nothing else becomes a Y."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import pytest
from tests.compatibility.catalogue import PROBES
from tests.compatibility.described import surface_differences
from tests.compatibility.page import NO, PARTLY, YES, marks_of, render
from tests.compatibility.probe import Claim, Probe, claim
from tests.compatibility.reference import verdict_of
from tests.compatibility.running import failure_of, unknown_claims
from tests.compatibility.stage import Stage, refusal
from tests.compatibility.surface import operation_of, operations
from tests.support.web import RecordingServer

SEARCH = "POST /threads/search"


def answering(status: int, body: object, kind: str = "application/json") -> httpx.MockTransport:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": kind}
    return httpx.MockTransport(lambda _: httpx.Response(status, headers=headers, stream=httpx.ByteStream(content)))


async def run(probe: Probe, transport: httpx.AsyncBaseTransport) -> str | None:
    with RecordingServer(lambda _: 204) as hooks:  # which no probe here uses
        return await failure_of(probe, Stage("http://test", transport, hooks))


async def search(stage: Stage) -> None:
    found = await stage.sdk.threads.search(metadata={"a": 1}, sort_by="status")
    assert found[0]["thread_id"] == "t"


@pytest.mark.parametrize(
    ("of", "unused"),
    [
        (claim(SEARCH, body="metadata sort_by", answer="thread_id"), None),
        (claim(SEARCH, body="sort_by values"), f"{SEARCH} body.values"),
        (claim(SEARCH, partly={"body.select": "no"}), f"{SEARCH} body.select"),
        (claim(SEARCH, answer="status"), f"{SEARCH} answer.status"),
        (claim(SEARCH, answer_header="X-Pagination-Next"), f"{SEARCH} answer_header.X-Pagination-Next"),
        (claim("POST /threads", body="metadata"), "POST /threads POST /threads"),
    ],
)
async def test_a_probe_that_claims_what_it_did_not_use_fails(of: Claim, unused: str | None) -> None:
    answer = answering(200, [{"thread_id": "t", "status": None}])
    failure = await run(Probe("search", search, (of,)), answer)
    assert failure == (None if unused is None else f"it claims what it did not use: {unused}")


async def test_a_probe_whose_assertion_fails_says_so() -> None:
    failure = await run(Probe("search", search), answering(200, [{"thread_id": "other"}]))
    assert failure is not None
    assert "AssertionError" in failure


async def test_a_value_that_means_something_of_its_own_must_have_been_sent() -> None:
    async def rejects(stage: Stage) -> None:
        await stage.sdk.runs.create("t", "walk", input={}, multitask_strategy="reject")

    create, answer = "POST /threads/{thread_id}/runs", answering(200, {"run_id": "r"})
    assert await run(Probe("", rejects, (claim(create, body="multitask_strategy=reject"),)), answer) is None
    failure = await run(Probe("", rejects, (claim(create, body="multitask_strategy=enqueue"),)), answer)
    assert failure is not None


async def test_the_events_of_a_stream_are_noted() -> None:
    async def streams(stage: Stage) -> None:
        await stage.http.post("/runs/stream", json={"assistant_id": "walk"})

    told = b'event: metadata\r\ndata: {"run_id": "r"}\r\nid: 1\r\n\r\n'
    transport = answering(200, told, "text/event-stream")
    assert await run(Probe("", streams, (claim("POST /runs/stream", event="metadata id"),)), transport) is None
    assert await run(Probe("", streams, (claim("POST /runs/stream", event="error"),)), transport) is not None


@pytest.mark.parametrize(("status", "expected", "holds"), [(422, (), True), (200, (), False), (404, (409,), False)])
async def test_a_refusal_is_an_answer_with_that_status(status: int, expected: tuple[int, ...], *, holds: bool) -> None:
    async def refused(stage: Stage) -> None:
        async with refusal(*expected):
            await stage.sdk.threads.create()

    assert (await run(Probe("", refused), answering(status, {"thread_id": "t"})) is None) is holds


def test_of_what_probes_say_of_one_parameter_the_least_counts() -> None:
    name = "body.metadata"
    whole = Probe("whole", search, (claim(SEARCH, body="metadata"),))
    part = Probe("part", search, (claim(SEARCH, partly={name: "half"}),))
    none = Probe("none", search, (claim(SEARCH, refused={name: "422"}),))
    passed = {"whole": True, "part": True, "none": True}
    assert marks_of([whole], passed)[SEARCH].of(name) == YES
    assert marks_of([whole, part], passed)[SEARCH].of(name) == PARTLY
    assert marks_of([whole, part, none], passed)[SEARCH].of(name) == NO
    assert SEARCH not in marks_of([whole], {"whole": False})


def test_without_a_probe_that_passed_nothing_is_a_y() -> None:
    page = render(PROBES, {probe.name: False for probe in PROBES})
    rows = [line for line in page.splitlines() if line.startswith("| all ")]
    assert [row.split("|")[2:4] + row.split("|")[5:7] for row in rows] == [[" 0 ", " 0 ", " 0 ", " 0 "]]
    assert all(operation.name in page for operation in operations())


def test_every_claim_is_about_the_surface_and_every_probe_has_a_name() -> None:
    assert unknown_claims(PROBES) == []
    assert [name for name, count in Counter(probe.name for probe in PROBES).items() if count > 1] == []
    wrong = Probe("wrong", search, (claim(SEARCH, body="nothing"), claim("GET /nothing")))
    assert len(unknown_claims([wrong])) == 2


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("POST", "/threads/search", "POST /threads/search"),
        ("PATCH", "/threads/search", "PATCH /threads/{thread_id}"),
        ("GET", "/threads/t/state/c", "GET /threads/{thread_id}/state/{checkpoint_id}"),
        ("POST", "/threads/t/state/checkpoint", "POST /threads/{thread_id}/state/checkpoint"),
        ("GET", "/elsewhere", None),
    ],
)
def test_the_operation_of_a_request(method: str, path: str, operation: str | None) -> None:
    found = operation_of(method, path)
    assert (found and found.name) == operation


def test_the_surface_has_64_operations() -> None:
    assert len(operations()) == 64
    assert all(one.undescribed <= set(one.parameters) for one in operations())
    doubled = [one.name for one in operations() if len(set(one.parameters)) != len(one.parameters)]
    assert doubled == []


def test_a_surface_that_is_not_the_described_one_is_noticed() -> None:
    search: dict[str, Any] = {"properties": {name: {} for name in ["metadata", "values", "status"]}}
    operation = {
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Count"}}}},
        "responses": {"200": {}},
    }
    description = {"paths": {"/threads/count": {"post": operation}}, "components": {"schemas": {"Count": search}}}

    def of_count() -> list[str]:
        return [line for line in surface_differences(description) if line.startswith("POST /threads/count:")]

    assert of_count() == []
    search["properties"]["more"] = {}
    assert of_count() == ["POST /threads/count: only described ['body.more'], only committed []"]
    del search["properties"]["more"], search["properties"]["status"]
    assert of_count() == ["POST /threads/count: only described [], only committed ['body.status']"]
    assert len(surface_differences(description)) == 64


def _probe(**more: object) -> Probe:
    return Probe("", search, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("probe", "failure", "verdict"),
    [
        (_probe(), None, "same"),
        (_probe(), "no", "FAILS"),
        (_probe(differs="because"), "no", "differs"),
        (_probe(differs="because"), None, "HOLDS"),
        (_probe(claims=(claim(SEARCH, partly={"body.select": "no"}),)), "no", "not judged"),
    ],
)
def test_what_the_reference_says_of_a_probe(probe: Probe, failure: str | None, verdict: str) -> None:
    assert verdict_of(probe, failure) == verdict
