"""Tokens of runs that were started without streaming: a reader asks for them, and whichever worker executes the run sends them.

The graph ``speaks`` says words in each superstep and ends it when the test makes a file, so what arrives before the file is there
was sent while the node ran.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.polling import until_blocking

pytestmark = pytest.mark.timeout(300)

SUPERSTEPS = 12
SOON = 4
"""Supersteps within which a reader that asked gets tokens."""
ALONE = ("gateway", "agent_step", "scheduler")
THREADS = 8
"""Of so many threads, some are in partitions that another worker gets."""


class Listener(threading.Thread):
    """Reads a run's messages from its beginning to its end."""

    def __init__(self, system: Any, run: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._url = f"{system.services.gateway_url}/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        self.events: list[tuple[str, Any]] = []

    def run(self) -> None:
        request = {"params": {"stream_mode": "messages-tuple"}, "headers": {"Last-Event-ID": "-1"}, "timeout": 30}
        with httpx.stream("GET", self._url, **request) as answer:  # type: ignore[arg-type]
            name = ""
            for line in answer.raise_for_status().iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    self.events.append((name, json.loads(value)))

    @property
    def is_open(self) -> bool:
        return bool(self.events)

    def said(self) -> list[dict[str, Any]]:
        return [
            data[0] for name, data in self.events if name == "messages" and data[0]["type"] in {"ai", "AIMessageChunk"}
        ]

    def tokens(self, number: int) -> list[str]:
        """The tokens of a superstep, without whole messages."""
        tokens = [one for one in self.said() if one["type"] == "AIMessageChunk" and one["content"]]
        found = {one["id"] for one in tokens if one["content"] == f"step-{number} "}
        return [one["content"] for one in tokens if one["id"] in found]

    def texts(self) -> dict[str, str]:
        """What each model call said; a whole message, whose id has a number behind the call's, stands for its tokens."""
        texts: dict[str, str] = {}
        for one in self.said():
            call = one["id"].removesuffix("-0")
            texts[call] = one["content"] if one["type"] == "ai" else texts.get(call, "") + one["content"]
        return texts


def start(system: Any, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    given = {"messages": [{"role": "user", "content": "speak"}], "folder": str(folder), "steps": SUPERSTEPS}
    run: dict[str, Any] = system.start("speaks", given)
    until_blocking(lambda: system.run(run)["status"] == "running", "the run is executed")
    return run


def end_superstep(system: Any, run: dict[str, Any], folder: Path, number: int) -> None:
    (folder / str(number)).touch()
    until_blocking(lambda: system.values(run["thread_id"]).get("done") == number + 1, f"superstep {number} has ended")


def until_tokens(system: Any, runs: dict[Path, dict[str, Any]], listeners: list[Listener], first: int) -> int:
    """End supersteps until every listener gets the tokens of one that is under way; its number."""
    for number in range(first, first + SOON):
        for folder, run in runs.items():
            end_superstep(system, run, folder, number)
        try:
            until_blocking(
                lambda n=number + 1: all(len(one.tokens(n)) == 3 for one in listeners), "every listener gets tokens", 5
            )
        except AssertionError:
            continue
        return number + 1
    silent = sum(not any(one.tokens(n) for n in range(first, first + SOON + 1)) for one in listeners)
    raise AssertionError(f"{silent} of {len(listeners)} listeners got no tokens within {SOON} supersteps")


def finish(system: Any, runs: dict[Path, dict[str, Any]], listeners: list[Listener]) -> list[dict[str, Any]]:
    for folder in runs:
        for number in range(SUPERSTEPS):
            (folder / str(number)).touch()
    ended: list[dict[str, Any]] = system.until_ended(*runs.values())
    assert {one["status"] for one in ended} == {"success"}
    for run, listener in zip(runs.values(), listeners, strict=True):
        listener.join(30)
        assert not listener.is_alive()
        assert listener.events[-1][0] == "end"
        stored = [one for one in system.values(run["thread_id"])["messages"] if one["type"] == "ai"]
        assert [one["content"].strip() for one in stored] == [f"step-{n} has words" for n in range(SUPERSTEPS)]
        texts = listener.texts()
        assert [texts.get(one["id"].removesuffix("-0")) for one in stored] == [one["content"] for one in stored], (
            "each message is whole"
        )
    return ended


def listening(system: Any, runs: dict[Path, dict[str, Any]]) -> list[Listener]:
    listeners = [Listener(system, run) for run in runs.values()]
    for one in listeners:
        one.start()
    until_blocking(lambda: all(one.is_open for one in listeners), "the streams are open")
    return listeners


def test_a_reader_gets_tokens_also_after_the_run_moved(start_system: Any, tmp_path: Path) -> None:
    system = start_system(names=ALONE)
    runs = {tmp_path / "run": start(system, tmp_path / "run")}
    (listener,) = listeners = listening(system, runs)
    number = until_tokens(system, runs, listeners, 0)
    assert listener.tokens(0) == [], "the superstep under way was not executed again for its tokens"
    worker = system.services["agent_step"]
    worker.kill()
    worker.start()
    (run,) = runs.values()
    until_blocking(
        lambda: system.db.runs.find_one({"_id": run["run_id"], "epoch": 2}), "another worker took the run over"
    )
    until_tokens(system, runs, listeners, number)
    assert [data["attempt"] for name, data in listener.events if name == "metadata"] == [1, 2]
    assert finish(system, runs, listeners)[0]["epoch"] == 2


def test_readers_get_tokens_of_runs_whose_commands_go_to_another_worker(start_system: Any, tmp_path: Path) -> None:
    system = start_system(names=(*ALONE, "agent_step"))
    other = system.services["agent_step-2"]
    other.terminate()
    runs = {tmp_path / str(n): start(system, tmp_path / str(n)) for n in range(THREADS)}
    other.start()
    listeners = listening(system, runs)
    until_tokens(system, runs, listeners, 0)
    ended = finish(system, runs, listeners)
    assert {one["epoch"] for one in ended} == {1}, "no run was moved for its tokens"
