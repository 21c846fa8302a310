"""POST to an address that somebody else chose.

Contract: sent by :mod:`perdure.chassis.outgoing`; the URL is read once, by yarl, as aiohttp reads it. No redirect, no
decompression. The status must be there within the time-out; at most ``response_bytes`` of the answer's body are read, for at
most ``BODY_S``. A receiver that took the request (2xx) took it, whatever it does with the rest of its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from perdure.chassis.addresses import AddressRules
from perdure.chassis.clock import now
from perdure.chassis.outgoing import MakeResolver, Outgoing, refusal_of
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


class GuardedHttp:
    """Sends requests; belongs to one event loop."""

    def __init__(
        self,
        rules: AddressRules,
        limits: Limits,
        *,
        ca_file: str | None = None,
        resolver: MakeResolver | None = None,
    ) -> None:
        self._limits = limits
        self._outgoing = Outgoing(
            rules, {"User-Agent": AGENT, "Accept-Encoding": "identity"}, ca_file=ca_file, resolver=resolver
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Result:
        """POST once."""
        try:
            return await self._post(URL(url), body, headers)
        except TimeoutError:
            return down(f"no answer within {self._limits.timeout_s:g} s")
        except (aiohttp.InvalidURL, ValueError) as error:
            return dead(f"the address cannot be used ({type(error).__name__}); change the subscription")
        except (aiohttp.ClientError, OSError) as error:
            refused = refusal_of(error)
            return dead(f"{refused}, then redrive") if refused is not None else down(_problem(error))

    async def close(self) -> None:
        """Close the connections."""
        await self._outgoing.close()

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Result:
        async with asyncio.timeout(self._limits.timeout_s):
            asked = self._outgoing.session(url).post(url, data=body, headers=headers, allow_redirects=False)
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
