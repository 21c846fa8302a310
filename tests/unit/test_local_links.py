"""A local stack offers links to answer: what the environment does not set is defaulted, each variable on its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.chassis.clock import now
from perdure.chassis.settings import LinkSettings
from perdure.local.links import FILE, PUBLIC_URL, SECRET, SIGNING_FILE, SIGNING_SECRET, link_environment, of_service
from perdure.local.services import SERVICES
from perdure.registry.answer_links import links_offered

GIVEN_URL, GIVEN_SECRET = "https://agents.example.com", "0123456789abcdef" * 4
LOCAL_URL = "http://127.0.0.1:8123"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SECRET, PUBLIC_URL, SIGNING_SECRET):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("url", [None, GIVEN_URL])
@pytest.mark.parametrize("secret", [None, GIVEN_SECRET])
@pytest.mark.parametrize("own", [True, False])
def test_what_is_not_set_is_defaulted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None, secret: str | None, *, own: bool
) -> None:
    given = {name: value for name, value in ((SECRET, secret), (PUBLIC_URL, url)) if value is not None}
    for name, value in given.items() if own else ():
        monkeypatch.setenv(name, value)
    merged = given | link_environment(tmp_path, {} if own else given, 8123)
    kept = (tmp_path / FILE).read_text() if secret is None else secret
    signing = (tmp_path / SIGNING_FILE).read_text()
    assert merged == {SECRET: kept, PUBLIC_URL: url or LOCAL_URL, SIGNING_SECRET: signing}
    assert signing not in (kept, "")
    assert (tmp_path / FILE).exists() == (secret is None)
    for name, value in merged.items():
        monkeypatch.setenv(name, value)
    links = links_offered(LinkSettings())
    assert links is not None
    page = links.url(wait_id="w", tenant="t", recipient="ann", expires_at=now())
    assert page.startswith(f"{url or LOCAL_URL}/answer/")


def test_the_secret_survives_a_restart_and_is_nobody_elses(tmp_path: Path) -> None:
    first = link_environment(tmp_path, {PUBLIC_URL: GIVEN_URL}, 8123)
    assert link_environment(tmp_path, {}, 8124)[SECRET] == first[SECRET]
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_an_empty_secret_switches_links_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert link_environment(tmp_path, {SECRET: "", SIGNING_SECRET: ""}, 8123) == {PUBLIC_URL: LOCAL_URL}
    monkeypatch.setenv(SECRET, "")
    monkeypatch.setenv(PUBLIC_URL, LOCAL_URL)
    assert links_offered(LinkSettings()) is None


def test_no_service_gets_the_secret_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = link_environment(tmp_path, {}, 8123)
    monkeypatch.setenv(SIGNING_SECRET, "set for the whole stack, and not for everybody")
    having = {
        secret: [name for name in SERVICES if of_service(name, environment).get(secret)]
        for secret in (SECRET, SIGNING_SECRET)
    }
    assert having == {SECRET: ["gateway", "notifier"], SIGNING_SECRET: ["agent_step", "validator", "scheduler"]}
