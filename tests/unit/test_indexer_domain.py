"""What of an event is indexed, how a bulk answer is read, and where a state may be already."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from perdure.indexer import bulk
from perdure.indexer.bulk import Outcome, newest_item, state_item
from perdure.indexer.domain import bounded, document_of, event_id, newest, version
from perdure.indexer.indices import Layout, Superseded, successor
from perdure.indexer.redaction import Redaction
from perdure.schemas import events
from perdure.schemas.events import CheckpointSaved, ErrorInfo, Event, InterruptInfo
from perdure.schemas.index import TEMPLATES, IndexDocument, generated_files, mapping_of

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
SHARED: dict[str, Any] = {
    "tenant": "t",
    "thread_id": "th",
    "run_id": "r",
    "graph_id": "g",
    "assistant_id": "a",
    "graph_version": "v",
    "epoch": 1,
    "occurred_at": AT,
    "metadata": {"user": "u", "none": None},
}
ERROR = ErrorInfo(type="builtins.ValueError", message="no", node="Login", traceback="secret")
NOTICE = {
    "delivery_id": "msg_1",
    "subscription_id": "s",
    "kind": "failed",
    "channel": "webhook",
    "target": "https://example.com/hook",
    "attempts": 3,
}
EVENTS: list[tuple[Event, str | None]] = [
    (events.RunStarted(**SHARED, seq=1, worker_id="w"), "running"),
    (
        CheckpointSaved(
            **SHARED,
            seq=2,
            checkpoint_id="c",
            checkpoint_ns="ns",
            step=1,
            source="loop",
            nodes=("n",),
            next=("Login",),
            channels=("messages",),
            text="$.a\thello",
            duration_ms=1.5,
        ),
        "running",
    ),
    (
        events.RunInterrupted(**SHARED, seq=3, interrupts=(InterruptInfo(id="i", value={"q": ["Go?", 1]}),)),
        "interrupted",
    ),
    (events.RunSucceeded(**SHARED, seq=4, checkpoint_id="c"), "success"),
    (events.RunFailed(**SHARED, seq=5, next=("Login",), error=ERROR), "error"),
    (events.RunTimedOut(**SHARED, seq=6, error=ERROR), "timeout"),
    (events.RunCancelled(**SHARED, seq=7), "cancelled"),
    (
        events.ThreadStuck(
            **SHARED,
            seq=7,
            note=1,
            code=events.StuckCode.OVERDUE,
            reason="late",
            since=AT,
            expected_by=AT,
            next=("Login",),
        ),
        "stuck",
    ),
    (
        events.ThreadRecovered(
            **SHARED, seq=7, note=2, code=events.StuckCode.OVERDUE, stuck_since=AT, status="running", next=("Login",)
        ),
        "running",
    ),
    (
        events.ApprovalEscalated(
            **SHARED, seq=7, note=3, wait_id="th:i", question="Go?", assigned_to="ben", escalations=1, expected_by=AT
        ),
        "interrupted",
    ),
    (events.ThreadArchived(**SHARED, seq=7, note=6, object="k", object_bytes=9, status="error", error=ERROR), "error"),
    (events.ThreadRestored(**SHARED, seq=7, note=7, by="ann", status="success", next=("Login",)), "success"),
    (events.ThreadPruned(**SHARED, seq=7, note=8, removed=((2, 5),)), None),
    (events.NoticeDelivered(**SHARED, seq=7, note=4, **NOTICE), None),
    (events.NoticeDead(**SHARED, seq=7, note=5, **NOTICE, reason="answered 410"), None),
]
MAPPING = mapping_of(IndexDocument)


def unmapped(document: Any, mapping: dict[str, Any]) -> list[str]:
    """Fields that a strict mapping would refuse."""
    fields = mapping["properties"]
    wrong = [name for name in document if name not in fields]
    nested = [name for name in document if "properties" in fields.get(name, {})]
    return wrong + [deep for name in nested for deep in unmapped(document[name], fields[name])]


@pytest.mark.parametrize(("event", "status"), EVENTS, ids=[type(e).__name__ for e, _ in EVENTS])
def test_every_event_has_a_document_that_fits(event: Event, status: str | None) -> None:
    document = document_of(event, Redaction(), 100)
    assert unmapped(document, MAPPING) == []
    assert document.get("status") == status
    assert document["metadata"] == {"user": "u"}
    assert b"secret" not in orjson.dumps(document)
    assert None not in document.values()


def test_a_notice_is_not_where_its_thread_stands() -> None:
    documents = [document_of(event, Redaction(), 100) for event, _ in EVENTS]
    others = [document for document in documents if "archived" not in document and document.get("note") != 7]
    assert newest(others)["th"]["event"] == "perdure.approval.escalated"
    dead = documents[-1]["notice"]
    assert (dead["result"], dead["attempts"]) == ("dead", 3)
    assert "answered 410" in dead["text"]


def test_an_archived_thread_says_where_it_is_and_where_it_stood_until_it_is_back() -> None:
    by_type = {type(event): document_of(event, Redaction(), 100) for event, _ in EVENTS}
    archived, restored = by_type[events.ThreadArchived], by_type[events.ThreadRestored]
    assert archived["archived"] == {"object": "k", "bytes": 9, "at": AT}
    assert archived["error"] == {"type": "builtins.ValueError", "message": "no", "node": "Login"}
    assert newest([archived, by_type[events.RunFailed]])["th"]["status"] == "error"
    assert "archived" not in newest([archived, restored])["th"]


def test_every_event_type_is_known() -> None:
    assert {type(event) for event, _ in EVENTS} | {events.ThreadDeleted} == set(events.EVENTS.values())


def test_a_note_comes_after_its_number_and_before_the_next() -> None:
    saved, (stuck, recovered) = EVENTS[6][0], (EVENTS[7][0], EVENTS[8][0])
    later = saved.model_copy(update={"seq": 8})
    documents = [document_of(event, Redaction(), 100) for event in (later, recovered, stuck, saved)]
    versions = [version(document) for document in documents]
    assert versions == sorted(versions, reverse=True)
    assert [event_id(document) for document in documents] == [
        event.event_id for event in (later, recovered, stuck, saved)
    ]
    assert newest(documents[1:])["th"]["event"] == "perdure.thread.recovered"
    assert newest(documents)["th"]["seq"] == 8


def test_texts_are_bounded() -> None:
    saved = EVENTS[1][0].model_copy(update={"text": "$.a\t" + "x" * 9000})
    assert document_of(saved, Redaction(), 100)["text"] == "x" * 100
    wait = document_of(EVENTS[2][0], Redaction(), 100)["wait"]
    assert wait == {"ids": ["i"], "text": "Go?\n1"}


def test_metadata_is_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"d": deep}
    found = bounded({"long": "x" * 5000, "many": list(range(1000)), "deep": deep, "": 1, "empty": {}, "yes": True})
    assert len(found["long"]) == 1024
    assert len(found["many"]) < 200
    assert "" not in found
    assert "empty" not in found
    assert orjson.dumps(found).count(b'"d"') <= 16


def test_the_newest_of_each_thread_has_no_text() -> None:
    documents = [document_of(event, Redaction(), 100) for event, _ in (EVENTS[1], EVENTS[0])]
    assert [(d["seq"], "text" in d) for d in newest(documents).values()] == [(2, False)]
    assert "text" in documents[0]


def answer(status: int, type_: str = "x") -> dict[str, Any]:
    return {"status": status} if status < 300 else {"status": status, "error": {"type": type_, "reason": "r"}}


@pytest.mark.parametrize(
    ("status", "type_", "state", "thread"),
    [
        (201, "", Outcome.DONE, Outcome.DONE),
        (409, "version_conflict_engine_exception", Outcome.REFUSED, Outcome.DONE),
        (429, "rejected_execution_exception", Outcome.AGAIN, Outcome.AGAIN),
        (429, "cluster_block_exception", Outcome.AGAIN, Outcome.AGAIN),
        (503, "unavailable_shards_exception", Outcome.AGAIN, Outcome.AGAIN),
        (403, "cluster_block_exception", Outcome.MOVED, Outcome.MOVED),
        (404, "index_not_found_exception", Outcome.MOVED, Outcome.MOVED),
        (403, "security_exception", Outcome.AGAIN, Outcome.AGAIN),
        (500, "some_exception", Outcome.AGAIN, Outcome.AGAIN),
        (400, "mapper_parsing_exception", Outcome.REFUSED, Outcome.REFUSED),
    ],
)
def test_how_an_answer_is_read(status: int, type_: str, state: Outcome, thread: Outcome) -> None:
    document = document_of(EVENTS[0][0], Redaction(), 100)
    assert bulk.outcome(state_item(document), answer(status, type_))[0] is state
    assert bulk.outcome(newest_item(document), answer(status, type_))[0] is thread


def test_the_lines_of_a_bulk_request() -> None:
    document = document_of(EVENTS[0][0], Redaction(), 100)
    action, source = bulk.line(state_item(document), "s", "t").splitlines()
    assert orjson.loads(action) == {"index": {"_index": "s", "_id": "th:1"}}
    assert orjson.loads(source)["occurred_at"] == "2026-11-23T12:00:00+00:00"
    action, _ = bulk.line(newest_item(document), "s", "t").splitlines()
    assert orjson.loads(action) == {"index": {"_index": "t", "_id": "th", "version": 1024, "version_type": "external"}}


def test_portions_by_bytes() -> None:
    item = state_item(document_of(EVENTS[0][0], Redaction(), 100))
    size = len(item.source)
    assert [len(c) for c in bulk.chunks([item] * 5, size * 2)] == [2, 2, 1]
    assert [len(c) for c in bulk.chunks([item] * 2, 1)] == [1, 1]
    assert list(bulk.chunks([], 1)) == []


def test_which_older_indices_may_hold_a_state() -> None:
    at = AT.timestamp() * 1000
    layout = Layout("s-3", "t", (Superseded("s-1", int(at) - 600_000), Superseded("s-2", int(at) - 60_000)))
    assert layout.older_for(AT, 0) == []
    assert layout.older_for(AT, 300) == ["s-2"]
    assert layout.older_for(AT, 900) == ["s-1", "s-2"]
    assert Layout("s", "t").older_for(AT, 300) == []


def test_names_of_the_series() -> None:
    assert successor("perdure-states-000001") == "perdure-states-000002"
    assert successor("perdure-states-20261123120000-999999") == "perdure-states-20261123120000-1000000"


def test_the_mapping_is_strict_at_every_level_and_generated() -> None:
    for template in TEMPLATES.values():
        mapping = template["template"]["mappings"]
        assert mapping["dynamic"] == mapping["properties"]["wait"]["dynamic"] == "strict"
    root = Path(__file__).parents[2]
    for path, content in generated_files().items():
        assert (root / path).read_bytes() == content, f"{path} is not what perdure.schemas.index generates"
