"""What browsers can be made to do: requests of other pages, names that lead here, answers that are taken for something else.

Contract: while nobody is asked who calls, a request is answered only under a known name (DNS rebinding) and to no page of a
foreign origin. A request that may change something is always refused if a page of a foreign origin sent it, also with an empty
body, and so is one with the content type of an HTML form, except to the pages that sign in and out. Every answer says that its
type is not to be guessed; answers that are no page may load and be framed by nothing. The pages of answer links are outside: they
prove their forms themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from perdure.gateway.http.origins import SAFE, Hosts, Origins, is_same
from perdure.gateway.http.problems import RequestProblem

SITE: Final = "Sec-Fetch-Site"
OWN_SITES: Final = frozenset({"same-origin", "none"})
FORM_TYPES: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What a page of another origin may send without asking first."""
FORMS: Final = "/auth/"
"""Below this path are pages with forms of their own."""
POLICY: Final = "default-src 'none'; frame-ancestors 'none'"


class BrowserGuard:
    """Refuses what web pages of others send."""

    def __init__(
        self, hosts: Hosts, origins: Origins, may_be_open: Callable[[], bool], outside: tuple[str, ...]
    ) -> None:
        """``may_be_open``: whether requests are served now without asking who calls; ``outside``: paths of answer links."""
        self._hosts = hosts
        self._origins = origins
        self._may_be_open = may_be_open
        self._outside = outside

    def install(self, app: web.Application) -> None:
        """Stand before everything else, inside the middlewares that are there already."""
        app.middlewares.append(self._guard)
        app.on_response_prepare.append(_add_headers)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_open = self._may_be_open()
        host = request.headers.get(hdrs.HOST)
        if is_open and host is not None and not self._hosts.allows(host):
            raise RequestProblem(
                "host-refused",
                f"This gateway asks nobody who calls, and does not answer as {host!r}. PERDURE_GATEWAY_HOSTS names further hosts.",
            )
        if not request.path.startswith(self._outside):
            self._require_own_page(request, host or "", is_open=is_open)
        return await handler(request)

    def _require_own_page(self, request: web.Request, host: str, *, is_open: bool) -> None:
        """Refuse what a page of a foreign origin sends.

        Raises:
            RequestProblem: ``origin-refused`` or ``unsupported-media-type``.

        """
        origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get(SITE)
        changes = request.method not in SAFE
        if site not in OWN_SITES and (changes or is_open):
            if origin is not None and not is_same(origin, host) and not self._origins.allows(origin):
                raise origin_refused(origin)
            if origin is None and site is not None and changes:
                raise origin_refused("another site")
        is_page = origin is not None or site is not None
        is_form = request.content_type in FORM_TYPES and hdrs.CONTENT_TYPE in request.headers
        if is_page and changes and is_form and not request.path.startswith(FORMS):
            raise RequestProblem(
                "unsupported-media-type",
                f"A web page sent the type {request.content_type!r}, as forms do. Send Content-Type: application/json.",
            )


def origin_refused(origin: str) -> RequestProblem:
    """A page of this origin may not use the gateway."""
    return RequestProblem(
        "origin-refused",
        f"Pages of {origin} may not use this gateway. PERDURE_CORS_ALLOW_ORIGINS names the origins that may.",
    )


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Content-Security-Policy", POLICY)
