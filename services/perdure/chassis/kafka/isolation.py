"""Isolates a record that its handler cannot take from the other records of its batch.

Contract: :meth:`Isolation.handle` hands a batch to the handler as a whole. When the handler raises something that is neither
retryable nor a refusal, the records are handed over one by one, in their order; those that fail are tried again with pauses, and
the ones that fail ``TRIES`` times are given up (dead-lettered, by a callback). All others are handled. A handler must therefore
bear the same record twice, as it must after a crash.

When every record fails, the records are not to blame: it is a bug in the handler, or a lost dependency that says so in an odd
way. ``LONE_FAILURES`` records in a row may be given up, none where it is the database that refuses; from then on a batch in which
no record can be handled is held: it is tried again with pauses that grow to ``PAUSE_CAP_S``, and :attr:`Isolation.holding` is true
(the service is not ready). Each ``HOLD_S`` its oldest record is given up all the same, so that records that are to blame after all
do not stop the others for ever. One record that is handled ends the hold, and the records that failed beside it are given up.

Outside: outages. Errors with ``retryable`` set are the handler's caller's to wait out, as before.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from prometheus_client import Counter
from pymongo.errors import BulkWriteError, PyMongoError, WriteError

from perdure.chassis.errors import StalledError
from perdure.chassis.telemetry import logger

log = logger(__name__)

R = TypeVar("R")

TRIES: Final = 3
"""How often a record is handed over alone before it is given up."""
PAUSES_S: Final = (0.1, 0.5)
"""Between these tries, in seconds."""
LONE_FAILURES: Final = 10
"""How many records in a row, with none handled between them, are given up before the next ones are held."""
PAUSE_FIRST_S: Final = 1.0
PAUSE_CAP_S: Final = 30.0
DETAIL_CHARS: Final = 1_000
HOLD_S: Final = 120.0
"""How long a batch in which every record fails is held before its oldest record is given up."""

FAILED = Counter("perdure_consumer_failed_records", "Records that their handler could not take", ["consumer", "error"])
HELD = Counter(
    "perdure_consumer_held_batches", "Batches that were held because every record of them failed", ["consumer"]
)

HandOver = Callable[[Sequence[R]], Awaitable[bool]]
"""Hands records to the handler, and waits out what is retryable; false when the consumer is stopped before."""
GiveUp = Callable[[R, Exception], Awaitable[None]]
Pause = Callable[[float], Awaitable[object]]


class Isolation(Generic[R]):
    """What a consumer does with errors of its handler. Belongs to one event loop.

    Args:
        name: Of the consumer, for logs and metrics.
        hand_over: Hands records to the handler.
        give_up: Dead-letters a record.
        pause: Waits so many seconds, or until the consumer is stopped.
        stopped: Whether the consumer is stopped.

    """

    def __init__(
        self,
        name: str,
        hand_over: HandOver[R],
        give_up: GiveUp[R],
        *,
        pause: Pause = asyncio.sleep,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._name = name
        self._hand_over = hand_over
        self._give_up = give_up
        self._pause = pause
        self._stopped = stopped
        self._in_a_row = 0
        self._holding = False

    @property
    def holding(self) -> bool:
        """Whether a batch is held because no record of it can be handled."""
        return self._holding

    async def handle(self, records: Sequence[R]) -> bool:
        """Handle a batch; false when the consumer was stopped before every record was handled or given up.

        Raises:
            StalledError: the client library does not come back; only a new process helps.

        """
        try:
            handled = await self._hand_over(records)
        except StalledError:
            raise
        except Exception as error:
            log.warning("consumer.batch_failed", consumer=self._name, records=len(records), error=describe(error))
            return await self._one_by_one(records)
        if handled and records:
            self._some_were_handled()
        return handled

    async def _one_by_one(self, records: Sequence[R]) -> bool:
        failed: Sequence[tuple[R, Exception]] = ()
        left = records
        for attempt in range(TRIES):
            if attempt:
                await self._pause(PAUSES_S[attempt - 1])
            if (tried := await self._each(left)) is None:
                return False
            failed = tried
            left = [record for record, _ in failed]
            if not left:
                return True
        return await (self._hold(failed) if self._suspicious(failed, len(records)) else self._bury(failed))

    async def _each(self, records: Sequence[R]) -> list[tuple[R, Exception]] | None:
        """Hand records over alone; those that failed, or ``None`` when the consumer was stopped meanwhile."""
        failed: list[tuple[R, Exception]] = []
        for record in records:
            if self._stopped():
                return None
            try:
                if not await self._hand_over([record]):
                    return None
            except StalledError:
                raise
            except Exception as error:
                failed.append((record, error))
            else:
                self._some_were_handled()
        return failed

    def _suspicious(self, failed: Sequence[tuple[R, Exception]], handed_over: int) -> bool:
        """Whether so many records have failed, and none was handled, that they cannot be to blame."""
        if len(failed) < handed_over:
            return False
        self._in_a_row += len(failed)
        return self._in_a_row > LONE_FAILURES or all(_of_database(error) for _, error in failed)

    async def _hold(self, failed: Sequence[tuple[R, Exception]]) -> bool:
        """Try again and again until one of the records is handled, or each has had its time."""
        HELD.labels(self._name).inc()
        self._holding = True
        try:
            pause_s, since = PAUSE_FIRST_S, time.monotonic()
            while not self._stopped():
                log.critical(
                    "consumer.held",
                    consumer=self._name,
                    records=len(failed),
                    again_in_s=pause_s,
                    error=describe(failed[0][1]),
                    advice="every record fails: look for a bug or a lost dependency; nothing is dead-lettered meanwhile",
                    stack=_stack(failed[0][1]),
                )
                await self._pause(pause_s)
                pause_s = min(PAUSE_CAP_S, pause_s * 2)
                if (tried := await self._each([record for record, _ in failed])) is None:
                    return False
                if len(tried) < len(failed):
                    return await self._bury(tried)
                failed = tried
                if time.monotonic() - since >= HOLD_S:
                    await self._bury(failed[:1])
                    failed, since = failed[1:], time.monotonic()
                if not failed:
                    return True
            return False
        finally:
            self._holding = False

    async def _bury(self, failed: Sequence[tuple[R, Exception]]) -> bool:
        for record, error in failed:
            FAILED.labels(self._name, type(error).__name__).inc()
            log.error("consumer.record_failed", consumer=self._name, error=describe(error), stack=_stack(error))
            await self._give_up(record, error)
        return True

    def _some_were_handled(self) -> None:
        self._in_a_row = 0


def _of_database(error: Exception) -> bool:
    """Whether the database refuses whoever asks (a password, a permission), and not one document (too large, a duplicate)."""
    return isinstance(error, PyMongoError) and not isinstance(error, BulkWriteError | WriteError)


def describe(error: BaseException) -> str:
    """An exception's type and the beginning of its message, which may hold all of a document that was refused."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: {str(error)[:DETAIL_CHARS]}"


def _stack(error: BaseException) -> str:
    """Where an exception was raised, without its message."""
    return "".join(traceback.format_tb(error.__traceback__))
