"""Reply addresses that were given out: whoever sends a mail stores its address first, the gateway looks it up when a reply comes.

Contract: idempotent; :meth:`ReplyAddresses.store` returns when the address is durable. Expired ones are removed by the database.
"""

from __future__ import annotations

from typing import Any

from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.registry.answer_links import reply_key
from perdure.schemas.documents import REPLY_ADDRESSES, ReplyAddressDocument


class ReplyAddresses:
    """The reply addresses of all threads."""

    def __init__(self, db: Database, availability: Availability) -> None:
        self._addresses = db[REPLY_ADDRESSES]
        self._availability = availability

    async def store(self, document: ReplyAddressDocument) -> None:
        """Store an address (``perdure.registry.answer_links.ReplyAddress.document``); before the mail that has it is sent."""
        query = {"_id": document["_id"]}
        await outlast(
            lambda: self._addresses.update_one(query, {"$setOnInsert": dict(document)}, upsert=True), self._availability
        )

    async def find(self, token: str) -> ReplyAddressDocument | None:
        """What a token stands for; ``None`` when nobody gave it out."""
        query = {"_id": reply_key(token)}
        found: Any = await outlast(lambda: self._addresses.find_one(query), self._availability)
        return found  # type: ignore[no-any-return]
