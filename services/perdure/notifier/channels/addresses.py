"""Which addresses webhooks may reach: public ones, and those that are allowed by name or network.

Contract: pure. What is judged is the address that the connection is made to, so that a name which resolves to something else a
moment later changes nothing (``channels.http`` hands the judged addresses to the connection). IPv6 addresses that stand
for IPv4 ones (mapped, 6to4, NAT64, Teredo) are judged by what they stand for.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Sequence
from typing import Final

from perdure.chassis.errors import ConfigurationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SETTING: Final = "PERDURE_NOTIFIER_ALLOWED_TARGETS"
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


class AddressRefused(OSError):
    """A webhook may not go there. An ``OSError``, so that it passes through a resolver's caller."""


class AddressRules:
    """The rules of one installation.

    Args:
        allowed: Hosts (``fnmatch`` patterns) and networks that may be reached although they are private, and without TLS.

    Raises:
        ConfigurationError: a network is none.

    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._networks: list[Network] = []
        self._hosts: list[str] = []
        for one in allowed:
            try:
                self._networks.append(ipaddress.ip_network(one, strict=False))
            except ValueError as error:
                if "/" in one or not one:
                    raise ConfigurationError(f"{SETTING}: {one!r} is neither a network nor a host: {error}") from error
                self._hosts.append(one.lower())

    def usable(self, host: str, addresses: Sequence[str], *, plain: bool) -> list[str]:
        """Those of a host's addresses that may be connected to.

        Args:
            host: As the URL names it.
            addresses: What it resolved to.
            plain: Without TLS.

        Raises:
            AddressRefused: none of them; says which, why, and what to do.

        """
        if self._named(host):
            return [*addresses]
        problems = {one: self._problem(one, plain=plain) for one in addresses}
        found = [one for one, problem in problems.items() if problem is None]
        if not found:
            why = "; ".join(f"{one} is {problem}" for one, problem in problems.items()) or "it has no address"
            raise AddressRefused(
                f"{host} may not be reached: {why}. If it is yours, add the host or its network to {SETTING}, then redrive"
            )
        return found

    def _named(self, host: str) -> bool:
        return any(fnmatch.fnmatchcase(host.lower().rstrip("."), pattern) for pattern in self._hosts)

    def _problem(self, text: str, *, plain: bool) -> str | None:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return "no IP address"
        real = _meant(address)
        if any(_within(one, network) for one in (address, real) for network in self._networks):
            return None
        if plain:
            return "only reached with https"
        return None if _public(real) else f"not public ({_kind(real)})"


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is not None:
        return inner
    if any(address in network for network in (*_NAT64, _COMPATIBLE)) and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _kind(address: Address) -> str:
    for name in ("loopback", "link_local", "multicast", "unspecified", "private", "reserved"):
        if getattr(address, f"is_{name}"):
            return name.replace("_", "-")
    return "reserved"
