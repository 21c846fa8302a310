"""Hosts and networks that an operator lists: ``quotes.example.com``, ``*.corp``, ``10.0.0.1:8080``, ``10.1.0.0/16``.

Contract: pure. ``*.`` at the beginning stands for one label or more; no other wildcard is taken, because ``10.*`` would also fit
``10.evil.example``. Names are compared as yarl writes them (lower case, IDNA), so a list and a URL are read in the same way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from yarl import URL

from perdure.chassis.errors import ConfigurationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class _Host:
    name: str
    below: bool
    port: int | None


class Hosts:
    """A list of hosts and networks.

    Args:
        listed: As the operator wrote them.
        setting: The variable that holds the list, for messages.

    Raises:
        ConfigurationError: an entry is neither a host nor a network.

    """

    def __init__(self, listed: Sequence[str], setting: str) -> None:
        self._hosts: list[_Host] = []
        self._networks: list[Network] = []
        for one in listed:
            try:
                self._networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError:
                self._hosts.append(_host(one.strip(), setting))

    @classmethod
    def of_text(cls, text: str, setting: str) -> Self:
        """A list that is separated by commas."""
        return cls([one.strip() for one in text.split(",") if one.strip()], setting)

    def name(self, url: URL) -> bool:
        """Whether the host of a URL is listed by its name, or as the literal address that it is."""
        host = (url.raw_host or "").rstrip(".")
        for one in self._hosts:
            if one.port in (None, url.port) and (host.endswith("." + one.name) if one.below else host == one.name):
                return True
        try:
            return self.hold(ipaddress.ip_address(host))
        except ValueError:
            return False

    def hold(self, address: Address) -> bool:
        """Whether an address is in a listed network."""
        return any(address.version == one.version and address in one for one in self._networks)


def _host(text: str, setting: str) -> _Host:
    below = text.startswith("*.")
    bare = text.removeprefix("*.")
    try:
        url = URL(f"//{bare}")
        name = (url.raw_host or "").rstrip(".")
    except ValueError as error:
        raise ConfigurationError(f"{setting}: {text!r} is neither a network nor a host: {error}") from error
    if "*" in bare or "?" in bare:
        raise ConfigurationError(
            f"{setting}: {text!r}: a wildcard is possible at the beginning only, as in *.example.com; write networks as 10.0.0.0/8"
        )
    if not name or url.raw_path.strip("/") or "/" in bare or url.user is not None:
        raise ConfigurationError(f"{setting}: {text!r} is neither a network nor a host")
    return _Host(name, below, url.explicit_port)
