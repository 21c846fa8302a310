"""Subscriptions: who is told what, the same whoever stores or reads them (ADR 12).

Contract: every method is idempotent or keyed, and waits out an outage of the database; the gateway bounds how long. Secrets leave
this module only to be shown once (:meth:`Subscriptions.rotate`, and by whoever made the document) and to sign.

Outside: which notices fit a subscription (``perdure.notifier.matching``).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo import ReturnDocument

from perdure.chassis.at_rest import sealed
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.schemas.notices import SUBSCRIPTIONS, Scope, SecretDocument, SubscriptionDocument, SubscriptionState

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (the format, no secret)
SECRET_BYTES: Final = 32
SECRETS_KEPT: Final = 5
"""Secrets that sign at once, at most: each makes the header longer."""

Document = dict[str, Any]

_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


def scope_key(tenant: str, scope: str, scope_id: str | None) -> str:
    """What matching looks a subscription up by. A tenant's name has no colon. Stored; never change this format."""
    return f"{tenant}:{scope}:{scope_id or ''}"


def scope_keys(tenant: str, ids: Mapping[Scope, Collection[str]]) -> set[str]:
    """The keys of everything that something happened to: the tenant, and the ids by scope."""
    keys = {scope_key(tenant, scope, one) for scope, found in ids.items() for one in found}
    return keys | {scope_key(tenant, Scope.TENANT, None)}


def is_address(text: str) -> bool:
    """Whether text is one plain e-mail address, without a name and without anything that could be taken for a header."""
    return len(text) <= 254 and _ADDRESS.fullmatch(text) is not None


def may_be_mailed(address: str, allowed: Collection[str] | None) -> bool:
    """Whether a mail may go to an address: it, or its domain, is allowed (``PERDURE_MAIL_TO``), or there is no list."""
    if allowed is None:
        return True
    named = address.casefold()
    return any(one.casefold() in (named, named.rpartition("@")[2]) for one in allowed)


def new_secret() -> str:
    """A signing secret as Standard Webhooks writes it."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def valid_secrets(subscription: Mapping[str, Any], now: datetime) -> list[str]:
    """The secrets that sign at this moment, the newest first."""
    found: list[SecretDocument] = subscription.get("secrets") or []
    return [one["secret"] for one in found if one["until"] is None or one["until"] > now]


def rotated(secrets: list[SecretDocument], fresh: str, now: datetime, grace_s: float) -> list[SecretDocument]:
    """Secrets after a rotation: a new one, and the earlier ones for a time of grace."""
    until = now + timedelta(seconds=grace_s)
    earlier: list[SecretDocument] = [
        {"secret": one["secret"], "until": min(one["until"] or until, until)}
        for one in secrets
        if grace_s > 0 and (one["until"] is None or one["until"] > now)
    ]
    newest: SecretDocument = {"secret": fresh, "until": None}
    return [newest, *earlier[: SECRETS_KEPT - 1]]


class Subscriptions:
    """The subscriptions of all tenants. Belongs to one event loop."""

    def __init__(self, db: Database, availability: Availability) -> None:
        self._subscriptions = db[SUBSCRIPTIONS]
        self._availability = availability

    async def create(self, subscription: SubscriptionDocument) -> None:
        """Store a new one."""
        made = {"$setOnInsert": dict(sealed(SUBSCRIPTIONS, subscription))}
        wanted = {"_id": subscription["_id"]}
        await outlast(lambda: self._subscriptions.update_one(wanted, made, upsert=True), self._availability)

    async def find(self, subscription_id: str, tenant: str) -> Document | None:
        """A subscription of this tenant."""
        query = {"_id": subscription_id, "tenant": tenant}
        return await outlast(lambda: self._subscriptions.find_one(query), self._availability)

    async def page(self, query: Mapping[str, Any], limit: int) -> list[Document]:
        """Subscriptions, oldest first."""
        return await outlast(
            lambda: self._subscriptions.find(query).sort("_id", 1).limit(limit).to_list(None), self._availability
        )

    async def change(self, subscription_id: str, tenant: str, fields: Mapping[str, Any]) -> Document | None:
        """Set fields; the subscription as it is then."""
        query = {"_id": subscription_id, "tenant": tenant}
        return await outlast(
            lambda: self._subscriptions.find_one_and_update(
                query,
                {"$set": dict(sealed(SUBSCRIPTIONS, fields, subscription_id))},
                return_document=ReturnDocument.AFTER,
            ),
            self._availability,
        )

    async def rotate(
        self, subscription_id: str, tenant: str, fresh: str, now: datetime, grace_s: float
    ) -> Document | None:
        """Put a new secret in front, let the earlier ones sign for ``grace_s`` more seconds; ``None``: no such webhook."""
        while True:
            found = await self.find(subscription_id, tenant)
            if found is None or not found.get("secrets"):
                return None
            secrets = rotated(found["secrets"], fresh, now, grace_s)
            query = {"_id": subscription_id, "tenant": tenant, "updated_at": found["updated_at"]}
            changed_at = max(
                now, found["updated_at"] + timedelta(milliseconds=1)
            )  # never the same twice: it is compared
            fields = {"secrets": secrets, "updated_at": changed_at}
            change = {"$set": sealed(SUBSCRIPTIONS, fields, subscription_id)}
            changed = await outlast(
                lambda q=query, c=change: self._subscriptions.find_one_and_update(  # type: ignore[misc]
                    q, c, return_document=ReturnDocument.AFTER
                ),
                self._availability,
            )
            if changed is not None or await self._has(subscription_id, fresh):
                return changed or await self.find(subscription_id, tenant)

    async def delete(self, subscription_id: str, tenant: str) -> bool:
        """Remove one; whether it was there."""
        query = {"_id": subscription_id, "tenant": tenant}
        result = await outlast(lambda: self._subscriptions.delete_one(query), self._availability)
        return bool(result.deleted_count)

    async def of_scopes(self, keys: Collection[str]) -> list[SubscriptionDocument]:
        """The active subscriptions to any of these (:func:`scope_keys`)."""
        query = {"scope_key": {"$in": [*keys]}, "state": SubscriptionState.ACTIVE.value}
        found: Any = await outlast(lambda: self._subscriptions.find(query).to_list(None), self._availability)
        return found  # type: ignore[no-any-return]

    async def by_id(self, ids: Collection[str]) -> dict[str, SubscriptionDocument]:
        """Subscriptions by their ids; those that are gone are absent."""
        query = {"_id": {"$in": [*ids]}}
        found: Any = await outlast(lambda: self._subscriptions.find(query).to_list(None), self._availability)
        return {one["_id"]: one for one in found}

    async def disable(self, subscription_id: str, reason: str, now: datetime) -> None:
        """Its receiver is gone: nothing is sent there any more until somebody resumes it."""
        change = {"state": SubscriptionState.DISABLED.value, "disabled_reason": reason, "updated_at": now}
        await outlast(
            lambda: self._subscriptions.update_one({"_id": subscription_id}, {"$set": change}), self._availability
        )

    async def _has(self, subscription_id: str, secret: str) -> bool:
        """Whether a rotation whose answer was lost has happened."""
        query = {"_id": subscription_id, "secrets.0.secret": secret}
        return await outlast(lambda: self._subscriptions.find_one(query, {"_id": 1}), self._availability) is not None
