"""The shapes that clients trust: how a start is answered, to whom, and with which headers."""

from __future__ import annotations

import uuid

import httpx
import pytest
from tests.integration.gateway_stage import GRAPH, Gateway, gateway_of_module, new_thread  # noqa: F401

BODY = {"assistant_id": GRAPH, "input": {}}
FETCH = {"Sec-Fetch-Mode": "cors"}


def location_of(answer: httpx.Response) -> str:
    run = answer.json()
    return f"/threads/{run['thread_id']}/runs/{run['run_id']}"


@pytest.mark.parametrize(
    ("headers", "status", "applied"),
    [
        ({}, 202, None),
        (FETCH, 200, None),
        ({"Prefer": "return=representation"}, 200, "return=representation"),
        (FETCH | {"Prefer": "respond-async"}, 202, "respond-async"),
        ({"Prefer": 'handling=lenient, Return="representation"; x=1'}, 200, "return=representation"),
        ({"Prefer": "respond-async, return=representation"}, 202, "respond-async"),
        ({"Prefer": "return=minimal"}, 202, None),
    ],
)
async def test_a_start_is_answered_as_its_client_can_read_it(
    gateway: Gateway, headers: dict[str, str], status: int, applied: str | None
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    for path in ("/runs", f"/threads/{await new_thread(gateway)}/runs"):
        first = await gateway.http.post(path, json=BODY, headers=headers | key)
        again = await gateway.http.post(path, json=BODY, headers=headers | key)
        for answer in (first, again):
            assert answer.status_code == status
            assert answer.headers.get("Preference-Applied") == applied
            assert answer.headers["Location"] == answer.headers["Content-Location"] == location_of(answer)
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json() == first.json()
        key = {"Idempotency-Key": uuid.uuid4().hex}


@pytest.mark.parametrize("given", [{}, None, {"messages": ["not taken"]}, []])
async def test_a_command_wins_over_an_input(gateway: Gateway, given: object) -> None:
    """agent-chat-ui sends an empty input with every answer; the Agent Server takes the command alone."""
    path = f"/threads/{await new_thread(gateway)}/runs"
    command = {"goto": "a", "update": {"x": 1}}
    answer = await gateway.http.post(path, json={"assistant_id": GRAPH, "input": given, "command": command})
    assert answer.status_code == 202, answer.text
    assert answer.json()["kwargs"] == {"command": command}
    idle = f"/threads/{await new_thread(gateway)}/runs"
    refused = await gateway.http.post(idle, json={"assistant_id": GRAPH, "input": {}, "command": {"resume": 1}})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:perdure:problem:nothing-to-resume")
