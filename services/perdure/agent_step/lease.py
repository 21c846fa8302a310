"""The worker's lease: one document, renewed from a thread that no node can block (ADR 1).

Contract: :meth:`Lease.start` registers an incarnation; the heartbeat renews it every quarter of its time to live with the
database's clock. When the incarnation was declared dead, ``on_lost`` is called on the loop, once; the owner stops its tasks and
calls :meth:`renew_incarnation`. The same heartbeat asks for runs of ours that somebody wants cancelled.

A database that does not answer is no loss: nobody else can take the runs either, and every write is fenced.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Sequence

import uuid_utils
from pymongo.errors import PyMongoError

from perdure.chassis.mongo import connect_blocking, database_name, from_now
from perdure.chassis.telemetry import logger
from perdure.schemas.documents import RUNS, WORKERS

log = logger(__name__)


class Lease:
    """The lease of this process's current incarnation."""

    def __init__(
        self,
        uri: str,
        ttl_s: float,
        graphs: Sequence[str],
        on_lost: Callable[[], None],
        on_cancel: Callable[[list[str]], None],
        slots: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = connect_blocking(uri, maxPoolSize=2, serverSelectionTimeoutMS=2_000, socketTimeoutMS=5_000)
        self._db = self._client[database_name(uri)]
        self._ttl_s = ttl_s
        self._graphs = list(graphs)
        self._slots = slots
        self._on_lost = on_lost
        self._on_cancel = on_cancel
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self.incarnation = ""

    async def start(self) -> None:
        """Register and begin to renew."""
        await self.renew_incarnation()
        self._thread.start()

    async def renew_incarnation(self) -> None:
        """Register under a new id."""
        self.incarnation = await asyncio.to_thread(self._register)

    async def close(self) -> None:
        """Leave in order: nobody has to wait for the lease to expire."""
        self._stop.set()
        await asyncio.to_thread(self._leave)
        self._client.close()

    def _register(self) -> str:
        incarnation = str(uuid_utils.uuid7())
        self._db[WORKERS].update_one(
            {"_id": incarnation},
            [
                {
                    "$set": {
                        "host": socket.gethostname(),
                        "pid": os.getpid(),
                        "graphs": self._graphs,
                        "slots": self._slots,
                        "state": "alive",
                        "started_at": "$$NOW",
                        "expires_at": from_now(self._ttl_s),
                    }
                }
            ],
            upsert=True,
        )
        return incarnation

    def _leave(self) -> None:
        try:
            self._db[WORKERS].update_one({"_id": self.incarnation}, {"$set": {"state": "gone"}})
        except PyMongoError as error:
            log.warning("lease.leave_failed", error=str(error))

    def _beat(self) -> None:
        told = ""
        while not self._stop.wait(self._ttl_s / 4):
            incarnation = self.incarnation
            try:
                renewed = self._db[WORKERS].update_one(
                    {"_id": incarnation, "state": "alive"},
                    [{"$set": {"expires_at": from_now(self._ttl_s)}}],
                )
                if renewed.matched_count == 0:
                    if told != incarnation:
                        told = incarnation
                        self._loop.call_soon_threadsafe(self._on_lost)
                    continue
                wanted = self._db[RUNS].find(
                    {"settled": False, "owner": incarnation, "cancel_requested_at": {"$exists": True}}, {"_id": 1}
                )
                if runs := [run["_id"] for run in wanted]:
                    self._loop.call_soon_threadsafe(self._on_cancel, runs)
            except PyMongoError as error:
                log.warning("lease.heartbeat_failed", error=str(error))
