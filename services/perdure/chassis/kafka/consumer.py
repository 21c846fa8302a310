"""A consumer that stores an offset only after its record is safe, and that no record can stop.

Contract: that of ``raw``, for one topic and decoded. A record that cannot be decoded goes to the dead-letter topic with its
original key, bytes and headers and a typed reason, and consumption goes on. A handler that cannot ever handle one of the records
raises :class:`Refused` naming it: it is buried with the reason ``handler``, and the rest of the batch is handed over again.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from perdure.chassis.errors import PerdureError
from perdure.chassis.kafka.deadletter import Origin, bury
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.kafka.raw import ConsumerLoop
from perdure.schemas.deadletter import Reason
from perdure.schemas.envelope import Decoded, UndecodableError, decode
from perdure.schemas.message import Message
from perdure.schemas.topics import Topic

Handler = Callable[[Sequence[Decoded]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to read and how.

    Attributes:
        topic: The topic.
        group: The consumer group.
        types: The accepted message classes by (type, version).
        batch: Records handed over at most at once.
        portion_bytes: What a broker gathers before it answers, for at most a quarter of a second: saves both sides requests, where
            that is no matter. By default it answers at once.
        passed_over: Message types of this topic that are of no concern: their records are not even decoded.

    """

    topic: Topic
    group: str
    types: Mapping[tuple[str, int], type[Message]]
    batch: int = 500
    portion_bytes: int = 1
    passed_over: frozenset[str] = frozenset()


class Refused(PerdureError):
    """Raised by a handler: these records of the batch cannot be handled, and no retry changes that.

    What the handler had done for the others must be repeatable: they are handed over again, without those.
    """

    def __init__(self, detail: str, *records: Decoded) -> None:
        super().__init__(detail)
        self.detail = detail
        self.records = records


class Consumer(ConsumerLoop):
    """Decodes one topic."""

    def __init__(
        self,
        bootstrap_servers: str,
        client_id: str,
        subscription: Subscription,
        handler: Handler,
        dead_letters: Producer,
        room: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        super().__init__(
            bootstrap_servers,
            client_id,
            [subscription.topic.name],
            subscription.group,
            batch=subscription.batch,
            portion_bytes=subscription.portion_bytes,
            room=room,
        )
        self._subscription = subscription
        self._handler = handler
        self._dead_letters = dead_letters

    async def _safe(self, batch: list[Origin]) -> bool:
        decoded: list[tuple[Origin, Decoded]] = []
        for origin in batch:
            if self._subscription.passed_over and type_of(origin) in self._subscription.passed_over:
                continue
            try:
                decoded.append((origin, decode(origin.headers, origin.value, self._subscription.types)))
            except UndecodableError as error:
                await self._bury(origin, error.reason, error.detail)
        while decoded:
            records = [record for _, record in decoded]
            try:
                return await self._persist(partial(self._handler, records))
            except Refused as error:
                refused = {id(record) for record in error.records}
                left = [pair for pair in decoded if id(pair[1]) not in refused]
                if len(left) == len(decoded):  # it names none of ours: nothing would change
                    raise
                for origin, record in decoded:
                    if id(record) in refused:
                        await self._bury(origin, Reason.HANDLER, error.detail)
                decoded = left
        return True

    async def _bury(self, origin: Origin, reason: str, detail: str) -> None:
        """Write the record to the dead-letter topic; its offset is stored only after that is acknowledged."""
        await bury(
            self._dead_letters,
            origin,
            dead_topic=self._subscription.topic.dead,
            reason=reason,
            detail=detail,
            consumer=self._client_id,
        )


def type_of(origin: Origin) -> str | None:
    """A record's message type by its header; ``None`` where it has none that can be read."""
    for name, value in origin.headers:
        if name == "ce_type":
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return None
