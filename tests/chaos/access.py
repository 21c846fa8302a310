"""How plain clients reach the servers and the gateway of a run."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Access:
    """Addresses, and credentials where they are asked for."""

    mongodb_uri: str
    """Says everything, the database included."""
    kafka: Mapping[str, Any]
    """Options of librdkafka."""
    opensearch_url: str
    opensearch_tls: ssl.SSLContext | None = None
    """What OpenSearch is verified with, and who asks."""
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Headers that say to the gateway who calls."""

    def opensearch(self) -> httpx.Client:
        """A client of OpenSearch."""
        return httpx.Client(base_url=self.opensearch_url, timeout=TIMEOUT_S, verify=self.opensearch_tls or True)

    def gateway(self, url: str) -> httpx.Client:
        """A client of the gateway."""
        return httpx.Client(base_url=url, timeout=TIMEOUT_S, headers=dict(self.credentials))
