"""The newest chunks of one thread, as the workers told them, for all its readers on this gateway.

Contract: bounded in bytes; what is older is dropped, and a reader that had not read it takes whole messages in its place. A chunk
is turned into the bytes that are sent once, for whoever reads it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from perdure.chassis.kafka.deadletter import Origin
from perdure.gateway.streams.sse import event_bytes
from perdure.schemas.stream import StreamChunks

RING_BYTES: Final = 8 * 1024 * 1024
"""What the chunks of one thread hold, about: five times as much as their JSON."""
PASSED: Final = 10_000
"""Threads of which it is known when a record of theirs was passed over."""
NEVER: Final = float("inf")
TYPE: Final = StreamChunks.TYPE.encode()


class ChunkRecord:
    """One record of ``perdure.stream``: chunks, or that a sequence number is durable."""

    __slots__ = ("_sent", "before", "checkpoint", "chunks", "first", "modes", "nbytes", "run_id", "seq", "subgraphs")

    def __init__(self, content: dict[str, Any], nbytes: int) -> None:
        self.run_id: str = content["run_id"]
        self.seq: int = content["seq"]
        self.first: int = content.get("first", 1)
        self.before: int = content.get("before", 0)
        self.checkpoint = bool(content.get("checkpoint"))
        self.chunks: Sequence[dict[str, Any]] = content.get("chunks") or ()
        self.modes = frozenset(content.get("modes") or ())
        self.subgraphs = bool(content.get("subgraphs"))
        self.nbytes = 5 * nbytes + 400 * (1 + len(self.chunks))  # measured, with the bytes that are sent
        self._sent: dict[int, bytes] = {}

    @property
    def closes(self) -> bool:
        """Whether it says that ``seq`` is durable and that all chunks before it were told."""
        return not self.chunks

    def sent(self, index: int) -> bytes:
        """A chunk as it is sent."""
        found = self._sent.get(index)
        if found is None:
            chunk = self.chunks[index]
            name = f"{chunk['mode']}|{chunk['ns']}" if chunk.get("ns") else chunk["mode"]
            place = f"{self.seq}+{self.first + index}"
            found = self._sent[index] = event_bytes(name, orjson.dumps(chunk.get("data")), place)
        return found


def read_records(origins: Iterable[Origin]) -> list[ChunkRecord]:
    """Records of the topic; what is none of ours is passed over."""
    found: list[ChunkRecord] = []
    for origin in origins:
        if origin.value is None or not any(name == "ce_type" and value == TYPE for name, value in origin.headers):
            continue
        try:
            content = orjson.loads(origin.value)
            found.append(ChunkRecord(content, len(origin.value)))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
    return found


class Passed:
    """Threads whose records were passed over, because nobody read them: one thread of the process writes, others ask.

    Contract: never says that nothing was passed over if something was; forgets the thread that was passed over longest ago.
    """

    def __init__(self) -> None:
        self._at: dict[bytes, float] = {}
        self._forgotten = 0.0
        """When a record of a thread that was forgotten was passed over last, at most: seconds since 1970."""

    def note(self, key: bytes) -> None:
        """A record with this key is passed over."""
        self._at.pop(key, None)
        self._at[key] = time.time()
        if len(self._at) > PASSED:
            oldest = next(iter(self._at))
            self._forgotten = self._at[oldest]
            del self._at[oldest]

    def since(self, key: bytes, at: float) -> bool:
        """Whether a record with this key may have been passed over since a time, in seconds since 1970."""
        return max(self._at.get(key, 0.0), self._forgotten) >= at


class Ring:
    """Records in the order of their partition; each has an index that never changes."""

    def __init__(self) -> None:
        self._records: deque[ChunkRecord] = deque()
        self.start = 0
        """The index of the oldest that is kept."""
        self._bytes = 0
        self.runs: set[str] = set()
        """Runs of which something was told."""
        self.since = NEVER
        """Since when it is complete, but for what was dropped: seconds since 1970."""

    @property
    def end(self) -> int:
        """The index of the next one."""
        return self.start + len(self._records)

    @property
    def oldest(self) -> ChunkRecord | None:
        """The oldest record."""
        return self._records[0] if self._records else None

    @property
    def nbytes(self) -> int:
        """How many bytes it holds, about."""
        return self._bytes

    def get(self, index: int) -> ChunkRecord | None:
        """The record with an index; ``None`` if it is yet to come."""
        return self._records[index - self.start] if self.start <= index < self.end else None

    def add(self, records: Iterable[ChunkRecord]) -> None:
        """New records."""
        for record in records:
            self._records.append(record)
            self.runs.add(record.run_id)
            self._bytes += record.nbytes
        while self._bytes > RING_BYTES:
            self.shrink()

    def shrink(self) -> bool:
        """Drop the oldest record; false where there is none."""
        if not self._records:
            return False
        self._bytes -= self._records.popleft().nbytes
        self.start += 1
        return True

    def add_before(self, records: Sequence[ChunkRecord]) -> None:
        """Records that were written before the oldest; of these as many as there is room for, the newest."""
        for record in reversed(records):
            if self._bytes + record.nbytes > RING_BYTES:
                return
            self._records.appendleft(record)
            self.runs.add(record.run_id)
            self._bytes += record.nbytes
            self.start -= 1

    def begin(self, since: float) -> None:
        """Everything is read from now on; what was kept is not followed by it."""
        self.since = since
        self.start = self.end
        self._records.clear()
        self._bytes = 0
