"""Answers of OpenSearch queries. What was indexed within the index's refresh interval (1 s by default) may be missing from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError, UnavailableError
from perdure.chassis.opensearch import OpenSearch, OpenSearchRefusedError
from perdure.schemas.validation import OpenSearchSource
from perdure.validator.sources.errors import SourceError


class OpenSearchReader:
    """Reads :class:`OpenSearchSource`.

    Args:
        connections: URLs by name.
        limit: Bytes of JSON of an answer.
        ca_file: Certificates that ``https`` is verified with.

    Raises:
        ConfigurationError: a URL cannot be used.

    """

    def __init__(self, connections: Mapping[str, str], limit: int, ca_file: str | None = None) -> None:
        self._limit = limit
        self._clients: dict[str, OpenSearch] = {}
        for name, url in connections.items():
            try:
                self._clients[name] = OpenSearch(url, ca_file=ca_file)
            except ConfigurationError as error:
                raise ConfigurationError(f"PERDURE_VALIDATOR_CONNECTIONS: {name}: {error}") from error

    def key(self, source: OpenSearchSource) -> str:
        """The connection."""
        if source.connection not in self._clients:
            raise SourceError(
                f"no OpenSearch connection {source.connection!r} in PERDURE_VALIDATOR_CONNECTIONS (there are: "
                f"{', '.join(sorted(self._clients)) or 'none'})",
                retryable=False,
            )
        return f"OpenSearch connection {source.connection}"

    async def read(self, source: OpenSearchSource, timeout_s: float) -> Any:
        """Search; an answer from a part of the shards is none."""
        where = self.key(source)
        path = f"/{quote(source.index, safe=',*-_.+<>')}/_search"
        try:
            answer = await self._clients[source.connection].request(
                "POST", path, source.body, {"request_cache": "false"}, timeout_s=timeout_s
            )
        except UnavailableError as error:
            raise SourceError(f"{where}: {error.detail}", retryable=True) from error
        except OpenSearchRefusedError as error:
            raise SourceError(f"{where}: {error.status} {error.type}: {error.reason}", retryable=False) from error
        if answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
            raise SourceError(f"{where}: only a part of the shards answered", retryable=True)
        if len(json.dumps(answer)) > self._limit:
            raise SourceError(f"{where}: the answer is longer than {self._limit} bytes", retryable=False)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()
