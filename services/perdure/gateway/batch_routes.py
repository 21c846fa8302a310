"""The rows of the route table about batches."""

from __future__ import annotations

from perdure.gateway.handlers import batches
from perdure.gateway.http.route import BODY, CURSOR, TEXT, Parameter, Route, idempotency_key_of, page_of
from perdure.schemas import batch_http

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

# fmt: off
BATCHES: tuple[Route, ...] = (
    Route(
        "POST", "/batches", batches.create, "createBatch",
        "Run a graph over many inputs: JSON with `items`, or an upload of `application/x-ndjson` (also gzip), one item a line",
        "Batches", {202: batch_http.Batch}, batch_http.BatchCreate, (KEY, *OPTIONS),
        (
            *BODY, "bad-request", "unknown-graph", "not-ready", "idempotency-conflict", "batch-too-large", "upload-lost",
            "upload-stalled",
        ),
    ),
    Route(
        "GET", "/batches", batches.list_batches, "listBatches", "Batches, newest first", "Batches",
        {200: batch_http.BatchPage},
        parameters=(
            page_of(50, 1000), CURSOR,
            Parameter("status", {"enum": ["pending", "running", "paused", "cancelling", "completed", "cancelled"]}),
        ),
    ),
    Route(
        "GET", "/batches/{batch_id}", batches.get, "getBatch", "A batch: totals by status, rate, time left", "Batches",
        {200: batch_http.Batch}, problems=KNOWN,
    ),
    Route(
        "GET", "/batches/{batch_id}/items", batches.items, "listBatchItems", "Items of a batch, in their order", "Batches",
        {200: batch_http.BatchItemPage}, parameters=(page_of(100, 1000), CURSOR, ITEM_STATUS), problems=KNOWN,
    ),
    Route(
        "GET", "/batches/{batch_id}/results", batches.results, "getBatchResults",
        "Results as NDJSON, also while it runs: number, ref, status, thread, run, attempts, values or error", "Batches",
        {200: "`application/x-ndjson`, one item a line, those that have ended unless `status` names others."},
        parameters=(
            ITEM_STATUS, Parameter("after", {"type": "integer", "minimum": 0}, "Only items with a higher number."),
            Parameter("values", {"enum": ["true", "false"], "default": "true"}, "Whether to read the values."),
        ),
        problems=KNOWN,
    ),
    Route(
        "POST", "/batches/{batch_id}/pause", batches.pause, "pauseBatch", "Start no further item; what runs goes on",
        "Batches", {200: batch_http.Batch}, problems=STATUS,
    ),
    Route(
        "POST", "/batches/{batch_id}/resume", batches.resume, "resumeBatch", "Go on; the failure threshold counts anew",
        "Batches", {200: batch_http.Batch}, problems=STATUS,
    ),
    Route(
        "POST", "/batches/{batch_id}/cancel", batches.cancel, "cancelBatch", "Cancel everything that has not ended",
        "Batches", {200: batch_http.Batch}, problems=STATUS,
    ),
    Route(
        "POST", "/batches/{batch_id}/redrive", batches.redrive, "redriveBatch",
        "Start failed items again, from their last checkpoints", "Batches", {202: batch_http.Batch},
        batch_http.BatchRedrive, problems=(*BODY, *STATUS, "nothing-to-redrive"),
    ),
)
# fmt: on
