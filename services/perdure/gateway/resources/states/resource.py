"""States: the newest one, the one at a checkpoint, the history, and changing them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from perdure.gateway.auth.caller import caller_of
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import query_bool, query_int, read_body, request_digest
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, FLAG, TEXT, Parameter, Route, idempotency_key_of, page_of
from perdure.gateway.resources.named import THREAD, require_thread, unknown_checkpoint
from perdure.gateway.resources.states.history import answer_history
from perdure.gateway.resources.states.reader import States
from perdure.gateway.resources.states.updating import StateUpdates, Update
from perdure.gateway.stores.idempotency import run_key
from perdure.gateway.stores.store import Store
from perdure.schemas import http, state_http
from perdure.schemas.http import HistoryRequest, StateAtCheckpoint
from perdure.schemas.scopes import Scope
from perdure.schemas.state_http import StateUpdate

NAMESPACE = Parameter("checkpoint_ns", TEXT, "The namespace of a subgraph; the root's is empty.")
SUBGRAPHS = Parameter("subgraphs", FLAG, "Include the states of subgraphs in the tasks.")
LIMIT_OF_TEN = page_of(10, 1000)
KEY = idempotency_key_of(
    "The same key with the same request answers the checkpoint that it made, with `Idempotent-Replayed: true`."
)
UPDATE = (
    "unknown-checkpoint",
    "unknown-graph",
    "thread-busy",
    "update-pending",
    "update-unknown",
    "no-graph",
    "update-refused",
    "idempotency-conflict",
    "not-ready",
    "no-worker",
)
"""Problems of a change of a state."""


class StatesResource:
    """The newest state of a thread, the state at a checkpoint, the history, updates."""

    def __init__(self, store: Store, states: States, updates: StateUpdates, *, page: int) -> None:
        self._store = store
        self._states = states
        self._updates = updates
        self._page = page
        """States in a history that names no limit."""

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "GET", "/threads/{thread_id}/state", self.state, "getState", "The newest state", "States",
                {200: http.ThreadState},
                parameters=(Parameter("checkpoint_id", TEXT, "The state at this checkpoint instead."), NAMESPACE, SUBGRAPHS),
                problems=(*THREAD, "unknown-checkpoint"), scope=Scope.STATES_READ,
            ),
            Route(
                "POST", "/threads/{thread_id}/state", self.update, "updateState",
                "Change the state, as if a node had written it; the thread must be at rest", "States",
                {200: state_http.StateUpdated}, state_http.StateUpdate, (KEY,), (*BODY, *THREAD, *UPDATE),
                scope=Scope.STATES_WRITE,
            ),
            Route(
                "POST", "/threads/{thread_id}/state/checkpoint", self.state_at_checkpoint, "getStateAtCheckpointPost",
                "The state at a checkpoint, also of a subgraph", "States", {200: http.ThreadState}, http.StateAtCheckpoint,
                problems=(*BODY, *THREAD, "unknown-checkpoint"), scope=Scope.STATES_READ,
            ),
            Route(
                "GET", "/threads/{thread_id}/state/{checkpoint_id}", self.state_at, "getStateAtCheckpoint",
                "The state at a checkpoint", "States", {200: http.ThreadState}, parameters=(NAMESPACE, SUBGRAPHS),
                problems=(*THREAD, "unknown-checkpoint"), scope=Scope.STATES_READ,
            ),
            Route(
                "GET", "/threads/{thread_id}/history", self.history, "getHistory", "Past states, newest first", "States",
                {200: (http.ThreadState,)},
                parameters=(
                    LIMIT_OF_TEN, Parameter("before", TEXT, "Only states older than this checkpoint."), NAMESPACE
                ),
                problems=THREAD, scope=Scope.STATES_READ,
            ),
            Route(
                "POST", "/threads/{thread_id}/history", self.history_post, "searchHistory", "Past states, newest first",
                "States", {200: (http.ThreadState,)}, http.HistoryRequest, problems=(*BODY, *THREAD),
                scope=Scope.STATES_READ,
            ),
        )
        # fmt: on

    async def state(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/state``."""
        subgraphs = query_bool(request, "subgraphs")
        return await self._state(request, _id(request, "checkpoint_id"), _ns(request), subgraphs=subgraphs)

    async def state_at(self, request: web.Request) -> web.Response:
        """``GET /threads/{thread_id}/state/{checkpoint_id}``."""
        return await self._state(
            request,
            _text("path:checkpoint_id", request.match_info["checkpoint_id"]),
            _ns(request),
            subgraphs=query_bool(request, "subgraphs"),
        )

    async def state_at_checkpoint(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/state/checkpoint``."""
        wanted, _ = await read_body(request, StateAtCheckpoint)
        checkpoint = wanted.checkpoint
        return await self._state(
            request, checkpoint.checkpoint_id, checkpoint.checkpoint_ns or "", subgraphs=wanted.subgraphs
        )

    async def history(self, request: web.Request) -> web.StreamResponse:
        """``GET /threads/{thread_id}/history``."""
        page = self._page
        limit = query_int(request, "limit", page, low=1, high=1000)
        return await self._history(request, limit, _id(request, "before"), _ns(request), None)

    async def history_post(self, request: web.Request) -> web.StreamResponse:
        """``POST /threads/{thread_id}/history``."""
        wanted, _ = await read_body(request, HistoryRequest)
        ns = wanted.checkpoint.checkpoint_ns if wanted.checkpoint else None
        return await self._history(request, wanted.limit, _before(wanted.before), ns or "", wanted.metadata)

    async def update(self, request: web.Request) -> web.Response:
        """``POST /threads/{thread_id}/state``."""
        wanted, body = await read_body(request, StateUpdate)
        key = run_key(request)
        thread = await require_thread(self._store, request)
        place = wanted.checkpoint
        update = Update(
            supersteps=[[{"values": body.get("values"), "as_node": wanted.as_node}]],
            checkpoint_ns=(place.checkpoint_ns if place else None) or "",
            checkpoint_id=(place.checkpoint_id if place else None) or wanted.checkpoint_id,
            checkpoint_map=place.checkpoint_map if place else None,
            key=(key, request_digest(request.path, body)) if key is not None else None,
            nbytes=request.content_length or 0,
            user=caller_of(request).auth_user,
        )
        done = await self._updates.apply(thread, update)
        named = done.checkpoint
        answer = {"checkpoint": named, "configurable": named, "checkpoint_id": named["checkpoint_id"]}
        return json_response(answer, headers={"Idempotent-Replayed": "true"} if done.replayed else None)

    async def _state(
        self, request: web.Request, checkpoint_id: str | None, ns: str, *, subgraphs: bool
    ) -> web.Response:
        thread = await require_thread(self._store, request)
        thread_id, head = str(thread["_id"]), thread.get("head")
        if checkpoint_id is not None:
            found = await self._store.patiently(self._states.at(thread_id, checkpoint_id, ns, subgraphs=subgraphs))
            if found is None:
                raise unknown_checkpoint(thread_id, checkpoint_id)
            return json_response(found)
        floor = head if isinstance(head, str) and not ns else None
        found = await self._store.patiently(self._states.newest(thread_id, ns, floor=floor, subgraphs=subgraphs))
        return json_response(found or _nothing())

    async def _history(
        self, request: web.Request, limit: int, before: str | None, ns: str, metadata: dict[str, Any] | None
    ) -> web.StreamResponse:
        thread = await require_thread(self._store, request)
        states = self._states.history(str(thread["_id"]), ns, limit=limit, before=before, metadata=metadata)
        return await answer_history(request, self._store, states)


def _nothing() -> dict[str, Any]:
    """The state of a thread before its first checkpoint."""
    return {
        "values": {},
        "next": [],
        "tasks": [],
        "checkpoint": None,
        "metadata": {},
        "created_at": None,
        "parent_checkpoint": None,
        "interrupts": [],
        "waits": [],
    }


def _ns(request: web.Request) -> str:
    return _text("query:checkpoint_ns", request.query.get("checkpoint_ns", ""))


def _id(request: web.Request, name: str) -> str | None:
    return _text(f"query:{name}", request.query[name]) if request.query.get(name) else None


def _text(pointer: str, text: str) -> str:
    if any(character < " " for character in text):
        raise invalid(pointer, "holds a control character")
    return text


def _before(before: str | dict[str, Any] | None) -> str | None:
    """``before`` names a checkpoint by id, as a checkpoint, or as a config that holds one."""
    if before is None or isinstance(before, str):
        return before
    inner = before.get("configurable")
    found = (inner if isinstance(inner, dict) else before).get("checkpoint_id")
    if not isinstance(found, str):
        raise invalid("/before", "names no checkpoint_id")
    return _text("/before", found)
