"""``POST /threads/{thread_id}/runs/{run_id}/retry``: go on with a run that failed or was parked (ADR 10).

A new run takes its place, with the same request, and goes on from the thread's last checkpoint. Each failed run is retried once,
however often it is asked for; what failed again is retried by its own id.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.payload import pack
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.responses import json_response
from perdure.gateway.resources.named import require_run, require_thread
from perdure.gateway.resources.runs.views import locations, run_view
from perdure.gateway.stores.commands import SOURCE
from perdure.gateway.stores.payloads import is_shown
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import IdempotencyTaken, Store
from perdure.registry.runs import publish_start, retry_document, retry_key
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import RunKind, RunStatus

FAILED = (RunStatus.ERROR, RunStatus.TIMEOUT, RunStatus.CANCELLED)


class Retrier:
    """Goes on with failed runs."""

    def __init__(self, store: Store, producer: Producer, quotas: Quotas) -> None:
        self._store = store
        self._producer = producer
        self._quotas = quotas

    async def retry(self, request: web.Request) -> web.Response:
        """Register the run that takes the place of a failed one; the same run when that was done before."""
        failed = await require_run(self._store, request)
        if failed.get("kind") == RunKind.UPDATE:
            raise RequestProblem(
                "run-not-failed", f"Run {failed['_id']!r} is a state update; send the update again with POST .../state."
            )
        earlier = await self._store.run_of_key(failed["tenant"], retry_key(failed["_id"]))
        if earlier is not None:
            if failed["_id"] not in earlier.get("resumes", ()):
                raise RequestProblem(
                    "idempotency-conflict",
                    f"Run {earlier['_id']!r} was started with the key {retry_key(failed['_id'])!r} and retries no run.",
                )
            chains = await self._store.chains([earlier])
            view = run_view(earlier, None, chains[earlier["_id"]])
            return json_response(view, 202, {**locations(earlier), "Idempotent-Replayed": "true"})
        if failed["status"] not in FAILED:
            raise RequestProblem(
                "run-not-failed",
                f"Run {failed['_id']!r} is {failed['status']}; only a run that failed, timed out, was cancelled or parked is "
                "retried.",
            )
        thread = await require_thread(self._store, request)
        last = thread.get("ended_run_id")
        if last != failed["_id"]:
            raise RequestProblem(
                "thread-moved-on",
                f"Thread {thread['_id']!r} has gone on with run {last!r} since; start a new run to go on from where it is.",
            )
        if await self._store.is_busy(str(thread["_id"])):
            raise RequestProblem(
                "thread-busy", f"Thread {thread['_id']!r} has an active run. Wait for it or cancel it."
            )
        try:
            payload = await self._store.kwargs(failed)
        except (ValueError, KeyError) as error:
            raise RequestProblem(
                "damaged-state",
                f"The request of run {failed['_id']!r} cannot be read ({error}); start a new run instead.",
            ) from error
        self._quotas.starts(failed["tenant"])
        await self._quotas.start(failed["tenant"], str(thread["_id"]))
        packed = await asyncio.to_thread(pack, payload)
        run = retry_document(failed, packed, now())
        try:
            await self._store.register(run, packed, None)
        except IdempotencyTaken:
            return await self.retry(request)
        publish_start(self._producer, run, StartReason.RESUMED, SOURCE)
        return json_response(run_view(run, payload if is_shown(packed) else None), 202, locations(run))
