"""Links and reply addresses: what opens, what does not and why, and that secrets can be replaced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.settings import LinkSettings
from perdure.registry.answer_links import (
    AnswerClaims,
    AnswerLinks,
    ExpiredLink,
    ForgedLink,
    LinksNotOffered,
    MalformedLink,
    links_offered,
    reply_expired,
    reply_key,
    reply_tokens,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
OLD, NEW = "o" * 32, "n" * 32
CLAIMS = AnswerClaims("thread-1:ab12", "acme", "Zoë <zoe@example.com>", NOW + timedelta(hours=8))


def links(*secrets: str, domain: str | None = "mail.example.com") -> AnswerLinks:
    return AnswerLinks(secrets or (OLD,), "https://agents.example.com/", domain)


def url(made_by: AnswerLinks, claims: AnswerClaims = CLAIMS) -> str:
    return made_by.url(
        wait_id=claims.wait_id, tenant=claims.tenant, recipient=claims.recipient, expires_at=claims.expires_at
    )


def token(made_by: AnswerLinks) -> str:
    return url(made_by).rpartition("/")[2]


def test_a_link_opens_what_it_was_made_for() -> None:
    address = url(links())
    assert address.startswith("https://agents.example.com/answer/")
    assert links().open(token(links()), NOW) == CLAIMS


def test_secrets_are_replaced_without_breaking_links() -> None:
    assert links(NEW, OLD).open(token(links(OLD)), NOW) == CLAIMS
    assert links(NEW, OLD).open(token(links(NEW)), NOW) == CLAIMS
    with pytest.raises(ForgedLink):
        links(NEW).open(token(links(OLD)), NOW)


def test_every_changed_character_is_noticed() -> None:
    good = token(links())
    for place in range(len(good) - 1):  # of the last character, two bits are padding
        changed = good[:place] + ("A" if good[place] != "A" else "B") + good[place + 1 :]
        with pytest.raises((ForgedLink, MalformedLink)):
            links().open(changed, NOW)


@pytest.mark.parametrize("given", ["", ".", "a.b", "x" * 20_000, "../../etc/passwd", "a" * 43, "é." + "a" * 43])
def test_what_is_no_token_is_malformed(given: str) -> None:
    with pytest.raises(MalformedLink):
        links().open(given, NOW)


def test_a_link_that_was_cut_off_is_refused() -> None:
    good = token(links())
    for length in range(len(good)):
        with pytest.raises((MalformedLink, ForgedLink)):
            links().open(good[:length], NOW)


def test_a_link_expires_and_says_what_it_was() -> None:
    links().open(token(links()), CLAIMS.expires_at - timedelta(microseconds=1))
    with pytest.raises(ExpiredLink) as caught:
        links().open(token(links()), CLAIMS.expires_at)
    assert caught.value.claims == CLAIMS


def reply(made_by: AnswerLinks, recipient: str = "zoe@example.com"):
    return made_by.reply_to(
        thread_id="thread-1",
        tenant="acme",
        recipient=recipient,
        wait_id="thread-1:ab12",
        events=["reply"],
        expires_at=CLAIMS.expires_at,
    )


def test_a_reply_address_is_short_and_survives_mail() -> None:
    made = reply(links())
    local, _, domain = made.address.partition("@")
    assert domain == "mail.example.com"
    assert len(local) <= 64
    assert local == local.lower()
    for header in (made.address, made.address.upper(), f'"Perdure" <{made.address}>', made.message_id("d-1")):
        assert reply_tokens(header) == [made.token]
    assert reply_key(made.token) == reply_key(made.token.upper()) == made.document["_id"]
    assert made.token not in str(made.document)


def test_a_reply_address_is_the_same_for_the_same_mail_only() -> None:
    assert reply(links()) == reply(links())
    assert len({reply(links()).token, reply(links(), "bob@example.com").token, reply(links(NEW)).token}) == 3


def test_a_reply_address_expires_before_it_is_forgotten() -> None:
    document = reply(links()).document
    assert not reply_expired(document, NOW)
    assert reply_expired(document, document["expires_at"])
    assert document["remove_at"] > document["expires_at"]


def test_what_is_not_set_is_not_offered() -> None:
    assert links_offered(LinkSettings(public_url="https://a.example")) is None
    assert links_offered(LinkSettings(link_secret=OLD)) is None
    assert links_offered(LinkSettings(link_secret=" ,", public_url="https://a.example")) is None
    assert links_offered(LinkSettings(link_secret=f"{NEW}, {OLD}", public_url="https://a.example")) is not None
    with pytest.raises(ConfigurationError, match="32 characters"):
        links_offered(LinkSettings(link_secret="short", public_url="https://a.example"))
    with pytest.raises(LinksNotOffered, match="PERDURE_MAIL_DOMAIN"):
        reply(links(domain=None))


def test_a_proof_is_for_its_parts_and_no_link() -> None:
    proof = links().proof("a", "b")
    assert links(NEW, OLD).proves(proof, "a", "b")
    assert not links().proves(proof, "ab", "")
    assert not links().proves("not base64 !", "a", "b")
    assert not links().proves("é", "a", "b")
