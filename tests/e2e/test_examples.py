"""The examples whose agents sleep for days, under the real services, with hours of a few milliseconds."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from tests.support.polling import until_blocking
from tests.support.web import RecordingServer, recording_server

from perdure.local.resources import free_port

pytestmark = pytest.mark.timeout(180)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
APPLICATION = json.loads((EXAMPLES / "recruiter" / "application.json").read_text())
HOUR_S = 0.05
ILL_AT = range(40, 55)
"""Requests, counted from 0, that the watched server fails: an outage of fifteen hours."""


class Mailbox:
    """What a mail server took, by recipient."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802
        text = (envelope.content or b"").decode() if isinstance(envelope.content, bytes) else str(envelope.content)
        found = {name: re.search(rf"^{name}: (.*?)\r?$", text, re.MULTILINE) for name in ("Subject", "Message-ID")}
        subject, message_id = (one[1] if one else "" for one in found.values())
        self.taken += [(to, subject, message_id) for to in envelope.rcpt_tos]
        return "250 OK"

    def of(self, address: str) -> list[str]:
        """Subjects, in their order; no message twice."""
        ids = [message_id for to, _, message_id in self.taken if to == address]
        assert len(ids) == len(set(ids)), "a message was sent twice"
        return [subject.partition(":")[0] for to, subject, _ in self.taken if to == address]


@pytest.fixture(scope="module")
def mailbox() -> Iterator[tuple[Mailbox, str]]:
    box = Mailbox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, f"smtp://127.0.0.1:{port}"
    controller.stop()


@pytest.fixture
def watched() -> Iterator[RecordingServer]:
    """A web server that is ill for a while."""
    with recording_server(lambda number: 503 if number in ILL_AT else 200) as server:
        yield server


@pytest.fixture
def examples(start_system: Callable[..., Any], mailbox: tuple[Mailbox, str], tmp_path: Path) -> Any:
    """All services with both examples."""
    names = ("monitor", "recruiter")
    config = {
        "dependencies": [str(EXAMPLES / name) for name in names],
        "graphs": {name: str(EXAMPLES / name / "agent.py:graph") for name in names},
    }
    file = tmp_path / "langgraph.json"
    file.write_text(json.dumps(config))
    return start_system(
        settings={
            "PERDURE_LANGGRAPH_CONFIG": str(file),
            "MONITOR_HOUR_S": str(HOUR_S),
            "RECRUITER_HOUR_S": str(HOUR_S),
            "SMTP_URL": mailbox[1],
        }
    )


def application(name: str, **other: Any) -> dict[str, Any]:
    return {**APPLICATION, "candidate": {"name": name, "email": f"{name}@example.org"}, **other}


def at_end(system: Any, thread: str, key: str) -> bool:
    return bool((system.values(thread) or {}).get(key))


def test_a_week_of_hourly_checks_and_three_candidates(
    examples: Any, mailbox: tuple[Mailbox, str], watched: RecordingServer, opensearch_url: str
) -> None:
    system, (box, _) = examples, mailbox
    week = system.start("monitor", {"target": watched.url()})["thread_id"]
    threads = {
        name: system.start("recruiter", application(name))["thread_id"] for name in ("prompt", "late", "silent", "shy")
    }
    unfit = system.start("recruiter", application("unfit", cv="I like Pythons and other snakes."))["thread_id"]

    def reply(name: str, payload: Any) -> None:
        answer = system.http.post(f"/threads/{threads[name]}/signals/reply", json={"payload": payload})
        assert answer.status_code == 202, answer.text

    until_blocking(lambda: "Interview" in box.of("prompt@example.org"), "the invitation")
    reply("prompt", {"slot": 2})
    reply("shy", {"text": "no, thank you"})
    until_blocking(lambda: "Reminder" in box.of("late@example.org"), "the reminder")
    reply("late", {"text": "1"})
    # Killed while the week goes on: what it was doing is done by the next one, and nothing of it twice.
    until_blocking(lambda: len(watched.requests) > 60, "sixty checks")
    system.services["agent_step"].kill()
    system.services["agent_step"].start()

    started = time.monotonic()
    for thread in (*threads.values(), unfit):
        until_blocking(partial(at_end, system, thread, "outcome"), "the candidate's outcome")
    until_blocking(lambda: at_end(system, week, "report"), "the week's report")
    print(f"the rest took {time.monotonic() - started:.1f} s")

    outcomes = {name: system.values(thread)["outcome"] for name, thread in threads.items()}
    assert outcomes == {"prompt": "interview", "late": "interview", "silent": "gave up", "shy": "declined"}
    assert system.values(threads["prompt"])["interview"] == APPLICATION["slots"][1]
    assert system.values(threads["late"])["interview"] == APPLICATION["slots"][0]
    assert box.of("prompt@example.org") == ["Interview", "Confirmed"]
    assert box.of("late@example.org") == ["Interview", "Reminder", "Confirmed"]
    assert box.of("silent@example.org") == ["Interview", "Reminder"]
    assert box.of("shy@example.org") == ["Interview"]
    assert (system.values(unfit)["outcome"], box.of("unfit@example.org")) == ("rejected", ["Your application"])

    values = system.values(week)
    # A check may be made again when its worker dies before it is stored: no other may.
    assert 168 <= len(watched.requests) <= 169
    strip = values["strip"]
    assert len(strip) == 168
    assert values["summary"]["checks"] == 168
    assert values["summary"] | {"failed": 15, "longest_outage_hours": 15, "outages": 1} == values["summary"]
    assert values["summary"]["availability_percent"] == round(100 * 153 / 168, 2)
    assert "| status 503 | 15 |" in values["report"]
    assert values["report"].count("\n| ") == 1 + 7 + 2
    wakes = system.db.runs.count_documents({"thread_id": week, "wait_id": {"$exists": True}})
    assert wakes == 168
    assert_refused_at_once(system)
    everything = [week, unfit, *threads.values()]
    system.assert_linear(everything)
    system.assert_indexed(opensearch_url, everything)


def assert_refused_at_once(system: Any) -> None:
    (ended,) = system.until_ended(system.start("monitor", {"target": "https://example.org/", "hours": 0}))
    assert (ended["status"], ended["error"]["type"]) == ("error", "ValueError")
    (ended,) = system.until_ended(system.start("recruiter", {"cv": "x"}))
    assert "lacks candidate, job, slots" in ended["error"]["message"]
