"""Cross-origin requests: which web pages may read what the gateway answers.

Contract: a page of an allowed origin reads every answer, also problems and answers that are still being written, and its
preflights are answered before any route is looked at. A preflight of another origin is refused with 403, which says what to set;
its other requests, where ``perdure.gateway.http.browsers`` lets them through, are answered without the headers that would let the
page read them.
"""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from perdure.gateway.http.browsers import origin_refused
from perdure.gateway.http.origins import ANY, Origins

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
EXPOSED = "Content-Location, Location, X-Pagination-Total, X-Pagination-Next, Preference-Applied, Idempotent-Replayed, Retry-After"
PREFLIGHT_AGE_S = 600
"""How long a browser may keep the answer to a preflight."""
ASKED_PRIVATE, ALLOWED_PRIVATE = "Access-Control-Request-Private-Network", "Access-Control-Allow-Private-Network"


class Cors:
    """Lets pages of some origins in."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    def install(self, app: web.Application) -> None:
        """Add what answers preflights, and what adds headers to answers; inside the middlewares that are there already."""
        app.middlewares.append(self._preflights)
        app.on_response_prepare.append(self._add_headers)

    @web.middleware
    async def _preflights(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin, asked = request.headers.get(hdrs.ORIGIN), request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or origin is None or asked is None:
            return await handler(request)
        if not self._origins.allows(origin):
            raise origin_refused(origin)
        headers: dict[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_AGE_S),
            hdrs.VARY: f"{hdrs.ACCESS_CONTROL_REQUEST_HEADERS}, {ASKED_PRIVATE}",
        }
        if wanted := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted  # "*" would leave Authorization out
        if request.headers.get(ASKED_PRIVATE) == "true":
            headers[ALLOWED_PRIVATE] = "true"
        return web.Response(status=204, headers=headers)

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self._origins.all:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not self._origins.allows(origin):
            return
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED
        if self._origins.all:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = ANY
            return
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        if self._origins.names(origin):  # a page that merely runs on this machine does not get the cookies of people
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
