"""People sign in to the console in a real browser: at a real OpenID Connect provider, with an API key, and with a ticket."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page
from tests.integration.browser_stage import shoot
from tests.support.gateway import OpenGateway, fresh_database, open_gateway
from tests.support.polling import until

from perdure.chassis import json
from perdure.chassis.clock import now
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.gateway.auth.sessions import COOKIE
from perdure.local.resources import free_port
from perdure.registry.api_keys import ApiKeys, new_key
from perdure.registry.sessions import Sessions
from perdure.schemas import topics
from perdure.schemas.scopes import SETS, Scope

ISSUERS = """
[[issuers]]
issuer = "{issuer}"
audience = ["perdure"]
tenant = "/org"
granted_by = "/groups"
[issuers.grants]
operators = ["admin"]
[issuers.login]
client_id = "console"
client_secret_file = "{secret}"
"""
PEOPLE = (
    {"sub": "ann", "org": "acme", "groups": ["operators"]},
    {"sub": "bob", "org": "acme", "groups": []},
    {"sub": "eve", "groups": ["operators"]},
)


@dataclass
class SignedGateway(OpenGateway):
    """A gateway at which people sign in, and its provider."""

    issuer: str = ""

    async def key(self, *scopes: Scope) -> str:
        document, key = new_key(tenant="acme", name="test", scopes=scopes, created_by="test", expires_at=None)
        await ApiKeys(self.database).create(document)
        return key


@contextlib.contextmanager
def provider(folder: Path) -> AsyncIterator[str]:
    """The URL of an OpenID Connect provider, a process of its own."""
    port = free_port()
    people = [argument for person in PEOPLE for argument in ("--user-claims", json.dumps(person).decode())]
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "-p", str(port), *people]
    with (folder / "provider.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "NO_COLOR": "1"})
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


async def answers(url: str) -> bool:
    async with httpx.AsyncClient() as http:
        try:
            return (await http.get(url)).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
async def gateway(
    mongodb_uri: str, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SignedGateway]:
    folder = tmp_path_factory.mktemp("issuers")
    await TopicAdmin(kafka_bootstrap).apply(topics.ALL)
    with provider(folder) as issuer:
        await until(lambda: answers(f"{issuer}/.well-known/openid-configuration"), "the provider answers")
        (folder / "secret").write_text("between the two\n")
        file = folder / "issuers.toml"
        file.write_text(ISSUERS.format(issuer=issuer, secret=folder / "secret"))
        uri = fresh_database(mongodb_uri, "sign_in")
        async with open_gateway(uri, kafka_bootstrap, SignedGateway, auth_issuers_file=file) as opened:
            opened.issuer = issuer
            await until(opened.ready, "the gateway is ready")
            yield opened
            await opened.drop_database()


@pytest.fixture
async def page(chromium: Browser) -> AsyncIterator[Page]:
    context = await chromium.new_context()
    yield await context.new_page()
    await context.close()


async def sign_in_at_provider(page: Page, gateway: SignedGateway, person: str, at: str = "/console") -> None:
    await page.goto(gateway.url + at)
    assert page.url.startswith(f"{gateway.url}/auth/login?then=")
    await page.get_by_role("link", name="Sign in with 127.0.0.1").click()
    await page.wait_for_url(f"{gateway.issuer}/**")
    await page.locator(f"button[value={person}]").click()


async def session_of(page: Page) -> str | None:
    cookies = {cookie["name"]: cookie for cookie in await page.context.cookies()}
    if COOKIE not in cookies:
        return None
    cookie = cookies[COOKIE]
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Strict", "/")
    return cookie["value"]


async def test_a_person_signs_in_at_the_issuer(gateway: SignedGateway, page: Page) -> None:
    await page.goto(f"{gateway.url}/console/search?q=x")
    await shoot(page, "sign-in")
    await sign_in_at_provider(page, gateway, "ann", "/console/search?q=x")
    await page.wait_for_url(f"{gateway.url}/console/search?q=x")
    assert await page.get_by_role("navigation").is_visible()
    secret = await session_of(page)
    assert secret is not None
    stored = [document async for document in gateway.database.sessions.find({})]
    assert secret not in str(stored), "the database has a digest of the secret"
    await page.goto(f"{gateway.url}/auth/login")
    await page.goto(gateway.url + "/console")
    assert page.url == f"{gateway.url}/console", "still signed in"


async def test_a_session_does_what_the_claims_grant(gateway: SignedGateway, page: Page) -> None:
    await sign_in_at_provider(page, gateway, "bob")
    await page.wait_for_url(f"{gateway.url}/console")
    assert "lacks the scope console:read" in await page.inner_text("body")
    answer = await page.context.request.get(f"{gateway.url}/auth/login")
    assert answer.ok


async def test_claims_without_a_tenant_open_nothing(gateway: SignedGateway, page: Page) -> None:
    await sign_in_at_provider(page, gateway, "eve")
    await page.get_by_role("alert").wait_for()
    assert "must name a tenant" in await page.get_by_role("alert").inner_text()
    assert await session_of(page) is None


async def test_a_sign_in_belongs_to_one_browser(gateway: SignedGateway, page: Page, chromium: Browser) -> None:
    """A link that somebody else began does not sign in: neither with a foreign state, nor twice."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/auth/callback" in request.url else None)
    await sign_in_at_provider(page, gateway, "ann")
    await page.wait_for_url(f"{gateway.url}/console")
    (callback,) = sent
    other = await (await chromium.new_context()).new_page()
    for victim in (other, page):
        before = await session_of(victim)
        await victim.goto(callback)
        assert "expired, or belongs to another browser" in await victim.get_by_role("alert").inner_text()
        assert await session_of(victim) == before
    await other.context.close()


async def test_an_api_key_opens_a_session_that_ends_with_the_key(gateway: SignedGateway, page: Page) -> None:
    key = await gateway.key(Scope.CONSOLE_READ)
    await page.goto(f"{gateway.url}/console")
    await page.get_by_label("API key").fill(key[:-1] + ("a" if key[-1] != "a" else "b"))
    await page.get_by_role("button", name="Sign in").click()
    assert "not valid" in await page.get_by_role("alert").inner_text()
    assert await session_of(page) is None
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{gateway.url}/console")
    await ApiKeys(gateway.database).revoke(key.split("_")[1], None, "test")
    await page.goto(f"{gateway.url}/console/search")
    assert "/auth/login" in page.url


async def test_a_ticket_opens_one_session_by_its_form_only(gateway: SignedGateway, page: Page) -> None:
    caller = {"tenant": "acme", "subject": "operator", "scopes": sorted(SETS["admin"]), "details": {}, "key_id": None}
    ticket = await Sessions(gateway.database).issue_ticket(caller)
    link = f"{gateway.url}/auth/ticket/{ticket}"
    assert (await gateway.http.get(link)).status_code == 200, "a preview opens it"
    assert (await gateway.http.post(link, headers={"Origin": "http://127.0.0.1:1"})).status_code == 403
    await page.goto(link)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{gateway.url}/console")
    again = await gateway.http.post(link)
    assert again.status_code == 410
    assert COOKIE not in again.cookies


async def test_signing_out_ends_the_session(gateway: SignedGateway, page: Page) -> None:
    await sign_in_at_provider(page, gateway, "ann")
    await page.wait_for_url(f"{gateway.url}/console")
    secret = await session_of(page)
    assert secret is not None
    cookie = {"Cookie": f"{COOKIE}={secret}"}
    assert (await gateway.http.get("/threads", headers=cookie)).status_code in {200, 405}
    await page.get_by_role("button", name="Sign out").click()
    assert "You are signed out" in await page.inner_text("body")
    assert await session_of(page) is None
    assert (await gateway.http.get("/console", headers=cookie)).status_code == 401


async def test_a_page_of_another_origin_cannot_use_a_session(gateway: SignedGateway, page: Page) -> None:
    await sign_in_at_provider(page, gateway, "ann")
    await page.wait_for_url(f"{gateway.url}/console")
    cookie = {"Cookie": f"{COOKIE}={await session_of(page)}"}
    local = {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}
    refused = await gateway.http.post("/threads", json={}, headers=cookie | local)
    assert refused.status_code == 401
    assert "another origin" in refused.json()["detail"]
    own = {"Origin": gateway.url, "Sec-Fetch-Site": "same-origin"}
    assert (await gateway.http.post("/threads", json={}, headers=cookie | own)).status_code == 200


async def test_an_expired_session_is_none(gateway: SignedGateway, page: Page) -> None:
    await sign_in_at_provider(page, gateway, "ann")
    await page.wait_for_url(f"{gateway.url}/console")
    await gateway.database.sessions.update_many({}, {"$set": {"expires_at": now()}})
    await page.goto(f"{gateway.url}/console")
    assert "/auth/login" in page.url


@pytest.mark.parametrize(
    "then", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb"]
)
async def test_nobody_is_sent_elsewhere(gateway: SignedGateway, then: str) -> None:
    shown = await gateway.http.get("/auth/login", params={"then": then})
    assert 'name="then" value="/console"' in shown.text
    key = await gateway.key(Scope.CONSOLE_READ)
    signed = await gateway.http.post("/auth/login", data={"then": then, "key": key})
    assert 'content="0;url=/console"' in signed.text


async def test_api_clients_are_answered_with_a_problem(gateway: SignedGateway) -> None:
    for path in ("/threads/t", "/console"):
        answer = await gateway.http.get(path)
        assert answer.status_code == 401
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
