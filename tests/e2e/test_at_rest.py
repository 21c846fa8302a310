"""With encryption keys, nothing of what clients and agents say is in the database in the clear: not one document, not one file."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from tests.e2e.conftest import System, _start, _stop
from tests.support.polling import until_blocking

from perdure.chassis import at_rest
from perdure.chassis.keyring import KeyRing
from perdure.local.stack import Stack

pytestmark = pytest.mark.timeout(300)

SECRET = "secretive-4711"
PROJECT = Path(__file__).parent / "graphs" / "private" / "langgraph.json"
RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
AS_STORED: CodecOptions[dict[str, Any]] = CodecOptions()
NAMES = ("gateway", "agent_step", "scheduler", "notifier")


@pytest.fixture
def keys() -> Iterator[str]:
    key = os.urandom(32)
    yield f"k1:{base64.b64encode(key).decode()}"
    at_rest.switch_on(None)


@pytest.fixture
def start(own_stack: Callable[..., Stack]) -> Iterator[Callable[..., System]]:
    """A system without an index on servers of the test's own."""
    servers, opened = own_stack("kafka", "mongodb"), list[System]()
    yield lambda **settings: _start(servers, NAMES, {"PERDURE_LANGGRAPH_CONFIG": str(PROJECT), **settings}, opened)
    _stop(opened)


def in_the_clear(system: Any) -> list[str]:
    """Where the secret can be read, also in what is only compressed."""
    found = []
    for name in system.db.list_collection_names():
        stored = system.db[name].with_options(codec_options=RAW).find({})
        found += [f"{name} {document['_id']}" for document in stored if SECRET.encode() in document.raw]
        for document in system.db[name].with_options(codec_options=AS_STORED).find({}):
            found += [f"{name} {document['_id']} (compressed)" for one in packed(document) if SECRET.encode() in one]
    return found


def packed(value: Any) -> Iterator[bytes]:
    """What the compressed bytes of a document say."""
    if isinstance(value, bytes):
        for start in (0, 1):
            try:
                yield zstandard.ZstdDecompressor().decompress(value[start:], max_output_size=64 << 20)
            except zstandard.ZstdError:
                continue
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from packed(item)


def use(system: Any) -> str:
    """Put the secret wherever a client can put one; the thread that failed with it."""
    http = system.http
    hook = {
        "scope": "tenant",
        "kinds": ["failed"],
        "channel": "webhook",
        "target": f"https://{'x' * 8}.invalid/{SECRET}",
    }
    assert http.post("/subscriptions", json=hook).status_code == 201
    config = {"configurable": {"note": f"{SECRET} of the configuration"}}
    more = {"config": config, "webhook": f"https://{'y' * 8}.invalid/{SECRET}"}
    run = system.start("private", {"text": SECRET, "fails": True}, **more)
    thread = str(run["thread_id"])
    system.until_ended(run)
    assert http.post(f"/threads/{thread}/signals/hello", json={"payload": {"text": SECRET}}).status_code == 202
    (question,) = http.get("/approvals").json()["approvals"]
    assert SECRET in question["question"]
    answer = {"answer": {"approved": True, "because": SECRET}, "by": "ann"}
    answered = http.post(f"/approvals/{question['approval_id']}", json=answer)
    assert answered.status_code in (200, 202), answered.text
    until_blocking(lambda: http.get(f"/threads/{thread}").json()["status"] == "error", "the agent fails", 60)
    schedule = {"assistant_id": "private", "cron": "0 0 1 1 *", "input": {"text": SECRET}}
    assert http.post("/schedules", json=schedule).status_code == 201
    items = [{"input": {"text": f"{SECRET} {n}"}} for n in range(3)]
    batch = {"assistant_id": "private", "items": items, "config": config}
    assert http.post("/batches", json=batch).status_code == 202
    until_blocking(lambda: len(http.get("/approvals").json()["approvals"]) == 3, "the items of the batch ask", 60)
    update = {"values": {"log": [f"{SECRET} of a state update"]}}
    assert http.post(f"/threads/{thread}/state", json=update).status_code == 200
    until_blocking(lambda: http.get("/deliveries").json()["items"], "a notice is being delivered", 60)
    return thread


def test_nothing_is_in_the_clear_and_everything_is_read(start: Any, keys: str) -> None:
    system = start(PERDURE_ENCRYPTION_KEYS=keys)
    at_rest.switch_on(KeyRing.parse(keys))
    thread = use(system)
    assert in_the_clear(system) == []
    shown = system.http.get(f"/threads/{thread}/state").json()
    assert shown["values"]["receipt"] == SECRET
    assert SECRET in json.dumps(system.http.get(f"/threads/{thread}/history").json())
    errors = [run["error"] for run in system.http.get(f"/threads/{thread}/runs").json()]
    assert SECRET in [error["message"] for error in errors if error]
    copied = system.http.post(f"/threads/{thread}/copy").json()["thread_id"]
    assert system.values(copied)["receipt"] == SECRET
    assert in_the_clear(system) == []


def test_without_keys_the_same_scan_finds_it(start: Any) -> None:
    """What the scan looks for is there when nothing is encrypted: in every collection that has a sealed field."""
    system = start()
    use(system)
    found = {one.partition(" ")[0] for one in in_the_clear(system)}
    assert found >= {
        "notebook", "runs", "threads", "waits", "signals", "effects", "schedules", "batches", "batch_items", "subscriptions",
        "deliveries",
    }  # fmt: skip
