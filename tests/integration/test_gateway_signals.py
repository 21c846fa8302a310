"""Signals over HTTP on a real database and a real broker: durable before the answer, delivered or kept, once for a key."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from perdure.chassis.payload import unpack
from perdure.schemas.waits import Wait, WaitKind, wake_key

Refused = Callable[[httpx.Response, int, str], Any]


async def send(waiting: Any, thread: str, name: str, payload: Any, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    found: httpx.Response = await waiting.http.post(
        f"/threads/{thread}/signals/{name}", json={"payload": payload}, headers=headers
    )
    return found


async def test_a_signal_before_its_wait_is_kept(waiting: Any) -> None:
    thread = await waiting.thread()
    answer = await send(waiting, thread, "reply", {"text": "yes", "$odd.key": [1, None]})
    assert answer.status_code == 202
    signal = answer.json()
    assert (signal["thread_id"], signal["name"], signal["state"], signal["delivered"]) == (
        thread,
        "reply",
        "free",
        False,
    )
    stored = await waiting.database.signals.find_one({"_id": signal["signal_id"]})
    assert unpack(stored["payload"]) == {"text": "yes", "$odd.key": [1, None]}
    assert (stored["offered"], stored["tenant"]) == (True, "default")
    (listed,) = (await waiting.http.get(answer.headers["Location"])).json()["signals"]
    assert listed["payload"] == {"text": "yes", "$odd.key": [1, None]}


async def test_a_signal_wakes_the_wait_of_its_name(waiting: Any) -> None:
    wait = await waiting.wait(Wait(kind=WaitKind.EVENT, events=("reply", "cancel")))
    thread = wait["thread_id"]
    other = (await send(waiting, thread, "other", 1)).json()
    assert other["delivered"] is False
    signal = (await send(waiting, thread, "cancel", {"$why": {"a.b": "rain"}})).json()
    assert (signal["state"], signal["delivered"], signal["wait_id"]) == ("taken", True, wait["_id"])
    run = await waiting.database.runs.find_one({"tenant": "default", "idempotency_key": wake_key(wait["_id"])})
    (outcome,) = unpack(run["payload"])["command"]["resume"].values()
    assert (outcome["kind"], outcome["name"], outcome["payload"]) == ("signal", "cancel", {"$why": {"a.b": "rain"}})
    assert outcome["signal_id"] == signal["signal_id"]
    ended = await waiting.database.waits.find_one({"_id": wait["_id"]})
    assert (ended["status"], ended["woken_by"]) == ("answered", run["_id"])
    free = (await waiting.http.get(f"/threads/{thread}/signals", params={"state": "free"})).json()["signals"]
    assert [one["signal_id"] for one in free] == [other["signal_id"]]


async def test_twenty_with_one_key_are_one_signal(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.wait(Wait(kind=WaitKind.EVENT, events=("reply",)))
    thread, key = wait["thread_id"], uuid.uuid4().hex
    answers = await asyncio.gather(*(send(waiting, thread, "reply", {"n": 1}, key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["signal_id"] for answer in answers}) == 1
    assert await waiting.database.signals.count_documents({"thread_id": thread}) == 1
    assert await waiting.database.runs.count_documents({"thread_id": thread}) == 1
    again = await send(waiting, thread, "reply", {"n": 1}, key)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["delivered"] is True
    problem_of(await send(waiting, thread, "reply", {"n": 2}, key), 409, "signal-conflict")
    problem_of(await send(waiting, thread, "other", {"n": 1}, key), 409, "signal-conflict")
    elsewhere = await send(waiting, await waiting.thread(), "reply", {"n": 2}, key)
    assert elsewhere.status_code == 202


async def test_signals_of_a_thread_come_in_pages(waiting: Any, problem_of: Refused) -> None:
    thread = await waiting.thread()
    sent = [(await send(waiting, thread, "reply", n)).json()["signal_id"] for n in range(5)]
    found: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        page = (await waiting.http.get(f"/threads/{thread}/signals", params=params)).json()
        found += [signal["signal_id"] for signal in page["signals"]]
        params["after"] = page["cursor"]
    assert (found, page["cursor"]) == (sent, None)
    problem_of(await waiting.http.get(f"/threads/{thread}/signals", params={"after": "x"}), 422, "invalid-request")


@pytest.mark.parametrize("name", ["a b", "a%2Fb", "é", "a" * 129])
async def test_a_name_that_is_none_is_refused(waiting: Any, problem_of: Refused, name: str) -> None:
    problem = problem_of(await send(waiting, await waiting.thread(), name, 1), 422, "invalid-request")
    assert problem.errors[0].pointer == "path:name"


async def test_what_cannot_be_stored_is_refused(waiting: Any, problem_of: Refused) -> None:
    thread = await waiting.thread()
    problem_of(await send(waiting, thread, "reply", "x" * (512 * 1024)), 413, "body-too-large")
    assert (await send(waiting, thread, "reply", "x" * (512 * 1024 - 2))).status_code == 202
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    for payload in (deep, 2**63, {"a\0": 1}):
        problem = problem_of(await send(waiting, thread, "reply", payload), 422, "invalid-request")
        assert problem.errors[0].pointer == "/payload"


async def test_an_unknown_thread_takes_no_signal(waiting: Any, problem_of: Refused) -> None:
    foreign = await waiting.thread("b")
    for thread in ("nobody", "a%00b", foreign):
        problem_of(await send(waiting, thread, "reply", 1), 404, "unknown-thread")
        problem_of(await waiting.http.get(f"/threads/{thread}/signals"), 404, "unknown-thread")
    assert await waiting.database.signals.count_documents({"thread_id": foreign}) == 0


async def test_a_signal_that_cannot_be_offered_is_accepted(waiting: Any) -> None:
    wait = await waiting.wait(Wait(kind=WaitKind.EVENT, events=("reply",)))
    # A wait whose document is damaged: waking it fails each time.
    await waiting.database.waits.update_one({"_id": wait["_id"]}, {"$unset": {"interrupt_id": ""}})
    answer = await send(waiting, wait["thread_id"], "reply", 1)
    assert (answer.status_code, answer.json()["delivered"]) == (202, False)
    stored = await waiting.database.signals.find_one({"_id": answer.json()["signal_id"]})
    assert stored["offered"] is False, "the sweep would not find it"


async def test_keys_of_our_own_runs_are_refused(waiting: Any, problem_of: Refused) -> None:
    for key in ("wake:t:i", "schedule:s:1"):
        answer = await waiting.http.post(
            "/runs", json={"assistant_id": "agent", "input": {}}, headers={"Idempotency-Key": key}
        )
        problem = problem_of(answer, 422, "invalid-request")
        assert problem.errors[0].pointer == "header:Idempotency-Key"
