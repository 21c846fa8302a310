"""Which addresses webhooks may reach."""

from __future__ import annotations

import pytest

from perdure.chassis.errors import ConfigurationError
from perdure.notifier.channels.addresses import AddressRefused, AddressRules

PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
REFUSED = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:53aa:64c:0:0:80ff:fffe",
    "no address",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    assert AddressRules([]).usable("example.com", [address], plain=False) == [address]


@pytest.mark.parametrize("address", REFUSED)
def test_all_others_are_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="PERDURE_NOTIFIER_ALLOWED_TARGETS"):
        AddressRules([]).usable("example.com", [address], plain=False)


@pytest.mark.parametrize("address", PUBLIC)
def test_plain_http_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="only reached with https"):
        AddressRules([]).usable("example.com", [address], plain=True)


def test_networks_and_hosts_can_be_allowed() -> None:
    rules = AddressRules(["127.0.0.0/8", "10.1.0.0/16", "::1", "hooks.internal", "*.corp"])
    assert rules.usable("x", ["127.0.0.1", "::1"], plain=True) == ["127.0.0.1", "::1"]
    assert rules.usable("x", ["::ffff:10.1.2.3"], plain=False) == ["::ffff:10.1.2.3"]
    assert rules.usable("Hooks.Internal", ["10.9.9.9"], plain=True) == ["10.9.9.9"]
    assert rules.usable("a.corp.", ["192.168.0.1"], plain=False) == ["192.168.0.1"]
    for host, address in [("x", "10.2.0.1"), ("corp", "10.2.0.1"), ("a.corp.example", "10.2.0.1")]:
        with pytest.raises(AddressRefused):
            rules.usable(host, [address], plain=False)


def test_of_several_addresses_the_public_ones_are_used() -> None:
    assert AddressRules([]).usable("x", ["127.0.0.1", PUBLIC[0], "::1"], plain=False) == [PUBLIC[0]]
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1 is not public \(loopback\); 10\.0\.0\.1 is not public"):
        AddressRules([]).usable("x", ["127.0.0.1", "10.0.0.1"], plain=False)
    with pytest.raises(AddressRefused, match="no address"):
        AddressRules([]).usable("x", [], plain=False)


@pytest.mark.parametrize("wrong", ["10.0.0.0/33", "hook/x", ""])
def test_a_setting_that_is_neither_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="PERDURE_NOTIFIER_ALLOWED_TARGETS"):
        AddressRules([wrong])
