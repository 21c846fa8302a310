"""What a claimed delivery needs before it is sent: its subscription, whether its question is still open, what its digest tells.

Contract: :meth:`Preparing.prepare` answers with the delivery as it is told now, or with the result that there is nothing to send.
A lost database is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymongo.errors import PyMongoError

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.telemetry import logger
from perdure.notifier.channels.result import Result, dead, dropped
from perdure.notifier.composing import Composer
from perdure.notifier.domain import QUESTION_FIELDS
from perdure.notifier.matching import OF_RUN
from perdure.notifier.queue import Queue
from perdure.notifier.results import Change
from perdure.registry.subscriptions import Subscriptions
from perdure.schemas.documents import WAITS, WaitStatus
from perdure.schemas.notices import DIGEST, Channel, DeliveryState, NoticeKind, SubscriptionState

log = logger(__name__)

Document = dict[str, Any]

WAIT_FIELDS: Final = dict.fromkeys(("status", "question", "events", "due_at", "escalations"), 1)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A delivery to send, or why not.

    Attributes:
        delivery: Its document.
        subscription: ``None`` where the ``webhook`` of a run is the subscription.
        result: Set when there is nothing to send.
        empty: A digest that gathered nothing, to be removed.

    """

    delivery: Document
    subscription: Mapping[str, Any] | None = None
    result: Result | None = None
    empty: bool = False


class Preparing:
    """Reads what deliveries need."""

    def __init__(
        self,
        db: Database,
        queue: Queue,
        subscriptions: Subscriptions,
        composer: Composer,
        availability: Availability,
    ) -> None:
        self._waits = db[WAITS]
        self._queue = queue
        self._subscriptions = subscriptions
        self._composer = composer
        self._availability = availability

    async def prepare(self, deliveries: Sequence[Document]) -> list[Prepared]:
        """Prepare what was claimed, with two queries for all."""
        ids = {one["subscription_id"] for one in deliveries if not one["subscription_id"].startswith(OF_RUN)}
        subscriptions = await self._subscriptions.by_id(ids) if ids else {}
        asked = {one["wait_id"] for one in deliveries if one.get("wait_id")}
        waits = await self._waits_by_id(asked) if asked else {}
        return [
            await self._prepared(one, subscriptions.get(one["subscription_id"]), waits.get(one.get("wait_id") or ""))
            for one in deliveries
        ]

    async def _prepared(
        self, delivery: Document, subscription: Mapping[str, Any] | None, wait: Mapping[str, Any] | None
    ) -> Prepared:
        try:
            return await self._prepare(delivery, subscription, wait)
        except PyMongoError:
            raise
        except Exception as error:  # a delivery that cannot be prepared must not keep the others from being sent
            log.exception("notice.not_prepared", delivery_id=delivery["_id"])
            result = Result(delivered=False, reason=f"the notifier failed: {type(error).__name__}")
            return Prepared(delivery, subscription, result)

    async def _prepare(
        self, delivery: Document, subscription: Mapping[str, Any] | None, wait: Mapping[str, Any] | None
    ) -> Prepared:
        if (result := unwanted(delivery, subscription, wait)) is not None:
            return Prepared(delivery, subscription, result)
        if delivery.get("wait_id"):
            self._add_question(delivery, wait)
        if delivery["kind"] == DIGEST:
            told = await self._told_by(delivery)
            if not told:
                return Prepared(delivery, subscription, empty=True)
            notices = [_told(one) for one in told]
            delivery["data"] = delivery["data"] | {"count": len(notices), "notices": notices}
        return Prepared(delivery, subscription)

    async def _told_by(self, digest: Document) -> list[Document]:
        """What a digest tells: decided when it is sent for the first time."""
        if "members" in digest:
            return await self._queue.members(digest["members"])
        found = await self._queue.gathered(digest["_id"])
        if found:
            digest["members"] = [one["_id"] for one in found]
            await self._queue.fix_members(digest, digest["members"])
        return found

    def _add_question(self, delivery: Document, wait: Mapping[str, Any] | None) -> None:
        """What only the wait knows: an escalation does not repeat the question's details."""
        known = dict((wait or {}).get("question") or {}) | {"events": (wait or {}).get("events")}
        names = (*QUESTION_FIELDS, "events")
        more = {name: known[name] for name in names if known.get(name) and name not in delivery["data"]}
        if delivery["channel"] == Channel.WEBHOOK and (url := self._composer.answer_url(delivery)) is not None:
            more["answer_url"] = url
        delivery["data"] = delivery["data"] | more

    async def _waits_by_id(self, ids: set[str]) -> dict[str, Document]:
        query = {"_id": {"$in": [*ids]}}
        found = await outlast(lambda: self._waits.find(query, WAIT_FIELDS).to_list(None), self._availability)
        return {one["_id"]: one for one in found}


def unwanted(
    delivery: Mapping[str, Any], subscription: Mapping[str, Any] | None, wait: Mapping[str, Any] | None
) -> Result | None:
    """Why a delivery is not to be sent any more; ``None`` when it is."""
    if not delivery["subscription_id"].startswith(OF_RUN):
        if subscription is None:
            return dropped("the subscription was removed")
        if subscription["state"] == SubscriptionState.DISABLED:
            why = subscription.get("disabled_reason") or "its receiver is gone"
            return dead(f"the subscription is disabled: {why}. Resume it, then redrive")
    return _over(delivery, wait) if delivery.get("wait_id") else None


def _over(delivery: Mapping[str, Any], wait: Mapping[str, Any] | None) -> Result | None:
    """Why a question is not to be told any more; ``None`` while it is open, and asked of the same person."""
    if wait is None:
        # The question is asked before its wait is stored; that it expires is told long after.
        return dropped("the question is gone") if delivery["kind"] == NoticeKind.APPROVAL_EXPIRING else None
    due_at = wait.get("due_at")
    if wait["status"] == WaitStatus.ANSWERED:
        return dropped("answered meanwhile")
    if wait["status"] != WaitStatus.OPEN:
        return dropped("the agent went on meanwhile")
    if wait.get("escalations", 0) > delivery["data"].get("escalations", 0):
        return dropped("the question went to the next person meanwhile")
    return dropped("the question has expired") if due_at is not None and due_at <= now() else None


def _told(delivery: Mapping[str, Any]) -> Document:
    """A gathered notice in a digest."""
    return {
        "id": delivery["_id"],
        "kind": delivery["kind"],
        "occurred_at": delivery["occurred_at"].isoformat(),
        "data": delivery["data"],
    }


def member_change(delivery: Mapping[str, Any], change: Change, state: DeliveryState) -> Document | None:
    """What becomes of what a digest told; ``None`` while it is still being tried."""
    if state is DeliveryState.PENDING:
        return None
    fields = {name: change.fields[name] for name in ("state", "ended_at", "expires_at", "reason")}
    told = state not in (DeliveryState.DELIVERED, DeliveryState.DEAD)
    return {"$set": fields | {"told": told, "tried": delivery["tried"] + 1}}
