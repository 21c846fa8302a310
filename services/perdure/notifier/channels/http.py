"""POST to an address that somebody else chose.

Contract: the connection is made to an address that was judged (``addresses``), resolved once for each connection: the check
and the connection cannot differ. No proxy, no cookies, no redirect, no decompression. The status must be there within the
time-out; at most ``response_bytes`` of the answer's body are read, for at most ``BODY_S``. A receiver that took the request
(2xx) took it, whatever it does with the rest of its answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from perdure.chassis.clock import now
from perdure.notifier.channels.addresses import AddressRefused, AddressRules
from perdure.notifier.channels.result import Result, dead, down, short
from perdure.notifier.timing import retry_after_s

AGENT: Final = "Perdure-Notifier/1"
BODY_S: Final = 1.0
"""How long the rest of an answer is waited for, in seconds."""

Resolver = Callable[[str, int, socket.AddressFamily], Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request: seconds until its status, and bytes of its body."""

    timeout_s: float
    response_bytes: int


class JudgedResolver(AbstractResolver):
    """Resolves a name, and gives only addresses that may be connected to.

    Args:
        rules: Which.
        plain: For connections without TLS.
        resolver: Who resolves; aiohttp's by default.

    """

    def __init__(self, rules: AddressRules, *, plain: bool, resolver: AbstractResolver | None = None) -> None:
        self._rules = rules
        self._plain = plain
        self._resolver = resolver or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The judged addresses of a host."""
        found = await self._resolver.resolve(host, port, family)
        usable = set(self._rules.usable(host, [one["host"] for one in found], plain=self._plain))
        return [one for one in found if one["host"] in usable]

    async def close(self) -> None:
        """Close what resolves."""
        await self._resolver.close()


class GuardedHttp:
    """Sends requests; belongs to one event loop."""

    def __init__(
        self,
        rules: AddressRules,
        limits: Limits,
        *,
        ca_file: str | None = None,
        resolver: Callable[[], AbstractResolver] | None = None,
    ) -> None:
        self._rules = rules
        self._limits = limits
        self._ca_file = ca_file
        self._resolver = resolver
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Result:
        """POST once."""
        parts = urlsplit(url)
        host, plain = parts.hostname or "", parts.scheme == "http"
        try:
            if _is_address(host):  # no resolver is asked about these
                self._rules.usable(host, [host], plain=plain)
            return await self._post(url, body, headers, plain=plain)
        except AddressRefused as error:
            return dead(str(error))
        except TimeoutError:
            return down(f"no answer within {self._limits.timeout_s:g} s")
        except (aiohttp.InvalidURL, ValueError) as error:
            return dead(f"the address cannot be used ({type(error).__name__}); change the subscription")
        except (aiohttp.ClientError, OSError) as error:
            cause = error.__cause__
            return dead(str(cause)) if isinstance(cause, AddressRefused) else down(_problem(error))

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str], *, plain: bool) -> Result:
        async with asyncio.timeout(self._limits.timeout_s):
            asked = self._session(plain=plain).post(url, data=body, headers=headers, allow_redirects=False)
            answer = await asked
        async with answer:  # what it says further is read for a second at most: its status counts already
            if 200 <= answer.status < 300:
                await self._finish(answer)
                return Result(delivered=True, status=answer.status)
            said = await self._said(answer)
        return _refusal(answer, said, url)

    async def _finish(self, answer: aiohttp.ClientResponse) -> None:
        """Read the rest of an answer, if that is quick and short, to keep the connection; else close it."""
        try:
            async with asyncio.timeout(BODY_S):
                await self._read(answer)
                complete = answer.content.at_eof()
        except (TimeoutError, aiohttp.ClientError, OSError):
            complete = False
        if not complete:
            answer.close()

    async def _said(self, answer: aiohttp.ClientResponse) -> str:
        """The beginning of what a receiver that refused says, for the log."""
        try:
            async with asyncio.timeout(BODY_S):
                found = await self._read(answer)
        except (TimeoutError, aiohttp.ClientError, OSError):
            found = b""
        answer.close()
        return short(found[:200].decode(errors="replace"))

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        found = bytearray()
        while len(found) < self._limits.response_bytes:
            chunk = await answer.content.read(self._limits.response_bytes - len(found))
            if not chunk:
                break
            found += chunk
        return bytes(found)

    def _session(self, *, plain: bool) -> aiohttp.ClientSession:
        found = self._sessions.get(plain)
        if found is None:
            resolver = self._resolver() if self._resolver is not None else None
            connector = aiohttp.TCPConnector(
                limit=0,
                use_dns_cache=False,
                resolver=JudgedResolver(self._rules, plain=plain, resolver=resolver),
                ssl=_trust(self._ca_file),
            )
            found = self._sessions[plain] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        return found


def _trust(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _refusal(answer: aiohttp.ClientResponse, said: str, url: str) -> Result:
    status = answer.status
    tail = f": {said}" if said else ""
    asked = retry_after_s(answer.headers.get("Retry-After"), now())
    if status == 410:
        return Result(
            delivered=False, final=True, status=status, gone=True, reason="answered 410: the receiver is gone for good"
        )
    if 300 <= status < 400:
        where = urlsplit(answer.headers.get("Location", "")).hostname or urlsplit(url).hostname
        return Result(
            delivered=False,
            status=status,
            reason=short(
                f"answered {status}, a redirect (to {where}): redirects are not followed, subscribe the address it leads to"
            ),
        )
    if status >= 500:
        return down(f"answered {status}{tail}", status, asked)
    return Result(delivered=False, status=status, reason=short(f"answered {status}{tail}"), retry_after_s=asked)


def _problem(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"it does not speak HTTP: {error.message}"  # as text the error would show the whole address
    return f"the connection failed ({type(error).__name__})"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
