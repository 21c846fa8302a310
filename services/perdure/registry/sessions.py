"""Sessions, tickets and sign-ins under way: made with a secret that only the browser has, found by the secret's digest.

Contract: a secret has 256 random bits. A ticket and a sign-in are taken once. What has expired is not found, and is removed when
something new is stored.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, cast

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.registry.api_keys import scopes_of_key, subject_of_key
from perdure.schemas.key_documents import ApiKeyDocument
from perdure.schemas.session_documents import SESSIONS, CallerDocument, SessionDocument

SIGN_IN_LASTS: Final = timedelta(minutes=10)
TICKET_LASTS: Final = timedelta(minutes=30)


class SessionKind(StrEnum):
    """What a secret is for."""

    SESSION = "session"
    TICKET = "ticket"
    SIGN_IN = "sign_in"


class Sessions:
    """The sessions of all tenants."""

    def __init__(self, database: Database) -> None:
        self._sessions = database[SESSIONS]

    async def open(self, caller: CallerDocument, lasts: timedelta) -> str:
        """Store a session; returns its secret."""
        return await self._store(SessionKind.SESSION, lasts, {"caller": caller})

    async def issue_ticket(self, caller: CallerDocument) -> str:
        """Store a ticket that opens one session; returns its secret."""
        return await self._store(SessionKind.TICKET, TICKET_LASTS, {"caller": caller})

    async def begin(self, state: str, nonce: str, verifier: str, then: str) -> str:
        """Store a sign-in at an issuer; returns its secret."""
        content = {"state": state, "nonce": nonce, "verifier": verifier, "then": then}
        return await self._store(SessionKind.SIGN_IN, SIGN_IN_LASTS, content)

    async def find(self, secret: str) -> SessionDocument | None:
        """The session of a secret."""
        query = {"_id": _id(SessionKind.SESSION, secret), "expires_at": {"$gt": now()}}
        return cast("SessionDocument | None", await self._sessions.find_one(query))

    async def take(self, kind: SessionKind, secret: str) -> SessionDocument | None:
        """What a secret stands for, which does not exist afterwards; ``None`` if there is nothing, or somebody was first."""
        query = {"_id": _id(kind, secret), "expires_at": {"$gt": now()}}
        return cast("SessionDocument | None", await self._sessions.find_one_and_delete(query))

    async def _store(self, kind: SessionKind, lasts: timedelta, content: dict[str, Any]) -> str:
        secret, moment = secrets.token_urlsafe(32), now()
        await self._sessions.delete_many({"expires_at": {"$lte": moment}})
        await self._sessions.insert_one(
            {"_id": _id(kind, secret), "created_at": moment, "expires_at": moment + lasts, **content}
        )
        return secret


def caller_of_key(key: ApiKeyDocument) -> CallerDocument:
    """Whom a session acts for that the holder of an API key opened."""
    return {
        "tenant": key["tenant"],
        "subject": subject_of_key(key),
        "scopes": sorted(scopes_of_key(key)),
        "details": {"key_id": key["_id"]},
        "key_id": key["_id"],
    }


def _id(kind: SessionKind, secret: str) -> str:
    return f"{kind}:{hashlib.sha256(secret.encode()).hexdigest()}"
