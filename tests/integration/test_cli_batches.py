"""``perdure batches`` against a real gateway; nothing runs, for there is no scheduler."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from structlog.testing import capture_logs

from perdure.checkpoint import PerdureSaver
from perdure.cli.__main__ import main
from perdure.registry.batches import thread_id_of

Raw = Callable[..., Awaitable[tuple[int, str, str]]]
Perdure = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The gateway runs in this process: what it logs is not what the command writes."""
    with capture_logs():
        yield


@pytest.fixture
async def raw(waiting: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Raw:
    """Run the command line in a thread of this process: (exit status, stdout, stderr)."""
    monkeypatch.setenv("PERDURE_URL", waiting.url)
    await waiting.database.graphs.update_one({"_id": "agent"}, {"$set": {"version": "v1"}}, upsert=True)

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
        return await asyncio.to_thread(command, "batches", *arguments)

    return run


@pytest.fixture
def perdure(raw: Raw) -> Perdure:
    """Run a command with ``--json``; what it wrote to stdout, parsed."""

    async def run(*arguments: str) -> Any:
        status, out, err = await raw(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def upload(tmp_path: Path) -> str:
    file = tmp_path / "items.ndjson.gz"
    lines = [json.dumps({"input": {"n": number}, "ref": f"r{number}"}) for number in range(1, 41)]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return str(file)


async def test_a_batch_is_made_seen_and_stopped(upload: str, perdure: Perdure, raw: Raw) -> None:
    options = (
        "--concurrency",
        "7",
        "--failure-threshold",
        "0.1",
        "--metadata",
        '{"team": "red"}',
        "--idempotency-key",
        upload,
    )
    made = await perdure("start", upload, "--graph", "agent", *options)
    assert (made["total"], made["concurrency"], made["failure_threshold"], made["metadata"]) == (
        40,
        7,
        0.1,
        {"team": "red"},
    )
    batch = made["batch_id"]
    assert (await perdure("start", upload, "--graph", "agent", *options))["batch_id"] == batch
    assert (await perdure("list", "-n", "1"))[0]["batch_id"] == batch
    _, out, err = await raw("items", batch, "--after", "2", "-n", "1")
    assert "r3" in out
    assert "--after 3" in err
    assert (await perdure("pause", batch))["status"] == "paused"
    status, out, _ = await raw("show", batch, "--watch")
    assert (status, "asked for" in out) == (0, True)
    assert (await perdure("resume", batch))["status"] == "running"
    assert (await perdure("cancel", batch))["status"] == "cancelling"
    status, _, err = await raw("resume", batch)
    assert status == 1
    assert "is cancelling" in err
    status, _, err = await raw("redrive", batch)
    assert (status, "no item that is failed" in err) == (1, True)


async def test_what_is_wrong_is_said(tmp_path: Path, raw: Raw) -> None:
    file = tmp_path / "wrong.ndjson"
    file.write_text('{"input": 1}\n{"inptu": 1}\n')
    status, _, err = await raw("start", str(file), "--graph", "agent")
    assert status == 1
    assert "line:2/input: is missing" in err
    status, _, err = await raw("start", str(tmp_path / "none"), "--graph", "agent")
    assert (status, "cannot read" in err) == (2, True)
    status, _, err = await raw("show", "none")
    assert (status, "GET /batches" in err) == (1, True)


async def test_results_are_downloaded_with_their_values(
    waiting: Any, upload: str, perdure: Perdure, raw: Raw, tmp_path: Path
) -> None:
    batch = (await perdure("start", upload, "--graph", "agent"))["batch_id"]
    document = await waiting.database.batches.find_one({"_id": batch})
    saver = PerdureSaver(waiting.database)
    for number in (1, 3, 5):
        thread = thread_id_of(document, number)
        head = await _checkpoint(saver, thread, {"answer": f"of {number}"})
        await waiting.database.threads.insert_one({"_id": thread, "tenant": "default", "head": head})
        begun = {"attempt": 1, "started_at": document["created_at"], "status": "succeeded"}
        await waiting.database.batch_items.update_one({"batch": batch, "number": number}, {"$set": begun})
    failed = {
        "attempt": 2,
        "started_at": document["created_at"],
        "status": "failed",
        "error": {"type": "E", "message": "no"},
    }
    await waiting.database.batch_items.update_one({"batch": batch, "number": 4}, {"$set": failed})
    file = tmp_path / "out.ndjson"
    assert (await raw("results", batch, "-o", str(file)))[0] == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["number"], row["ref"], row["status"]) for row in rows] == [
        (1, "r1", "succeeded"), (3, "r3", "succeeded"), (4, "r4", "failed"), (5, "r5", "succeeded"),
    ]  # fmt: skip
    assert [row["values"] for row in rows] == [{"answer": "of 1"}, {"answer": "of 3"}, None, {"answer": "of 5"}]
    assert rows[2]["error"] == {"type": "E", "message": "no"}
    assert rows[0]["run_id"]
    _, out, _ = await raw("results", batch, "--status", "succeeded", "--after", "1", "--no-values")
    assert [json.loads(line)["number"] for line in out.splitlines()] == [3, 5]
    _, out, _ = await raw("results", batch, "--status", "waiting")
    assert len(out.splitlines()) == 36
    await saver.aclose()


async def _checkpoint(saver: PerdureSaver, thread: str, values: dict[str, Any]) -> str:
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = values
    checkpoint["channel_versions"] = dict.fromkeys(values, "1")
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    stored = await saver.aput(config, checkpoint, {"source": "loop", "step": 1}, checkpoint["channel_versions"])
    return str(stored["configurable"]["checkpoint_id"])
