"""Chunks of streams on their way to ``perdure.stream``: gathered, numbered and sent without waiting (ADR 29).

Contract: nothing here waits or raises into a run. The chunks of one run are numbered from 1 since the newest sequence number that
was durable, gathered for at most ``GATHER_S`` or ``RECORD_BYTES``, and sent in order. The first chunk after a sequence number goes
at once, and so does what comes after a pause of the worker. What several runs say meanwhile is sent together, so that Kafka gets
one request a partition and not one a run. When a sequence number becomes durable, a record without chunks says so, after the
chunks that came before it. A chunk that cannot be sent leaves a gap in the numbers.

Outside: what a chunk says (``said``), and where chunks come from (``streaming``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import orjson

from perdure.agent_step import metrics
from perdure.agent_step.publisher import SOURCE
from perdure.agent_step.said import MessageEncoder, encode
from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.telemetry import logger
from perdure.schemas import envelope
from perdure.schemas.commands import StreamRun
from perdure.schemas.documents import RunDocument
from perdure.schemas.stream import EPHEMERAL_MODES, StreamChunks
from perdure.schemas.topics import STREAM

log = logger(__name__)

GATHER_S: Final = 0.02
RECORD_BYTES: Final = 16_384
LARGEST_CHUNK_BYTES: Final = 900_000
"""The largest chunk that is sent: a record with it is still under the megabyte that a broker takes."""
UNACKNOWLEDGED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of chunks that may wait for Kafka. Events, which must not be lost, wait in the same queue, which holds 256 MiB."""
REMEMBERED: Final = 1_000
"""Runs that are not executed here whose asked modes are remembered, at most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked to be told of a run while it runs; false when it is nothing."""

    modes: frozenset[str] = frozenset()
    """Of ``EPHEMERAL_MODES``."""
    subgraphs: bool = False

    @classmethod
    def of(cls, stream: Mapping[str, Any] | None) -> Self:
        """From ``stream`` of a run's payload, or ``stream_asked`` of its document: ``{"modes": [...], "subgraphs": bool}``."""
        stream = stream or {}
        return cls(EPHEMERAL_MODES & {*stream.get("modes", ())}, bool(stream.get("subgraphs")))

    def __bool__(self) -> bool:
        return bool(self.modes)

    def __or__(self, other: Asked) -> Asked:
        return Asked(self.modes | other.modes, self.subgraphs or other.subgraphs)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record that is to be sent."""

    fields: bytes
    """The part of its JSON that differs from other records of the run."""
    place: str
    """Where it stands in the thread: part of its id."""
    count: int
    """How many chunks it has."""


class Streams:
    """The streams of all the runs of a worker: one timer, and one limit of what waits for Kafka."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, RunChunks] = {}
        self._asked: dict[str, Asked] = {}
        """Of runs that are not executed here yet."""
        self._gathering: list[RunChunks] = []
        self._sent_at = float("-inf")
        self._unacknowledged = 0

    def of(self, run: RunDocument, payload: Mapping[str, Any]) -> RunChunks:
        """The chunks of a run that is executed here from now on."""
        asked = Asked.of(payload.get("stream")) | Asked.of(run.get("stream_asked"))
        asked |= self._asked.pop(run["_id"], Asked())
        chunks = self._open[run["_id"]] = RunChunks(run, asked, self)
        return chunks

    def ask(self, command: StreamRun) -> bool:
        """Send what the command asks for; false when the run is not executed here. Then the modes are remembered for when it is."""
        more = Asked(EPHEMERAL_MODES & {*command.modes}, command.subgraphs)
        if self.ask_more(command.run_id, more):
            return True
        self._asked[command.run_id] = self._asked.pop(command.run_id, Asked()) | more
        if len(self._asked) > REMEMBERED:
            del self._asked[next(iter(self._asked))]
        return False

    def ask_more(self, run_id: str, more: Asked) -> bool:
        """Send more of a run from its next superstep on; false when the run is not executed here."""
        chunks = self._open.get(run_id)
        if chunks is None:
            return False
        chunks.asked |= more
        return True

    def close(self, chunks: RunChunks) -> None:
        """The run is not executed here any more."""
        if self._open.get(chunks.run["_id"]) is chunks:
            del self._open[chunks.run["_id"]]

    def now(self) -> float:
        """The event loop's time, in seconds."""
        return self._loop.time()

    def gather(self, chunks: RunChunks) -> None:
        """Have ``chunks.flush`` called within ``GATHER_S``, or at once where nothing was sent for so long."""
        rest_s = self._sent_at + GATHER_S - self.now()
        self._gathering.append(chunks)
        if len(self._gathering) > 1:
            return
        if rest_s <= 0:
            self._flush()
        else:
            self._loop.call_later(rest_s, self._flush)

    def _flush(self) -> None:
        self._sent_at = self.now()
        gathering, self._gathering = self._gathering, []
        for chunks in gathering:
            chunks.flush()

    def send(self, record: envelope.Record) -> bool:
        """Give a record to Kafka; whether there was room."""
        size = len(record.value)
        if self._unacknowledged + size > UNACKNOWLEDGED_BYTES:
            return False
        delivered, failed = partial(self._delivered, size), partial(self._failed, size)
        try:
            self._producer.produce(STREAM.name, record, delivered, failed, gather=False)
        except BufferError:
            return False
        self._unacknowledged += size
        return True

    def _delivered(self, size: int) -> None:
        self._unacknowledged -= size

    def _failed(self, size: int, _reason: str) -> None:
        self._unacknowledged -= size
        metrics.STREAM_DROPPED.labels(reason="refused").inc()


class RunChunks:
    """The chunks of one run, while one owner executes it."""

    def __init__(self, run: RunDocument, asked: Asked, streams: Streams) -> None:
        self.run = run
        self.asked = asked
        """What is to be told."""
        self._told = Asked()
        self._streams = streams
        self._seq = 0
        self._ahead: dict[int, bool] = {}
        """Numbers that are durable before a smaller one is, and whether each is of a checkpoint."""
        self._count = 0
        self._gathered: list[bytes] = []
        self._first = 1
        self._bytes = 0
        self._ready: list[Outgoing] = []
        """Records that are gathered with what comes after them."""
        self._template: tuple[Asked, bytes, envelope.Template] | None = None
        self._waiting = False
        self._warned = False
        self._messages = MessageEncoder()
        self._heads: dict[tuple[str, str], bytes] = {}

    def begin(self, seq: int) -> None:
        """Begin after a sequence number: the run's ``started``, durable since a moment."""
        self._seq, self._told = seq - 1, self.asked
        self._advance(checkpoint=False)

    def tell(self) -> Asked:
        """Tell what is asked from now on; what that is."""
        if self.asked != self._told:
            self.flush()  # by what was told before
            self._told = self.asked
        return self._told

    def message(self, ns: str, message: Any, metadata: Any) -> None:
        """Tell a message, or a chunk of one, with its metadata."""
        self._add("messages", ns, self._messages.encode(message, metadata))

    def add(self, mode: str, ns: str, data: Any) -> None:
        """Tell anything else."""
        self._add(mode, ns, encode(data))

    def durable(self, seq: int, checkpoint: bool) -> None:
        """A sequence number of the thread is durable. Numbers up to the one of :meth:`begin` are ignored."""
        if seq <= self._seq:
            return
        self._ahead[seq] = checkpoint
        while (is_checkpoint := self._ahead.pop(self._seq + 1, None)) is not None:
            self._advance(checkpoint=is_checkpoint)

    def _advance(self, *, checkpoint: bool) -> None:
        """The next sequence number is durable."""
        self._pack()
        self._seq += 1
        before, self._count, self._first = self._count, 0, 1
        if self._told:
            fields = b',"seq":%d,"before":%d%b' % (self._seq, before, b',"checkpoint":true' if checkpoint else b"")
            self._ready.append(Outgoing(fields, f"{self._seq}", 0))
            self._gather()

    def flush(self) -> None:
        """Send what is gathered."""
        self._waiting = False
        self._pack()
        ready, self._ready = self._ready, []
        for one in ready:
            self._send(one)

    def _pack(self) -> None:
        """Make one record of the chunks that are gathered."""
        if not self._gathered:
            return
        chunks, self._gathered, self._bytes = self._gathered, [], 0
        first, self._first = self._first, self._count + 1
        fields = b',"seq":%d,"first":%d,"chunks":[%b]' % (self._seq, first, b",".join(chunks))
        self._ready.append(Outgoing(fields, f"{self._seq}+{first}", len(chunks)))

    def _gather(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._streams.gather(self)

    def close(self) -> None:
        """Nothing more comes from here."""
        self.flush()
        self._streams.close(self)

    def _add(self, mode: str, ns: str, data: bytes) -> None:
        if len(data) > LARGEST_CHUNK_BYTES:
            self._omit(mode, len(data))
            return
        if self._bytes and self._bytes + len(data) > RECORD_BYTES:
            self.flush()
        self._count += 1
        self._gathered.append(b"%b%b}" % (self._head(mode, ns), data))
        self._bytes += len(data)
        if self._bytes >= RECORD_BYTES or self._count == 1:
            self.flush()
        else:
            self._gather()

    def _omit(self, mode: str, size: int) -> None:
        """Leave a gap in place of a chunk that no broker would take; whoever reads takes the whole message from the history."""
        self.flush()
        self._count += 1
        self._first = self._count + 1
        metrics.STREAM_DROPPED.labels(reason="large").inc()
        log.warning("stream.chunk_too_large", run_id=self.run["_id"], mode=mode, bytes=size, limit=LARGEST_CHUNK_BYTES)

    def _head(self, mode: str, ns: str) -> bytes:
        """The beginning of the JSON of a chunk."""
        head = self._heads.get((mode, ns))
        if head is None:
            if len(self._heads) >= 1_000:
                self._heads.clear()
            head = self._heads[mode, ns] = b'{"mode":%b,"ns":%b,"data":' % (orjson.dumps(mode), orjson.dumps(ns))
        return head

    def _send(self, one: Outgoing) -> None:
        same, template = self._common()
        record = template.record(
            f"{self.run['_id']}:{self.run['epoch']}:{one.place}", now(), b"%b%b}" % (same, one.fields)
        )
        if self._streams.send(record):
            metrics.STREAMED.inc(one.count)
            return
        metrics.STREAM_DROPPED.labels(reason="full").inc(one.count)
        if not self._warned:
            self._warned = True
            log.warning(
                "stream.dropped", run_id=self.run["_id"], thread_id=self.run["thread_id"], unacknowledged="32 MiB"
            )

    def _common(self) -> tuple[bytes, envelope.Template]:
        """What all records say as long as the same is told: the beginning of their JSON, and their envelope."""
        run, told = self.run, self._told
        if self._template is None or self._template[0] != told:
            message = StreamChunks(
                tenant=run["tenant"], thread_id=run["thread_id"], run_id=run["_id"], epoch=run["epoch"], seq=self._seq,
                modes=tuple(sorted(told.modes)), subgraphs=told.subgraphs,
            )  # fmt: skip
            same = message.model_dump_json(include={"tenant", "thread_id", "run_id", "epoch", "modes", "subgraphs"})
            template = envelope.Template.of(
                message,
                source=SOURCE,
                correlation_id=run["_id"],
                causation_id=f"{run['_id']}:start",
                traceparent=run.get("traceparent"),
            )
            self._template = told, same[:-1].encode(), template
        return self._template[1:]
