"""What the notifier does with each batch of events: who is told what, durable before the offsets are stored.

Contract: :meth:`Notifying.handle` returns when the deliveries of its batch are stored. A batch that is read again stores nothing
twice, because the ids are derived from what happened. Events that nobody can subscribe to are not even decoded (``PASSED_OVER``);
for the others there is one query for subscriptions and one or two for runs a batch. A lost database is waited for. A record of
which not everything can be told is refused after everything else of the batch is stored, so that it is dead-lettered alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from perdure.chassis.clock import now
from perdure.chassis.kafka.consumer import Refused
from perdure.chassis.kafka.isolation import describe
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.telemetry import logger
from perdure.notifier import metrics
from perdure.notifier.domain import Told, told_by
from perdure.notifier.matching import Plan, keys_of, plan_of
from perdure.notifier.queue import Queue
from perdure.notifier.settings import NotifierSettings
from perdure.registry.runs import first_run_of
from perdure.registry.subscriptions import Subscriptions
from perdure.schemas.documents import RUNS, RunDocument
from perdure.schemas.envelope import Decoded

log = logger(__name__)

RUN_FIELDS: Final = dict.fromkeys(
    (
        "tenant",
        "webhook",
        "webhook_format",
        "origin_run_id",
        "first_run_id",
        "wait_id",
        "cancel_requested_at",
        "created_at",
        "batch",
    ),
    1,
)
"""What matching needs of a run."""


class Notifying:
    """Turns events into deliveries. Belongs to one event loop."""

    def __init__(
        self,
        settings: NotifierSettings,
        db: Database,
        queue: Queue,
        subscriptions: Subscriptions,
        availability: Availability,
    ) -> None:
        self._settings = settings
        self._runs = db[RUNS]
        self._queue = queue
        self._subscriptions = subscriptions
        self._availability = availability

    async def handle(self, batch: Sequence[Decoded]) -> None:
        """Store the deliveries that a batch leads to.

        Raises:
            Refused: the records of which a notice could not be planned; everything else is done.

        """
        told: list[Told] = []
        failed: list[tuple[Decoded, Exception]] = []
        records: dict[int, Decoded] = {}
        for decoded in batch:
            try:
                notices = told_by(decoded.message)
            except Exception as error:
                failed.append((decoded, error))
                continue
            told += notices
            records |= {id(one.notice): decoded for one in notices}
        if told:
            plan = await self._plan(told)
            failed += [(records[id(notice)], error) for notice, error in plan.failed]
        if failed:
            why = "; ".join(sorted({describe(error) for _, error in failed}))
            raise Refused(f"not everybody could be told: {why}", *(one for one, _ in failed), others_done=True)

    async def _plan(self, told: Sequence[Told]) -> Plan:
        """Store the deliveries of notices."""
        runs = await self._runs_of(told)
        keys = {key for one in told for key in keys_of(one, runs.get(one.notice.run_id or ""))}
        subscriptions = await self._subscriptions.of_scopes(keys)
        plan = plan_of(told, subscriptions, runs, now(), self._settings.notifier_patience_s)
        # Digests first: what they gather must not be there without them (a sweep mends what a digest came too early for).
        await self._queue.insert([*plan.digests.values()])
        new = set(await self._queue.insert(plan.deliveries))
        for delivery in plan.deliveries:
            if delivery["_id"] in new:
                metrics.ACCEPTED.labels(delivery["kind"]).inc()
        return plan

    async def _runs_of(self, told: Sequence[Told]) -> dict[str, RunDocument]:
        """The runs that the events are of, and those that these go on from."""
        found = await self._find({one.notice.run_id for one in told if one.notice.run_id})
        before = {one for run in found.values() for one in (first_run_of(run), run.get("origin_run_id")) if one}
        before -= found.keys()
        return found | (await self._find(before) if before else {})

    async def _find(self, ids: Collection[str]) -> dict[str, RunDocument]:
        query = {"_id": {"$in": [*ids]}}
        found: Any = await outlast(lambda: self._runs.find(query, RUN_FIELDS).to_list(None), self._availability)
        return {run["_id"]: run for run in found}
