"""The body that the LangGraph Agent Server posts to a run's webhook: the run, its times, its values and its error.

Contract: read at each attempt, from the run's document and from the checkpoint that it ended at. What is not there any more (the
thread was deleted meanwhile) is left out: the notice itself says which run ended, and how. User code is never imported.

Outside: signing and sending (``perdure.notifier.channels.webhook``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability
from perdure.chassis.payload import unpack
from perdure.checkpoint.documents import Place
from perdure.checkpoint.plain import plain_serializer, visible_values
from perdure.checkpoint.saver import PerdureSaver
from perdure.registry.deliveries import shown_request
from perdure.schemas.documents import RUNS, RunStatus
from perdure.schemas.notices import NoticeKind
from perdure.schemas.thread_ids import shown_id

VALUES_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of JSON of a run's values; larger ones are left out."""
STATUSES: Final = {
    NoticeKind.COMPLETED: RunStatus.SUCCESS,
    NoticeKind.FAILED: RunStatus.ERROR,
    NoticeKind.TIMED_OUT: RunStatus.TIMEOUT,
    NoticeKind.CANCELLED: RunStatus.INTERRUPTED,
    NoticeKind.PAUSED: RunStatus.INTERRUPTED,
    NoticeKind.APPROVAL_WANTED: RunStatus.INTERRUPTED,
}
"""A run's status by what is told, among those that the Agent Server knows."""

Document = dict[str, Any]


class RunBodies:
    """Reads runs for their webhooks. Belongs to one event loop."""

    def __init__(self, db: Database, availability: Availability) -> None:
        self._runs = db[RUNS]
        self._saver = PerdureSaver(db, serde=plain_serializer(), availability=availability)

    async def of(self, delivery: Mapping[str, Any]) -> bytes | None:
        """The body of a delivery about the end of a run; ``None`` while the run's document does not say yet that it has ended.

        Raises:
            PyMongoError: the database does not answer.

        """
        run: Any = await self._runs.find_one({"_id": delivery["run_id"]})
        if run is not None and RunStatus(run["status"]).active:
            return None
        values = await self._values(run) if run is not None else None
        return json.dumps(flat_run(delivery, run or {}, values))

    async def _values(self, run: Mapping[str, Any]) -> Any:
        """The values of the checkpoint that a run ended at; ``None`` where it has none, or they are too large."""
        if not run.get("head"):
            return None
        notebook = self._saver.notebook
        found = await notebook.store.exact(Place(run["thread_id"], "", run["head"]))
        if found is None:
            return None
        stored = await notebook.assemble(self._saver.codec, found, None, remember=False, shown=True)
        values = visible_values(stored.checkpoint["channel_values"])
        return values if len(json.dumps(values)) <= VALUES_LIMIT else None


def flat_run(delivery: Mapping[str, Any], run: Mapping[str, Any], values: Any) -> Document:
    """A run as the Agent Server posts it; ``run`` is empty where its document is gone."""
    told: Mapping[str, Any] = delivery["data"]
    error = run.get("error") or told.get("error")
    body: Document = {
        "run_id": delivery["run_id"],
        "thread_id": shown_id(delivery["thread_id"]),
        "assistant_id": told.get("assistant_id"),
        "created_at": run.get("created_at"),
        "updated_at": run.get("updated_at"),
        "metadata": told.get("metadata") or {},
        "kwargs": shown_request(unpack(run["payload"])) if "payload" in run and not run.get("payload_chunks") else None,
        "multitask_strategy": run.get("multitask_strategy", "enqueue"),
        "status": STATUSES[NoticeKind(delivery["kind"])].value,
        "run_started_at": run.get("started_at"),
        "run_ended_at": run.get("ended_at") or delivery["occurred_at"],
        "webhook_sent_at": now(),
        "values": values,
    }
    return body | ({"error": {"error": error["type"], "message": error["message"]}} if error else {})
