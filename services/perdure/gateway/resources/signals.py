"""Signals: send one to a thread, list them.

Contract: a signal is durable when :meth:`SignalStore.accept` returns, whichever way it came (as JSON over HTTP, or by mail); what
hinders its delivery after that is left to the scheduler's sweep.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from aiohttp import web
from pymongo import ASCENDING

from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.chassis.payload import pack, unpack
from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.http.cursors import cursor_of, later_than
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import (
    idempotency_key,
    query_choice,
    query_cursor,
    query_int,
    read_body,
    request_digest,
    require_payload,
)
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import AFTER, BODY, Parameter, Route, idempotency_key_of, page_of
from perdure.gateway.resources.named import THREAD, require_thread
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.registry.runs import new_id
from perdure.registry.signals import FREE, TAKEN, Signals, Stored
from perdure.schemas import http
from perdure.schemas.documents import SIGNALS, SignalDocument
from perdure.schemas.http import SignalCreate
from perdure.schemas.scopes import Scope
from perdure.schemas.waits import SIGNAL_NAME_PATTERN

log = logger(__name__)

Document = dict[str, Any]

PAGE, PAGE_LIMIT = 20, 100
SIGNAL_STATES: Final = (FREE, TAKEN)
SIGNALS_OF_KEYS: Final = UUID("f1b4b9a2-6a0c-5c0e-9d0a-3e2d0c7b8a51")
"""Namespace of the ids of signals that were sent with a key. Stored in ids: never change it."""
LISTED_PAYLOAD_BYTES: Final = 64 * 1024
KEY = idempotency_key_of("The same key with the same request answers the signal that it sent.")
_NAME = re.compile(SIGNAL_NAME_PATTERN.removesuffix("$"))


@dataclass(frozen=True, slots=True)
class Accepted:
    """A signal that is durable.

    Attributes:
        signal: As it is now, or as it was when its delivery was left to the sweep.
        replayed: It was there already, with the same id.

    """

    signal: Mapping[str, Any]
    replayed: bool


class SignalStore:
    """Signals of all tenants, each access within the store's time-out. Belongs to one event loop."""

    def __init__(self, database: Database, store: Store, signals: Signals, quotas: Quotas) -> None:
        self._documents = database[SIGNALS]
        self._store = store
        self._signals = signals
        self._quotas = quotas

    async def accept(self, signal: SignalDocument) -> Accepted:
        """Store a signal, unless one with its id is there, and offer it to the open waits of its thread.

        Raises:
            RequestProblem: ``store-unavailable``, ``quota-exceeded``.

        """
        self._store.require_available()
        await self._quotas.signal(signal["tenant"], signal["thread_id"])
        stored = await self._store.within(self._signals.store(signal))
        kept: Mapping[str, Any] = stored.signal
        return Accepted(kept if kept["offered"] else await self._deliver(stored), replayed=stored.earlier)

    async def _deliver(self, stored: Stored) -> Mapping[str, Any]:
        """Give a stored signal to the wait that it is for; the signal as it is afterwards, or as it was when that fails."""
        signal = stored.signal
        try:
            async with asyncio.timeout(self._store.timeout_s):
                if await self._signals.deliver(stored):
                    return {**signal, "offered": True}
                return await self._find(signal["_id"]) or signal
        except Exception as error:  # it is durable, so the answer is 202; the sweep offers it again
            log.warning("gateway.signal_left_to_sweep", signal_id=signal["_id"], reason=repr(error))
            return signal

    async def page(
        self, thread_id: str, *, state: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Document]:
        """Signals of a thread, oldest first."""
        query: Document = {"thread_id": thread_id}
        if state is not None:
            query["state"] = state
        if after is not None:
            query |= later_than("created_at", after)
        order = [("created_at", ASCENDING), ("_id", ASCENDING)]
        return await self._store.read(lambda: self._documents.find(query).sort(order).limit(limit + 1).to_list(None))

    async def _find(self, signal_id: str) -> Document | None:
        """A signal, without its payload."""
        return await self._store.read(lambda: self._documents.find_one({"_id": signal_id}, {"payload": 0}))


class SignalsResource:
    """Signals of a thread: send, list."""

    def __init__(self, store: Store, signals: SignalStore) -> None:
        self._store = store
        self._signals = signals

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/threads/{thread_id}/signals/{name}", self.send, "sendSignal",
                "Send a signal; it is kept until a wait of its name takes it", "Waits", {202: http.Signal}, http.SignalCreate,
                (KEY,), (*BODY, *THREAD, "signal-conflict"), scope=Scope.SIGNALS_WRITE,
            ),
            Route(
                "GET", "/threads/{thread_id}/signals", self.list_signals, "listSignals", "Signals of a thread, oldest first",
                "Waits", {200: http.SignalPage},
                parameters=(page_of(20, 100), AFTER, Parameter("state", {"enum": ["free", "taken"]})),
                problems=THREAD, scope=Scope.SIGNALS_READ,
            ),
        )
        # fmt: on

    async def send(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/signals/{name}``."""
        name = request.match_info["name"]
        if not is_signal_name(name):
            raise invalid("path:name", "must be 1 to 128 of A-Z a-z 0-9 . _ : -")
        wanted, _ = await read_body(request, SignalCreate)
        require_payload("/payload", wanted.payload)
        key = idempotency_key(request)
        thread_id = str((await require_thread(self._store, request))["_id"])
        signal = signal_document(
            tenant=tenant_of(request),
            thread_id=thread_id,
            name=name,
            payload=wanted.payload,
            key=key,
            request=request_digest(request.path, {"payload": wanted.payload}),
            moment=now(),
        )
        accepted = await self._signals.accept(signal)
        if accepted.replayed and accepted.signal["digest"] != signal["digest"]:
            raise RequestProblem(
                "signal-conflict",
                f"The Idempotency-Key was used for signal {signal['_id']!r} to thread {thread_id!r} with another name or "
                "payload. Use a new key for a new signal.",
            )
        view = signal_view(accepted.signal)
        replayed = {"Idempotent-Replayed": "true"} if accepted.replayed else {}
        return json_response(view, status=202, headers={"Location": f"/threads/{thread_id}/signals", **replayed})

    async def list_signals(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/signals``."""
        limit = query_int(request, "limit", PAGE, low=1, high=PAGE_LIMIT)
        state = query_choice(request, "state", SIGNAL_STATES)
        after = query_cursor(request, "after")
        thread_id = str((await require_thread(self._store, request))["_id"])
        found = await self._signals.page(thread_id, state=state, after=after, limit=limit)
        shown = [listed_signal(signal) for signal in found[:limit]]
        return json_response({"signals": shown, "cursor": cursor_of(found, "created_at", limit)})


def is_signal_name(text: str) -> bool:
    """Whether ``text`` may name a signal."""
    return _NAME.fullmatch(text) is not None


def signal_id(tenant: str, thread_id: str, key: str | None) -> str:
    """The id of a new signal: derived from its key, so that the same key is the same document. Never change this format."""
    return new_id() if key is None else str(uuid5(SIGNALS_OF_KEYS, f"{tenant}\0{thread_id}\0{key}"))


def signal_document(
    *, tenant: str, thread_id: str, name: str, payload: Any, key: str | None, request: str, moment: datetime
) -> SignalDocument:
    """A new signal; ``request`` is the digest of what was asked for."""
    return {
        "_id": signal_id(tenant, thread_id, key),
        "tenant": tenant,
        "thread_id": thread_id,
        "name": name,
        "payload": pack(payload).inline,
        "created_at": moment,
        "state": FREE,
        "taken_by": None,
        "offered": False,
        "digest": request,
    }


def signal_view(signal: Mapping[str, Any]) -> Document:
    """A signal as clients see it, without its payload."""
    return {
        "signal_id": signal["_id"],
        "thread_id": signal["thread_id"],
        "name": signal["name"],
        "state": signal["state"],
        "delivered": signal["state"] == TAKEN and bool(signal["offered"]),
        "wait_id": signal.get("taken_by"),
        "created_at": signal["created_at"],
    }


def listed_signal(signal: Mapping[str, Any]) -> Document:
    """A signal in a list: with its payload, unless that is large."""
    small = len(signal["payload"]) <= LISTED_PAYLOAD_BYTES
    return {**signal_view(signal), "payload": unpack(signal["payload"]) if small else None}
