"""Cross-origin requests: which web pages may read what the gateway answers.

Contract: a page of an allowed origin reads every answer, also problems and answers that are still being written, and its
preflights are answered before any route is looked at. A preflight of another origin is refused with 403, which says what to set;
its other requests are served without the headers that would let the page read them. Without an allowed origin nothing else changes.
"""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from perdure.gateway.http.problems import RequestProblem

ANY = "*"
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
EXPOSED = "Content-Location, Location, X-Pagination-Total, X-Pagination-Next, Preference-Applied, Idempotent-Replayed, Retry-After"
PREFLIGHT_AGE_S = 600
"""How long a browser may keep the answer to a preflight."""
ASKED_PRIVATE, ALLOWED_PRIVATE = "Access-Control-Request-Private-Network", "Access-Control-Allow-Private-Network"


class Cors:
    """Lets pages of some origins in."""

    def __init__(self, origins: str) -> None:
        """``origins``: such as ``https://app.example.com``, several separated by commas; ``*`` for all; empty for none."""
        self._origins = frozenset(origin.strip().rstrip("/").lower() for origin in origins.split(",") if origin.strip())

    def install(self, app: web.Application) -> None:
        """Add what answers preflights, and what adds headers to answers; inside the middlewares that are there already."""
        app.middlewares.append(self._preflights)
        if self._origins:
            app.on_response_prepare.append(self._add_headers)

    def _allows(self, origin: str) -> bool:
        return ANY in self._origins or origin.lower() in self._origins

    @web.middleware
    async def _preflights(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin, asked = request.headers.get(hdrs.ORIGIN), request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or origin is None or asked is None:
            return await handler(request)
        if not self._allows(origin):
            raise RequestProblem(
                "origin-refused",
                f"Pages of {origin} may not use this gateway. PERDURE_CORS_ALLOW_ORIGINS names the origins that may.",
            )
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
        if ANY not in self._origins:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or not self._allows(origin):
            return
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED
        if ANY in self._origins:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = ANY
        else:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
