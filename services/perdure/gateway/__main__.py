"""The gateway process: ``python -m perdure.gateway``."""

from __future__ import annotations

import asyncio

from aiohttp import web

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.loop_delay import measure_delay
from perdure.chassis.service import run_service
from perdure.chassis.telemetry import logger
from perdure.gateway.app import make_app
from perdure.gateway.http.connections import CONNECTIONS
from perdure.gateway.http.gunzip import AUTO_DECOMPRESS
from perdure.gateway.settings import GatewaySettings

log = logger(__name__)


async def serve(settings: GatewaySettings, stopping: asyncio.Event) -> None:
    """Serve until ``stopping`` is set; then finish the requests in hand.

    Raises:
        ConfigurationError: the address cannot be listened on.

    """
    app = make_app(settings)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=settings.shutdown_grace_s,
        handle_signals=False,
        auto_decompress=AUTO_DECOMPRESS,
        keepalive_timeout=settings.gateway_idle_timeout_s,
    )
    await runner.setup()
    watching = [
        asyncio.create_task(app[CONNECTIONS].watch(lambda: runner.server.connections if runner.server else [])),
        asyncio.create_task(measure_delay()),
    ]
    try:
        site = web.TCPSite(runner, settings.gateway_host, settings.gateway_port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {settings.gateway_host}:{settings.gateway_port}: {error.strerror}. "
                "Set PERDURE_GATEWAY_HOST and PERDURE_GATEWAY_PORT."
            ) from error
        log.info("gateway.listening", url=f"http://{settings.gateway_host}:{runner.addresses[0][1]}")
        await stopping.wait()
    finally:
        for task in watching:
            task.cancel()
        await runner.cleanup()


def main() -> None:
    """Entry point."""
    run_service("gateway", GatewaySettings, serve)


if __name__ == "__main__":
    main()
