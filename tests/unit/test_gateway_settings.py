"""Where the gateway may be open, and what names a tenant."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from perdure.chassis import mongo
from perdure.chassis.errors import ConfigurationError
from perdure.gateway.auth.mode import AuthMode
from perdure.gateway.auth.policy import Policy
from perdure.gateway.settings import GatewaySettings
from perdure.registry.api_keys import ApiKeys


def policy(mode: AuthMode, host: str, *, configured: bool = False) -> Policy:
    client = mongo.connect("mongodb://127.0.0.1:9/perdure")
    try:
        return Policy(ApiKeys(client["perdure"]), mode, host=host, configured=configured, timeout_s=0.1)
    finally:
        client.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway", "localhost.example.com", ""])
async def test_an_open_gateway_does_not_listen_for_others(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"PERDURE_AUTH=keys .* PERDURE_AUTH=none"):
        policy(AuthMode.AUTO, host)
    assert not policy(AuthMode.KEYS, host).may_be_open()
    assert await policy(AuthMode.KEYS, host).asks()
    assert not await policy(AuthMode.NONE, host).asks()
    assert not policy(AuthMode.AUTO, host, configured=True).may_be_open()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.3.2.1", "localhost"])
async def test_on_loopback_it_may_be_open(host: str) -> None:
    assert policy(AuthMode.AUTO, host).may_be_open()
    assert await policy(AuthMode.AUTO, host, configured=True).asks()


async def test_none_contradicts_an_issuer() -> None:
    with pytest.raises(ConfigurationError, match="contradicts"):
        policy(AuthMode.NONE, "127.0.0.1", configured=True)


@pytest.mark.parametrize("tenant", ["", "a:b", "a b", "é", "a" * 65, "a\n"])
def test_a_tenant_has_a_plain_name(tenant: str) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(tenant=tenant)
