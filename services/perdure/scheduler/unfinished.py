"""What was begun beside a wait and left half done: signals that were not offered, validations that were not answered.

Contract: turns of the leader. Both are repeatable: a signal ends at most one wait, and a validation's first answer counts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prometheus_client import Counter

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.signatures import Signatures
from perdure.chassis.telemetry import logger
from perdure.registry.signals import Signals
from perdure.registry.validations import publish_request
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.sweeps import SOURCE
from perdure.schemas.documents import WAITS, WaitStatus
from perdure.schemas.waits import WaitKind

log = logger(__name__)

OFFER_AFTER = timedelta(seconds=2)
ASK_AGAIN_AFTER = timedelta(seconds=15)
ASK_LIMIT = 500
"""Validations that one turn asks for again: many unanswered ones mean that the validator is away."""

FINISHED = Counter("perdure_unfinished", "What was left half done beside a wait and taken up again", ["what"])


class Unfinished:
    """Finishes what was left."""

    def __init__(
        self, db: Database, producer: Producer, signals: Signals, clock: DatabaseClock, signatures: Signatures
    ) -> None:
        self._waits = db[WAITS]
        self._producer = producer
        self._signals = signals
        self._clock = clock
        self._signatures = signatures

    async def offer_signals(self) -> None:
        """Offer the signals that nobody offered."""
        found = await self._signals.sweep(before=await self._clock.now() - OFFER_AFTER)
        FINISHED.labels(what="signals").inc(found)

    async def ask_validator(self) -> None:
        """Ask again for the validations that were not answered in time."""
        now = await self._clock.now()
        query: dict[str, Any] = {
            "status": WaitStatus.OPEN.value,
            "kind": WaitKind.VALIDATION.value,
            "requested_at": {"$lt": now - ASK_AGAIN_AFTER},
        }
        found: list[Any] = await self._waits.find(query).limit(ASK_LIMIT).to_list(None)
        for wait in found:
            try:
                publish_request(self._producer, wait, SOURCE, self._signatures)
            except Exception:  # a damaged wait stops no other; it comes again after the others
                log.exception("validation.not_asked", wait_id=wait["_id"], thread_id=wait.get("thread_id"))
            asked = {"_id": wait["_id"], "requested_at": wait["requested_at"]}
            await self._waits.update_one(asked, {"$set": {"requested_at": now}})
            FINISHED.labels(what="validations").inc()
