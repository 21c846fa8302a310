"""Reading sources: attempts, time-outs, and how many read at once.

Contract: :meth:`Reader.read` always returns a :class:`Reading`, never raises but for cancellation. Each host, connection and
fetcher has a number of turns, and so has the whole process; a slow source uses up its own turns only. Waiting for a turn is limited
by the premise's time-out too, and does not use up the time of the read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from perdure.chassis.clock import now
from perdure.chassis.telemetry import logger
from perdure.schemas.validation import Premise, Source
from perdure.validator import metrics
from perdure.validator.domain import Reading
from perdure.validator.sources.errors import SourceError, SourceReader

log = logger(__name__)

BACKOFF_FIRST_S = 0.2
BACKOFF_CAP_S = 5.0


class Turns:
    """How many may read at once, by source. A source that nobody reads or waits for takes no memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Semaphore:
        """The turns of one source; hold the reference for as long as they are used."""
        found = self._turns.get(key)
        if found is None:
            found = self._turns[key] = asyncio.Semaphore(self._limit)
        return found


class Reader:
    """Reads sources of all kinds. Belongs to one event loop.

    Args:
        readers: By kind of source.
        per_source: Reads of one source at once.
        overall: Reads at once.

    """

    def __init__(self, readers: Mapping[str, SourceReader], per_source: int, overall: int) -> None:
        self._readers = readers
        self._turns = Turns(per_source)
        self._overall = asyncio.Semaphore(overall)

    async def read(self, premise: Premise) -> Reading:
        """What the premise's source gives now."""
        attempts, began = 0, now()

        async def attempt() -> Any:
            nonlocal attempts, began
            attempts += 1
            async with Turn(self._turns, self._overall, key, premise.timeout_s):
                began = now()
                return await self._read(reader, premise.source, premise.timeout_s)

        try:
            reader = self._readers[premise.source.kind]
            key = reader.key(premise.source)
            retrying = AsyncRetrying(
                stop=stop_after_attempt(premise.attempts),
                wait=wait_random_exponential(BACKOFF_FIRST_S, max=BACKOFF_CAP_S),
                retry=retry_if_exception(lambda error: isinstance(error, SourceError) and error.retryable),
                reraise=True,
            )
            value: Any = await retrying(attempt)
        except SourceError as error:
            tried = f" (tried {attempts} times)" if attempts > 1 else ""
            return Reading(began, max(1, attempts), problem=f"{error}{tried}")
        except Exception as error:
            # A mistake of ours must not look like a world in order, nor end the service for every other thread.
            log.exception("validator.read_failed", premise=premise.name, kind=premise.source.kind)
            return Reading(
                began, max(1, attempts), problem=f"the validator failed: {type(error).__name__}; see its log"
            )
        return Reading(began, attempts, value)

    async def close(self) -> None:
        """Close every source."""
        for reader in self._readers.values():
            await reader.close()

    async def _read(self, reader: SourceReader, source: Source, timeout_s: float) -> Any:
        try:
            with metrics.READS.labels(source.kind).time():
                async with asyncio.timeout(timeout_s):
                    return await reader.read(source, timeout_s)
        except TimeoutError as error:
            metrics.FAILED_READS.labels(source.kind).inc()
            raise SourceError(f"{reader.key(source)}: no answer within {timeout_s:g} s", retryable=True) from error
        except SourceError:
            metrics.FAILED_READS.labels(source.kind).inc()
            raise


class Turn:
    """``async with``: one turn at a source and one of the whole process, waited for at most ``timeout_s`` seconds."""

    def __init__(self, turns: Turns, overall: asyncio.Semaphore, key: str, timeout_s: float) -> None:
        self._source = turns.of(key)
        self._overall = overall
        self._key = key
        self._timeout_s = timeout_s

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                # The source's turn first: who waits for a slow source holds none of the process's.
                await self._source.acquire()
                try:
                    await self._overall.acquire()
                except BaseException:
                    self._source.release()
                    raise
        except TimeoutError as error:
            raise SourceError(f"{self._key}: no turn to read within {self._timeout_s:g} s", retryable=True) from error

    async def __aexit__(self, *_: object) -> None:
        self._overall.release()
        self._source.release()
