"""API keys: made and revoked by the CLI and the gateway, looked up by the gateway.

Contract: a key is ``pk_<id>_<secret>``; the secret has 256 random bits and is stored as its SHA-256, which is enough for a value
that nobody can guess. :meth:`ApiKeys.create` and :meth:`ApiKeys.revoke` return when the change is durable.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, cast

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.schemas.key_documents import API_KEYS, ApiKeyDocument
from perdure.schemas.scopes import EVERY, Scope

SECRET_BYTES: Final = 32
ID_BYTES: Final = 10
USED_EVERY: Final = timedelta(minutes=10)
"""``last_used`` is written again after this time."""
_KEY: Final = re.compile(r"pk_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")


class KeyText(NamedTuple):
    """A key as a client sends it, in its parts."""

    id: str
    secret: str


def read_key(text: str) -> KeyText | None:
    """The parts of a key; ``None`` if the text is none."""
    found = _KEY.fullmatch(text)
    return None if found is None else KeyText(found[1], found[2])


def new_key(
    *, tenant: str, name: str, scopes: Iterable[Scope], created_by: str, expires_at: datetime | None
) -> tuple[ApiKeyDocument, str]:
    """A key's document and the key itself, which nobody can find out again."""
    id_ = base64.b32encode(secrets.token_bytes(ID_BYTES)).decode().lower()
    secret = secrets.token_urlsafe(SECRET_BYTES)
    document: ApiKeyDocument = {
        "_id": id_,
        "digest": _digest(secret),
        "tenant": tenant,
        "name": name,
        "scopes": sorted(scopes),
        "created_by": created_by,
        "created_at": now(),
        "expires_at": expires_at,
        "last_used": None,
        "revoked_at": None,
        "revoked_by": None,
    }
    return document, f"pk_{id_}_{secret}"


def is_key_of(document: ApiKeyDocument, secret: str) -> bool:
    """Whether a secret is the key's, in the same time whatever differs."""
    return hmac.compare_digest(bytes(document["digest"]), _digest(secret))


def why_dead(document: ApiKeyDocument, moment: datetime) -> str | None:
    """Why a key permits nothing any more; ``None`` while it does."""
    if document["revoked_at"] is not None:
        return f"was revoked at {document['revoked_at'].isoformat()}"
    if document["expires_at"] is not None and document["expires_at"] <= moment:
        return f"expired at {document['expires_at'].isoformat()}"
    return None


def subject_of_key(document: ApiKeyDocument) -> str:
    """What the holder of a key is called, wherever it is recorded who did something."""
    return f"key:{document['name']}"


def scopes_of_key(document: ApiKeyDocument) -> frozenset[Scope]:
    """The scopes of a key that there still are."""
    return frozenset(Scope(name) for name in document["scopes"] if name in EVERY)


def key_view(key: ApiKeyDocument) -> dict[str, Any]:
    """A key without its digest."""
    shown = {name: value for name, value in key.items() if name not in {"_id", "digest"}}
    return {"key_id": key["_id"], "state": why_dead(key, now()) or "valid", **shown}


class ApiKeys:
    """The keys of all tenants."""

    def __init__(self, database: Database) -> None:
        self._keys = database[API_KEYS]

    async def exist(self) -> bool:
        """Whether a key was ever made, revoked or not."""
        return await self._keys.find_one({}, {"_id": 1}) is not None

    async def find(self, id_: str) -> ApiKeyDocument | None:
        """A key by its id."""
        return cast("ApiKeyDocument | None", await self._keys.find_one({"_id": id_}))

    async def create(self, document: ApiKeyDocument) -> None:
        """Store a new key."""
        await self._keys.insert_one(cast("dict[str, Any]", document))

    async def list(self, tenant: str | None) -> list[ApiKeyDocument]:
        """The keys of a tenant, or of all; oldest first."""
        query = {} if tenant is None else {"tenant": tenant}
        found = await self._keys.find(query).to_list(None)
        return sorted(cast("list[ApiKeyDocument]", found), key=lambda key: (key["created_at"], key["_id"]))

    async def revoke(self, id_: str, tenant: str | None, by: str) -> ApiKeyDocument | None:
        """Revoke a key of a tenant, or of any; ``None`` if there is none. A revoked key stays as it is."""
        query: dict[str, Any] = {"_id": id_} if tenant is None else {"_id": id_, "tenant": tenant}
        change = {"$set": {"revoked_at": now(), "revoked_by": by}}
        await self._keys.update_one({**query, "revoked_at": None}, change)
        return cast("ApiKeyDocument | None", await self._keys.find_one(query))

    async def used(self, id_: str, moment: datetime) -> None:
        """Note that a key was used."""
        await self._keys.update_one({"_id": id_}, {"$max": {"last_used": moment}})


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
