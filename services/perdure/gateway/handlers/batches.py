"""Batches: upload, see, download, pause, resume, cancel, redrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import ValidationError

from perdure.chassis.clock import now
from perdure.chassis.payload import pack
from perdure.chassis.telemetry import logger
from perdure.gateway.batch_results import Results, item_view
from perdure.gateway.batch_upload import KeyTakenError, StreamDigest, Upload
from perdure.gateway.context import CONTEXT, Context
from perdure.gateway.http.gunzip import BadGzipError, opened
from perdure.gateway.http.problems import RequestProblem, invalid, invalid_fields
from perdure.gateway.http.requests import (
    idempotency_key,
    query_choice,
    query_int,
    read_body,
    request_digest,
    require_metadata,
)
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.tenants import tenant_of
from perdure.registry.batch_progress import counted, ended_of, eta_s, rate_per_s
from perdure.registry.runs import assistant_id_of, new_id
from perdure.schemas.batch_documents import ENDED_ITEMS, BatchDocument, BatchStatus, ItemStatus
from perdure.schemas.batch_http import BatchCreate, BatchOptions, BatchRedrive
from perdure.schemas.documents import GraphDocument
from perdure.schemas.problem import InvalidField

log = logger(__name__)

NDJSON: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
AS_JSON: Final = ("metadata", "config", "context")
"""Options that are JSON in the query of an upload."""
MAX_NUMBER: Final = 10**9
SEEN: Final = [status.value for status in BatchStatus if status is not BatchStatus.UPLOADING]
ITEM_STATUSES: Final = [status.value for status in ItemStatus]

Document = dict[str, Any]


async def create(request: web.Request) -> web.Response:
    """``POST /batches``: JSON with its items, or NDJSON with the options in the query."""
    if request.content_type in NDJSON:
        return await _create_of_stream(request)
    wanted, body = await read_body(request, BatchCreate)
    digest = request_digest(request.path, body)
    key = idempotency_key(request)
    if key is not None and (earlier := await _context(request).batches.of_key(tenant_of(request), key)) is not None:
        return _replayed(earlier, digest)
    upload = await _upload(request, wanted, {name: body.get(name) for name in ("config", "context")}, key)
    return await _finished(request, upload, key, lambda: digest, upload.take(wanted.items))


async def list_batches(request: web.Request) -> web.Response:
    """``GET /batches``."""
    limit = query_int(request, "limit", 50, low=1, high=1000)
    status = query_choice(request, "status", SEEN)
    found = await _context(request).batches.page(tenant_of(request), status, limit + 1, request.query.get("cursor"))
    cursor = found[limit - 1]["_id"] if len(found) > limit else None
    return json_response({"items": [view(batch) for batch in found[:limit]], "cursor": cursor})


async def get(request: web.Request) -> web.Response:
    """``GET /batches/{batch_id}``."""
    return json_response(view(await _require(request)))


async def items(request: web.Request) -> web.Response:
    """``GET /batches/{batch_id}/items``."""
    limit = query_int(request, "limit", 100, low=1, high=1000)
    after = query_int(request, "cursor", 0, low=0, high=MAX_NUMBER)
    statuses = _statuses(request)
    batch = await _require(request)
    found = await _context(request).batches.items(batch, statuses, limit + 1, after)
    cursor = str(found[limit - 1]["number"]) if len(found) > limit else None
    return json_response({"items": [item_view(batch, item) for item in found[:limit]], "cursor": cursor})


async def results(request: web.Request) -> web.StreamResponse:
    """``GET /batches/{batch_id}/results``."""
    context = _context(request)
    after = query_int(request, "after", 0, low=0, high=MAX_NUMBER)
    statuses = _statuses(request) or [status.value for status in ENDED_ITEMS]
    with_values = query_choice(request, "values", ["true", "false"]) != "false"
    batch = await _require(request)
    reading = Results(context.batches.database, context.store, context.states, context.batches)
    name = f'attachment; filename="{batch["_id"]}.ndjson"'
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Content-Disposition": name})
    await response.prepare(request)
    try:
        async for lines in reading.lines(batch, statuses, after, values=with_values):
            await response.write(lines)
        await response.write_eof()
    except ConnectionError:
        log.info("batch.download_cut", batch_id=batch["_id"])
    except Exception:
        # The answer has begun: that it is not complete can only be told by cutting it off.
        log.exception("batch.download_failed", batch_id=batch["_id"])
        if request.transport is not None:
            request.transport.abort()
    return response


async def pause(request: web.Request) -> web.Response:
    """``POST /batches/{batch_id}/pause``."""
    return await _asked(request, _context(request).batches.pause)


async def resume(request: web.Request) -> web.Response:
    """``POST /batches/{batch_id}/resume``."""
    return await _asked(request, _context(request).batches.resume)


async def cancel(request: web.Request) -> web.Response:
    """``POST /batches/{batch_id}/cancel``."""
    return await _asked(request, _context(request).batches.cancel)


async def redrive(request: web.Request) -> web.Response:
    """``POST /batches/{batch_id}/redrive``."""
    wanted, _ = await read_body(request, BatchRedrive)
    found = await _context(request).batches.redrive(request.match_info["batch_id"], tenant_of(request), wanted.statuses)
    return json_response(view(found), status=202, headers=_location(found))


def view(batch: Mapping[str, Any]) -> Document:
    """A batch as clients see it."""
    counts, moment = counted(batch["counts"]), now()
    running = batch["status"] in (BatchStatus.RUNNING, BatchStatus.CANCELLING)
    rate = rate_per_s(batch.get("samples") or (), counts, moment) if running else None
    left = eta_s(rate, counts) if running else None
    names = ("assistant_id", "graph_id", "status", "total", "concurrency", "max_attempts", "failure_threshold")
    return {
        "batch_id": batch["_id"],
        **{name: batch[name] for name in names},
        "pause_reason": batch.get("pause_reason"),
        "ended": ended_of(counts),
        "counts": counts,
        "rate_per_s": round(rate, 3) if rate is not None else None,
        "eta_s": round(left, 1) if left is not None else None,
        "eta": moment + timedelta(seconds=left) if left is not None and left < 10**9 else None,
        "redriving": "redrive" in batch,
        "metadata": batch.get("metadata") or {},
        "created_at": batch["created_at"],
        "started_at": batch.get("started_at"),
        "ended_at": batch.get("ended_at"),
    }


async def _create_of_stream(request: web.Request) -> web.Response:
    options = _options(request)
    try:
        wanted = BatchOptions.model_validate(options)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        raise invalid_fields(
            [InvalidField(pointer=f"query:{'/'.join(map(str, one['loc']))}", detail=str(one["msg"])) for one in wrong]
        ) from None
    digest = StreamDigest(options)
    chunks = digest.over(_content(request))
    key = idempotency_key(request)
    if key is not None and (earlier := await _context(request).batches.of_key(tenant_of(request), key)) is not None:
        async for _ in chunks:
            pass  # only to know whether it is the same
        return _replayed(earlier, digest.hex())
    upload = await _upload(request, wanted, options, key)
    return await _finished(request, upload, key, digest.hex, upload.read(chunks))


def _options(request: web.Request) -> Document:
    """The options in the query; those that are objects are parsed."""
    options: Document = {name: request.query[name] for name in BatchOptions.model_fields if name in request.query}
    for name in AS_JSON:
        if name in options:
            try:
                options[name] = orjson.loads(options[name])
            except orjson.JSONDecodeError as error:
                raise invalid(f"query:{name}", f"is not JSON: {error.msg}") from None
    return options


async def _content(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, decompressed; within the limit of size."""
    limit, seen = _context(request).settings.gateway_upload_limit_bytes, 0
    try:
        async for chunk in opened(_chunks(request)):
            seen += len(chunk)
            if seen > limit:
                raise RequestProblem(
                    "batch-too-large",
                    f"The upload has more than {limit} bytes (PERDURE_GATEWAY_UPLOAD_LIMIT_BYTES). Nothing was registered; "
                    "split it.",
                )
            yield chunk
    except BadGzipError as error:
        raise RequestProblem("bad-request", f"The body cannot be read: {error}. Nothing was registered.") from error


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, within the limit of time."""
    idle_s = _context(request).settings.gateway_upload_idle_s
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await request.content.readany()
        except TimeoutError:
            detail = f"Nothing came for {idle_s:g} s. Nothing was registered; send it again."
            raise RequestProblem("upload-stalled", detail) from None
        except ConnectionError as error:
            log.info("batch.upload_cut", path=request.path)
            raise RequestProblem("bad-request", "The connection was lost. Nothing was registered.") from error
        if not chunk:
            return
        yield chunk


async def _upload(request: web.Request, wanted: BatchOptions, raw: Mapping[str, Any], key: str | None) -> Upload:
    """An upload with its batch's document, as it will be seen."""
    context = _context(request)
    require_metadata(wanted.metadata)
    graph = await context.graphs.resolve(wanted.assistant_id)
    batch = _document(tenant_of(request), graph, wanted, raw)
    if key is not None:
        batch["idempotency_key"] = key
    return context.batches.upload(batch)


def _document(tenant: str, graph: GraphDocument, wanted: BatchOptions, raw: Mapping[str, Any]) -> BatchDocument:
    defaults = {name: raw[name] for name in ("config", "context") if raw.get(name) is not None}
    packed = pack(defaults)
    if packed.chunks:
        raise invalid("/config", "config and context together are larger than 1 MiB packed")
    moment = now()
    return {
        "_id": new_id(),
        "tenant": tenant,
        "graph_id": graph["_id"],
        "assistant_id": assistant_id_of(graph["_id"]),
        "graph_version": graph.get("version"),
        "metadata": wanted.metadata or {},
        "defaults": packed.inline,
        "concurrency": wanted.concurrency,
        "max_attempts": wanted.max_attempts,
        "failure_threshold": wanted.failure_threshold,
        "pause_reason": "asked for at the upload" if wanted.paused else None,
        "forgiven": 0,
        "reached": 0,
        "finished": 0,
        "samples": [],
        "outbox": [],
        "created_at": moment,
    }


async def _finished(
    request: web.Request, upload: Upload, key: str | None, digest: Callable[[], str], work: Awaitable[None]
) -> web.Response:
    """Do the work of an upload and answer; whatever prevents it, nothing is left of it."""
    try:
        await work
        batch = await upload.finish(digest() if key is not None else None)
    except KeyTakenError:
        earlier = await _context(request).batches.of_key(tenant_of(request), key or "")
        if earlier is None:
            raise
        return _replayed(earlier, digest())
    except BaseException:
        await asyncio.shield(upload.abandon())
        raise
    return json_response(view(batch), status=202, headers=_location(batch))


def _replayed(earlier: Mapping[str, Any], digest: str) -> web.Response:
    if earlier.get("idempotency_digest") != digest:
        raise RequestProblem(
            "idempotency-conflict",
            f"The Idempotency-Key was used for batch {earlier['_id']!r} with another request. Use a new key for a new request.",
            headers=_location(earlier),
        )
    return json_response(view(earlier), status=202, headers={**_location(earlier), "Idempotent-Replayed": "true"})


async def _asked(request: web.Request, ask: Callable[[str, str], Awaitable[Document]]) -> web.Response:
    return json_response(view(await ask(request.match_info["batch_id"], tenant_of(request))))


async def _require(request: web.Request) -> Document:
    return await _context(request).batches.require(request.match_info["batch_id"], tenant_of(request))


def _statuses(request: web.Request) -> list[str]:
    wanted = [name for text in request.query.getall("status", []) for name in text.split(",")]
    for name in wanted:
        if name not in ITEM_STATUSES:
            raise invalid("query:status", f"{name!r} is not one of {', '.join(ITEM_STATUSES)}")
    return wanted


def _location(batch: Mapping[str, Any]) -> dict[str, str]:
    return {"Location": f"/batches/{batch['_id']}"}


def _context(request: web.Request) -> Context:
    return request.app[CONTEXT]
