"""Chunks of a stream: how they are gathered, numbered and sent, and what happens where they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.polling import until

from perdure.agent_step import chunks as module
from perdure.agent_step.chunks import LARGEST_CHUNK_BYTES, RECORD_BYTES, REMEMBERED, Asked, RunChunks, Streams
from perdure.schemas.commands import StreamRun
from perdure.schemas.envelope import Record, decode
from perdure.schemas.stream import STREAM, StreamChunks

RUN: Any = {"_id": "run-1", "thread_id": "thread-1", "tenant": "acme", "epoch": 3}
PAYLOAD = {"stream": {"modes": ["values", "messages-tuple", "custom"], "subgraphs": True}}


class Kafka:
    """Takes records as the producer does, and acknowledges them when the test says so."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.delivered: list[Any] = []
        self.failed: list[Any] = []
        self.full = False

    def produce(self, topic: str, record: Record, delivered: Any, failed: Any, *, gather: bool) -> None:
        assert (topic, gather) == ("perdure.stream", False)
        if self.full:
            raise BufferError
        self.records.append(record)
        self.delivered.append(delivered)
        self.failed.append(failed)

    def messages(self) -> list[StreamChunks]:
        decoded = [decode(list(record.headers), record.value, STREAM).message for record in self.records]
        return [one for one in decoded if isinstance(one, StreamChunks)]

    def said(self) -> list[tuple[int, int, int, list[Any]]]:
        """Of each record: sequence number, first, before, data of its chunks."""
        return [(m.seq, m.first, m.before, [c.data for c in m.chunks]) for m in self.messages()]


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


class ByTheTest(Streams):
    """Streams whose clock the test moves: between two chunks no time passes, however slow the machine is."""

    time_s = 0.0

    def now(self) -> float:
        return self.time_s


@pytest.fixture
async def streams(kafka: Kafka) -> ByTheTest:
    return ByTheTest(kafka)  # type: ignore[arg-type]


def begun(streams: Streams, seq: int = 7, run: Any = RUN, payload: Any = PAYLOAD) -> RunChunks:
    chunks = streams.of(run, payload)
    chunks.begin(seq)
    return chunks


async def test_the_first_chunk_goes_at_once_and_those_right_after_it_together(streams: Streams, kafka: Kafka) -> None:
    chunks = begun(streams)
    for n in range(1, 5):
        chunks.add("custom", "", n)
    assert kafka.said() == [(7, 1, 0, []), (7, 1, 0, [1])]
    await until(lambda: kafka.said()[2:], "what was gathered is sent")
    assert kafka.said()[2:] == [(7, 2, 0, [2, 3, 4])]


async def test_what_was_said_is_sent_before_the_superstep_is_durable_and_numbered_anew_after_it(
    streams: Streams, kafka: Kafka
) -> None:
    chunks = begun(streams)
    for n in range(1, 4):
        chunks.add("custom", "", n)
    chunks.durable(8, checkpoint=False)
    chunks.add("custom", "", 4)
    chunks.durable(9, checkpoint=False)
    chunks.durable(10, checkpoint=False)
    chunks.flush()
    assert kafka.said()[1:] == [
        (7, 1, 0, [1]),
        (7, 2, 0, [2, 3]),
        (8, 1, 3, []),
        (8, 1, 0, [4]),
        (9, 1, 1, []),
        (10, 1, 0, []),
    ]


async def test_sequence_numbers_that_become_durable_out_of_order_are_told_in_order(
    streams: Streams, kafka: Kafka
) -> None:
    chunks = begun(streams)
    chunks.add("custom", "", 1)
    chunks.durable(9, checkpoint=False)
    chunks.add("custom", "", 2)
    chunks.durable(8, checkpoint=False)
    chunks.flush()
    assert kafka.said()[1:] == [(7, 1, 0, [1]), (7, 2, 0, [2]), (8, 1, 2, []), (9, 1, 0, [])]


async def test_entries_of_earlier_owners_change_nothing(streams: Streams, kafka: Kafka) -> None:
    chunks = begun(streams)
    for seq in (3, 6, 7):
        chunks.durable(seq, checkpoint=False)
    chunks.add("custom", "", 1)
    assert kafka.said() == [(7, 1, 0, []), (7, 1, 0, [1])]


async def test_a_record_says_whose_it_is_and_what_is_told(streams: Streams, kafka: Kafka) -> None:
    begun(streams).add("custom", "child:1|grandchild:2", {"ä": None})
    first, second = kafka.messages()
    assert (first.tenant, first.thread_id, first.run_id, first.epoch) == ("acme", "thread-1", "run-1", 3)
    assert (first.modes, first.subgraphs) == (("custom", "messages-tuple"), True)
    assert [(c.mode, c.ns, c.data) for c in second.chunks] == [("custom", "child:1|grandchild:2", {"ä": None})]
    headers = [dict(record.headers) for record in kafka.records]
    assert [h["ce_id"] for h in headers] == [b"run-1:3:7", b"run-1:3:7+1"]
    assert {record.key for record in kafka.records} == {b"thread-1"}


async def test_a_record_has_16_kib_at_most(streams: Streams, kafka: Kafka) -> None:
    chunks = begun(streams)
    for _ in range(200):
        chunks.add("custom", "", "x" * 1_000)
    chunks.durable(8, checkpoint=False)
    chunks.flush()
    sizes = [len(record.value) for record in kafka.records]
    assert max(sizes) < RECORD_BYTES + 2_000
    assert sum(len(m.chunks) for m in kafka.messages()) == 200
    assert len(sizes) < 20


async def test_a_chunk_that_no_broker_takes_leaves_a_gap(streams: Streams, kafka: Kafka) -> None:
    chunks = begun(streams)
    chunks.add("custom", "", "first")
    chunks.add("custom", "", "second")
    chunks.add("custom", "", "x" * (LARGEST_CHUNK_BYTES + 1))
    chunks.add("custom", "", "fourth")
    chunks.durable(8, checkpoint=False)
    chunks.flush()
    assert kafka.said()[1:] == [(7, 1, 0, ["first"]), (7, 2, 0, ["second"]), (7, 4, 0, ["fourth"]), (8, 1, 4, [])]


async def test_a_full_queue_drops_chunks_and_their_numbers_are_missing(
    streams: Streams, kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = begun(streams)
    kafka.full = True
    chunks.add("custom", "", "lost")
    chunks.add("custom", "", "lost, too")
    chunks.flush()
    kafka.full = False
    chunks.add("custom", "", "sent")
    chunks.durable(8, checkpoint=False)
    chunks.flush()
    assert kafka.said()[1:] == [(7, 3, 0, ["sent"]), (8, 1, 3, [])]


async def test_chunks_never_fill_the_queue_that_events_need(
    streams: Streams, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNACKNOWLEDGED_BYTES", 5_000)
    chunks = begun(streams)
    for n in range(100):
        chunks.add("custom", "", f"{n}" + "x" * 1_000)
        chunks.flush()
    sent = len(kafka.records)
    assert sent == 4 + 1
    for delivered in kafka.delivered[:3]:
        delivered()
    for failed in kafka.failed[3:]:
        failed("refused")
    chunks.add("custom", "", "room again")
    chunks.flush()
    assert kafka.said()[sent:] == [(7, 101, 0, ["room again"])]


async def test_nothing_is_sent_of_a_run_for_which_nobody_asked(streams: Streams, kafka: Kafka) -> None:
    chunks = begun(streams, payload={"stream": {"modes": ["values", "updates"], "subgraphs": True}})
    assert not chunks.tell()
    chunks.durable(8, checkpoint=False)
    chunks.durable(9, checkpoint=False)
    chunks.close()
    assert kafka.records == []


async def test_modes_that_are_asked_for_later_are_told_when_the_run_takes_them_up(
    streams: Streams, kafka: Kafka
) -> None:
    chunks = begun(streams, payload={})
    command = StreamRun(tenant="acme", thread_id="thread-1", run_id="run-1", modes=("messages", "values"))
    assert streams.ask(command)
    assert streams.ask(command), "once more changes nothing"
    chunks.durable(8, checkpoint=False)
    assert kafka.records == [], "what the superstep said was not told: nothing may say that it was"
    assert chunks.tell() == Asked(frozenset({"messages"}))
    chunks.add("messages", "", "token")
    chunks.durable(9, checkpoint=False)
    chunks.flush()
    assert kafka.said() == [(8, 1, 0, ["token"]), (9, 1, 1, [])]


async def test_modes_of_a_run_that_is_not_executed_here_yet_are_kept_for_when_it_is(streams: Streams) -> None:
    for n in range(REMEMBERED + 10):
        assert not streams.ask(StreamRun(tenant="acme", thread_id="t", run_id=f"run-{n}", modes=("custom",)))
    last = f"run-{REMEMBERED + 9}"
    assert streams.of({**RUN, "_id": last}, {}).asked == Asked(frozenset({"custom"}))
    assert streams.of({**RUN, "_id": last}, {}).asked == Asked()
    assert streams.of({**RUN, "_id": "run-0"}, {}).asked == Asked(), "the oldest are forgotten"
    stored = {**RUN, "_id": "run-0", "stream_asked": {"modes": ["messages"], "subgraphs": True}}
    assert streams.of(stored, {}).asked == Asked(frozenset({"messages"}), subgraphs=True)


async def test_a_run_that_is_over_here_is_not_told_any_more(streams: Streams, kafka: Kafka) -> None:
    chunks = begun(streams)
    chunks.add("custom", "", 1)
    chunks.add("custom", "", 2)
    chunks.close()
    assert kafka.said()[1:] == [(7, 1, 0, [1]), (7, 2, 0, [2])]
    assert not streams.ask(StreamRun(tenant="acme", thread_id="thread-1", run_id="run-1", modes=("events",)))


async def test_after_a_pause_a_chunk_goes_at_once_again(streams: ByTheTest, kafka: Kafka) -> None:
    chunks = begun(streams)
    chunks.add("custom", "", 1)
    streams.time_s += module.GATHER_S
    chunks.add("custom", "", 2)
    chunks.add("custom", "", 3)
    assert kafka.said()[1:] == [(7, 1, 0, [1]), (7, 2, 0, [2])]


async def test_what_several_runs_say_right_after_another_is_sent_together(
    streams: ByTheTest, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER_S", 0.001)
    one, other = begun(streams), begun(streams, run={**RUN, "_id": "run-2"})
    one.add("custom", "", 1)
    other.add("custom", "", 2)
    before = len(kafka.records)
    other.add("custom", "", 3)
    one.durable(8, checkpoint=False)
    other.add("custom", "", 4)
    assert len(kafka.records) == before
    await until(lambda: len(kafka.records) == before + 2, "both records")
    assert [(m.run_id, [c.data for c in m.chunks]) for m in kafka.messages()[before:]] == [
        ("run-2", [3, 4]),
        ("run-1", []),
    ]


async def test_the_first_chunk_of_a_superstep_goes_at_once_however_much_others_say(
    streams: ByTheTest, kafka: Kafka
) -> None:
    one, other = begun(streams), begun(streams, run={**RUN, "_id": "run-2"})
    one.add("custom", "", 1)
    one.add("custom", "", 2)
    before = len(kafka.records)
    other.durable(8, checkpoint=False)
    other.add("custom", "", 3)
    assert [(m.run_id, m.seq, [c.data for c in m.chunks]) for m in kafka.messages()[before:]] == [
        ("run-2", 7, []),
        ("run-2", 8, []),
        ("run-2", 8, [3]),
    ]
