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
from perdure.gateway.http.tls import Certificate
from perdure.gateway.settings import GatewaySettings

log = logger(__name__)


async def serve(settings: GatewaySettings, stopping: asyncio.Event) -> None:
    """Serve until ``stopping`` is set; then finish the requests in hand.

    Raises:
        ConfigurationError: the address cannot be listened on, or the certificate cannot be used.

    """
    certificate = certificate_of(settings)
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
    if certificate is not None:
        watching.append(asyncio.create_task(certificate.watch()))
    try:
        context = certificate.context if certificate is not None else None
        site = web.TCPSite(runner, settings.gateway_host, settings.gateway_port, backlog=1024, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {settings.gateway_host}:{settings.gateway_port}: {error.strerror}. "
                "Set PERDURE_GATEWAY_HOST and PERDURE_GATEWAY_PORT."
            ) from error
        scheme = "https" if certificate is not None else "http"
        log.info("gateway.listening", url=f"{scheme}://{settings.gateway_host}:{runner.addresses[0][1]}")
        await stopping.wait()
    finally:
        for task in watching:
            task.cancel()
        await runner.cleanup()


def certificate_of(settings: GatewaySettings) -> Certificate | None:
    """The certificate of the gateway's port; ``None`` where it speaks plain HTTP.

    Raises:
        ConfigurationError: the certificate or its key cannot be used.

    """
    cert_file, key_file = settings.gateway_tls_cert_file, settings.gateway_tls_key_file
    return Certificate(cert_file, key_file) if cert_file is not None and key_file is not None else None


def main() -> None:
    """Entry point."""
    run_service("gateway", GatewaySettings, serve)


if __name__ == "__main__":
    main()
