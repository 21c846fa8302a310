"""Answers of OpenSearch queries. What was indexed within the index's refresh interval (1 s by default) may be missing from them.

Contract: a query holds no script and reads the index that the premise names (:mod:`perdure.validator.queries`); no more than the
limit of an answer is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from perdure.chassis.access import OpenSearchAccess
from perdure.chassis.errors import ConfigurationError, UnavailableError
from perdure.chassis.opensearch import AnswerTooLong, OpenSearch, OpenSearchRefusedError
from perdure.schemas.validation import OpenSearchSource
from perdure.validator.queries import require_body, require_indices
from perdure.validator.sources.errors import SourceError

ALLOWED_IN: Final = "PERDURE_VALIDATOR_ALLOWED_COLLECTIONS"
SCRIPTED_IN: Final = "PERDURE_VALIDATOR_SCRIPTED"


class OpenSearchReader:
    """Reads :class:`OpenSearchSource`.

    Args:
        connections: Clusters by name; a URL may stand for all of one.
        limit: Bytes of an answer.
        allowed: By connection the indices that may be read, as patterns; all but the system's and hidden ones without.
        scripted: Connections whose queries may use scripts and look up other indices.

    Raises:
        ConfigurationError: a URL cannot be used.

    """

    def __init__(
        self,
        connections: Mapping[str, OpenSearchAccess | str],
        limit: int,
        *,
        allowed: Mapping[str, Sequence[str]] | None = None,
        scripted: Sequence[str] = (),
    ) -> None:
        self._limit = limit
        self._allowed = dict(allowed or {})
        self._scripted = frozenset(scripted)
        self._clients: dict[str, OpenSearch] = {}
        for name, access in connections.items():
            try:
                self._clients[name] = OpenSearch(access, answer_limit=limit)
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
        require_indices(source.index, self._allowed.get(source.connection), where, ALLOWED_IN)
        if source.connection not in self._scripted:
            require_body(source.body, SCRIPTED_IN)
        path = f"/{quote(source.index, safe=',*-_.+<>')}/_search"
        try:
            answer = await self._clients[source.connection].request(
                "POST", path, source.body, {"request_cache": "false"}, timeout_s=timeout_s
            )
        except AnswerTooLong as error:
            raise SourceError(f"{where}: the answer is longer than {self._limit} bytes", retryable=False) from error
        except UnavailableError as error:
            raise SourceError(f"{where}: {error.detail}", retryable=True) from error
        except OpenSearchRefusedError as error:
            raise SourceError(f"{where}: {error.status} {error.type}: {error.reason}", retryable=False) from error
        if answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
            raise SourceError(f"{where}: only a part of the shards answered", retryable=True)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()
