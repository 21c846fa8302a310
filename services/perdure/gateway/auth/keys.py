"""The authenticator of API keys.

Contract: a key that was looked up is believed for ``FRESH_S`` seconds, so that a revoked key is refused at most that much later.
While the database does not answer, a key that is not fresh is answered 503: nobody is let in on old knowledge.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from time import monotonic
from typing import Final

from pymongo.errors import PyMongoError

from perdure.chassis.clock import now
from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import Caller, CallerKind
from perdure.gateway.auth.credentials import Credentials, Refusal
from perdure.gateway.http.problems import store_unavailable
from perdure.registry.api_keys import USED_EVERY, ApiKeys, is_key_of, read_key, scopes_of_key, subject_of_key, why_dead
from perdure.schemas.key_documents import ApiKeyDocument

log = logger(__name__)

FRESH_S: Final = 3.0
REMEMBERED: Final = 4_096
"""Ids that are remembered, also of keys that do not exist."""
PREFIX: Final = "pk_"
WRONG: Final = Refusal("The API key is not valid: it is unknown, or mistyped.")


class KeyAuthenticator:
    """Knows callers by their API keys."""

    def __init__(self, keys: ApiKeys, timeout_s: float, *, foreign: bool = False) -> None:
        """``timeout_s``: how long a request waits for the database; ``foreign``: the project's handlers read ``x-api-key`` too."""
        self._foreign = foreign
        self._keys = keys
        self._timeout_s = timeout_s
        self._seen: OrderedDict[str, tuple[float, ApiKeyDocument | None]] = OrderedDict()
        self._noting: set[asyncio.Task[None]] = set()

    async def __call__(self, credentials: Credentials) -> Caller | Refusal | None:
        """The caller of a key in ``x-api-key``, or in ``Authorization: Bearer`` if it begins with ``pk_``."""
        text = credentials.api_key
        if text is None and (credentials.bearer or "").startswith(PREFIX):
            text = credentials.bearer
        if text is None or (self._foreign and not text.startswith(PREFIX)):
            return None
        parts = read_key(text)
        if parts is None:
            return WRONG
        key = await self._key(parts.id)
        if key is None or not is_key_of(key, parts.secret):
            return WRONG
        if (reason := why_dead(key, now())) is not None:
            return Refusal(f"The API key {key['_id']} {reason}.")
        self._note_use(key)
        return Caller(
            tenant=key["tenant"],
            subject=subject_of_key(key),
            scopes=scopes_of_key(key),
            kind=CallerKind.KEY,
            details={"key_id": key["_id"]},
        )

    async def _key(self, id_: str) -> ApiKeyDocument | None:
        """A key, as it was at most ``FRESH_S`` seconds ago."""
        seen = self._seen.get(id_)
        if seen is not None and monotonic() - seen[0] < FRESH_S:
            return seen[1]
        looked = monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                key = await self._keys.find(id_)
        except TimeoutError:
            raise store_unavailable() from None
        self._seen[id_] = (looked, key)
        self._seen.move_to_end(id_)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return key

    def _note_use(self, key: ApiKeyDocument) -> None:
        """Write down that a key is used, beside the request and seldom."""
        moment = now()
        if key["last_used"] is not None and moment - key["last_used"] < USED_EVERY:
            return
        key["last_used"] = moment
        task = asyncio.create_task(self._write_use(key["_id"]))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _write_use(self, id_: str) -> None:
        try:
            await self._keys.used(id_, now())
        except PyMongoError as error:
            log.warning("gateway.key_use_not_noted", key=id_, reason=str(error))

    async def close(self) -> None:
        """Give up what is not written yet."""
        for task in self._noting:
            task.cancel()
        await asyncio.gather(*self._noting, return_exceptions=True)
