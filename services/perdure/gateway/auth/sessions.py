"""Sessions of people as callers: a cookie that only this gateway's pages send.

Contract: the cookie is ``__Host-perdure-session``: Secure, HttpOnly, ``SameSite=Strict``, without a domain. It counts in a request
that changes something only if a page of this gateway sent the request. A session acts with what its caller had when it was
opened, and ends after its time, with a sign-out, and with the API key that opened it.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from aiohttp import web

from perdure.chassis.clock import now
from perdure.gateway.auth.caller import Caller, CallerKind
from perdure.gateway.auth.credentials import Credentials, Refusal
from perdure.gateway.http.origins import SAFE, is_own_page
from perdure.gateway.http.problems import store_unavailable
from perdure.registry.api_keys import ApiKeys, why_dead
from perdure.registry.sessions import SessionKind, Sessions
from perdure.schemas.scopes import EVERY, Scope
from perdure.schemas.session_documents import CallerDocument

COOKIE: Final = "__Host-perdure-session"
ENDED: Final = Refusal("The session has ended. Sign in at /auth/login.")


class SessionAuthenticator:
    """Opens and ends sessions, and knows callers by them."""

    def __init__(self, sessions: Sessions, keys: ApiKeys, *, lasts: timedelta, timeout_s: float) -> None:
        """``lasts``: how long a session does; ``timeout_s``: how long a request waits for the database."""
        self._sessions, self._keys = sessions, keys
        self._lasts, self._timeout_s = lasts, timeout_s

    async def __call__(self, credentials: Credentials) -> Caller | Refusal | None:
        """The caller of a session's cookie; credentials of another kind count before it."""
        secret = credentials.cookies.get(COOKIE)
        if not secret or credentials.api_key is not None or credentials.bearer is not None:
            return None
        if credentials.method not in SAFE and not is_own_page(credentials.headers):
            return Refusal("A page of another origin used the session of this gateway's console.")
        try:
            async with asyncio.timeout(self._timeout_s):
                session = await self._sessions.find(secret)
                return ENDED if session is None else await self._caller_of(session["caller"])
        except TimeoutError:
            raise store_unavailable() from None

    async def sign_in(self, caller: CallerDocument, answer: web.StreamResponse) -> None:
        """Open a session, and give its cookie to an answer."""
        secret = await self._sessions.open(caller, self._lasts)
        lasts_s = int(self._lasts.total_seconds())
        answer.set_cookie(COOKIE, secret, path="/", secure=True, httponly=True, samesite="Strict", max_age=lasts_s)

    async def sign_out(self, request: web.Request, answer: web.StreamResponse) -> None:
        """End the session of a request."""
        if secret := request.cookies.get(COOKIE):
            await self._sessions.take(SessionKind.SESSION, secret)
        answer.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")

    async def _caller_of(self, stored: CallerDocument) -> Caller | Refusal:
        if stored["key_id"] is not None:
            key = await self._keys.find(stored["key_id"])
            if key is None or why_dead(key, now()) is not None:
                return ENDED
        scopes = frozenset(Scope(name) for name in stored["scopes"] if name in EVERY)
        return Caller(stored["tenant"], stored["subject"], scopes, CallerKind.SESSION, stored["details"])


def stored_caller(caller: Caller) -> CallerDocument:
    """A caller, as a session keeps it."""
    return {
        "tenant": caller.tenant,
        "subject": caller.subject,
        "scopes": sorted(caller.scopes),
        "details": dict(caller.details),
        "key_id": caller.details.get("key_id") if caller.kind is CallerKind.KEY else None,
    }
