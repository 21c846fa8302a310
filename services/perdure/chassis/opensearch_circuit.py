"""OpenSearch for those who must not wait for it: a client whose calls go through a circuit (``perdure.chassis.circuit``).

Outside: writers, who wait until the server is back (``perdure.indexer``) and use the plain client.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from perdure.chassis.access import OpenSearchAccess
from perdure.chassis.circuit import Circuit
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError


class CircuitOpenSearch(OpenSearch):
    """As :class:`OpenSearch`; while the server is away, :meth:`request` raises UnreachableError at once."""

    def __init__(self, opensearch: OpenSearchAccess | str) -> None:
        super().__init__(opensearch, retries=1)
        self.circuit = Circuit("OpenSearch", self.address, self._ping)
        """Its owner keeps ``circuit.watch()`` running."""

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Send one request through the circuit.

        Raises:
            UnreachableError: the server is away.
            UnavailableError: the server cannot serve now.
            OpenSearchRefusedError: any other refusal.

        """
        plain = super().request
        return await self.circuit.run(lambda: plain(method, path, body, params, headers, timeout_s))

    async def close(self) -> None:
        """Close the connections."""
        await self.circuit.aclose()
        await super().close()

    async def _ping(self) -> None:
        with suppress(OpenSearchRefusedError):  # a refusal is an answer
            await super().request("GET", "/")
