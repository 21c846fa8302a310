"""Removing the older states of a thread at rest, and telling the search index (ADR 33).

Contract: the newest checkpoint of each namespace stays, with what it is rebuilt from. A note says which sequence numbers go; it is
stored before they are deleted and published, by the sweep of notes if this process dies, so that the index follows. All of it can
be repeated.

Outside: who decides, and that no run of the thread is active.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability
from perdure.checkpoint import PerdureSaver
from perdure.registry.notes import RUN_FIELDS, Notes
from perdure.schemas.documents import RUNS

SPANS: Final = 20_000
"""Spans that one event names at most; it has room for many more."""


class Pruner:
    """Prunes threads. Belongs to one event loop."""

    def __init__(self, db: Database, producer: Producer, source: str, availability: Availability | None = None) -> None:
        self._db = db
        self._notes = Notes(db, producer, source)
        self._saver = PerdureSaver(db, availability=availability)

    async def keep_latest(self, thread: Mapping[str, Any]) -> None:
        """Delete the checkpoints of a thread at rest but the newest of each namespace and what these need."""
        await self._saver.prune_telling(thread["_id"], partial(self._tell, thread))

    async def _tell(self, thread: Mapping[str, Any], _: str, numbers: Sequence[int]) -> None:
        run = await self._db[RUNS].find_one({"_id": thread.get("ended_run_id")}, RUN_FIELDS)
        if run is None:
            return  # no run has written its states: the index does not have them
        removed = spans(numbers)
        for start in range(0, len(removed), SPANS):
            portion = [list(span) for span in removed[start : start + SPANS]]
            digest = hashlib.blake2b(repr(portion).encode(), digest_size=16).hexdigest()
            await self._notes.write(
                run,
                after=thread["seq"],
                event="pruned",
                ev={"removed": portion},
                cause=f"pruned:{digest}",
                at=now(),
            )


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as spans of consecutive ones: first and last of each."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
