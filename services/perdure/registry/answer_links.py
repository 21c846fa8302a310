"""Links and reply addresses by which people answer from anywhere: made, and checked again (ADR 13).

Contract: pure, no I/O. A link carries its claims and a tag (HMAC-SHA-256) that only a holder of the secret can make; whoever holds
the link is taken for its recipient until it expires. A reply address carries an opaque token, because the local part of an address
has 64 characters at most and is compared without regard to case; what it stands for is :attr:`ReplyAddress.document`, which must be
stored (``perdure.registry.reply_addresses``) before the mail is sent. The store holds only the token's digest.
Of several secrets the first makes and all check: a new one is put in front, and the old one goes when its last link has expired.

Outside: whether the question is still open (the run that wakes its thread decides that, ADR 6).

::

    PerdureError
    ├── ConfigurationError
    │   └── LinksNotOffered     the mail domain that reply addresses need is not set
    └── RefusedError
        └── LinkProblem         a token opens nothing
            ├── MalformedLink   it has not the shape of a token: cut off by a mail client, most often
            ├── ForgedLink      none of the secrets made it
            └── ExpiredLink     its time has passed; has ``claims``
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError, RefusedError
from perdure.chassis.settings import LinkSettings
from perdure.schemas.documents import ReplyAddressDocument

SECRET_MIN: Final = 32
"""Characters of a secret at least; ``openssl rand -hex 32`` makes a good one."""
VERSION: Final = 1
TOKEN_LIMIT: Final = 8 * 1024
REPLY_PREFIX: Final = "reply+"
REPLY_TOKEN_LENGTH: Final = 32
"""Characters of base32: 160 bits."""
REPLY_TOKEN_BYTES: Final = 20
SHARED: Final = "subscription:"
"""Recipients that begin with it are no person: a channel, or a program that passes the link on."""
REMEMBERED: Final = timedelta(days=30)
"""How long an expired reply address is still told from a forged one."""

_LINK, _REPLY, _FORM = b"perdure answer link 1", b"perdure reply address 1", b"perdure answer form 1"
_TOKEN: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})")
_REPLY_TOKEN: Final = re.compile(rf"(?<![a-z2-7])[a-z2-7]{{{REPLY_TOKEN_LENGTH}}}(?![a-z2-7])")


class LinksNotOffered(ConfigurationError):
    """What reply addresses need is not set."""


class LinkProblem(RefusedError):
    """A token that opens nothing."""


class MalformedLink(LinkProblem):
    """Not the shape of a token."""


class ForgedLink(LinkProblem):
    """None of the secrets made it."""


class ExpiredLink(LinkProblem):
    """It was good once."""

    def __init__(self, message: str, claims: AnswerClaims) -> None:
        super().__init__(message)
        self.claims = claims


@dataclass(frozen=True, slots=True)
class AnswerClaims:
    """What a link says.

    Attributes:
        wait_id: The question (``perdure.schemas.waits.wait_id``).
        tenant: Whose it is.
        recipient: To whom the link was sent, as the subscription names them: who answers by it.
        expires_at: Until when it opens the question; whole seconds, UTC.

    """

    wait_id: str
    tenant: str
    recipient: str
    expires_at: datetime

    @property
    def shared(self) -> bool:
        """Whether several people have the link: who answers says who it is."""
        return self.recipient.startswith(SHARED)


@dataclass(frozen=True, slots=True)
class ReplyAddress:
    """An address that wakes a thread by mail.

    Attributes:
        address: For the header ``Reply-To``; good only once ``document`` is stored.
        token: Its secret part. The same claims give the same token, so that a notice that is sent again has the same address.
        document: What the token stands for.

    """

    address: str
    token: str
    document: ReplyAddressDocument

    def message_id(self, delivery_id: str) -> str:
        """A Message-ID, with its angle brackets, by which a reply is recognised even when it goes to another address.

        Some clients ignore ``Reply-To``; all of them name the Message-ID in ``In-Reply-To`` and ``References``.
        """
        return f"<{self.token}.{delivery_id}@{self.address.partition('@')[2]}>"


class AnswerLinks:
    """Makes and opens links of one installation."""

    def __init__(self, secrets: Sequence[str], base_url: str, mail_domain: str | None) -> None:
        """Set up.

        Args:
            secrets: The first makes, all of them check.
            base_url: Where people reach the gateway, e.g. ``https://agents.example.com``; a path may follow.
            mail_domain: Mail to it reaches ``POST /inbound/email``; without it there are no reply addresses.

        Raises:
            ConfigurationError: there is no secret, or one has fewer than ``SECRET_MIN`` characters.

        """
        if not secrets or any(len(secret) < SECRET_MIN for secret in secrets):
            raise ConfigurationError(
                f"PERDURE_LINK_SECRET must hold secrets of {SECRET_MIN} characters at least, several separated by commas. "
                "openssl rand -hex 32 makes one."
            )
        self._secrets = tuple(secret.encode() for secret in secrets)
        self._base_url = base_url.rstrip("/")
        self.mail_domain = mail_domain

    def url(self, *, wait_id: str, tenant: str, recipient: str, expires_at: datetime) -> str:
        """The address of the page where ``recipient`` answers a question; at most good until ``expires_at``."""
        claims = json.dumps([VERSION, wait_id, tenant, recipient, math.ceil(expires_at.timestamp())])
        token = f"{_text(claims)}.{_text(_tag(self._secrets[0], _LINK, claims))}"
        return f"{self._base_url}/answer/{token}"

    def open(self, token: str, now: datetime) -> AnswerClaims:
        """What a link says.

        Raises:
            MalformedLink, ForgedLink: it says nothing.
            ExpiredLink: it says nothing any more.

        """
        match = _TOKEN.fullmatch(token) if len(token) <= TOKEN_LIMIT else None
        if match is None:
            raise MalformedLink("This is not the whole link. Copy it from the message once more, to its very end.")
        try:
            claims, tag = _bytes(match[1]), _bytes(match[2])
        except binascii.Error as error:
            raise MalformedLink("This is not the whole link. Copy it from the message once more.") from error
        if not self._made(_LINK, tag, claims):
            raise ForgedLink("This link was not made here, or with a secret that is not in use any more.")
        version, wait_id, tenant, recipient, expires = json.loads(claims)
        if version != VERSION:
            raise ForgedLink(f"This link has version {version}, and {VERSION} is known here.")
        opened = AnswerClaims(wait_id, tenant, recipient, datetime.fromtimestamp(expires, UTC))
        if now >= opened.expires_at:
            raise ExpiredLink(f"This link expired at {opened.expires_at.isoformat()}.", opened)
        return opened

    def reply_to(
        self,
        *,
        thread_id: str,
        tenant: str,
        recipient: str,
        expires_at: datetime,
        wait_id: str | None = None,
        events: Sequence[str] = (),
    ) -> ReplyAddress:
        """An address that sends what is written to it to a thread, as the signal ``events[0]``, or ``email`` without one.

        Args:
            thread_id: The thread.
            tenant: Whose it is.
            recipient: To whom the mail goes.
            expires_at: Mail that comes later is ignored.
            wait_id: The wait that the mail is about, if it is about one.
            events: The signals that end this wait (``events`` of its document).

        Raises:
            LinksNotOffered: there is no mail domain.

        """
        if self.mail_domain is None:
            raise LinksNotOffered(
                "A reply by mail needs a domain whose mail reaches POST /inbound/email; set PERDURE_MAIL_DOMAIN."
            )
        until = datetime.fromtimestamp(math.ceil(expires_at.timestamp()), UTC)
        claims = json.dumps([VERSION, thread_id, tenant, recipient, wait_id, list(events), int(until.timestamp())])
        return reply_address(
            _tag(self._secrets[0], _REPLY, claims)[:REPLY_TOKEN_BYTES],
            self.mail_domain,
            thread_id=thread_id,
            tenant=tenant,
            recipient=recipient,
            until=until,
            wait_id=wait_id,
            events=events,
        )

    def proof(self, *parts: str) -> str:
        """A value that only this installation can make, bound to ``parts``: against forged forms."""
        return _text(_tag(self._secrets[0], _FORM, json.dumps(parts)))

    def proves(self, proof: str, *parts: str) -> bool:
        """Whether :meth:`proof` of these parts made it."""
        try:
            return self._made(_FORM, _bytes(proof), json.dumps(parts))
        except (binascii.Error, ValueError):
            return False

    def _made(self, purpose: bytes, tag: bytes, message: bytes) -> bool:
        """Whether one of the secrets made a tag; takes as long for any tag."""
        matches = [hmac.compare_digest(_tag(secret, purpose, message), tag) for secret in self._secrets]
        return any(matches)


def reply_address(
    secret: bytes,
    mail_domain: str,
    *,
    thread_id: str,
    tenant: str,
    recipient: str,
    until: datetime,
    wait_id: str | None = None,
    events: Sequence[str] = (),
) -> ReplyAddress:
    """The reply address whose secret part is ``REPLY_TOKEN_BYTES`` random bytes, or bytes that nobody else can make."""
    token = base64.b32encode(secret).decode().lower()
    document: ReplyAddressDocument = {
        "_id": reply_key(token),
        "tenant": tenant,
        "thread_id": thread_id,
        "recipient": recipient,
        "wait_id": wait_id,
        "events": list(events),
        "expires_at": until,
        "remove_at": until + REMEMBERED,
    }
    return ReplyAddress(f"{REPLY_PREFIX}{token}@{mail_domain}", token, document)


def links_offered(settings: LinkSettings) -> AnswerLinks | None:
    """The links of an installation as it is set up; ``None`` when it offers none (see :data:`NOT_OFFERED`).

    Raises:
        ConfigurationError: a secret is too short.

    """
    if settings.link_secret is None or not settings.public_url:
        return None
    secrets = [one.strip() for one in settings.link_secret.get_secret_value().split(",") if one.strip()]
    return AnswerLinks(secrets, settings.public_url, settings.mail_domain or None) if secrets else None


NOT_OFFERED: Final = (
    "Links to answer questions are not offered: set PERDURE_LINK_SECRET (openssl rand -hex 32) and PERDURE_PUBLIC_URL, "
    "the same for gateway and notifier."
)


def reply_key(token: str) -> str:
    """The id under which a reply token is stored."""
    return hashlib.sha256(token.lower().encode()).hexdigest()


def reply_tokens(header: str) -> list[str]:
    """What may be reply tokens in a header of a mail (addresses, message ids), in their order, each once."""
    return list(dict.fromkeys(_REPLY_TOKEN.findall(header.lower())))


def reply_expired(document: Mapping[str, Any], now: datetime) -> bool:
    """Whether mail to a stored reply address comes too late."""
    return bool(document["expires_at"] <= now)


def _tag(secret: bytes, purpose: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256 with a key of its own for each purpose, so that a tag of one is none of another."""
    key = hmac.digest(secret, purpose, "sha256")
    return hmac.digest(key, message, "sha256")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
