"""The chat example, and its reader who comes back: what was told before a break and what is told after it is everything, once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
CHAT = ROOT / "examples" / "chat"
DECISIONS = {
    "accept": ({"type": "accept", "args": None}, "Deleted: the drafts."),
    "edit": ({"type": "edit", "args": {"action": "delete", "args": {"what": "one draft"}}}, "Deleted: one draft."),
    "ignore": ({"type": "ignore", "args": None}, "I leave the drafts alone."),
    "response": ({"type": "response", "args": "Not today"}, "I did not delete the drafts. You said: Not today"),
}


@pytest.fixture(scope="module")
def chat(start_module_system: Callable[..., Any]) -> Any:
    """All services with the example."""
    return start_module_system(settings={"PERDURE_LANGGRAPH_CONFIG": str(CHAT / "langgraph.json")})


def said(text: str) -> dict[str, Any]:
    """The input of one message."""
    return {"messages": [{"role": "user", "content": text}]}


def last_words(system: Any, thread: str) -> str:
    """The newest message of a thread."""
    return str(((system.values(thread) or {}).get("messages") or [{"content": ""}])[-1]["content"])


@contextmanager
def reader(system: Any, thread: str, folder: Path) -> Iterator[Path]:
    """``follow.py`` in a process of its own; what it shows goes to a file that grows from reader to reader."""
    shown = folder / "shown"
    command = [sys.executable, str(CHAT / "follow.py"), thread, "--url", system.services.gateway_url]
    command += ["--place", str(folder / "place")]
    with shown.open("a") as output, subprocess.Popen(command, stdout=output) as process:
        try:
            yield shown
        finally:
            process.send_signal(signal.SIGKILL)


def ids(shown: Path) -> list[str]:
    """The ids that were shown; a line that is still being written is left out."""
    return [line.split(" ", 1)[0] for line in shown.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_a_reader_that_comes_back_reads_on_where_it_was(chat: Any, tmp_path: Path) -> None:
    run = chat.http.post(
        "/runs",
        json={
            "assistant_id": "chat",
            "input": said("remind me in 6 seconds to call Ann"),
            "stream_mode": ["updates", "values"],
        },
    ).json()
    thread = run["thread_id"]
    with reader(chat, thread, tmp_path) as shown:
        until_blocking(lambda: "run_done" in shown.read_text(), "the end of the first run")
    before = ids(shown)
    # Nobody reads, the agent sleeps, and everything that ran is gone.
    for name in ("agent_step", "gateway"):
        chat.services[name].kill()
        chat.services[name].start()
    until_blocking(lambda: last_words(chat, thread) == "It is time: call Ann", "the reminder")
    with reader(chat, thread, tmp_path):
        until_blocking(lambda: shown.read_text().count("run_done") == 2, "the end of the second run")
    after = ids(shown)[len(before) :]

    whole = tmp_path / "whole"
    whole.mkdir()
    with reader(chat, thread, whole) as everything:
        until_blocking(lambda: everything.read_text().count("run_done") == 2, "everything from the beginning")
    assert [*before, *after] == ids(everything)
    assert shown.read_text() == everything.read_text()
    assert after
    assert {"updates", "values", "metadata"} == {line.split(" ")[1] for line in shown.read_text().splitlines()}
    assert json.dumps("It is time: call Ann")[1:-1] in shown.read_text()


def test_what_the_readme_shows_works(chat: Any) -> None:
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "get_client" in one]
    code = code.replace("http://127.0.0.1:8123", chat.services.gateway_url)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    said, _, thread = shown.strip().partition("\nNothing of the agent is in memory now. Its thread: ")
    assert said == "In 5 seconds I will remind you: call Ann"
    until_blocking(lambda: last_words(chat, thread) == "It is time: call Ann", "the reminder")


@pytest.mark.parametrize("decision", DECISIONS)
def test_what_is_decided_is_done(chat: Any, decision: str) -> None:
    answer, words = DECISIONS[decision]
    thread = chat.start("chat", said("delete the drafts"))["thread_id"]
    question = until_blocking(
        lambda: chat.http.get(f"/approvals?thread_id={thread}").json()["approvals"], "a question"
    )[0]
    assert question["question"] == "May I delete the drafts? It cannot be undone."
    given = chat.http.post(f"/approvals/{question['approval_id']}", json={"answer": [answer], "by": "ann"})
    assert given.status_code == 202, given.text
    until_blocking(lambda: last_words(chat, thread).startswith(words), words)
