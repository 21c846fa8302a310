"""POST to an address that somebody else chose.

Contract: the connection is made to an address that was judged (``addresses``), resolved once for each connection: the check
and the connection cannot differ. The URL is read once, by yarl, as aiohttp reads it. No proxy, no cookies, no redirect, no
decompression. The status must be there within the time-out; at most ``response_bytes`` of the answer's body are read, for at
most ``BODY_S``. A receiver that took the request (2xx) took it, whatever it does with the rest of its answer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from perdure.chassis.clock import now
from perdure.notifier.channels.addresses import AddressRefused, AddressRules
from perdure.notifier.channels.result import Result, dead, down, short
from perdure.notifier.timing import retry_after_s

AGENT: Final = "Perdure-Notifier/1"
BODY_S: Final = 1.0
"""How long the rest of an answer is waited for, in seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request: seconds until its status, and bytes of its body."""

    timeout_s: float
    response_bytes: int


class JudgedConnector(aiohttp.TCPConnector):
    """Connects to addresses that may be connected to, and to no other: names and literal addresses are judged alike.

    What is judged is what aiohttp connects to, after its own reading of the URL (IDNA makes ``127.0.0.1`` of full-width
    digits), and the socket's peer is judged once more before anything is sent to it.

    Args:
        rules: Which.
        plain: For connections without TLS.
        options: Of ``aiohttp.TCPConnector``.

    """

    def __init__(self, rules: AddressRules, *, plain: bool, **options: Any) -> None:
        super().__init__(**options)
        self._rules = rules
        self._plain = plain

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[ResolveResult]:
        found = await super()._resolve_host(host, port, traces)
        usable = set(self._rules.usable(host, [one["host"] for one in found], plain=self._plain))
        return [one for one in found if one["host"] in usable]

    async def _wrap_create_connection(self, *args: Any, **kwargs: Any) -> Any:
        transport, protocol = await super()._wrap_create_connection(*args, **kwargs)
        peer = transport.get_extra_info("peername")
        try:
            if peer is not None:  # else it is closed already
                self._rules.usable(kwargs["req"].url.raw_host or "", [peer[0]], plain=self._plain)
        except AddressRefused:
            transport.abort()
            raise
        return transport, protocol


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
        try:
            return await self._post(URL(url), body, headers)
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

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Result:
        async with asyncio.timeout(self._limits.timeout_s):
            asked = self._session(plain=url.scheme != "https").post(
                url, data=body, headers=headers, allow_redirects=False
            )
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
            connector = JudgedConnector(
                self._rules,
                plain=plain,
                limit=0,
                use_dns_cache=False,
                resolver=self._resolver() if self._resolver is not None else aiohttp.ThreadedResolver(),
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


def _refusal(answer: aiohttp.ClientResponse, said: str, url: URL) -> Result:
    status = answer.status
    tail = f": {said}" if said else ""
    asked = retry_after_s(answer.headers.get("Retry-After"), now())
    if status == 410:
        return Result(
            delivered=False, final=True, status=status, gone=True, reason="answered 410: the receiver is gone for good"
        )
    if 300 <= status < 400:
        where = _host_of(answer.headers.get("Location", "")) or url.raw_host
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


def _host_of(location: str) -> str | None:
    try:
        return URL(location).raw_host
    except ValueError:
        return None
