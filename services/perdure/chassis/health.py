"""``/ok``, ``/ready`` and ``/metrics`` of a service that has no other HTTP API.

``/ok`` says that the loop turns; ``/ready`` is 200 when every named condition holds, else 503 with those that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from perdure.chassis.settings import ServiceSettings

Conditions = Mapping[str, Callable[[], bool]]


async def ok(_: web.Request) -> web.Response:
    """The process lives."""
    return web.json_response({"ok": True})


async def metrics(_: web.Request) -> web.Response:
    """Prometheus metrics."""
    return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


def readiness(conditions: Conditions) -> Callable[[web.Request], object]:
    """A handler that answers whether all conditions hold."""

    async def ready(_: web.Request) -> web.Response:
        state = {name: bool(holds()) for name, holds in conditions.items()}
        everything = all(state.values())
        return web.json_response({"ready": everything, "conditions": state}, status=200 if everything else 503)

    return ready


class HealthServer:
    """Serves the three paths on ``settings.health_port``; does nothing when that is 0."""

    def __init__(self, settings: ServiceSettings, conditions: Conditions) -> None:
        self._settings = settings
        self._conditions = conditions
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        if not self._settings.health_port:
            return
        app = web.Application()
        app.add_routes(
            [
                web.get("/ok", ok),
                web.get("/ready", readiness(self._conditions)),  # type: ignore[arg-type]
                web.get("/metrics", metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.health_host, self._settings.health_port).start()

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
