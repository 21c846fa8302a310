"""The inbox over HTTP on a real database and a real broker: what is asked, who answers first, and what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer

from perdure.chassis.clock import now
from perdure.chassis.payload import pack, unpack
from perdure.registry.runs import assistant_id_of, run_document
from perdure.schemas import topics
from perdure.schemas.commands import COMMANDS, StartReason, StartRun
from perdure.schemas.documents import WaitStatus
from perdure.schemas.envelope import decode
from perdure.schemas.problem import Problem
from perdure.schemas.waits import Wait, WaitKind, WaitOutcome, digest, wake_key

Refused = Callable[[httpx.Response, int, str], Problem]

DEADLINE_S = 20.0
DECISION = {
    "type": "object",
    "properties": {"approve": {"type": "boolean"}, "limit": {"type": "number", "minimum": 0}},
    "required": ["approve"],
}


async def inbox(waiting: Any, **params: Any) -> list[dict[str, Any]]:
    answer = await waiting.http.get("/approvals", params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["approvals"]
    return found


async def waking_run(waiting: Any, wait: dict[str, Any]) -> dict[str, Any] | None:
    query = {"tenant": wait["tenant"], "idempotency_key": wake_key(wait["_id"])}
    found: dict[str, Any] | None = await waiting.database.runs.find_one(query)
    return found


def start_of(kafka_bootstrap: str, run_id: str) -> StartRun | None:
    """The command that starts a run."""
    consumer = Consumer(
        {"bootstrap.servers": kafka_bootstrap, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topics.COMMANDS.name])
    deadline = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline:
            record = consumer.poll(0.2)
            if record is None or record.error():
                continue
            if dict(record.headers() or ()).get("ce_correlationid") != run_id.encode():
                continue  # another test's, perhaps broken on purpose
            message = decode(record.headers(), record.value(), COMMANDS).message  # type: ignore[arg-type]
            if isinstance(message, StartRun) and message.run_id == run_id:
                return message
    finally:
        consumer.close()
    return None


async def test_a_question_is_shown(waiting: Any) -> None:
    due = now() + timedelta(days=2)
    action = {"transfer": 82_000}
    wait = await waiting.question(DECISION, action=action, due_at=due, assigned_to="ann")
    found = (await waiting.http.get(f"/approvals/{wait['_id']}")).json()
    opened, expires = found.pop("opened_at"), found.pop("expires_at")
    assert opened.startswith(wait["opened_at"].isoformat()[:19])
    assert expires.startswith(due.isoformat()[:19])
    assert found == {
        "approval_id": wait["_id"],
        "thread_id": wait["thread_id"],
        "run_id": wait["run_id"],
        "graph_id": "agent",
        "assistant_id": assistant_id_of("agent"),
        "nodes": ["asks"],
        "question": "May I?",
        "details": {"why": "because"},
        "action": action,
        "action_digest": digest(action),
        "answer_schema": DECISION,
        "events": [],
        "assigned_to": "ann",
        "escalate_to": [],
        "escalations": 0,
        "status": "open",
        "outcome": None,
        "ended_at": None,
        "waking_run_id": None,
        "metadata": {"team": "red"},
    }
    (listed,) = await inbox(waiting, thread_id=wait["thread_id"])
    assert listed["approval_id"] == wait["_id"]


async def test_an_answer_wakes_the_agent(waiting: Any, kafka_bootstrap: str) -> None:
    action = {"transfer": 82_000}
    wait = await waiting.question(DECISION, action=action, due_at=now() + timedelta(hours=1))
    answer = await waiting.answer(wait, {"approve": True}, action_digest=digest(action))
    assert answer.status_code == 202
    view = answer.json()
    run = await waking_run(waiting, wait)
    assert run is not None
    assert answer.headers["Location"] == f"/threads/{wait['thread_id']}/runs/{run['_id']}"
    assert (view["status"], view["waking_run_id"], view["expires_at"]) == ("answered", run["_id"], None)
    assert (view["outcome"]["by"], view["outcome"]["answer"]) == ("ann", {"approve": True})
    ((interrupt, value),) = unpack(run["payload"])["command"]["resume"].items()
    outcome = WaitOutcome.model_validate(value)
    assert interrupt == wait["interrupt_id"]
    assert (outcome.by, outcome.payload, outcome.action_digest) == ("ann", {"approve": True}, digest(action))
    assert outcome.expires_at is None
    assert (await waiting.http.get(f"/approvals/{wait['_id']}")).json() == view
    assert (await waiting.http.get(answer.headers["Location"])).json()["status"] == "pending"
    command = await asyncio.to_thread(start_of, kafka_bootstrap, run["_id"])
    assert command is not None
    assert (command.thread_id, command.reason) == (wait["thread_id"], StartReason.WOKEN)


async def test_of_twenty_answers_one_wins(waiting: Any) -> None:
    wait = await waiting.question()
    answers = await asyncio.gather(*(waiting.answer(wait, n, f"person {n}") for n in range(20)))
    won = [answer for answer in answers if answer.status_code == 202]
    assert len(won) == 1
    first = won[0].json()["outcome"]
    for answer in answers:
        if answer is won[0]:
            continue
        problem = Problem.model_validate(answer.json())
        assert (answer.status_code, problem.type) == (409, "urn:perdure:problem:already-answered")
        assert problem.outcome == first
        assert repr(first["by"]) in problem.detail
        assert f"with {first['answer']}." in problem.detail
    assert await waiting.database.runs.count_documents({"thread_id": wait["thread_id"]}) == 1


async def test_the_same_answer_once_more_is_a_repeat(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question()
    first = await waiting.answer(wait, 1)
    again = await waiting.answer(wait, 1)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json() == first.json()
    for answer, by in ((True, "ann"), (1, "bob")):
        problem_of(await waiting.answer(wait, answer, by), 409, "already-answered")


async def test_a_wrong_answer_wakes_nobody(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question(DECISION)
    problem = problem_of(await waiting.answer(wait, {"approve": "yes", "limit": -1}), 422, "invalid-request")
    assert {error.pointer: error.detail for error in problem.errors} == {
        "/answer/approve": "'yes' is not of type 'boolean'",
        "/answer/limit": "-1 is less than the minimum of 0",
    }
    problem = problem_of(await waiting.answer(wait, {}), 422, "invalid-request")
    assert [(error.pointer, error.detail) for error in problem.errors] == [
        ("/answer", "'approve' is a required property")
    ]
    assert await waking_run(waiting, wait) is None
    assert [one["status"] for one in await inbox(waiting, thread_id=wait["thread_id"])] == ["open"]
    assert (await waiting.answer(wait, {"approve": False})).status_code == 202


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"by": "ann"}, "/answer"),
        ({"answer": 1}, "/by"),
        ({"answer": 1, "by": ""}, "/by"),
        ({"answer": 1, "by": "a" * 257}, "/by"),
        ({"answer": 1, "by": "a\nb"}, "/by"),
        ({"answer": 2**63, "by": "ann"}, "/answer"),
        ({"answer": {"a\0": 1}, "by": "ann"}, "/answer"),
    ],
)
async def test_what_is_no_answer_is_refused(waiting: Any, problem_of: Refused, body: Any, pointer: str) -> None:
    wait = await waiting.question()
    answer = await waiting.http.post(f"/approvals/{wait['_id']}", json=body)
    assert problem_of(answer, 422, "invalid-request").errors[0].pointer == pointer
    assert await waking_run(waiting, wait) is None


async def test_large_answers(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question()
    problem_of(await waiting.answer(wait, "x" * (512 * 1024)), 413, "body-too-large")
    large = {"$text": "x" * (512 * 1024 - 20)}
    answer = await waiting.answer(wait, large)
    assert (answer.status_code, answer.json()["outcome"]["answer"]) == (202, large)
    assert (await waiting.http.get(f"/approvals/{wait['_id']}")).json()["outcome"]["answer"] == large
    (listed,) = await inbox(waiting, status="answered", thread_id=wait["thread_id"])
    assert listed["outcome"]["answer"] is None
    again = problem_of(await waiting.answer(wait, 1), 409, "already-answered")
    assert len(again.detail) < 1000


async def test_an_approval_is_for_one_action(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question(action={"transfer": 82_000})
    answer = await waiting.answer(wait, "yes", action_digest=digest({"transfer": 820_000}))
    problem_of(answer, 409, "action-mismatch")
    assert await waking_run(waiting, wait) is None
    plain = await waiting.question()
    problem_of(await waiting.answer(plain, "yes", action_digest="d"), 409, "action-mismatch")


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:9/never"}, {"$ref": "#"}, {"pattern": "("}]
)
async def test_a_broken_schema_is_said(waiting: Any, problem_of: Refused, schema: dict[str, Any]) -> None:
    wait = await waiting.question(schema)
    problem = problem_of(await waiting.answer(wait, "x"), 409, "broken-question")
    assert wait["thread_id"] in problem.detail
    assert await waking_run(waiting, wait) is None


async def test_an_expired_question_takes_no_answer(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question()
    await due(waiting, wait)
    problem = problem_of(await waiting.answer(wait, 1), 409, "approval-expired")
    assert problem.outcome is not None
    assert problem.outcome["kind"] == "due"
    (listed,) = await inbox(waiting, status="expired", thread_id=wait["thread_id"])
    assert listed["status"] == "expired"


async def test_the_clock_wins_before_its_projection_shows(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question()
    await due(waiting, wait)
    await waiting.database.waits.update_one(
        {"_id": wait["_id"]}, {"$set": {"status": WaitStatus.OPEN.value}, "$unset": {"outcome": "", "woken_by": ""}}
    )
    assert (await waiting.http.get(f"/approvals/{wait['_id']}")).json()["status"] == "expired"
    problem_of(await waiting.answer(wait, 1), 409, "approval-expired")
    assert await inbox(waiting, thread_id=wait["thread_id"]) == [], "the answer brings the projection up to date"


async def due(waiting: Any, wait: dict[str, Any]) -> None:
    """What the scheduler does when the time of a question is over: the same insert, the same mark."""
    outcome = WaitOutcome(kind="due", wait_id=wait["_id"], at=now(), due_at=now())  # type: ignore[arg-type]
    run = run_document(
        tenant=wait["tenant"],
        thread_id=wait["thread_id"],
        graph_id=wait["graph_id"],
        graph_version=None,
        packed=pack({"command": {"resume": {wait["interrupt_id"]: outcome.value()}}}),
        metadata={},
        traceparent="",
        moment=now(),
        idempotency_key=wake_key(wait["_id"]),
    )
    await waiting.database.runs.insert_one(run)
    ended = {"status": WaitStatus.ANSWERED.value, "outcome": outcome.value(), "woken_by": run["_id"]}
    await waiting.database.waits.update_one({"_id": wait["_id"]}, {"$set": ended})


async def test_a_question_that_a_signal_ended_is_closed(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question(events=("withdrawn",))
    sent = await waiting.http.post(f"/threads/{wait['thread_id']}/signals/withdrawn", json={})
    assert sent.json()["delivered"] is True
    problem = problem_of(await waiting.answer(wait, 1), 409, "approval-closed")
    assert "'withdrawn'" in problem.detail
    (listed,) = await inbox(waiting, status="closed", thread_id=wait["thread_id"])
    assert (listed["status"], listed["outcome"]["signal"]) == ("closed", "withdrawn")


async def test_a_question_that_its_thread_left_is_closed(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question(status=WaitStatus.CLOSED.value)
    problem_of(await waiting.answer(wait, 1), 409, "approval-closed")
    assert await waking_run(waiting, wait) is None
    assert len(await inbox(waiting, status="closed", thread_id=wait["thread_id"])) == 1


async def test_the_inbox_is_filtered_and_paged(waiting: Any, problem_of: Refused) -> None:
    team = uuid.uuid4().hex
    moment = now()
    waits = [
        await waiting.question(assigned_to=team, graph=f"g{n % 2}", opened_at=moment + timedelta(seconds=n // 2))
        for n in range(6)
    ]
    await waiting.wait(Wait(kind=WaitKind.EVENT, events=("reply",)), assigned_to=team)
    expected = [wait["_id"] for wait in sorted(waits, key=lambda wait: (wait["opened_at"], wait["_id"]))]
    found: list[str] = []
    params: dict[str, Any] = {"assigned_to": team, "limit": 4}
    for _ in range(2):
        page = (await waiting.http.get("/approvals", params=params)).json()
        found += [one["approval_id"] for one in page["approvals"]]
        params["after"] = page["cursor"]
    assert (found, page["cursor"]) == (expected, None)
    for graph in ("g1", assistant_id_of("g1")):
        assert {one["graph_id"] for one in await inbox(waiting, assigned_to=team, graph=graph)} == {"g1"}
    assert len(await inbox(waiting, assigned_to=team, graph="g1", status="all")) == 3
    await waiting.answer(waits[0], 1)
    assert len(await inbox(waiting, assigned_to=team)) == 5
    assert len(await inbox(waiting, assigned_to=team, status="answered")) == 1
    for params in ({"status": "odd"}, {"after": "é"}, {"after": "QUJD"}, {"limit": 0}):
        problem_of(await waiting.http.get("/approvals", params=params), 422, "invalid-request")


async def test_schemas_are_judged_beside_the_other_requests(waiting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large schema takes seconds; meanwhile the gateway answers others."""
    beside: list[bool] = []

    def judge(_: Any) -> None:
        beside.append(threading.current_thread() is not threading.main_thread())

    monkeypatch.setattr("perdure.registry.questions.require_schema", judge)
    schema = {"title": uuid.uuid4().hex, "type": "string"}
    asked = await waiting.interrupt("Go on?", schema)
    for _ in range(2):
        (listed,) = await inbox(waiting, thread_id=asked["thread_id"])
        assert listed["answer_schema"] == schema
    assert beside == [True], "once, in another thread"


async def test_another_tenant_sees_nothing(waiting: Any, problem_of: Refused) -> None:
    wait = await waiting.question(tenant="b")
    path, own = f"/approvals/{wait['_id']}", {"Perdure-Tenant": "b"}
    problem_of(await waiting.http.get(path), 404, "unknown-approval")
    problem_of(await waiting.answer(wait, 1), 404, "unknown-approval")
    assert await inbox(waiting, thread_id=wait["thread_id"]) == []
    assert await waking_run(waiting, wait) is None
    assert (await waiting.http.get(path, headers=own)).status_code == 200
    answer = await waiting.http.post(path, json={"answer": 1, "by": "ann"}, headers=own)
    assert answer.status_code == 202


async def test_what_is_no_question_is_unknown(waiting: Any, problem_of: Refused) -> None:
    event = await waiting.wait(Wait(kind=WaitKind.EVENT, events=("reply",)))
    for name in ("nobody", "a:b:c", "%00", "%F0%9F%90%8B", "..%2F..", "x" * 2000, event["_id"]):
        path = f"/approvals/{name}"
        problem_of(await waiting.http.get(path), 404, "unknown-approval")
        problem_of(await waiting.http.post(path, json={"answer": 1, "by": "ann"}), 404, "unknown-approval")
