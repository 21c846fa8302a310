"""Which addresses requests may be sent to, and which hosts an operator's list names."""

from __future__ import annotations

import pytest
from yarl import URL

from perdure.chassis.addresses import AddressRefused, AddressRules
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.hosts import Hosts

PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
SETTING = "PERDURE_NOTIFIER_ALLOWED_TARGETS"
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
    "64:ff9b:1:7f00:0:100::",
    "64:ff9b:1:a00:0:100:5db8:d822",
    "no address",
]


def usable(rules: AddressRules, host: str, addresses: list[str], scheme: str = "https") -> list[str]:
    return rules.usable(URL.build(scheme=scheme, host=host), addresses)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    assert usable(AddressRules([], SETTING), "example.com", [address]) == [address]


@pytest.mark.parametrize("address", REFUSED)
def test_all_others_are_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match=SETTING):
        usable(AddressRules([], SETTING), "example.com", [address])


@pytest.mark.parametrize("address", PUBLIC)
def test_plain_http_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="only reached with https"):
        usable(AddressRules([], SETTING), "example.com", [address], "http")


def test_networks_and_hosts_can_be_allowed() -> None:
    rules = AddressRules(["127.0.0.0/8", "10.1.0.0/16", "::1", "hooks.internal", "*.corp"], SETTING)
    assert usable(rules, "x", ["127.0.0.1", "::1"], "http") == ["127.0.0.1", "::1"]
    assert usable(rules, "x", ["::ffff:10.1.2.3"]) == ["::ffff:10.1.2.3"]
    assert usable(rules, "Hooks.Internal", ["10.9.9.9"], "http") == ["10.9.9.9"]
    assert usable(rules, "a.corp.", ["192.168.0.1"]) == ["192.168.0.1"]
    for host, address in [("x", "10.2.0.1"), ("corp", "10.2.0.1"), ("a.corp.example", "10.2.0.1")]:
        with pytest.raises(AddressRefused):
            usable(rules, host, [address])


def test_of_several_addresses_the_public_ones_are_used() -> None:
    rules = AddressRules([], SETTING)
    assert usable(rules, "x", ["127.0.0.1", PUBLIC[0], "::1"]) == [PUBLIC[0]]
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1 is not public \(loopback\); 10\.0\.0\.1 is not public"):
        usable(rules, "x", ["127.0.0.1", "10.0.0.1"])
    with pytest.raises(AddressRefused, match="no address"):
        usable(rules, "x", [])


@pytest.mark.parametrize(
    "wrong", ["10.0.0.0/33", "hook/x", "", "10.*", "127.0.0.*", "a*.example.com", "*", "u@host", "h:x"]
)
def test_a_setting_that_is_neither_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=SETTING):
        AddressRules([wrong], SETTING)


@pytest.mark.parametrize(
    ("listed", "url", "named"),
    [
        ("quotes.example.com", "https://quotes.example.com/x", True),
        ("quotes.example.com", "https://QUOTES.example.com./x", True),
        ("quotes.example.com", "https://quotes.example.com.evil.example/x", False),
        ("quotes.example.com", "https://quotes.example.com@evil.example/x", False),
        ("*.example.com", "https://a.b.example.com/", True),
        ("*.example.com", "https://example.com/", False),
        ("*.example.com", "https://evilexample.com/", False),
        ("api.example.com:8443", "https://api.example.com:8443/", True),
        ("api.example.com:8443", "https://api.example.com/", False),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://10.evil.example/", False),
        ("10.0.0.1:8080", "http://10.0.0.1:8080/", True),
        ("127.0.0.1", "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", True),
        ("b\u00fccher.example", "https://xn--bcher-kva.example/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("::1", "http://[::1]/", True),
    ],
)
def test_what_a_list_names(listed: str, url: str, named: bool) -> None:
    assert Hosts([listed], SETTING).name(URL(url)) is named
