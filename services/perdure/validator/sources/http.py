"""JSON over HTTP.

Contract: GET, no cache, no proxy of the environment, no cookies, no redirect (a redirect could lead past the list of hosts and
carry secrets there). Only a 2xx answer of JSON within the limit counts, measured after decompression.
``${PERDURE_SOURCE_X}`` in a header is the environment variable; no other variable can be sent. No header's value is ever shown.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from perdure.chassis import json
from perdure.schemas.validation import HttpSource
from perdure.validator.sources.errors import SourceError

PREFIX: Final = "PERDURE_SOURCE_"
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
_HEADERS: Final = {"Accept": "application/json", "Cache-Control": "no-cache", "User-Agent": "perdure-validator"}
_TRANSIENT: Final = frozenset({408, 425, 429})


class HttpReader:
    """Reads :class:`HttpSource`.

    Args:
        hosts: Patterns of ``host`` or ``host:port`` that may be read; any without.
        limit: Bytes of an answer.
        environment: Where variables of headers are looked up.

    """

    def __init__(self, hosts: Sequence[str] | None, limit: int, environment: Mapping[str, str] | None = None) -> None:
        self._hosts = hosts
        self._limit = limit
        self._environment = os.environ if environment is None else environment
        self._session: aiohttp.ClientSession | None = None

    def key(self, source: HttpSource) -> str:
        """``host:port``."""
        try:
            parts = urlsplit(source.url)
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise SourceError(f"the address is none: {error}", retryable=False) from error
        if not host:
            raise SourceError("the address names no host", retryable=False)
        allowed = self._hosts
        if allowed is not None and not any(
            fnmatch.fnmatchcase(one, p) for p in allowed for one in (host, f"{host}:{port}")
        ):
            raise SourceError(f"{host}:{port} is not among PERDURE_VALIDATOR_SOURCE_HOSTS", retryable=False)
        return f"{host}:{port}"

    async def read(self, source: HttpSource, _timeout_s: float) -> Any:
        """GET it."""
        where = self.key(source)
        headers = {**_HEADERS, **{name: self._filled(value) for name, value in source.headers.items()}}
        try:
            async with self._open().get(source.url, headers=headers, allow_redirects=False) as answer:
                self._check(answer, where)
                body = await self._body(answer.content, where)
        except (aiohttp.InvalidURL, ValueError) as error:
            # The library's message may hold a header's value or the address's query.
            raise SourceError(
                f"{where}: the request cannot be sent ({type(error).__name__})", retryable=False
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise SourceError(f"{where}: {_kind(error)}", retryable=True) from error
        try:
            return json.loads(body)
        except ValueError as error:
            raise SourceError(f"{where}: the answer is not JSON: {error}", retryable=True) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Time-outs and the number of connections are decided by whoever calls.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

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

    def _filled(self, value: str) -> str:
        return _VARIABLE.sub(self._variable, value)

    def _variable(self, found: re.Match[str]) -> str:
        name = found[1]
        if not name.startswith(PREFIX):
            raise SourceError(f"a header names ${{{name}}}: only variables {PREFIX}* may be sent", retryable=False)
        if name not in self._environment:
            raise SourceError(
                f"a header needs {name}, which the validator's environment does not have", retryable=False
            )
        return self._environment[name]


def _kind(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer ended before it was complete"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error}"
    return f"the connection failed ({type(error).__name__})"
