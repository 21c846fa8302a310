"""Deliveries: the document of one notice to one subscription, the same whoever makes it (ADR 12).

Contract: the id is derived from what happened and from the subscription, so that storing it twice changes nothing; it is also the
message id that receivers see, the same in every attempt. Every method waits out an outage; the gateway bounds how long.

Outside: sending (``perdure.notifier``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from pymongo import ReturnDocument

from perdure.chassis.at_rest import sealed
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.schemas.notices import DELIVERIES, Channel, DeliveryDocument, DeliveryState, WebhookFormat

PATIENCE_S: Final = 3 * 86400.0
"""How long a delivery is tried, in seconds, before it is dead."""
KEPT: Final = timedelta(days=30)
"""How long an ended delivery is kept."""
SMTP: Final = "smtp"
"""The endpoint of all e-mail: the one server that is set."""
NOWHERE: Final = "nowhere"
"""The endpoint of targets that are no URL: nothing is ever sent to them."""
ENDED: Final = (DeliveryState.DELIVERED.value, DeliveryState.DEAD.value, DeliveryState.DROPPED.value)
ATTEMPTS_KEPT: Final = 50
NEWEST: Final = [("created_at", -1), ("_id", -1)]
WITHOUT_CONTENT: Final = {"data": 0, "attempts": 0, "members": 0}

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that may be told.

    Attributes:
        kind: ``perdure.schemas.notices.NoticeKind``, ``digest`` or ``test``.
        cause: What tells it from every other notice of its tenant: the event's id, or the question and who is asked.
        data: What is told, as JSON.
        seq: The event's place in its thread.
        wait_id: Of a question: it is told only while this wait is open.
        question_due_at: When the question's time is over.
        assigned_to: Who is asked.

    """

    kind: str
    cause: str
    tenant: str
    occurred_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)
    thread_id: str | None = None
    run_id: str | None = None
    seq: int | None = None
    wait_id: str | None = None
    question_due_at: datetime | None = None
    assigned_to: str | None = None


def delivery_id(tenant: str, cause: str, subscription_id: str) -> str:
    """The id of a delivery. Stored, and seen by receivers; never change it."""
    digest = hashlib.blake2b(f"{tenant}\0{cause}\0{subscription_id}".encode(), digest_size=16)
    return f"msg_{digest.hexdigest()}"


def endpoint_of(channel: str, target: str) -> str:
    """What shares one breaker and one cap: ``host:port`` of a URL, :data:`SMTP` of e-mail, :data:`NOWHERE` of what is no URL.

    Never raises: targets are stored that no rule of today would let through.
    """
    if channel == Channel.EMAIL:
        return SMTP
    try:
        parts = urlsplit(target)
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    except ValueError:
        return NOWHERE


def shown_target(channel: str, target: str) -> str:
    """A target for people and logs: of a URL the host and a digest, because its path or query may be as good as a password.

    The digest is the beginning of the SHA-256 of the whole URL, by which its owner recognises it. The text is no URL, so that
    nobody stores it as a target by mistake.
    """
    if channel == Channel.EMAIL:
        return target
    digest = hashlib.sha256(target.encode(errors="surrogatepass")).hexdigest()[:12]
    try:
        parts = urlsplit(target)
        address = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/..."
    except ValueError:
        address = f"{target.partition(':')[0][:8]}:// (no address that can be read)"
    return f"{address} (sha256 {digest})"


def shown_request(payload: Any) -> Any:
    """The request of a run or a schedule as it is shown: with its webhook as :func:`shown_target` gives it."""
    if not isinstance(payload, dict) or not isinstance(webhook := payload.get("webhook"), str):
        return payload
    return {**payload, "webhook": shown_target(Channel.WEBHOOK, webhook)}


def delivery_document(
    notice: Notice,
    subscription: Mapping[str, Any],
    target: str,
    *,
    now: datetime,
    due_at: datetime,
    patience_s: float = PATIENCE_S,
) -> DeliveryDocument:
    """A new delivery, pending.

    Args:
        notice: What is told.
        subscription: Of it: id, channel and quiet hours.
        target: Where it goes; the subscription's, or who is asked.
        now: When it is made.
        due_at: When it is sent.
        patience_s: It is dead so many seconds after ``due_at``.

    """
    delivery: DeliveryDocument = {
        "_id": delivery_id(notice.tenant, notice.cause, subscription["_id"]),
        "tenant": notice.tenant,
        "subscription_id": subscription["_id"],
        "kind": str(notice.kind),
        "channel": subscription["channel"],
        "target": target,
        "endpoint": endpoint_of(subscription["channel"], target),
        "event_id": notice.cause,
        "thread_id": notice.thread_id,
        "run_id": notice.run_id,
        "seq": notice.seq,
        "occurred_at": notice.occurred_at,
        "data": dict(notice.data),
        "wait_id": notice.wait_id,
        "question_due_at": notice.question_due_at,
        "quiet": subscription.get("quiet"),
        "created_at": now,
        "state": DeliveryState.PENDING.value,
        "due_at": due_at,
        "give_up_at": due_at + timedelta(seconds=patience_s),
        "patience_s": patience_s,
        "attempts": [],
        "tried": 0,
        "failures": 0,
        "reason": None,
        "redrives": 0,
    }
    if subscription.get("format", WebhookFormat.STANDARD) != WebhookFormat.STANDARD and notice.run_id is not None:
        delivery["format"] = subscription["format"]
    return delivery


def ended(state: DeliveryState, now: datetime, *, tellable: bool) -> Document:
    """The fields of a delivery that ends; take ``due_at`` and ``claim`` off with them."""
    return {"state": state.value, "ended_at": now, "expires_at": now + KEPT, "told": not tellable}


def tellable(delivery: Mapping[str, Any], state: DeliveryState) -> bool:
    """Whether the thread's history gets a note about how a delivery ended."""
    known = bool(delivery.get("thread_id") and delivery.get("run_id") and delivery.get("seq") is not None)
    return known and state in (DeliveryState.DELIVERED, DeliveryState.DEAD)


class Deliveries:
    """The deliveries of all tenants, as people see and redrive them. Belongs to one event loop."""

    def __init__(self, db: Database, availability: Availability) -> None:
        self._deliveries = db[DELIVERIES]
        self._availability = availability

    async def create(self, delivery: DeliveryDocument) -> None:
        """Store one; one that is there stays as it is."""
        wanted, made = {"_id": delivery["_id"]}, {"$setOnInsert": dict(sealed(DELIVERIES, delivery))}
        await outlast(lambda: self._deliveries.update_one(wanted, made, upsert=True), self._availability)

    async def page(
        self, tenant: str, fits: Mapping[str, Any], limit: int, after: tuple[datetime, str] | None
    ) -> list[Document]:
        """Deliveries without their content, newest first, older than ``after`` (its time and id)."""
        query: Document = {"tenant": tenant, **fits}
        if after is not None:
            created_at, id_ = after
            query["$or"] = [{"created_at": {"$lt": created_at}}, {"created_at": created_at, "_id": {"$lt": id_}}]
        return await outlast(
            lambda: self._deliveries.find(query, WITHOUT_CONTENT).sort(NEWEST).limit(limit).to_list(None),
            self._availability,
        )

    async def find(self, delivery: str, tenant: str) -> Document | None:
        """A delivery with its content and attempts."""
        query = {"_id": delivery, "tenant": tenant}
        return await outlast(lambda: self._deliveries.find_one(query), self._availability)

    async def dead_ids(self, tenant: str, fits: Mapping[str, Any], limit: int) -> list[str]:
        """Ids of dead deliveries, the oldest first."""
        query = {"tenant": tenant, **fits, "state": DeliveryState.DEAD.value}
        order: Sequence[tuple[str, int]] = [("created_at", 1), ("_id", 1)]
        found = await outlast(
            lambda: self._deliveries.find(query, {"_id": 1}).sort(order).limit(limit).to_list(None), self._availability
        )
        return [one["_id"] for one in found]

    async def redrive(
        self,
        delivery: str,
        tenant: str,
        by: str | None,
        now: datetime,
        *,
        force: bool,
        on_behalf_of: str | None = None,
    ) -> bool:
        """Send a dead delivery again, from its first back-off on, under the same message id; false when it is not dead.

        Args:
            delivery: Its id.
            tenant: Whose it is.
            by: Who asks; kept with it.
            now: The time.
            force: Also one that was delivered or dropped.
            on_behalf_of: In whose name; kept with it.

        """
        states = [*ENDED] if force else [DeliveryState.DEAD.value]
        while True:
            found = await self.find(delivery, tenant)
            if found is None or found["state"] not in states:
                return False
            change = {
                "$set": {
                    "state": DeliveryState.PENDING.value,
                    "due_at": now,
                    "give_up_at": now + timedelta(seconds=found.get("patience_s") or PATIENCE_S),
                    "failures": 0,
                    "reason": None,
                    "redriven_at": now,
                    "redriven_by": by,
                    "redriven_on_behalf_of": on_behalf_of,
                    "redrives": found["redrives"] + 1,
                    "told": True,
                },
                "$unset": {"ended_at": "", "expires_at": "", "claim": "", "digest": ""},
            }
            query = {"_id": delivery, "state": found["state"], "redrives": found["redrives"]}
            changed = await outlast(
                lambda q=query, c=change: self._deliveries.find_one_and_update(  # type: ignore[misc]
                    q, c, {"_id": 1}, return_document=ReturnDocument.AFTER
                ),
                self._availability,
            )
            if changed is not None:
                return True
            again = await self.find(delivery, tenant)
            if again is not None and again["redrives"] > found["redrives"]:
                return True  # by us, whose answer was lost, or by somebody at the same moment
