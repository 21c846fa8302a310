"""About the service itself: alive, ready, metrics, info, the API description and its page."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from aiohttp import web
from swagger_ui_bundle import swagger_ui_path

from perdure.chassis.health import metrics, ok
from perdure.gateway.http.openapi import SPECIFICATION, for_page
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import TEXT, Page, Plain, Route
from perdure.gateway.resources.system.conditions import Conditions
from perdure.gateway.stores.workers import Workers
from perdure.schemas import http
from perdure.schemas.scopes import Exempt, Scope

PROBE: Final = Exempt("Probes ask it; it holds nothing but whether the gateway works.")
ASSETS: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-standalone-preset.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Perdure HTTP API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START: Final = """window.ui = SwaggerUIBundle({
  url: "/docs/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null, docExpansion: "list"
});
"""


class SystemResource:
    """Alive, ready, metrics, info, the API description and its page."""

    def __init__(self, conditions: Conditions, workers: Workers) -> None:
        self._conditions = conditions
        self._workers = workers

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route("GET", "/ok", ok, "ok", "Alive", "System", {200: http.Alive}, scope=PROBE),
            Route("GET", "/ready", self.ready, "ready", "Ready", "System", {200: http.Readiness, 503: http.Readiness}, scope=PROBE),
            Route(
                "GET", "/metrics", metrics, "metrics", "Prometheus metrics", "System",
                {200: Plain("Prometheus text.", TEXT, "text/plain")}, scope=Scope.METRICS_READ,
            ),
            Route("GET", "/info", self.info, "info", "Version and features", "System", {200: http.Info}, scope=Scope.API_READ),
            Route(
                "GET", "/openapi.json", self.openapi, "openapi", "This description", "System",
                {200: Plain("OpenAPI 3.1.", {"type": "object"})}, scope=Scope.API_READ,
            ),
        )
        # fmt: on

    def pages(self) -> tuple[Page, ...]:
        """The pages for people."""
        return (
            Page("GET", "/docs", self.page, Scope.API_READ),
            Page("GET", "/docs/openapi.json", self.page_openapi, Scope.API_READ),
            Page("GET", "/docs/{name}", self.asset, Scope.API_READ),
        )

    async def ready(self, _: web.Request) -> web.Response:
        """``GET /ready``."""
        required = self._conditions.required
        holds = all(required.values())
        body = {
            "ready": holds,
            "conditions": required,
            "reported": self._conditions.reported,
            "warnings": self._workers.warnings,
        }
        return json_response(body, status=200 if holds else 503)

    async def info(self, _: web.Request) -> web.Response:
        """``GET /info``."""
        return json_response({"version": installed_version(), "flags": {"assistants": True, "crons": True}})

    async def openapi(self, request: web.Request) -> web.Response:
        """``GET /openapi.json``."""
        return json_response(request.app[SPECIFICATION])

    async def page_openapi(self, request: web.Request) -> web.Response:
        """``GET /docs/openapi.json``: the description as the page's viewer, which knows OpenAPI 3.0, reads it."""
        return json_response(for_page(request.app[SPECIFICATION]))

    async def page(self, _: web.Request) -> web.Response:
        """``GET /docs``."""
        return web.Response(text=PAGE, content_type="text/html", headers=_page_headers())

    async def asset(self, request: web.Request) -> web.Response:
        """``GET /docs/{name}``: the viewer's files, from the installed package."""
        name = request.match_info["name"]
        if name == "start.js":
            return web.Response(text=START, content_type="text/javascript", headers=_page_headers())
        if name not in ASSETS:
            raise web.HTTPNotFound
        headers = {**_page_headers(), "Cache-Control": "public, max-age=86400"}
        return web.Response(body=_asset(name), content_type=ASSETS[name], headers=headers)


def _page_headers() -> dict[str, str]:
    return {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
    }


@cache
def _asset(name: str) -> bytes:
    return (Path(str(swagger_ui_path)) / name).read_bytes()


@cache
def installed_version() -> str:
    """The version of this installation."""
    try:
        return version("perdure")
    except PackageNotFoundError:
        return "unknown"
