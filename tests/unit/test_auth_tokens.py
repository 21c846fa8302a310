"""Tokens of a real issuer over HTTP: what holds, what does not, and keys that rotate."""

from __future__ import annotations

import base64
import hmac
import time
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from perdure.chassis import json
from perdure.gateway.auth import jwks
from perdure.gateway.auth.caller import Caller, CallerKind
from perdure.gateway.auth.credentials import Credentials, Refusal
from perdure.gateway.auth.issuers import Issuer
from perdure.gateway.auth.tokens import SignIn, TokenRefused, Tokens
from perdure.gateway.http.problems import RequestProblem
from perdure.schemas.scopes import Scope

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
SECRET = b"0123456789abcdef0123456789abcdef"
with warnings.catch_warnings(action="ignore"):
    RSA_SHORT = RSAKey.generate_key(1024).as_dict(private=False)
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})


class Provider:
    """Serves a discovery document and a key set, and counts the requests."""

    def __init__(self) -> None:
        self.keys: list[Key] = [RSA, EC, ED]
        self.extra: list[Any] = []
        self.asked = 0
        self.is_down = False
        self.issuer = ""

    async def start(self) -> TestServer:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._description)
        app.router.add_get("/keys", self._keys)
        server = TestServer(app)
        await server.start_server()
        self.issuer = str(server.make_url("")).rstrip("/")
        return server

    async def _description(self, _: web.Request) -> web.Response:
        return web.json_response({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"})

    async def _keys(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.is_down:
            raise web.HTTPServiceUnavailable
        return web.json_response({"keys": [*(key.as_dict(private=False) for key in self.keys), *self.extra]})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await provider.start()
    yield provider
    await server.close()


def tokens_of(provider: Provider) -> Tokens:
    return Tokens([Issuer(issuer=provider.issuer, audience=("perdure",), tenant="/org")])


def token(provider: Provider, key: Key = RSA, algorithm: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    said = {
        "iss": provider.issuer,
        "aud": "perdure",
        "sub": "ann",
        "org": "acme",
        "scope": "runs:read",
        "exp": now + 60,
    }
    kept = {name: value for name, value in {**said, **claims}.items() if value is not None}
    with warnings.catch_warnings(action="ignore"):  # of the name EdDSA
        return jwt.encode({"alg": algorithm, "kid": key.kid}, kept, key, algorithms=[algorithm])


async def asked(tokens: Tokens, bearer: str | None) -> Caller | Refusal | None:
    return await tokens.authenticate(Credentials(None, bearer, {}, {}, "GET", "/", {}, None))


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "Ed25519"), (ED, "EdDSA")])
async def test_a_token_names_the_caller(provider: Provider, key: Key, algorithm: str) -> None:
    caller = await asked(tokens_of(provider), token(provider, key, algorithm, aud=["other", "perdure"]))
    assert isinstance(caller, Caller)
    assert (caller.tenant, caller.subject, caller.kind) == ("acme", "ann", CallerKind.JWT)
    assert caller.scopes == {Scope.RUNS_READ}


async def test_other_credentials_are_for_others(provider: Provider) -> None:
    tokens = tokens_of(provider)
    assert await asked(tokens, None) is None
    assert await asked(tokens, "pk_abc_def") is None
    assert provider.asked == 0


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": int(time.time()) - 120}, "has expired"),
        ({"exp": None}, "exp"),
        ({"nbf": int(time.time()) + 600}, "not accepted"),
        ({"aud": "others"}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": []}, "aud"),
        ({"iss": "https://id.example.com"}, "its issuer is not one"),
        ({"iss": None}, "its issuer is not one"),
        ({"iss": ["a"]}, "its issuer is not one"),
        ({"org": None}, "tenant"),
    ],
)
async def test_claims_that_do_not_hold(provider: Provider, claims: dict[str, Any], said: str) -> None:
    refusal = await asked(tokens_of(provider), token(provider, **claims))
    assert isinstance(refusal, Refusal)
    assert said in refusal.detail


def by_hand(provider: Provider, header: dict[str, Any], secret: bytes | None = None) -> str:
    """A token that no library would make: unsigned, or signed with ``secret`` by HMAC-SHA-256."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    claims = {"iss": provider.issuer, "aud": "perdure", "sub": "ann", "org": "acme", "exp": int(time.time()) + 60}
    signed = f"{part(json.dumps(header))}.{part(json.dumps(claims))}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), 'sha256')) if secret else ''}"


async def test_forged_signatures(provider: Provider) -> None:
    tokens = tokens_of(provider)
    whole = token(provider)
    mallory = RSAKey.generate_key(2048, {"kid": "rsa"})
    head, claims, signature = whole.split(".")
    other = token(provider, sub="boss").split(".")[1]
    forged = [
        by_hand(provider, {"alg": "none", "kid": "rsa"}),
        by_hand(provider, {"alg": "none"}),
        by_hand(provider, {"alg": "HS256", "kid": "rsa"}, RSA.as_pem(private=False)),
        by_hand(provider, {"alg": "HS256", "kid": "rsa"}, RSA.as_der(private=False)),
        token(provider, mallory),
        f"{head}.{other}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}.AAAA",
        token(provider, RSA, "PS256"),
        "a.b.c",
        "..",
        "a" * 20_000 + ".b.c",
    ]
    for bearer in forged:
        refusal = await asked(tokens, bearer)
        assert isinstance(refusal, Refusal), bearer[:40]
        assert "boss" not in refusal.detail
    assert isinstance(await asked(tokens, whole), Caller)


async def test_keys_rotate(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = tokens_of(provider)
    assert isinstance(await asked(tokens, token(provider)), Caller)
    assert isinstance(await asked(tokens, token(provider)), Caller)
    assert provider.asked == 1
    new = RSAKey.generate_key(2048, {"kid": "new"})
    provider.keys = [new]
    assert isinstance(await asked(tokens, token(provider, new)), Refusal), "asked again within RETRY_S"
    assert provider.asked == 1
    monkeypatch.setattr(jwks, "RETRY_S", 0.0)
    assert isinstance(await asked(tokens, token(provider, new)), Caller)
    assert provider.asked == 2
    assert isinstance(await asked(tokens, token(provider)), Refusal), "the old key is gone"


async def test_made_up_ids_cost_the_issuer_nothing(provider: Provider) -> None:
    tokens = tokens_of(provider)
    for number in range(20):
        made_up = ECKey.generate_key("P-256", {"kid": str(number)})
        assert isinstance(await asked(tokens, token(provider, made_up, "ES256")), Refusal)
    assert provider.asked == 1


async def test_an_issuer_that_is_down(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "RETRY_S", 0.0)
    monkeypatch.setattr(jwks, "FRESH_S", 0.0)
    tokens = tokens_of(provider)
    provider.is_down = True
    with pytest.raises(RequestProblem, match="cannot be told who calls"):
        await asked(tokens, token(provider))
    provider.is_down = False
    assert isinstance(await asked(tokens, token(provider)), Caller)
    provider.is_down = True
    assert isinstance(await asked(tokens, token(provider)), Caller), "the old keys hold"
    monkeypatch.setattr(jwks, "STALE_S", 0.0)
    with pytest.raises(RequestProblem):
        await asked(tokens, token(provider))


async def test_unusable_keys_are_left_out(provider: Provider) -> None:
    provider.extra = [
        7,
        {"kty": "oct", "kid": "secret", "k": base64.urlsafe_b64encode(SECRET).decode()},
        {**RSA_SHORT, "kid": "short"},
        {"kty": "RSA", "kid": "broken"},
        {**RSAKey.generate_key(2048).as_dict(private=False), "kid": "enc", "use": "enc"},
    ]
    tokens = tokens_of(provider)
    assert isinstance(await asked(tokens, token(provider)), Caller)
    for kid in ("secret", "short", "enc", "broken"):
        refusal = await asked(tokens, by_hand(provider, {"alg": "HS256", "kid": kid}, SECRET))
        assert isinstance(refusal, Refusal)
        assert f"has no key {kid!r}" in refusal.detail


async def test_an_id_token_belongs_to_one_sign_in(provider: Provider) -> None:
    tokens, sign_in = tokens_of(provider), SignIn("console", "once")
    await tokens.verified(token(provider, aud="console", nonce="once"), sign_in=sign_in)
    for wrong in ({"aud": "console", "nonce": "other"}, {"aud": "console"}, {"aud": "perdure", "nonce": "once"}):
        with pytest.raises(TokenRefused):
            await tokens.verified(token(provider, **wrong), sign_in=sign_in)
    assert isinstance(await asked(tokens, token(provider, aud="console")), Refusal), "no ID token is an access token"
