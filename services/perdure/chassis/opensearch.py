"""OpenSearch over HTTP: the only importer of opensearch-py.

Contract: :meth:`OpenSearch.request` sends one request and returns its JSON; it raises :class:`UnreachableError` (no connection,
time-out), :class:`UnavailableError` (429, 502, 503, 504), both retryable, or :class:`OpenSearchRefusedError` (any other refusal,
with status, type and reason). Bodies are bytes or JSON values. User and password in the URL, an API key or a client certificate say
who asks.

Outside: what is indexed and asked (``perdure.indexer``, ``perdure.gateway.search.query``) and waiting until a server is back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import orjson
from aiohttp import ClientResponse
from opensearchpy import AIOHttpConnection, AsyncOpenSearch, OpenSearchException
from opensearchpy.exceptions import ConnectionError as NoConnection
from opensearchpy.exceptions import ConnectionTimeout, SerializationError, TransportError
from opensearchpy.serializer import Serializer

from perdure.chassis.access import OpenSearchAccess
from perdure.chassis.errors import ConfigurationError, RefusedError, UnavailableError, UnreachableError
from perdure.chassis.tls import client_context

UNAVAILABLE_STATUS: Final = frozenset({429, 502, 503, 504})
NDJSON: Final = {"content-type": "application/x-ndjson"}


class OpenSearchRefusedError(RefusedError):
    """OpenSearch understood the request and refuses it.

    Attributes:
        status: The HTTP status.
        type: OpenSearch's error type, e.g. ``index_not_found_exception``.
        reason: Its explanation.

    """

    def __init__(self, status: int, type_: str, reason: str, request: str) -> None:
        super().__init__(f"OpenSearch refuses {request}: {status} {type_}: {reason}")
        self.status = status
        self.type = type_
        self.reason = reason


class AnswerTooLong(RefusedError):
    """An answer is longer than the client reads."""


class _LimitedAnswer(ClientResponse):
    """Reads no more than its session's ``answer_limit``, after decompression."""

    limit: int

    async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
        found = bytearray()
        async for chunk in self.content.iter_any():
            found += chunk
            if len(found) > self.limit:
                raise AnswerTooLong(f"the answer is longer than {self.limit} bytes")
        return found.decode(encoding or "utf-8", errors if errors != "strict" else "surrogatepass")


def _limited(limit: int) -> type[AIOHttpConnection]:
    """opensearch-py's connection with a limit for each answer."""

    class Answer(_LimitedAnswer):
        pass

    Answer.limit = limit

    class Connection(AIOHttpConnection):  # type: ignore[misc,unused-ignore]
        async def _create_aiohttp_session(self) -> None:
            await super()._create_aiohttp_session()
            self.session._response_class = Answer  # noqa: SLF001 (the library has no argument for this)

    return Connection


class _Orjson(Serializer):  # type: ignore[misc,unused-ignore]
    mimetype = "application/json"

    def loads(self, s: Any) -> Any:
        try:
            return orjson.loads(s)
        except ValueError as error:
            raise SerializationError(s, error) from error

    def dumps(self, data: Any) -> Any:
        return data if isinstance(data, str | bytes) else orjson.dumps(data)


class OpenSearch:
    """One client for one address; belongs to the event loop that uses it first.

    Args:
        opensearch: Where the cluster is; text is a URL that says everything.
        timeout_s: Of one request, in seconds.
        retries: How often a request that met no connection is sent again at once.
        answer_limit: Bytes of an answer that are read at most; any number without.

    Raises:
        ConfigurationError: the URL or a certificate cannot be used.

    """

    def __init__(
        self,
        opensearch: OpenSearchAccess | str,
        *,
        timeout_s: float = 30.0,
        retries: int = 0,
        answer_limit: int | None = None,
    ) -> None:
        access = OpenSearchAccess(opensearch) if isinstance(opensearch, str) else opensearch
        parts = urlsplit(access.url)
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(f"PERDURE_OPENSEARCH_URL has a bad port: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError("PERDURE_OPENSEARCH_URL must be http[s]://[user:password@]host:port")
        self.address: Final = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
        """Without user and password, fit for messages."""
        limited: dict[str, Any] = {"connection_class": _limited(answer_limit)} if answer_limit is not None else {}
        host = {"host": parts.hostname, "port": port or (443 if parts.scheme == "https" else 80)}
        if parts.path.strip("/"):
            host["url_prefix"] = parts.path.strip("/")
        try:
            self._client = AsyncOpenSearch(
                hosts=[host],
                use_ssl=parts.scheme == "https",
                timeout=timeout_s,
                max_retries=retries,
                retry_on_timeout=False,
                serializer=_Orjson(),
                **_credentials(access, parts),
                **limited,
            )
        except OpenSearchException as error:
            raise ConfigurationError(f"OpenSearch at {self.address}: PERDURE_OPENSEARCH_URL: {error}") from error

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Send one request; the answer's JSON.

        Raises:
            UnavailableError: nobody answers, or the server cannot serve now.
            OpenSearchRefusedError: any other refusal.
            AnswerTooLong: the answer is over the client's limit.

        """
        try:
            return await self._client.transport.perform_request(
                method,
                path,
                params=dict(params) if params else None,
                body=body,
                headers=headers,
                timeout=timeout_s,
            )
        except TransportError as error:
            if isinstance(error.info, AnswerTooLong):
                raise error.info from error
            raise self._classified(error, f"{method} {path}") from error
        except SerializationError as error:
            raise UnavailableError("OpenSearch", self.address, f"{method} {path}: the answer is not JSON") from error

    async def bulk(self, body: bytes, timeout_s: float | None = None) -> Any:
        """One ``_bulk`` of newline-delimited JSON; of the answer only the status, index and error of each item.

        Raises:
            UnavailableError: nobody answers, or the server cannot serve now.
            OpenSearchRefusedError: the request as a whole is refused.

        """
        params = {"filter_path": "errors,items.*.status,items.*.error.type,items.*.error.reason"}
        return await self.request("POST", "/_bulk", body, params, NDJSON, timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _classified(self, error: TransportError, request: str) -> UnavailableError | OpenSearchRefusedError:
        status = error.status_code
        if isinstance(error, NoConnection) or not isinstance(status, int):
            why = "no answer in time" if isinstance(error, ConnectionTimeout) else str(error.error) or "no connection"
            return UnreachableError("OpenSearch", self.address, f"{request}: {why}")
        type_, reason = _cause(error)
        if status == 401:
            reason += " (is the user or password in PERDURE_OPENSEARCH_URL wrong, the API key, the client certificate?)"
        if status in UNAVAILABLE_STATUS:
            return UnavailableError("OpenSearch", self.address, f"{request}: {status} {type_}: {reason}")
        return OpenSearchRefusedError(status, type_, reason, request)


def _credentials(access: OpenSearchAccess, parts: SplitResult) -> dict[str, Any]:
    """What the client library is told of certificates and of who asks."""
    options: dict[str, Any] = {}
    if parts.scheme == "https":
        what = "PERDURE_OPENSEARCH_CA_FILE, _CERT_FILE and _KEY_FILE"
        options["ssl_context"] = client_context(what, access.ca_file, access.cert_file, access.key_file)
    if access.api_key is not None:
        options["headers"] = {"authorization": f"ApiKey {access.api_key}"}
    elif parts.username:
        options["http_auth"] = (unquote(parts.username), unquote(parts.password or ""))
    return options


def _cause(error: TransportError) -> tuple[str, str]:
    info = error.info
    cause = info.get("error") if isinstance(info, dict) else None
    if isinstance(cause, dict):
        root = (cause.get("root_cause") or [cause])[0]
        return str(cause.get("type")), str(root.get("reason") or cause.get("reason"))
    return str(error.error), str(cause or info)[:500]
