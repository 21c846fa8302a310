"""The envelope: encode and decode are inverse, and what cannot be decoded says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.chassis.clock import now
from perdure.schemas.catalogue import ALL
from perdure.schemas.commands import COMMANDS, StartReason, StartRun
from perdure.schemas.deadletter import Reason
from perdure.schemas.envelope import Header, UndecodableError, decode, encode
from perdure.schemas.events import TEXT_LIMIT, CheckpointSaved, ErrorInfo, InterruptInfo, RunFailed, RunInterrupted

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)
THREAD_IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="~"), min_size=1, max_size=80)
MOMENT = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001 (hypothesis adds the zone)
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NODES = st.lists(TEXT, max_size=4).map(tuple)
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "tenant": TEXT,
    "thread_id": THREAD_IDS,
    "run_id": TEXT,
    "graph_id": TEXT,
    "assistant_id": TEXT,
    "graph_version": st.none() | TEXT,
    "seq": st.integers(0, 2**53),
    "epoch": st.integers(0, 2**31),
    "occurred_at": MOMENT,
    "metadata": st.dictionaries(TEXT, JSON, max_size=4),
}
MESSAGES = st.one_of(
    st.builds(StartRun, tenant=TEXT, thread_id=THREAD_IDS, run_id=TEXT, reason=st.sampled_from(StartReason)),
    st.builds(
        CheckpointSaved,
        **COMMON,
        checkpoint_id=TEXT,
        step=st.integers(-1, 2**31),
        source=TEXT,
        nodes=NODES,
        next=NODES,
        channels=NODES,
        text=st.text(st.characters(exclude_categories=["Cs"]), max_size=TEXT_LIMIT // 100),
        duration_ms=st.none() | st.floats(0, 1e12),
    ),
    st.builds(
        RunInterrupted,
        **COMMON,
        interrupts=st.lists(st.builds(InterruptInfo, id=TEXT, value=JSON), max_size=3).map(tuple),
    ),
    st.builds(RunFailed, **COMMON, error=st.builds(ErrorInfo, type=TEXT, message=TEXT, node=st.none() | TEXT)),
)


@settings(max_examples=150, deadline=None)
@given(
    message=MESSAGES,
    id_=TEXT,
    source=TEXT,
    correlation=TEXT,
    causation=st.none() | TEXT,
    traceparent=st.none() | TEXT,
    time=MOMENT,
)
def test_what_is_encoded_is_decoded(
    message: Any,
    id_: str,
    source: str,
    correlation: str,
    causation: str | None,
    traceparent: str | None,
    time: datetime,
) -> None:
    record = encode(
        message,
        id=id_,
        source=source,
        correlation_id=correlation,
        causation_id=causation,
        traceparent=traceparent,
        time=time,
    )
    decoded = decode(record.headers, record.value, ALL)
    assert decoded.message == message
    assert record.key == message.thread_id.encode()
    envelope = decoded.envelope
    assert (envelope.id, envelope.source, envelope.time) == (id_, source, time)
    assert (envelope.type, envelope.version) == (message.TYPE, message.VERSION)
    assert (envelope.tenant, envelope.subject) == (message.tenant, message.thread_id)
    assert (envelope.correlation_id, envelope.causation_id, envelope.traceparent) == (
        correlation,
        causation,
        traceparent,
    )


@pytest.mark.parametrize(
    ("tenant", "thread_id", "holds"),
    [
        ("acme", "acme~order", True),
        ("default", "order", True),
        ("acme", "0199-made-before-ids-were-qualified", True),
        ("default", "acme~order", False),
        ("default", "default~order", False),
        ("beta", "acme~order", False),
        ("beta", "beta~acme~order", False),
    ],
)
def test_a_record_of_one_tenant_about_another_ones_thread_is_not_read(
    tenant: str, thread_id: str, *, holds: bool
) -> None:
    command = StartRun(tenant=tenant, thread_id=thread_id, run_id="r", reason=StartReason.SWEPT)
    record = encode(command, id="1", source="s", correlation_id="r", time=now())
    if holds:
        assert decode(record.headers, record.value, ALL).message == command
        return
    with pytest.raises(UndecodableError, match="is not one of the tenant") as refused:
        decode(record.headers, record.value, ALL)
    assert refused.value.reason == "payload"


@pytest.mark.parametrize("header", ["ce_tenant", "ce_subject"])
def test_headers_that_name_another_tenant_or_thread_are_not_read(header: str) -> None:
    headers, value = good()
    with pytest.raises(UndecodableError, match="another tenant or thread"):
        decode([*(headers | {header: b"other"}).items()], value, ALL)


def good() -> tuple[dict[str, bytes], bytes]:
    command = StartRun(tenant="t", thread_id="th", run_id="r", reason=StartReason.SWEPT)
    record = encode(command, id="1", source="s", correlation_id="r", time=now())
    return dict(record.headers), record.value


REQUIRED = [
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_time",
    "ce_subject",
    "ce_schemaversion",
    "ce_tenant",
    "ce_correlationid",
]


def reason_of(headers: dict[str, bytes], value: bytes | None) -> tuple[Reason, str]:
    as_list: list[Header] = list(headers.items())
    with pytest.raises(UndecodableError) as caught:
        decode(as_list, value, COMMANDS)
    return Reason(caught.value.reason), caught.value.detail


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_header_is_named(name: str) -> None:
    headers, value = good()
    del headers[name]
    reason, detail = reason_of(headers, value)
    assert reason is Reason.ENVELOPE
    assert name in detail


@pytest.mark.parametrize(
    ("change", "reason", "named"),
    [
        ({"ce_schemaversion": b"99"}, Reason.UNKNOWN_VERSION, "version 99; known are [1]"),
        ({"ce_schemaversion": b"one"}, Reason.ENVELOPE, "one"),
        ({"ce_type": b"perdure.run.paint"}, Reason.UNKNOWN_TYPE, "perdure.run.paint"),
        ({"ce_time": b"yesterday"}, Reason.ENVELOPE, "yesterday"),
        ({"ce_source": b"\xff\xfe"}, Reason.ENVELOPE, "ce_source"),
    ],
)
def test_a_wrong_header_is_named(change: dict[str, bytes], reason: Reason, named: str) -> None:
    headers, value = good()
    found, detail = reason_of(headers | change, value)
    assert found is reason
    assert named in detail


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "no value"),
        (b"", "JSON"),
        (b"\x80\x81", "JSON"),
        (b"{", "JSON"),
        (b"[]", "value"),
        (b'{"tenant":"t","thread_id":"th","run_id":"r"}', "reason"),
        (b'{"tenant":"t","thread_id":"th","run_id":5,"reason":"swept"}', "run_id"),
    ],
)
def test_a_wrong_value_is_explained(value: bytes | None, named: str) -> None:
    headers, _ = good()
    reason, detail = reason_of(headers, value)
    assert reason is Reason.PAYLOAD
    assert named in detail


@settings(max_examples=200, deadline=None)
@given(
    headers=st.dictionaries(st.sampled_from([*REQUIRED, "x"]), st.binary(max_size=40)), value=st.none() | st.binary()
)
def test_no_record_whatever_breaks_the_decoder(headers: dict[str, bytes], value: bytes | None) -> None:
    with pytest.raises(UndecodableError):
        decode(list(headers.items()), value, ALL)


def test_text_that_utf8_cannot_say_does_not_hold_an_event_back() -> None:
    event = RunFailed(
        tenant="t",
        thread_id="th",
        run_id="r",
        graph_id="g",
        assistant_id="g",
        seq=3,
        epoch=1,
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        metadata={"k\udc00": ["\ud800", 1, float("nan")]},
        error=ErrorInfo(type="E", message="half a pair: \ud83d"),
    )
    record = encode(event, id="1", source="s", correlation_id="r", time=now())
    read = decode(record.headers, record.value, ALL).message
    assert isinstance(read, RunFailed)
    assert read.error.message == "half a pair: ?"
    assert read.metadata == {"k?": ["?", 1, None]}
    assert read.occurred_at == event.occurred_at
