"""JSON over HTTP.

Contract: GET through :mod:`perdure.chassis.outgoing`, no cache, no redirect (a redirect could lead past the list of hosts and carry
secrets there). The URL is read once. Only a 2xx answer of JSON within the limit counts, measured after decompression.
``${PERDURE_SOURCE_X}`` in a header is a secret of the environment (:mod:`perdure.validator.secrets`). No header's value is shown.
"""

from __future__ import annotations

from typing import Any, Final

import aiohttp
from yarl import URL

from perdure.chassis import json
from perdure.chassis.addresses import AddressRules
from perdure.chassis.hosts import Hosts
from perdure.chassis.outgoing import Outgoing, refusal_of
from perdure.schemas.validation import HttpSource
from perdure.validator.secrets import Secrets
from perdure.validator.sources.errors import SourceError

HOSTS_SETTING: Final = "PERDURE_VALIDATOR_SOURCE_HOSTS"
TARGETS_SETTING: Final = "PERDURE_VALIDATOR_ALLOWED_TARGETS"
_HEADERS: Final = {"Accept": "application/json", "Cache-Control": "no-cache", "User-Agent": "perdure-validator"}
_TRANSIENT: Final = frozenset({408, 425, 429})


class HttpReader:
    """Reads :class:`HttpSource`.

    Args:
        rules: Which addresses may be read.
        limit: Bytes of an answer.
        secrets: What headers may name.
        only: The hosts that may be read; without, all that ``rules`` let.

    """

    def __init__(self, rules: AddressRules, limit: int, secrets: Secrets, only: Hosts | None = None) -> None:
        self._limit = limit
        self._secrets = secrets
        self._only = only
        self._outgoing = Outgoing(rules, _HEADERS, auto_decompress=True)

    def key(self, source: HttpSource) -> str:
        """``host:port``."""
        return _where(self._url(source))

    async def read(self, source: HttpSource, _timeout_s: float) -> Any:
        """GET it."""
        url = self._url(source)
        where = _where(url)
        headers = {name: self._secrets.fill(value, url) for name, value in source.headers.items()}
        try:
            async with self._outgoing.session(url).get(url, headers=headers, allow_redirects=False) as answer:
                self._check(answer, where)
                body = await self._body(answer.content, where)
        except (aiohttp.InvalidURL, ValueError) as error:
            # The library's message may hold a header's value or the address's query.
            raise SourceError(
                f"{where}: the request cannot be sent ({type(error).__name__})", retryable=False
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            if (refused := refusal_of(error)) is not None:
                raise SourceError(str(refused), retryable=False) from error
            raise SourceError(f"{where}: {_kind(error)}", retryable=True) from error
        try:
            return json.loads(body)
        except ValueError as error:
            raise SourceError(f"{where}: the answer is not JSON: {error}", retryable=True) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._outgoing.close()

    def _url(self, source: HttpSource) -> URL:
        try:
            url = URL(source.url)
        except ValueError as error:
            raise SourceError(f"the address is none: {error}", retryable=False) from error
        if not url.raw_host or url.scheme not in ("http", "https"):
            raise SourceError("the address names no host", retryable=False)
        if self._only is not None and not self._only.name(url):
            raise SourceError(f"{_where(url)} is not among {HOSTS_SETTING}", retryable=False)
        return url

    def _check(self, answer: aiohttp.ClientResponse, where: str) -> None:
        status = answer.status
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise SourceError(
                f"{where}: answered {status}: redirects are not followed, let the premise name the address it leads to",
                retryable=False,
            )
        raise SourceError(f"{where}: answered {status}", retryable=status >= 500 or status in _TRANSIENT)

    async def _body(self, content: aiohttp.StreamReader, where: str) -> bytes:
        body = bytearray()
        async for chunk in content.iter_any():
            body += chunk
            if len(body) > self._limit:
                raise SourceError(f"{where}: the answer is longer than {self._limit} bytes", retryable=False)
        return bytes(body)


def _where(url: URL) -> str:
    return f"{url.raw_host}:{url.port}"


def _kind(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer ended before it was complete"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error}"
    return f"the connection failed ({type(error).__name__})"
