"""A consumer that stores an offset only after its record is safe, and that no record can stop.

Contract: that of ``raw``, for one topic and decoded. A record that cannot be decoded goes to the dead-letter topic with its
original key, bytes and headers and a typed reason, and consumption goes on. A handler that cannot ever handle one of the records
raises :class:`Refused` naming it: it is buried with the reason ``handler``, and the rest of the batch is handed over again. Any
other error that is not retryable is isolated to its record (``isolation``), which is buried with the error's type and message.
Where the dead-letter topic cannot be written, ``deadletter`` says what becomes of the record.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from perdure.chassis.errors import PerdureError
from perdure.chassis.kafka.deadletter import Keep, LetterBox, Origin
from perdure.chassis.kafka.isolation import Isolation, describe
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.kafka.raw import ConsumerLoop
from perdure.chassis.kafka.settings import KafkaAddress
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
        verify: Raises UndecodableError for a record that must not be believed, before the record is decoded.
        passed_over: Message types of this topic that are of no concern: their records are not even decoded.

    """

    topic: Topic
    group: str
    types: Mapping[tuple[str, int], type[Message]]
    batch: int = 500
    portion_bytes: int = 1
    passed_over: frozenset[str] = frozenset()
    verify: Callable[[Origin], None] = lambda _: None


class Refused(PerdureError):
    """Raised by a handler: these records of the batch cannot be handled, and no retry changes that.

    Args:
        detail: Why; part of the dead letters.
        records: Which.
        others_done: Whether all other records of the batch are handled. Unless they are, what the handler had done for them must
            be repeatable: they are handed over again, without the refused ones.

    """

    def __init__(self, detail: str, *records: Decoded, others_done: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.records = records
        self.others_done = others_done


Pair = tuple[Origin, Decoded]


class Consumer(ConsumerLoop):
    """Decodes one topic."""

    def __init__(
        self,
        kafka: KafkaAddress,
        client_id: str,
        subscription: Subscription,
        handler: Handler,
        dead_letters: Producer,
        room: Callable[[], int] = lambda: sys.maxsize,
        keep: Keep | None = None,
    ) -> None:
        super().__init__(
            kafka,
            client_id,
            [subscription.topic.name],
            subscription.group,
            batch=subscription.batch,
            portion_bytes=subscription.portion_bytes,
            room=room,
        )
        self._subscription = subscription
        self._handler = handler
        self._letters = LetterBox(dead_letters, client_id, keep)
        self._isolation: Isolation[Pair] = Isolation(
            subscription.group, self._hand_over, self._give_up, pause=self._pause, stopped=self._stopped.is_set
        )

    @property
    def ready(self) -> bool:
        """Whether partitions have been assigned (or a rebalance gave us none), and the handler takes what they bring."""
        return super().ready and not self._isolation.holding

    async def _safe(self, batch: list[Origin]) -> bool:
        decoded: list[Pair] = []
        for origin in batch:
            if self._subscription.passed_over and type_of(origin) in self._subscription.passed_over:
                continue
            try:
                self._subscription.verify(origin)
                decoded.append((origin, decode(origin.headers, origin.value, self._subscription.types)))
            except UndecodableError as error:
                await self._bury(origin, error.reason, error.detail)
        return await self._isolation.handle(decoded) if decoded else True

    async def _hand_over(self, decoded: Sequence[Pair]) -> bool:
        """Hand records over, without those that the handler refuses."""
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
                if error.others_done:
                    return True
                decoded = left
        return True

    async def _give_up(self, pair: Pair, error: Exception) -> None:
        await self._bury(pair[0], Reason.HANDLER, describe(error))

    async def _bury(self, origin: Origin, reason: str, detail: str) -> None:
        """Keep the record as a dead letter; its offset is stored only after that is acknowledged."""
        await self._letters.bury(origin, dead_topic=self._subscription.topic.dead, reason=reason, detail=detail)


def type_of(origin: Origin) -> str | None:
    """A record's message type by its header; ``None`` where it has none that can be read."""
    for name, value in origin.headers:
        if name == "ce_type":
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return None
