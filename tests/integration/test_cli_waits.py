"""``perdure signal`` and ``perdure approvals`` against a real gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from perdure.cli.__main__ import main
from perdure.schemas.waits import digest

Raw = Callable[..., Awaitable[tuple[int, str, str]]]
Perdure = Callable[..., Awaitable[Any]]

DECISION = {"type": "object", "properties": {"approve": {"type": "boolean"}}, "required": ["approve"]}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The gateway runs in this process: what it logs is not what the command writes."""
    with capture_logs():
        yield


@pytest.fixture
def raw(waiting: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Raw:
    """Run the command line in a thread of this process: (exit status, stdout, stderr)."""
    monkeypatch.setenv("PERDURE_URL", waiting.url)
    monkeypatch.setenv("USER", "ann")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perdure", *arguments])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    async def run(*arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(command, *arguments)

    return run


@pytest.fixture
def perdure(raw: Raw) -> Perdure:
    """Run a command with ``--json``; what it wrote to stdout, parsed."""

    async def run(*arguments: str) -> Any:
        status, out, err = await raw(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return run


async def test_a_question_is_found_and_answered(waiting: Any, perdure: Perdure, raw: Raw) -> None:
    action = {"transfer": 82_000}
    wait = await waiting.question(DECISION, action=action, assigned_to="ann")
    (found,) = (await perdure("approvals", "list", "--thread", wait["thread_id"], "--assigned-to", "ann"))["approvals"]
    assert (found["approval_id"], found["question"]) == (wait["_id"], "May I?")
    status, out, _ = await raw("approvals", "list", "--thread", wait["thread_id"])
    assert status == 0
    assert out.splitlines()[0].split() == ["approval", "status", "question", "asked", "since", "expires"]
    assert wait["_id"] in out
    status, out, _ = await raw("approvals", "show", wait["_id"])
    assert digest(action) in out
    assert "82000" in out
    status, out, err = await raw("approvals", "answer", wait["_id"], "--answer", '{"approve": "maybe"}')
    assert (status, out) == (1, "")
    assert "/answer/approve: 'maybe' is not of type 'boolean'" in err
    answered = await perdure(
        "approvals", "answer", wait["_id"], "--answer", '{"approve": true}', "--action-digest", digest(action)
    )
    assert (answered["status"], answered["outcome"]["by"]) == ("answered", "ann")
    status, _, err = await raw("approvals", "answer", wait["_id"], "--answer", '{"approve": false}', "--by", "bob")
    assert status == 1
    assert "answered by 'ann'" in err
    assert (await perdure("approvals", "list", "--thread", wait["thread_id"]))["approvals"] == []


async def test_people_read_what_happened(waiting: Any, raw: Raw) -> None:
    wait = await waiting.question(events=("withdrawn",))
    _, out, _ = await raw("signal", wait["thread_id"], "other")
    assert "is kept until the thread waits for it" in out
    _, out, _ = await raw("signal", wait["thread_id"], "withdrawn")
    assert f"woke {wait['_id']}" in out
    second = await waiting.question()
    _, out, _ = await raw("approvals", "answer", second["_id"], "--answer", "1")
    assert out.startswith("answered as ann; run ")
    assert second["thread_id"] in out


async def test_a_page_names_the_next(waiting: Any, raw: Raw, perdure: Perdure) -> None:
    thread = await waiting.thread()
    first, second = [await waiting.question(thread_id=thread) for _ in range(2)]
    page = await perdure("approvals", "list", "--thread", thread, "--limit", "1")
    _, _, err = await raw("approvals", "list", "--thread", thread, "--limit", "1")
    assert f"--after {page['cursor']}" in err
    last = await perdure("approvals", "list", "--thread", thread, "--after", page["cursor"])
    found = [one["approval_id"] for one in page["approvals"] + last["approvals"]]
    assert sorted(found) == sorted([first["_id"], second["_id"]])


async def test_a_signal_is_sent_once_for_a_key(waiting: Any, perdure: Perdure, tmp_path: Path) -> None:
    thread = await waiting.thread()
    file = tmp_path / "reply.json"
    file.write_text('{"text": "yes"}')
    arguments = ("signal", thread, "reply", "--payload", f"@{file}", "--idempotency-key", "mail-17")
    sent = await perdure(*arguments)
    assert (await perdure(*arguments))["signal_id"] == sent["signal_id"]
    (listed,) = (await waiting.http.get(f"/threads/{thread}/signals")).json()["signals"]
    assert listed["payload"] == {"text": "yes"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("signal", "nobody", "reply"), "nobody"),
        (("approvals", "show", "nobody"), "nobody"),
        (("approvals", "answer", "nobody", "--answer", "1"), "nobody"),
        (("approvals", "list", "--status", "odd"), "odd"),
    ],
)
async def test_what_is_refused_is_explained(raw: Raw, arguments: tuple[str, ...], named: str) -> None:
    status, out, err = await raw(*arguments)
    assert (status, out) == (1, "")
    assert named in err
    assert "HTTP 4" in err


async def test_an_answer_that_is_no_json_is_explained(raw: Raw) -> None:
    status, _, err = await raw("approvals", "answer", "x", "--answer", "yes please")
    assert status == 2
    assert "is not JSON" in err
