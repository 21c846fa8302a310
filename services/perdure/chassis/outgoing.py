"""Requests to addresses that somebody else chose: the one way in which services fetch and post them.

Contract: the connection is made to an address that was judged (:mod:`perdure.chassis.addresses`), resolved once for each
connection, so that the check and the connection cannot differ; literal addresses are judged like names, and the peer of the
connected socket is judged once more before anything is sent. No proxy, no cookies, and no time-outs: the caller sets those, reads
a URL once (as :class:`yarl.URL`), and must not follow redirects.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from perdure.chassis.addresses import AddressRefused, AddressRules

MakeResolver = Callable[[], AbstractResolver]


class JudgedConnector(aiohttp.TCPConnector):
    """Connects to addresses that may be connected to, and to no other.

    What is judged is what aiohttp connects to, after its own reading of the URL: IDNA makes ``127.0.0.1`` of full-width digits.

    Args:
        rules: Which addresses.
        scheme: Of all URLs that it connects for.
        options: Of ``aiohttp.TCPConnector``.

    """

    def __init__(self, rules: AddressRules, scheme: str, **options: Any) -> None:
        super().__init__(**options)
        self._rules = rules
        self._scheme = scheme

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[ResolveResult]:
        found = await super()._resolve_host(host, port, traces)
        url = URL.build(scheme=self._scheme, host=host, port=port)
        usable = set(self._rules.usable(url, [one["host"] for one in found]))
        return [one for one in found if one["host"] in usable]

    async def _wrap_create_connection(self, *args: Any, **kwargs: Any) -> Any:
        transport, protocol = await super()._wrap_create_connection(*args, **kwargs)
        peer = transport.get_extra_info("peername")
        try:
            if peer is not None:  # else it is closed already
                self._rules.usable(kwargs["req"].url, [peer[0]])
        except AddressRefused:
            transport.abort()
            raise
        return transport, protocol


class Outgoing:
    """Sessions that send to judged addresses only; belongs to one event loop.

    Args:
        rules: Which addresses.
        headers: Sent with each request.
        ca_file: Certificates that ``https`` is verified with, besides the system's.
        resolver: Makes the resolver of names; aiohttp's by default.
        auto_decompress: Whether answers are decompressed.

    """

    def __init__(
        self,
        rules: AddressRules,
        headers: Mapping[str, str],
        *,
        ca_file: str | None = None,
        resolver: MakeResolver | None = None,
        auto_decompress: bool = False,
    ) -> None:
        self._rules = rules
        self._headers = headers
        self._ca_file = ca_file
        self._resolver = resolver
        self._auto_decompress = auto_decompress
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    def session(self, url: URL) -> aiohttp.ClientSession:
        """The session for a URL."""
        scheme = "https" if url.scheme == "https" else "http"
        found = self._sessions.get(scheme)
        if found is None:
            connector = JudgedConnector(
                self._rules,
                scheme,
                limit=0,
                use_dns_cache=False,
                resolver=self._resolver() if self._resolver is not None else aiohttp.ThreadedResolver(),
                ssl=_trust(self._ca_file),
            )
            found = self._sessions[scheme] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                auto_decompress=self._auto_decompress,
                trust_env=False,
            )
        return found

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()


def refusal_of(error: BaseException) -> AddressRefused | None:
    """The refusal of an address that made a request fail, if one did."""
    for one in (error, error.__cause__):
        if isinstance(one, AddressRefused):
            return one
    return None


def _trust(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context
