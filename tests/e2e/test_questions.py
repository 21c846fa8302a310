"""Agents that ask with plain interrupts: told by webhook, answered by link and over HTTP, one by one and together, whoever dies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.support.polling import until_blocking
from tests.support.web import RecordingServer, recording_server

pytestmark = pytest.mark.timeout(240)

PROJECT = Path(__file__).parent / "graphs" / "questions" / "langgraph.json"


@pytest.fixture(scope="module")
def hooks() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


@pytest.fixture(scope="module")
def system(start_module_system: Any, hooks: RecordingServer) -> Any:
    """A system that tells a webhook of every question."""
    settings = {"PERDURE_LANGGRAPH_CONFIG": str(PROJECT), "PERDURE_NOTIFIER_ALLOWED_TARGETS": '["127.0.0.0/8"]'}
    started = start_module_system(settings=settings)
    body = {"scope": "tenant", "kinds": ["approval_wanted"], "channel": "webhook", "target": hooks.url("/asked")}
    started.http.post("/subscriptions", json=body).raise_for_status()
    return started


def open_questions(system: Any, run: Any, count: int = 1) -> list[Any]:
    """The open questions of a thread, once there are so many and its run has ended."""
    system.until_ended(run)

    def look() -> list[Any]:
        return list(
            system.http.get("/approvals", params={"thread_id": run["thread_id"]}).raise_for_status().json()["approvals"]
        )

    return until_blocking(look, f"{count} questions are open", holds=lambda found: len(found) == count)


def answer(system: Any, question: Any, value: Any) -> None:
    taken = system.http.post(f"/approvals/{question['approval_id']}", json={"answer": value, "by": "ada"})
    assert taken.status_code == 202, taken.text


def finished(system: Any, run: Any) -> dict[str, Any]:
    """The thread's values, once it is at its end."""

    def done() -> bool:
        thread = system.db.threads.find_one({"_id": run["thread_id"]})
        active = {"thread_id": run["thread_id"], "settled": False}
        return not thread["interrupts"] and not thread["next"] and not system.db.runs.count_documents(active)

    until_blocking(done, "the agent has ended")
    return dict(system.values(run["thread_id"]))


def link_of(hooks: RecordingServer, question: Any) -> str:
    """The link that the webhook was told."""

    def look() -> str | None:
        told = [json.loads(request.body) for request in hooks.requests]
        mine = [one["data"] for one in told if one["data"]["approval_id"] == question["approval_id"]]
        assert len(mine) <= 1, "told twice"
        return mine[0]["answer_url"] if mine else None

    return str(until_blocking(look, "the webhook is told"))


def fill_in(link: str, **typed: str) -> str:
    """What a browser does whose user fills in the page behind a link; the text of the page that comes then."""
    with httpx.Client(timeout=30, follow_redirects=True) as browser:
        page = browser.get(link).raise_for_status().text
        found = re.findall(r'<input type="(?:hidden|text)"[^>]* name="([^"]+)" value="([^"]*)"', page)
        found += re.findall(r'<textarea [^>]*name="([^"]+)"[^>]*>\n([^<]*)</textarea>', page)
        shown = {unescape(name): unescape(value) for name, value in found}
        assert set(typed) <= set(re.findall(r'name="([^"]+)"', page)), page
        answered = browser.post(link, data={**shown, **typed})
    assert answered.status_code == 200, answered.text
    return answered.text


def test_two_questions_are_answered_one_by_one(system: Any, hooks: RecordingServer) -> None:
    run = system.start("plain", {})
    questions = {one["question"]: one for one in open_questions(system, run, 2)}
    assert set(questions) == {"What shall I write?", "How much at most?"}
    limit, text = questions["How much at most?"], questions["What shall I write?"]
    assert limit["answer_schema"]["properties"]["limit"]["type"] == "integer"
    assert (limit["details"], limit["expires_at"]) == ({"currency": "EUR"}, None)
    state = system.http.get(f"/threads/{run['thread_id']}/state").json()
    schemas = {json.dumps(one["value"]): one.get("response_schema") for one in state["interrupts"]}
    assert schemas == {json.dumps(limit["interrupt"]["value"]): limit["answer_schema"], '"What shall I write?"': None}
    joined = system.http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join").json()
    assert {one["id"]: one.get("response_schema") for one in joined["__interrupt__"]} == {
        limit["interrupt"]["id"]: limit["answer_schema"], text["interrupt"]["id"]: None,
    }  # fmt: skip

    refused = system.http.post(f"/approvals/{limit['approval_id']}", json={"answer": {"limit": "many"}, "by": "ada"})
    assert refused.status_code == 422
    assert "is recorded" in fill_in(link_of(hooks, limit), **{"answer/limit": "500", "name": "Ada"})
    (left,) = until_blocking(
        lambda: [one for one in open_questions(system, run, 1) if one["approval_id"] == text["approval_id"]],
        "the other question still waits",
    )
    until_blocking(
        lambda: system.http.get(f"/threads/{run['thread_id']}/state").json()["next"] == ["asks_text"],
        "one node is done",
    )
    answer(system, left, "A poem")
    assert sorted(finished(system, run)["log"]) == [["limit", {"limit": 500}], ["text", "A poem"]]
    ended = system.http.get(f"/approvals/{limit['approval_id']}").json()
    assert ended["outcome"]["answer"] == {"limit": 500}
    assert ended["outcome"]["by"].startswith("Ada (subscription:")
    system.assert_linear([run["thread_id"]])


def test_two_questions_are_answered_together(system: Any) -> None:
    run = system.start("plain", {})
    ids = {one["question"]: one["interrupt"]["id"] for one in open_questions(system, run, 2)}
    resume = {ids["What shall I write?"]: "A poem", ids["How much at most?"]: {"limit": 7}}
    system.start("plain", None, thread=run["thread_id"], command={"resume": resume})
    assert sorted(finished(system, run)["log"]) == [["limit", {"limit": 7}], ["text", "A poem"]]
    assert system.http.get("/approvals", params={"thread_id": run["thread_id"]}).json()["approvals"] == []
    assert system.db.runs.count_documents({"thread_id": run["thread_id"]}) == 2


def test_a_human_interrupt_is_answered_over_http(system: Any) -> None:
    run = system.start("inbox", {})
    (question,) = open_questions(system, run)
    assert question["question"] == "Shall I send this mail?"
    assert question["action"] == {"action": "send_mail", "args": {"to": "ann@example.com", "body": "Hello"}}
    wrong = system.http.post(f"/approvals/{question['approval_id']}", json={"answer": {"type": "accept"}, "by": "ada"})
    assert wrong.status_code == 422, "agent-inbox answers with a list"
    answer(system, question, [{"type": "response", "args": "Later"}])
    assert finished(system, run)["log"] == [{"type": "response", "args": "Later"}]


def test_a_human_interrupt_is_edited_by_link(system: Any, hooks: RecordingServer) -> None:
    run = system.start("inbox", {})
    (question,) = open_questions(system, run)
    typed = {"answer/0": "1", "answer[1]/0/args/args/body": "Dear Ann", "name": "Ada"}
    assert "is recorded" in fill_in(link_of(hooks, question), **typed)
    edited = {"action": "send_mail", "args": {"to": "ann@example.com", "body": "Dear Ann"}}
    assert finished(system, run)["log"] == [{"type": "edit", "args": edited}]


def test_a_review_of_two_tool_calls_by_link(system: Any, hooks: RecordingServer) -> None:
    run = system.start("reviewed", {"messages": [{"role": "user", "content": "Mail them"}]})
    (question,) = open_questions(system, run)
    assert [one["args"]["to"] for one in question["action"]] == ["ann", "bob"]
    typed = {
        "answer/decisions/0": "0",
        "answer/decisions/1": "2",
        "answer[2]/decisions/1/message": "Not Bob",
        "name": "Ada",
    }
    assert "is recorded" in fill_in(link_of(hooks, question), **typed)
    said = finished(system, run)["messages"][-1]["content"]
    assert "sent to ann: Hello" in said
    assert "Not Bob" in said
    assert "sent to bob" not in said


def test_a_review_of_each_tool_call(system: Any) -> None:
    run = system.start("reviewed_each", {"messages": [{"role": "user", "content": "Mail them"}]})
    by_name = {one["action"]["args"]["to"]: one for one in open_questions(system, run, 2)}
    edited = {"type": "edit", "edited_action": {"name": "send_mail", "args": {"to": "bob", "body": "Dear Bob"}}}
    answer(system, by_name["bob"], edited)
    open_questions(system, run, 1)
    answer(system, by_name["ann"], {"type": "reject", "message": "Not Ann"})
    said = finished(system, run)["messages"][-1]["content"]
    assert "sent to bob: Dear Bob" in said
    assert "Not Ann" in said


def test_kill_the_worker_between_two_answers(system: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = system.start("plain", {"gate": str(gate)})
    questions = {one["question"]: one for one in open_questions(system, run, 2)}
    answer(system, questions["How much at most?"], {"limit": 9})
    until_blocking(Path(f"{gate}.reached").exists, "the first answer is in its node")
    system.services["agent_step"].kill()
    answer(system, questions["What shall I write?"], "A song")
    system.services["agent_step"].start()
    gate.touch()
    assert sorted(finished(system, run)["log"]) == [["limit", {"limit": 9}], ["text", "A song"]]
    woken = list(system.db.runs.find({"thread_id": run["thread_id"], "wait_id": {"$exists": True}}))
    assert {one["status"] for one in woken} <= {"success", "interrupted"}
    assert len(woken) == 2
    assert {one["status"] for one in system.db.waits.find({"thread_id": run["thread_id"]})} == {"answered"}
    system.assert_linear([run["thread_id"]])


def test_a_link_is_no_longer_good_when_a_command_answered(system: Any, hooks: RecordingServer) -> None:
    run = system.start("inbox", {})
    (question,) = open_questions(system, run)
    link = link_of(hooks, question)
    assert urlsplit(link).path.startswith("/answer/")
    system.start("inbox", None, thread=run["thread_id"], command={"resume": [{"type": "ignore", "args": None}]})
    assert finished(system, run)["log"] == [{"type": "ignore", "args": None}]
    assert "Nobody needs to answer this any more" in httpx.get(link).text
