"""Makes batches of requests: JSON with its items, or NDJSON with the options in the query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import ValidationError

from perdure.chassis.clock import now
from perdure.chassis.payload import pack
from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import caller_of, tenant_of
from perdure.gateway.http.gunzip import BadGzipError, opened
from perdure.gateway.http.places import Places
from perdure.gateway.http.problems import RequestProblem, invalid, invalid_fields
from perdure.gateway.http.requests import idempotency_key, read_body, request_digest, require_metadata
from perdure.gateway.http.responses import json_response
from perdure.gateway.resources.batches.store import BatchStore
from perdure.gateway.resources.batches.upload import KeyTakenError, StreamDigest, Upload
from perdure.gateway.resources.batches.views import batch_view, location_of
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.quotas import Quotas
from perdure.registry.runs import assistant_id_of, new_id
from perdure.schemas.batch_documents import BatchDocument
from perdure.schemas.batch_http import BatchCreate, BatchOptions
from perdure.schemas.documents import GraphDocument
from perdure.schemas.problem import InvalidField

log = logger(__name__)

NDJSON: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
UPLOADS_AT_ONCE: Final = 16
AS_JSON: Final = ("metadata", "config", "context")
"""Options that are JSON in the query of an upload."""

Document = dict[str, Any]


class BatchCreator:
    """Makes batches of requests."""

    def __init__(
        self, batches: BatchStore, graphs: ServedGraphs, quotas: Quotas, *, limit_bytes: int, idle_s: float
    ) -> None:
        self._batches = batches
        self._graphs = graphs
        self._quotas = quotas
        self._limit_bytes = limit_bytes
        """A longer NDJSON upload is refused, in bytes after decompression."""
        self._uploads = Places(UPLOADS_AT_ONCE, "uploads")
        self._idle_s = idle_s
        """An upload that sends nothing for longer is given up, in seconds."""

    async def create(self, request: web.Request) -> web.Response:
        """``POST /batches``: JSON with its items, or NDJSON with the options in the query."""
        with self._quotas.upload(tenant_of(request)):
            if request.content_type in NDJSON:
                with self._uploads.taken(tenant_of(request)):
                    return await self._create_of_stream(request)
            return await self._create_of_json(request)

    async def _create_of_json(self, request: web.Request) -> web.Response:
        wanted, body = await read_body(request, BatchCreate)
        digest = request_digest(request.path, body)
        key = idempotency_key(request)
        if key is not None and (earlier := await self._batches.of_key(tenant_of(request), key)) is not None:
            return _replayed(earlier, digest)
        upload = await self._upload(request, wanted, {name: body.get(name) for name in ("config", "context")}, key)
        return await self._finished(request, upload, key, lambda: digest, upload.take(wanted.items))

    async def _create_of_stream(self, request: web.Request) -> web.Response:
        options = _options(request)
        try:
            wanted = BatchOptions.model_validate(options)
        except ValidationError as error:
            wrong = error.errors(include_url=False)
            raise invalid_fields(
                [
                    InvalidField(pointer=f"query:{'/'.join(map(str, one['loc']))}", detail=str(one["msg"]))
                    for one in wrong
                ]
            ) from None
        digest = StreamDigest(options)
        chunks = digest.over(self._content(request))
        key = idempotency_key(request)
        if key is not None and (earlier := await self._batches.of_key(tenant_of(request), key)) is not None:
            async for _ in chunks:
                pass  # only to know whether it is the same
            return _replayed(earlier, digest.hex())
        upload = await self._upload(request, wanted, options, key)
        return await self._finished(request, upload, key, digest.hex, upload.read(chunks))

    async def _content(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it comes, decompressed; within the limit of size."""
        limit, seen = self._limit_bytes, 0
        try:
            async for chunk in opened(self._chunks(request)):
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

    async def _chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it comes, within the limit of time."""
        idle_s = self._idle_s
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

    async def _upload(
        self, request: web.Request, wanted: BatchOptions, raw: Mapping[str, Any], key: str | None
    ) -> Upload:
        """An upload with its batch's document, as it will be seen."""
        require_metadata(wanted.metadata)
        graph = await self._graphs.resolve(wanted.assistant_id)
        batch = _document(tenant_of(request), graph, wanted, raw)
        if (user := caller_of(request).auth_user) is not None:
            batch["user"] = user
        if key is not None:
            batch["idempotency_key"] = key
        return self._batches.upload(batch, await self._quotas.batch_room(batch["tenant"]))

    async def _finished(
        self, request: web.Request, upload: Upload, key: str | None, digest: Callable[[], str], work: Awaitable[None]
    ) -> web.Response:
        """Do the work of an upload and answer; whatever prevents it, nothing is left of it."""
        try:
            await work
            batch = await upload.finish(digest() if key is not None else None)
        except KeyTakenError:
            earlier = await self._batches.of_key(tenant_of(request), key or "")
            if earlier is None:
                raise
            return _replayed(earlier, digest())
        except BaseException:
            await asyncio.shield(upload.abandon())
            raise
        return json_response(batch_view(batch), status=202, headers=location_of(batch))


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


def _replayed(earlier: Mapping[str, Any], digest: str) -> web.Response:
    if earlier.get("idempotency_digest") != digest:
        raise RequestProblem(
            "idempotency-conflict",
            f"The Idempotency-Key was used for batch {earlier['_id']!r} with another request. Use a new key for a new request.",
            headers=location_of(earlier),
        )
    return json_response(
        batch_view(earlier), status=202, headers={**location_of(earlier), "Idempotent-Replayed": "true"}
    )
