"""The gateway's adapter for dead letters: read them, send them again, drop them (ADR 11).

Contract: a redrive is at least once: a letter is claimed (compare-and-set, for ``CLAIM``), its record is sent, and only when Kafka
has acknowledged it does the letter say ``redriven``. Two at once send one record; a gateway that dies in between leaves the letter
open, and it may be sent again, which every handler takes (commands are hints, events have ids). Every method sees the caller's
tenant only.

Outside: storing letters (the scheduler).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import uuid4

from perdure.chassis.kafka.producer import KafkaRefusedError, Producer
from perdure.chassis.mongo import Database, server_time
from perdure.chassis.outage import outlast
from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import Signature
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.stores.store import Store
from perdure.schemas.deadletter import LetterState, redriven_headers
from perdure.schemas.documents import DEAD_LETTERS
from perdure.schemas.envelope import Record
from perdure.schemas.topics import PRIMARY

log = logger(__name__)

T = TypeVar("T")
Document = dict[str, Any]

CLAIM: Final = timedelta(seconds=30)
RENEW_S: Final = 10.0
DECIDED_KEPT: Final = timedelta(days=30)
KAFKA_TIMEOUT_S: Final = 10.0
CHUNK_LETTERS: Final = 100
CHUNK_BYTES: Final = 32 * 1024 * 1024
"""Letters that are in memory at once."""
TOPICS: Final = frozenset(topic.name for topic in PRIMARY if topic.consumed)
ORDER: Final = [("died_at", 1), ("topic", 1), ("partition", 1), ("offset", 1)]
NEWEST: Final = [("died_at", -1), ("_id", -1)]
WITHOUT_CONTENT: Final = {"value": 0, "headers": 0, "key": 0}


@dataclass(slots=True)
class Redriven:
    """What became of letters: ids that were sent, and why others were not."""

    sent: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


class DeadLetterStore:
    """Dead letters of all topics. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store, producer: Producer) -> None:
        self._database = database
        self._letters = database[DEAD_LETTERS]
        self._store = store
        self._producer = producer
        self._sending: set[asyncio.Task[Redriven]] = set()

    async def close(self) -> None:
        """Let what is being sent end, at most ``KAFKA_TIMEOUT_S`` seconds; what does not, stays open."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=KAFKA_TIMEOUT_S)
        for task in self._sending:
            task.cancel()

    async def page(
        self, tenants: Sequence[str], fits: Mapping[str, str], limit: int, after: tuple[datetime, str] | None
    ) -> list[Document]:
        """Letters without their content, newest first, older than ``after`` (its time of death and id)."""
        query: Document = {"tenant": {"$in": [*tenants]}, **fits}
        if after is not None:
            died_at, id_ = after
            query["$or"] = [{"died_at": {"$lt": died_at}}, {"died_at": died_at, "_id": {"$lt": id_}}]
        return await self._within(
            lambda: self._letters.find(query, WITHOUT_CONTENT).sort(NEWEST).limit(limit).to_list(None)
        )

    async def letter(self, tenants: Sequence[str], id_: str) -> Document | None:
        """A letter with its content."""
        return await self._within(lambda: self._letters.find_one({"_id": id_, "tenant": {"$in": [*tenants]}}))

    async def open_ids(self, tenants: Sequence[str], fits: Mapping[str, str], limit: int) -> list[list[str]]:
        """Ids of open letters in the order in which they died, in chunks that fit into memory."""
        query = {"tenant": {"$in": [*tenants]}, **fits, "state": LetterState.OPEN.value}
        found = await self._within(
            lambda: self._letters.find(query, {"size": 1}).sort(ORDER).limit(limit).to_list(None)
        )
        return [*_chunks(found)]

    async def redrive(
        self, tenants: Sequence[str], ids: Sequence[str], signature: Signature, *, force: bool = False
    ) -> Redriven:
        """Send letters again, in the order in which they died.

        Args:
            tenants: Whose letters.
            ids: Letters; those that are not open, or that somebody redrives at this moment, are left alone.
            signature: Who asks.
            force: Also those that were redriven or dropped.

        Raises:
            RequestProblem: ``store-unavailable``; ``kafka-unavailable``: they are sent when Kafka answers again.

        """
        self._store.require_available()
        task = asyncio.create_task(self._redrive(tenants, ids, signature, force))
        self._sending.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait({task}, timeout=KAFKA_TIMEOUT_S)
        if not done:
            raise RequestProblem(
                "kafka-unavailable",
                "Kafka does not acknowledge the record; it is sent as soon as it does. Look at the letter again later.",
                headers={"Retry-After": "30"},
            )
        return task.result()

    async def drop(self, tenants: Sequence[str], id_: str, signature: Signature) -> bool:
        """Give an open letter up; false when it is not open, or is being redriven."""
        now = await self._now()
        change = {
            "state": LetterState.DROPPED.value,
            "dropped_at": now,
            "dropped_by": signature.by,
            "on_behalf_of": signature.on_behalf_of,
            "expires_at": now + DECIDED_KEPT,
        }
        query = {"_id": id_, "tenant": {"$in": [*tenants]}, "state": LetterState.OPEN.value, **_unclaimed(now)}
        result = await self._within(lambda: self._letters.update_one(query, {"$set": change}))
        return bool(result.matched_count)

    async def _redrive(self, tenants: Sequence[str], ids: Sequence[str], signature: Signature, force: bool) -> Redriven:
        now, token = await self._now(), uuid4().hex
        query: Document = {"_id": {"$in": [*ids]}, "tenant": {"$in": [*tenants]}, **_unclaimed(now)}
        if not force:
            query["state"] = LetterState.OPEN.value
        claim = {"$set": {"claim": token, "claim_until": now + CLAIM}}
        await self._outlast(lambda: self._letters.update_many(query, claim))
        ours = {"_id": {"$in": [*ids]}, "claim": token}
        letters = await self._outlast(lambda: self._letters.find(ours).sort(ORDER).to_list(None))
        result = Redriven()
        for letter, why in zip(letters, await self._send_all(letters, ours), strict=True):
            if why is None:
                result.sent.append(letter["_id"])
            else:
                result.refused[letter["_id"]] = why
        await self._settle(token, result, signature)
        return result

    async def _send_all(self, letters: Sequence[Mapping[str, Any]], ours: Document) -> list[str | None]:
        """Send in this order; the claim is kept while Kafka does not answer."""
        # The tasks of gather begin in their order, and each queues its record before it waits: a thread's order is kept.
        sending = asyncio.gather(*map(self._send, letters))
        try:
            while not (await asyncio.wait({sending}, timeout=RENEW_S))[0]:
                renewed = {"$set": {"claim_until": await self._outlast(self._server_time) + CLAIM}}
                await self._outlast(lambda change=renewed: self._letters.update_many(ours, change))  # type: ignore[misc]
            return sending.result()
        finally:
            sending.cancel()

    async def _send(self, letter: Mapping[str, Any]) -> str | None:
        """Send the record as it was; why that cannot be."""
        topic, original = letter["topic"], [(name, bytes(value)) for name, value in letter["headers"]]
        if topic not in TOPICS:
            return f"{topic} is no topic that a service reads: the record was not buried by one, and has no origin"
        if letter.get("omitted"):
            return f"its bytes could not be kept; the record was at offset {letter['offset']} of {topic}"
        headers = redriven_headers(original, letter["_id"], letter["redrives"])
        try:
            await self._producer.send(topic, Record(bytes(letter["key"]), bytes(letter["value"]), headers))
        except KafkaRefusedError as error:
            return str(error)
        log.info("dead_letter.redriven", letter=letter["_id"], thread_id=letter.get("thread_id"))
        return None

    async def _settle(self, token: str, result: Redriven, signature: Signature) -> None:
        """Record what was sent, and let go of the rest."""
        now = await self._now()
        ended = {"claim": "", "claim_until": ""}
        sent = {
            "$set": {
                "state": LetterState.REDRIVEN.value,
                "redriven_at": now,
                "redriven_by": signature.by,
                "on_behalf_of": signature.on_behalf_of,
                "expires_at": now + DECIDED_KEPT,
            },
            # Repeatable: the claim that the filter asks for goes with it.
            "$inc": {"redrives": 1},
            "$unset": ended,
        }
        for ids, change in ((result.sent, sent), ([*result.refused], {"$unset": ended})):
            if ids:
                query = {"_id": {"$in": ids}, "claim": token}
                await self._outlast(lambda q=query, c=change: self._letters.update_many(q, c))  # type: ignore[misc]

    def _forget(self, task: asyncio.Task[Redriven]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("dead_letter.redrive_failed", error=repr(error))

    async def _now(self) -> datetime:
        return await self._within(self._server_time)

    async def _server_time(self) -> datetime:
        return await server_time(self._database)

    async def _outlast(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await outlast(operation, self._store.availability)

    async def _within(self, operation: Callable[[], Awaitable[T]]) -> T:
        self._store.require_available()
        return await self._store.within(self._outlast(operation))


def _unclaimed(now: datetime) -> Document:
    return {"$or": [{"claim_until": None}, {"claim_until": {"$lt": now}}]}


def _chunks(letters: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for letter in letters:
        if chunk and (len(chunk) == CHUNK_LETTERS or size + letter["size"] > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(letter["_id"])
        size += letter["size"]
    if chunk:
        yield chunk
