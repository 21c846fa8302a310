"""The border between the ids of threads that clients write and those that are stored (ADR 41).

Contract: behind the border every thread id is a stored one. Coming in, the middleware qualifies the id in a path, and handlers use
:func:`own_thread_id` for ids in queries; bodies are read by ``requests.read_body``, which qualifies theirs. Going out,
:func:`shown` takes the qualifier off wherever JSON or HTML names a thread: in the value of a key that ends in ``thread_id``, and in
a path below ``/threads/``. Nothing changes for the tenant ``default``, whose ids are stored as they are.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from perdure.gateway.http.problems import RequestProblem
from perdure.schemas.thread_ids import qualified

QUALIFIER: Final = web.RequestKey("qualifier", str)
"""What the stored thread ids of the request's tenant begin with; set with its caller."""
PLACES: Final = (b'thread_id":"', b"/threads/")
"""What a thread's id follows."""
HEADERS: Final = ("Location", "Content-Location")


def own_thread_id(request: web.Request, thread_id: str) -> str:
    """The stored id of a thread that a request names."""
    return qualified(_qualifier(request), thread_id)


def query_thread(request: web.Request) -> str | None:
    """The stored id of the thread that the parameter ``thread_id`` of a query names."""
    named = request.query.get("thread_id")
    return None if named is None else own_thread_id(request, named)


def shown(request: web.Request, data: bytes) -> bytes:
    """Part of an answer with thread ids as the client knows them; a part never ends within an id."""
    if (before := _qualifier(request).encode()) and before in data:
        for place in PLACES:
            data = data.replace(place + before, place)
    return data


@web.middleware
async def thread_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Qualify the thread id of the path, and show ids without their qualifier in the answer."""
    if (named := request.match_info.get("thread_id")) is not None:
        request.match_info["thread_id"] = own_thread_id(request, named)
    try:
        response = await handler(request)
    except RequestProblem as problem:
        if before := _qualifier(request):
            problem.leave_out(before)
        raise
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        response.body = shown(request, response.body)
    return response


async def show_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Show ids in the headers of an answer without their qualifier (aiohttp's ``on_response_prepare``)."""
    if any(name in response.headers for name in HEADERS) and (before := _qualifier(request)):
        for name in HEADERS:
            if name in response.headers:
                response.headers[name] = response.headers[name].replace(f"/threads/{before}", "/threads/")


def _qualifier(request: web.Request) -> str:
    """What stored ids of the request's tenant begin with; empty where the request has no tenant."""
    before: str = request.get(QUALIFIER, "")
    return before
