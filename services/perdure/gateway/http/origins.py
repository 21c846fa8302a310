"""Names and origins: under which hosts the gateway answers while it is open, and which web pages may use it."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""


class Origins:
    """The origins of web pages that may use the gateway, besides its own pages."""

    def __init__(self, named: str, public_url: str | None, *, local: bool) -> None:
        """Take ``PERDURE_CORS_ALLOW_ORIGINS`` and ``PERDURE_PUBLIC_URL``; ``local``: the gateway listens on loopback.

        Pages of loopback ports may use a gateway on loopback: local UIs.
        """
        self._named = frozenset(origin.strip().rstrip("/").lower() for origin in named.split(",") if origin.strip())
        self._own = _origin_of(public_url)
        self._local = local

    @property
    def all(self) -> bool:
        """Whether every page may."""
        return ANY in self._named

    def names(self, origin: str) -> bool:
        """Whether a setting names the origin."""
        return origin.lower() in self._named or origin.lower() == self._own

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may use the gateway."""
        return self.all or self.names(origin) or (self._local and is_loopback(_host_of(origin)))


class Hosts:
    """The names under which a gateway that asks nobody answers: a web page that gave its own name this address is refused."""

    def __init__(self, named: str, public_url: str | None, *, local: bool) -> None:
        """Take ``PERDURE_GATEWAY_HOSTS`` and ``PERDURE_PUBLIC_URL``; ``local``: the gateway listens on loopback.

        Elsewhere, addresses and names without a dot are answered as well: no web page can have such a name from outside.
        """
        names = {name.strip().lower() for name in named.split(",") if name.strip()}
        self._named = frozenset(names | ({_host_of(public_url)} if public_url else set()))
        self._local = local

    def allows(self, host: str) -> bool:
        """Whether requests with this header ``Host`` are answered."""
        name = _host_of(f"http://{host}")
        if ANY in self._named or name in self._named or is_loopback(name):
            return True
        return not self._local and bool(name) and (_is_address(name) or "." not in name)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address or a name."""
    if _is_address(host):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def is_same(origin: str, host: str) -> bool:
    """Whether an origin is the one that a header ``Host`` names."""
    scheme, _, place = origin.partition("://")
    return scheme in {"http", "https"} and place.lower() == host.lower()


def is_own_page(headers: Mapping[str, str]) -> bool:
    """Whether no web page sent a request, or a page of this very gateway did: not one of another port either.

    A page that sends no referrer sends ``Origin: null`` with its forms; ``Sec-Fetch-Site`` then says whose page it is.
    """
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None:
        return site in {"same-origin", "none"}
    return origin is None or is_same(origin, headers.get("Host", ""))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _origin_of(url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
