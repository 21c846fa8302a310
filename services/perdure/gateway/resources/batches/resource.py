"""Batches: upload, see, download, pause, resume, cancel, redrive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import query_choice, query_int, read_body
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import BODY, CURSOR, TEXT, Parameter, Plain, Route, idempotency_key_of, page_of
from perdure.gateway.http.thread_ids import shown
from perdure.gateway.resources.batches.creating import BatchCreator
from perdure.gateway.resources.batches.results import Results
from perdure.gateway.resources.batches.store import BatchStore
from perdure.gateway.resources.batches.views import batch_view, item_view, location_of
from perdure.schemas import batch_http
from perdure.schemas.batch_documents import ENDED_ITEMS, BatchStatus, ItemStatus
from perdure.schemas.batch_http import BatchRedrive
from perdure.schemas.scopes import Scope

log = logger(__name__)

MAX_NUMBER: Final = 10**9
SEEN: Final = [status.value for status in BatchStatus if status is not BatchStatus.UPLOADING]
ITEM_STATUSES: Final = [status.value for status in ItemStatus]

KEY = idempotency_key_of(
    "The same key with the same upload answers the batch that it made, with `Idempotent-Replayed: true`."
)
ITEM_STATUS = Parameter(
    "status",
    {"type": "array", "items": {"enum": ["waiting", "started", "interrupted", "succeeded", "failed", "cancelled"]}},
    "Only items in one of these.",
)
OPTIONS = tuple(
    Parameter(
        name, TEXT if name in ("assistant_id", "metadata", "config", "context") else {}, f"Of an NDJSON upload: {what}"
    )
    for name, what in {
        "assistant_id": "the graph.",
        "concurrency": "items that run at once.",
        "max_attempts": "how often a failed item is tried.",
        "failure_threshold": "failures that are allowed, a number or a share.",
        "metadata": "JSON.",
        "config": "JSON.",
        "context": "JSON.",
        "paused": "wait for a resume.",
    }.items()
)
KNOWN = ("unknown-batch",)
STATUS = ("unknown-batch", "batch-status")

Document = dict[str, Any]


class BatchesResource:
    """Batches: upload, see, download, pause, resume, cancel, redrive."""

    def __init__(self, batches: BatchStore, creator: BatchCreator, results: Results) -> None:
        self._batches = batches
        self._creator = creator
        self._results = results

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/batches", self.create, "createBatch",
                "Run a graph over many inputs: JSON with `items`, or an upload of `application/x-ndjson` (also gzip), "
                "one item a line",
                "Batches", {202: batch_http.Batch}, batch_http.BatchCreate, (KEY, *OPTIONS),
                (
                    *BODY, "bad-request", "unknown-graph", "not-ready", "idempotency-conflict", "batch-too-large", "upload-lost",
                    "upload-stalled",
                ), scope=Scope.BATCHES_WRITE,
            ),
            Route(
                "GET", "/batches", self.list_batches, "listBatches", "Batches, newest first", "Batches",
                {200: batch_http.BatchPage},
                parameters=(
                    page_of(50, 1000), CURSOR,
                    Parameter("status", {"enum": ["pending", "running", "paused", "cancelling", "completed", "cancelled"]}),
                ), scope=Scope.BATCHES_READ,
            ),
            Route(
                "GET", "/batches/{batch_id}", self.get, "getBatch", "A batch: totals by status, rate, time left", "Batches",
                {200: batch_http.Batch}, problems=KNOWN, scope=Scope.BATCHES_READ,
            ),
            Route(
                "GET", "/batches/{batch_id}/items", self.items, "listBatchItems", "Items of a batch, in their order", "Batches",
                {200: batch_http.BatchItemPage}, parameters=(page_of(100, 1000), CURSOR, ITEM_STATUS), problems=KNOWN,
                scope=Scope.BATCHES_READ,
            ),
            Route(
                "GET", "/batches/{batch_id}/results", self.results, "getBatchResults",
                "Results as NDJSON, also while it runs: number, ref, status, thread, run, attempts, values or error", "Batches",
                {200: Plain("One item a line, those that have ended unless `status` names others.", TEXT, "application/x-ndjson")},
                parameters=(
                    ITEM_STATUS, Parameter("after", {"type": "integer", "minimum": 0}, "Only items with a higher number."),
                    Parameter("values", {"enum": ["true", "false"], "default": "true"}, "Whether to read the values."),
                ),
                problems=KNOWN, scope=Scope.BATCHES_READ,
            ),
            Route(
                "POST", "/batches/{batch_id}/pause", self.pause, "pauseBatch", "Start no further item; what runs goes on",
                "Batches", {200: batch_http.Batch}, problems=STATUS, scope=Scope.BATCHES_WRITE,
            ),
            Route(
                "POST", "/batches/{batch_id}/resume", self.resume, "resumeBatch", "Go on; the failure threshold counts anew",
                "Batches", {200: batch_http.Batch}, problems=STATUS, scope=Scope.BATCHES_WRITE,
            ),
            Route(
                "POST", "/batches/{batch_id}/cancel", self.cancel, "cancelBatch", "Cancel everything that has not ended",
                "Batches", {200: batch_http.Batch}, problems=STATUS, scope=Scope.BATCHES_WRITE,
            ),
            Route(
                "POST", "/batches/{batch_id}/redrive", self.redrive, "redriveBatch",
                "Start failed items again, from their last checkpoints", "Batches", {202: batch_http.Batch},
                batch_http.BatchRedrive, problems=(*BODY, *STATUS, "nothing-to-redrive"), scope=Scope.BATCHES_WRITE,
            ),
        )
        # fmt: on

    async def create(self, request: web.Request) -> web.Response:
        """``POST /batches``."""
        return await self._creator.create(request)

    async def list_batches(self, request: web.Request) -> web.Response:
        """``GET /batches``."""
        limit = query_int(request, "limit", 50, low=1, high=1000)
        status = query_choice(request, "status", SEEN)
        found = await self._batches.page(tenant_of(request), status, limit + 1, request.query.get("cursor"))
        cursor = found[limit - 1]["_id"] if len(found) > limit else None
        return json_response({"items": [batch_view(batch) for batch in found[:limit]], "cursor": cursor})

    async def get(self, request: web.Request) -> web.Response:
        """``GET /batches/{batch_id}``."""
        return json_response(batch_view(await self._require(request)))

    async def items(self, request: web.Request) -> web.Response:
        """``GET /batches/{batch_id}/items``."""
        limit = query_int(request, "limit", 100, low=1, high=1000)
        after = query_int(request, "cursor", 0, low=0, high=MAX_NUMBER)
        statuses = _statuses(request)
        batch = await self._require(request)
        found = await self._batches.items(batch, statuses, limit + 1, after)
        cursor = str(found[limit - 1]["number"]) if len(found) > limit else None
        return json_response({"items": [item_view(batch, item) for item in found[:limit]], "cursor": cursor})

    async def results(self, request: web.Request) -> web.StreamResponse:
        """``GET /batches/{batch_id}/results``."""
        after = query_int(request, "after", 0, low=0, high=MAX_NUMBER)
        statuses = _statuses(request) or [status.value for status in ENDED_ITEMS]
        with_values = query_choice(request, "values", ["true", "false"]) != "false"
        batch = await self._require(request)
        name = f'attachment; filename="{batch["_id"]}.ndjson"'
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Content-Disposition": name})
        await response.prepare(request)
        try:
            async for lines in self._results.lines(batch, statuses, after, values=with_values):
                await response.write(shown(request, lines))
            await response.write_eof()
        except ConnectionError:
            log.info("batch.download_cut", batch_id=batch["_id"])
        except Exception:
            # The answer has begun: that it is not complete can only be told by cutting it off.
            log.exception("batch.download_failed", batch_id=batch["_id"])
            if request.transport is not None:
                request.transport.abort()
        return response

    async def pause(self, request: web.Request) -> web.Response:
        """``POST /batches/{batch_id}/pause``."""
        return await self._asked(request, self._batches.pause)

    async def resume(self, request: web.Request) -> web.Response:
        """``POST /batches/{batch_id}/resume``."""
        return await self._asked(request, self._batches.resume)

    async def cancel(self, request: web.Request) -> web.Response:
        """``POST /batches/{batch_id}/cancel``."""
        return await self._asked(request, self._batches.cancel)

    async def redrive(self, request: web.Request) -> web.Response:
        """``POST /batches/{batch_id}/redrive``."""
        wanted, _ = await read_body(request, BatchRedrive)
        found = await self._batches.redrive(request.match_info["batch_id"], tenant_of(request), wanted.statuses)
        return json_response(batch_view(found), status=202, headers=location_of(found))

    async def _asked(self, request: web.Request, ask: Callable[[str, str], Awaitable[Document]]) -> web.Response:
        return json_response(batch_view(await ask(request.match_info["batch_id"], tenant_of(request))))

    async def _require(self, request: web.Request) -> Document:
        return await self._batches.require(request.match_info["batch_id"], tenant_of(request))


def _statuses(request: web.Request) -> list[str]:
    wanted = [name for text in request.query.getall("status", []) for name in text.split(",")]
    for name in wanted:
        if name not in ITEM_STATUSES:
            raise invalid("query:status", f"{name!r} is not one of {', '.join(ITEM_STATUSES)}")
    return wanted
