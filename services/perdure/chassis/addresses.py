"""Which addresses a service may send requests to: public ones, and those that the operator listed.

Contract: pure. What is judged is the address that the connection is made to, so that a name which resolves to something else a
moment later changes nothing (:mod:`perdure.chassis.outgoing` hands the judged addresses to the connection). IPv6 addresses that
stand for IPv4 ones (mapped, 6to4, NAT64, Teredo) are judged by what they stand for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from yarl import URL

from perdure.chassis.hosts import Address, Hosts

_NAT64_WELL_KNOWN: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


class AddressRefused(OSError):
    """A request may not go there. An ``OSError``, so that it passes through a resolver's caller."""


class AddressRules:
    """The rules of one service.

    Args:
        allowed: Hosts and networks (:class:`perdure.chassis.hosts.Hosts`) that may be reached although they are private, and
            without TLS.
        setting: The variable that holds this list, for messages.

    Raises:
        ConfigurationError: an entry of the list is neither a host nor a network.

    """

    def __init__(self, allowed: Sequence[str], setting: str) -> None:
        self._allowed = Hosts(allowed, setting)
        self._setting = setting

    def usable(self, url: URL, addresses: Sequence[str]) -> list[str]:
        """Those of a host's addresses that may be connected to.

        Args:
            url: What is asked for.
            addresses: What its host resolved to.

        Raises:
            AddressRefused: none of them; says which, why, and what to do.

        """
        if self._allowed.name(url):
            return [*addresses]
        plain = url.scheme != "https"
        problems = {one: self._problem(one, plain=plain) for one in addresses}
        found = [one for one, problem in problems.items() if problem is None]
        if not found:
            why = "; ".join(f"{one} is {problem}" for one, problem in problems.items()) or "it has no address"
            raise AddressRefused(
                f"{url.raw_host} may not be reached: {why}. If it is yours, add the host or its network to {self._setting}"
            )
        return found

    def _problem(self, text: str, *, plain: bool) -> str | None:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return "no IP address"
        meant = _meant(address)
        if self._allowed.hold(address) or self._allowed.hold(meant):
            return None
        if plain:
            return "only reached with https"
        return None if _public(meant) else f"not public ({_kind(meant)})"


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is not None:
        return inner
    if int(address) > 1 and (address in _NAT64_WELL_KNOWN or address in _COMPATIBLE):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _public(address: Address) -> bool:
    if address.version == 6 and address in _NAT64_LOCAL:
        return False  # where in it the IPv4 address stands depends on the network's prefix (RFC 6052), which nobody knows here
    return address.is_global and not address.is_multicast and not address.is_reserved


def _kind(address: Address) -> str:
    for name in ("loopback", "link_local", "multicast", "unspecified", "private", "reserved"):
        if getattr(address, f"is_{name}"):
            return name.replace("_", "-")
    return "private" if address.version == 6 and address in _NAT64_LOCAL else "reserved"
