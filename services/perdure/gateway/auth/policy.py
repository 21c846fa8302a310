"""Whether the gateway asks who calls.

Contract (docs/security.md): it asks when ``PERDURE_AUTH=keys``, when an issuer or handlers of the project are configured, and as
soon as an API key was ever made. Once it asks it never stops until its process ends. With ``PERDURE_AUTH=auto`` it is open only
on loopback, and only after the database has said that there is no key: before, and while the database has not answered yet, every
request that needs a caller fails with 503. ``PERDURE_AUTH=none`` asks nobody, at any address.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pymongo.errors import PyMongoError

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.telemetry import logger
from perdure.gateway.auth.mode import AuthMode
from perdure.gateway.http.origins import is_loopback
from perdure.gateway.http.problems import store_unavailable
from perdure.registry.api_keys import ApiKeys

log = logger(__name__)

LOOK_S: Final = 2.0
"""How soon an open gateway notices the first key, in seconds."""
RETRY_S: Final = 0.25


class Policy:
    """Decides whether a request needs credentials."""

    def __init__(self, keys: ApiKeys, mode: AuthMode, *, host: str, configured: bool, timeout_s: float) -> None:
        """Check the settings. ``configured``: another way to know callers is set up; ``timeout_s``: for the first look.

        Raises:
            ConfigurationError: the gateway would be open at an address that others reach.

        """
        if mode is AuthMode.NONE and configured:
            raise ConfigurationError(
                "PERDURE_AUTH=none contradicts the settings that name callers (an issuer, or auth in langgraph.json). Leave "
                "PERDURE_AUTH out, or the others."
            )
        if mode is AuthMode.AUTO and not configured and not is_loopback(host):
            raise ConfigurationError(
                f"PERDURE_GATEWAY_HOST={host} can be reached from elsewhere, and nothing says who may call. Set "
                "PERDURE_AUTH=keys and make a key with `perdure keys create`, or PERDURE_AUTH=none if something in front of "
                "the gateway decides that (docs/security.md)."
            )
        self._keys = keys
        self._timeout_s = timeout_s
        self._looks = mode is AuthMode.AUTO and not configured
        self._asks: bool | None = None if self._looks else mode is not AuthMode.NONE
        self._known = asyncio.Event()
        if mode is AuthMode.NONE:
            log.warning("gateway.open", detail="PERDURE_AUTH=none: whoever reaches the gateway may do everything")

    def may_be_open(self) -> bool:
        """Whether requests may be served without credentials now."""
        return self._asks is not True

    async def asks(self) -> bool:
        """Whether a request needs credentials now.

        Raises:
            RequestProblem: ``store-unavailable``: the database has not said yet whether there are keys.

        """
        if self._asks is None:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._known.wait()
            except TimeoutError:
                raise store_unavailable() from None
        return self._asks is not False

    async def watch(self) -> None:
        """Look for the first key until there is one."""
        while self._looks:
            try:
                async with asyncio.timeout(LOOK_S):
                    asks = await self._keys.exist()
            except (PyMongoError, TimeoutError):
                await asyncio.sleep(RETRY_S)
                continue
            if asks:
                log.info("gateway.asks", detail="an API key exists: everything needs a caller from now on")
            self._asks, self._looks = asks, not asks
            self._known.set()
            await asyncio.sleep(LOOK_S)
        await asyncio.Event().wait()
