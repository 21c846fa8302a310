"""TLS of the gateway's own port.

Contract: TLS 1.2 at least. The certificate and its key are read again when one of the files changes or the process gets SIGHUP, and
serve every connection that is opened from then on; open connections stay. A pair that cannot be used is logged, and the one before
stays in use.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path
from typing import Final

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.telemetry import logger

log = logger(__name__)

LOOK_S: Final = 5.0
"""How often it is looked whether the files have changed, in seconds."""


class Certificate:
    """The gateway's certificate.

    Args:
        cert_file: The certificate and those that lead from it to its authority (PEM).
        key_file: Its private key (PEM).

    Raises:
        ConfigurationError: they cannot be used.

    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._files = cert_file, key_file
        self._seen = self._look()
        try:
            self.context: Final = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(
                f"PERDURE_GATEWAY_TLS_CERT_FILE, _KEY_FILE: {cert_file} and {key_file} cannot be used: {error}"
            ) from error
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def reload(self) -> bool:
        """Read the files again; whether what they hold is used from now on."""
        self._seen = self._look()
        try:
            self._load(
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            )  # a pair that does not fit must not replace half of the one in use
            self._load(self.context)
        except OSError as error:
            log.error("gateway.certificate_not_read", files=[str(one) for one in self._files], error=str(error))
            return False
        log.info("gateway.certificate_read", file=str(self._files[0]))
        return True

    async def watch(self) -> None:
        """Read the files again when they change or SIGHUP comes, until cancelled."""
        asked, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_S):
                        await asked.wait()
                except TimeoutError:
                    if self._look() == self._seen:
                        continue
                asked.clear()
                self.reload()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.load_cert_chain(*self._files)
        return context

    def _look(self) -> list[tuple[int, int] | None]:
        """What tells one content of the files from the next: Kubernetes replaces a link, others write in place."""
        found: list[tuple[int, int] | None] = []
        for path in self._files:
            try:
                stat = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_ino, stat.st_mtime_ns))
        return found
