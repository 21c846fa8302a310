"""How far one reader got in the chunks of its run, and what it missed.

Contract: chunks are told in order, each once, after the document that they follow. :meth:`Live.pump` stops where the history has to
be read first. Whether all chunks of a superstep were told is known from the numbers that the records carry; where one is missing,
or the worker did not tell what is read here, the reader takes whole messages (ADR 29).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from perdure.gateway.streams.asking import MESSAGES
from perdure.gateway.streams.chunks import ChunkRecord, Ring
from perdure.gateway.streams.partial import Partials
from perdure.gateway.streams.sse import event_bytes
from perdure.schemas.stream import EPHEMERAL_MODES

BEHIND: Final = 16
"""A reader that has more records of chunks before it is behind."""
TOGETHER: Final = 32
"""Chunks of a message that are told with one event at most, to a reader that is behind."""


class Live:
    """The chunks of one run, for one reader.

    Args:
        ring: The chunks of its thread.
        run_id: The run.
        modes: What is told.
        subgraphs: Whether what subgraphs say is told.
        told: How many chunks after the place where it begins were told already.
        complete_from: The sequence number from which on all chunks can be told.

    """

    def __init__(
        self, ring: Ring, run_id: str, modes: frozenset[str], *, subgraphs: bool, told: int, complete_from: int
    ) -> None:
        self._ring = ring
        self._run_id = run_id
        self._modes = modes & EPHEMERAL_MODES
        self._subgraphs = subgraphs
        self._at = ring.start
        self._told = told
        """Chunks after the newest document that was told."""
        self._gap = False
        """Whether one of these was missed."""
        self._lost = complete_from - 1
        """The newest number after which chunks were missed."""
        self._partials = Partials()
        self._joined = (0, 0)
        """The chunk that was added to the messages so far last: the number that it follows, and its own."""
        self._due: tuple[str, str, str] | None = None
        """The message that is to be told so far: its id, its namespace, and the place of its newest chunk."""
        self._together = 0
        """How many of its chunks are told with that."""

    def pump(self, seq: int) -> Iterator[bytes]:
        """The chunks that can be told after the document ``seq``, which was told.

        In mode ``messages`` a reader that is behind is told a message at its first chunk, then once for up to ``TOGETHER`` chunks.
        """
        yield from self._pump(seq)
        yield from self._partial()

    def _pump(self, seq: int) -> Iterator[bytes]:
        while True:
            if self._at < self._ring.start:
                self._at, self._gap = self._ring.start, True  # fell behind
            record = self._ring.get(self._at)
            if record is None:
                return
            if record.run_id == self._run_id and not record.closes:
                if record.seq > seq:
                    return
                if record.seq == seq:
                    yield from self._tell(record)
            elif record.run_id == self._run_id and record.seq > seq:
                return
            self._at += 1

    def knows(self, seq: int) -> bool:
        """Whether nothing more comes before the document ``seq``."""
        record = self._ring.get(self._at)
        return record is not None and record.run_id == self._run_id and record.seq >= seq

    @property
    def is_whole(self) -> bool:
        """Whether the reader began at the beginning and was told every chunk since."""
        return self._lost < 0

    def passes(self, seq: int) -> bool:
        """Whether ``seq`` is a checkpoint before which everything was told: it says nothing more to who is told only chunks."""
        record = self._ring.get(self._at)
        if record is None or record.run_id != self._run_id or record.seq != seq:
            return False
        return record.checkpoint and self.is_whole and self._is_complete(record)

    def waits_for_history(self, seq: int) -> bool:
        """Whether what comes next follows a document after ``seq``."""
        record = self._ring.get(self._at)
        return record is not None and record.run_id == self._run_id and record.seq > seq

    def passed(self) -> None:
        """A document was told: chunks are counted anew."""
        self._told, self._gap = 0, False

    def close(self, seq: int) -> None:
        """The document ``seq`` is about to be told, so nothing more is told of what came before.

        Whether all of it was told says the record that closes it, where the reader stopped; it may have come after the last pump.
        """
        record = self._ring.get(self._at)
        if record is None or record.run_id != self._run_id or record.seq != seq or not self._is_complete(record):
            self._lost = seq - 1

    def told_since(self, seq: int) -> bool:
        """Whether all chunks were told since the document ``seq``."""
        return self._lost < seq

    def _tell(self, record: ChunkRecord) -> Iterator[bytes]:
        if record.first > self._told + 1:
            self._gap = True
        for index in range(len(record.chunks)):
            number = record.first + index
            is_new, is_repeated = number > self._told, (record.seq, number) <= self._joined
            self._joined = max(self._joined, (record.seq, number))
            if is_new:
                self._told = number
                yield from self._chunk(record, index)
            elif "messages" in self._modes and not is_repeated:
                yield from self._partial()
                for _ in self._chunk(record, index):  # told before the reader came, and part of the messages so far
                    pass
                self._due, self._together = None, 0

    def _chunk(self, record: ChunkRecord, index: int) -> Iterator[bytes]:
        chunk = record.chunks[index]
        mode, ns = chunk["mode"], chunk.get("ns") or ""
        if ns and not self._subgraphs:
            return
        if mode == "messages":
            if "messages-tuple" in self._modes:
                yield record.sent(index)
            elif "messages" in self._modes:
                yield from self._so_far(chunk["data"], ns, f"{record.seq}+{record.first + index}")
        elif mode in self._modes:
            yield from self._partial()
            yield record.sent(index)

    def _so_far(self, data: Any, ns: str, place: str) -> Iterator[bytes]:
        message = str(data[0].get("id"))
        if self._due is not None and self._due[0] != message:
            yield from self._partial()
        events = [*self._partials.add(data)]
        is_whole = bool(events) and events[-1][0] == "messages/complete"
        for name, value in events:
            yield _event(name, value, place if name == "messages/complete" else None, ns=ns)
        if is_whole:
            return
        self._due, self._together = (message, ns, place), self._together + 1
        is_behind = self._ring.end - self._at > BEHIND
        if events or not is_behind or self._together >= TOGETHER:
            yield from self._partial()

    def _partial(self) -> Iterator[bytes]:
        """The message so far that is yet to be told."""
        if self._due is not None:
            message, ns, place = self._due
            self._due, self._together = None, 0
            yield _event(*self._partials.so_far(message), place, ns=ns)

    def _is_complete(self, record: ChunkRecord) -> bool:
        """Whether all chunks before the number that a record closes were told."""
        return record.closes and self._told >= record.before and not self._gap and self._are_told(record)

    def _are_told(self, record: ChunkRecord) -> bool:
        """Whether the worker told what would stand for whole messages here."""
        if not self._modes & MESSAGES:
            return True
        return bool(record.modes & MESSAGES) and (record.subgraphs or not self._subgraphs)


def _event(name: str, value: Any, place: str | None, *, ns: str) -> bytes:
    return event_bytes(f"{name}|{ns}" if ns else name, orjson.dumps(value, default=str), place)
