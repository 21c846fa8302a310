"""What became of a notice goes into its thread's history, as a note, and so into the index (ADR 12).

Contract: a delivery that ended says ``told: false`` until its note is stored and published; a note is written once for each ending,
however often it is asked for. Nothing else waits for it: who is told first is a person.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from pymongo.errors import PyMongoError

from perdure.chassis.mongo import Database
from perdure.chassis.telemetry import logger
from perdure.registry.deliveries import shown_target
from perdure.registry.notes import RUN_FIELDS, Notes
from perdure.schemas.documents import RUNS
from perdure.schemas.notices import DELIVERIES, DeliveryState

log = logger(__name__)

BATCH: Final = 200
AT_ONCE: Final = 8
NEEDED: Final = dict.fromkeys(
    ("thread_id", "run_id", "seq", "subscription_id", "kind", "channel", "target", "tried", "reason", "state", "ended_at",
     "redrives"), 1
)  # fmt: skip


class Telling:
    """Writes the notes about deliveries."""

    def __init__(self, db: Database, notes: Notes) -> None:
        self._deliveries = db[DELIVERIES]
        self._runs = db[RUNS]
        self._notes = notes

    async def turn(self) -> int:
        """Write the notes that are due, at most ``BATCH``; how many deliveries that were."""
        found = await self._deliveries.find({"told": False}, NEEDED).sort("ended_at", 1).limit(BATCH).to_list(None)
        if not found:
            return 0
        ids = list({one["run_id"] for one in found})
        runs = {run["_id"]: run async for run in self._runs.find({"_id": {"$in": ids}}, RUN_FIELDS)}
        slots = asyncio.Semaphore(AT_ONCE)

        async def tell(delivery: Mapping[str, Any]) -> None:
            async with slots:
                try:
                    await self._note(delivery, runs.get(delivery["run_id"]))
                except PyMongoError:
                    raise
                except (
                    Exception
                ):  # what cannot be noted of one delivery must not keep the others' notes; a stored one is swept
                    log.exception("notice.not_noted", delivery_id=delivery["_id"])

        await asyncio.gather(*map(tell, found))
        told = {"_id": {"$in": [one["_id"] for one in found]}, "told": False}
        await self._deliveries.update_many(told, {"$set": {"told": True}})
        return len(found)

    async def _note(self, delivery: Mapping[str, Any], run: Mapping[str, Any] | None) -> None:
        if run is None:
            return  # archived, with its history
        dead = delivery["state"] == DeliveryState.DEAD
        said: dict[str, Any] = {
            "delivery_id": delivery["_id"],
            "subscription_id": delivery["subscription_id"],
            "kind": delivery["kind"],
            "channel": delivery["channel"],
            "target": shown_target(delivery["channel"], delivery["target"]),
            "attempts": delivery["tried"],
        }
        if dead:
            said["reason"] = (delivery.get("reason") or "")[:2000]
        try:
            await self._notes.write(
                run,
                after=delivery["seq"],
                event="notice_dead" if dead else "notice_delivered",
                ev=said,
                cause=f"notice:{delivery['_id']}:{delivery['redrives']}",
                at=delivery["ended_at"],
            )
        except ValueError as error:  # more notes than a place in the history takes; the delivery log has it
            log.warning("notice.not_noted", delivery_id=delivery["_id"], error=str(error))
