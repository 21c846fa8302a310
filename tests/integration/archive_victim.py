"""A process that archives or restores and kills or freezes itself: URI DB KAFKA FOLDER THREAD POINT SIGNAL.

A point is a method and which call of it: the process is gone right before that call.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from perdure.archive.archiving import Archiver
from perdure.archive.restoring import Restorer
from perdure.archive.store import ArchiveStore
from perdure.archive.work import Work
from perdure.chassis import mongo
from perdure.chassis.kafka.producer import Producer

LEASE_S = 1.0
POINTS: dict[str, tuple[type[Any], str, int]] = {
    "before the slot": (Work, "take_slot", 1),
    "before writing": (Archiver, "write", 1),
    "between write and verify": (Archiver, "verify", 1),
    "between verify and mark": (Archiver, "mark", 1),
    "between mark and event": (Archiver, "_finish", 1),
    "between mark and delete": (Archiver, "delete", 1),
    "in the middle of delete": (Archiver, "_delete", 5),
    "at the end of delete": (Work, "advance", 3),
    "before copying back": (Restorer, "copy_back", 1),
    "in the middle of copying back": (Restorer, "_write", 5),
    "when it is back": (Archiver, "undo", 1),
    "while cleaning up": (ArchiveStore, "delete", 1),
}


def arm(point: str, number: signal.Signals) -> None:
    owner, name, nth = POINTS[point]
    method = getattr(owner, name)
    calls = 0

    async def armed(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), number)
        return await method(*arguments, **named)

    setattr(owner, name, armed)


async def main(uri: str, name: str, kafka: str, folder: str, thread_id: str, point: str, number: str) -> None:
    arm(point, signal.Signals[number])
    client = mongo.connect(uri)
    db, producer = client[name], Producer(kafka, "victim")
    parts = (db, ArchiveStore(folder), producer, "victim", LEASE_S)
    thread = await db.threads.find_one({"_id": thread_id})
    assert thread is not None
    if "archive" in thread:
        await Restorer(*parts).restore(thread, "victim")
    else:
        await Archiver(*parts).archive(thread)
    print("survived", flush=True)
    await producer.close()
    client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
