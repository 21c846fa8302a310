"""Waiting for what comes of a run: ``GET .../join``, ``POST .../runs/wait``.

Contract: with a time limit the answer is 202 when the limit passes first; without one it stays open (``perdure.gateway.streams.
open_answer``). A client that goes away changes nothing, unless it asked that its run be cancelled then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.chassis.kafka.producer import Producer
from perdure.gateway.auth.caller import caller_of
from perdure.gateway.http.requests import query_bool, query_choice, query_float
from perdure.gateway.http.responses import json_response
from perdure.gateway.resources.named import require_run, unknown_run
from perdure.gateway.resources.runs.leaving import cancel_left
from perdure.gateway.resources.runs.views import locations, run_view
from perdure.gateway.resources.states import States, questions
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.gateway.streams.open_answer import Closing, open_answer
from perdure.gateway.streams.watch import INTERVAL_S, RunWatch
from perdure.schemas.documents import RunStatus
from perdure.schemas.scopes import Scope

Document = Mapping[str, Any]


class Joiner:
    """Waits for runs and for threads, and answers their values."""

    def __init__(
        self,
        store: Store,
        states: States,
        producer: Producer,
        quotas: Quotas,
        *,
        ended: RunWatch,
        at_rest: RunWatch,
        timeout_s: float,
        heartbeat_s: float,
    ) -> None:
        self._store = store
        self._states = states
        self._producer = producer
        self._quotas = quotas
        self._ended = ended
        """Waits for runs to end."""
        self._at_rest = at_rest
        """Waits for threads to come to rest."""
        self._timeout_s = timeout_s
        """The largest time limit of a request, in seconds."""
        self._heartbeat_s = heartbeat_s

    async def join(self, request: web.Request) -> web.StreamResponse:
        """Answer the values that the run which the path names, or with ``follow=thread`` its thread, ends with."""
        follow = query_choice(request, "follow", ["run", "thread"]) == "thread"
        cancel = query_bool(request, "cancel_on_disconnect")
        if cancel:
            caller_of(request).require(Scope.RUNS_WRITE)
        timeout_s = query_float(request, "timeout", self._timeout_s, high=self._timeout_s)
        run = await require_run(self._store, request)
        if "timeout" not in request.query and not await self._is_over(run, follow=follow):
            return await self.open(request, run, locations(run), cancel=cancel)
        with self._quotas.watcher(run["tenant"]):
            last = await self._last(run, timeout_s, follow=follow)
        if last is not None:
            return json_response(await self._outcome(last), headers=locations(last))
        chain = (await self._store.chains([run]))[run["_id"]]
        newest = (
            (await self._store.run(chain["last_run_id"], run["thread_id"], run["tenant"]) or run) if follow else run
        )
        headers = {**locations(newest), "Retry-After": "1"}
        return json_response(run_view(newest, None), status=202, headers=headers)

    async def open(
        self, request: web.Request, run: Document, headers: Mapping[str, str], *, cancel: bool
    ) -> web.StreamResponse:
        """Answer 200 now, and the values when they are there."""
        follow = query_choice(request, "follow", ["run", "thread"]) == "thread"

        async def values() -> Any:
            last = await self._last(run, None, follow=follow)
            if last is None:
                raise Closing
            return await self._outcome(last)

        async def left() -> None:
            await cancel_left(self._store, self._producer, run)

        with self._quotas.watcher(run["tenant"]):
            return await open_answer(
                request, values, headers=headers, heartbeat_s=self._heartbeat_s, left=left if cancel else None
            )

    async def _is_over(self, run: Document, *, follow: bool) -> bool:
        """Whether there is nothing to wait for: the answer then has a status, and names the last run."""
        if follow:
            return bool(await self._store.at_rest([run["thread_id"]]))
        return not RunStatus(run["status"]).active

    async def _last(self, run: Document, timeout_s: float | None, *, follow: bool) -> Document | None:
        """The run that the wait was for, once it has ended; ``None`` when the time is over or this gateway ends."""
        if follow:
            return await self._last_of_thread(run, timeout_s)
        if RunStatus(run["status"]).active and not await self._ended.wait(run["_id"], run["thread_id"], timeout_s):
            return None
        return await self._again(run)

    async def _last_of_thread(self, run: Document, timeout_s: float | None) -> Document | None:
        """Wait until no run of the thread is active and the thread waits for nothing; its last run."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s

        def rest() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        while await self._at_rest.wait(run["thread_id"], run["thread_id"], rest()):
            now_run, thread = await self._again(run), await self._store.thread(run["thread_id"], run["tenant"])
            # Run and thread are two documents: the thread's may not say yet how the run ended.
            if thread is not None and not RunStatus(now_run["status"]).active and thread["seq"] >= now_run["ended_seq"]:
                last = await self._store.run(str(thread["ended_run_id"]), run["thread_id"], run["tenant"])
                return last or now_run
            await asyncio.sleep(min(INTERVAL_S, INTERVAL_S if (left := rest()) is None else left))
        return None

    async def _again(self, run: Document) -> Document:
        """The run as it is now, also one that was undone: its values are those before it.

        Raises:
            RequestProblem: ``unknown-run``: it was removed meanwhile.

        """
        found = await self._store.run_even_deleted(run["_id"], run["thread_id"], run["tenant"])
        if found is None:
            raise unknown_run(run["thread_id"], run["_id"])
        return found

    async def _outcome(self, run: Document) -> Any:
        """The values that a run ended with, and its error or interrupts as the Agent Server says them."""
        head, thread_id = run.get("head"), run["thread_id"]
        reading = self._states.at(thread_id, head) if head else self._states.newest(thread_id)
        state = await self._store.patiently(reading)
        values = state["values"] if state else None
        shown = dict(values) if isinstance(values, dict) else {"values": values} if values is not None else {}
        if run["status"] in {RunStatus.ERROR, RunStatus.TIMEOUT}:
            error = run.get("error") or {}
            name = str(error.get("type") or run["status"]).rpartition(".")[2]  # as the Agent Server: without its module
            shown["__error__"] = {"error": name, "message": error.get("message", "")}
        elif run["status"] == RunStatus.INTERRUPTED:
            shown["__interrupt__"] = questions(run.get("interrupts") or (state["interrupts"] if state else []))
        return shown
