"""What is published is what the database gives back: every moment is in UTC and in whole milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from perdure.agent_step.domain import earliest_due
from perdure.agent_step.pace import Allowance, Pace
from perdure.chassis import clock
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.documents import Place, checkpoint_document
from perdure.schemas.events import InterruptInfo
from perdure.schemas.moments import in_milliseconds
from perdure.schemas.outbox import event_of
from perdure.schemas.waits import Wait, WaitKind

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=ZONES)  # noqa: DTZ001
AT = datetime(2026, 11, 30, 0, 54, 36, 559742, tzinfo=UTC)


def stored(document: dict[str, Any]) -> dict[str, Any]:
    """The document as the database gives it back."""
    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
    return bson.decode(bson.encode(document), options)


@given(MOMENTS)
def test_a_moment_is_what_the_database_gives_back(moment: datetime) -> None:
    cut = in_milliseconds(moment)
    assert cut == stored({"at": moment})["at"]
    assert cut.isoformat() == stored({"at": moment})["at"].isoformat()
    assert in_milliseconds(cut) == cut


def test_a_naive_moment_is_taken_as_utc() -> None:
    assert in_milliseconds(AT.replace(tzinfo=None)) == in_milliseconds(AT)


def test_the_clock_has_milliseconds() -> None:
    moments = [clock.now(), clock.after(0.0123456), clock.after(1e-6)]
    assert [moment.microsecond % 1000 for moment in moments] == [0, 0, 0]
    assert {moment.tzinfo for moment in moments} == {UTC}


def test_what_a_checkpoint_and_its_pace_say_is_what_the_database_gives_back(codec: Codec) -> None:
    checkpoint: Any = {
        "v": 4, "ts": "2026-11-30T01:54:36.559742+01:00", "channel_versions": {}, "versions_seen": {},
        "channel_values": {}, "id": "1",
    }  # fmt: skip
    document = checkpoint_document(codec, Place("t", "", "1"), None, checkpoint, {}, entries={}, base={})
    assert document["at"].isoformat() == "2026-11-30T00:54:36.559000+00:00"
    pace = Pace({}, None, Allowance(1.0000005, 0.5, 2.0), lambda _: 1.23456789, lambda *_: None)
    assert pace.by(["a"]).microsecond % 1000 == 0


@pytest.mark.parametrize("kind", ["started", "interrupted"])
def test_an_event_says_what_is_stored_whatever_it_was_made_of(kind: str) -> None:
    run = {"_id": "r", "tenant": "t", "thread_id": "t", "graph_id": "g", "assistant_id": "a"}
    own = {"worker_id": "w"} if kind == "started" else {}
    entry = {"kind": "e", "event": kind, "seq": 1, "epoch": 1, "at": AT, "ev": {"expected_by": AT, **own}}
    published, rebuilt = event_of(run, entry), event_of(run, stored(entry))
    assert published is not None
    assert rebuilt is not None
    assert published.model_dump_json() == rebuilt.model_dump_json()


def test_a_wait_that_an_older_version_stored_is_due_when_the_database_says() -> None:
    value = Wait(kind=WaitKind.TIMER, due_at=AT).value() | {"due_at": "2026-11-30T00:54:36.559742Z"}
    assert earliest_due([InterruptInfo(id="i", value=value)]) == in_milliseconds(AT)


@pytest.fixture
def codec() -> Codec:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    return Codec(JsonPlusSerializer())
