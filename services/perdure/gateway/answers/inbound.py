"""Mail that comes in: a reply to a notice becomes a signal to its thread.

Contract: the mail server gets 202 when the signal is durable and 200 when the mail is not for us, for ever: it must not send it
again. Whatever is ignored is logged with its reason. The same mail, told by its Message-ID, is one signal however often it comes.
A reply wakes ``wait_for_event`` and never answers a question: a person approves on the page that shows what is approved (ADR 13).
"""

from __future__ import annotations

import asyncio
import hmac
from datetime import datetime
from typing import Any, Final

from aiohttp import web
from pydantic import SecretStr

from perdure.chassis.clock import now
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.telemetry import logger
from perdure.gateway.answers import mail
from perdure.gateway.http.aside import Aside
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import read_bytes, request_digest
from perdure.gateway.http.responses import json_response
from perdure.gateway.http.route import TEXT, Parameter, Route
from perdure.gateway.resources.signals import SignalStore, signal_document, signal_view
from perdure.gateway.stores.store import Store
from perdure.registry.answer_links import reply_expired, reply_tokens
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.schemas import http
from perdure.schemas.documents import ReplyAddressDocument
from perdure.schemas.scopes import Exempt

log = logger(__name__)

MEDIA_TYPES: Final = frozenset({"message/rfc822", "application/octet-stream"})
SIGNAL: Final = "email"
"""The signal of a reply to a mail that is about no wait for a signal."""
MAILS_AT_ONCE: Final = 2
"""Mails that are read and parsed at once; each may have tens of megabytes."""
TOKENS: Final = 20
"""Tokens of one mail that are looked up at most."""


def require_secret(domain: str | None, secret: SecretStr | None) -> None:
    """Refuse settings with which anybody could send mail to agents.

    Raises:
        ConfigurationError: there is a mail domain and no secret.

    """
    if domain and secret is None:
        raise ConfigurationError(
            "PERDURE_MAIL_DOMAIN is set: set PERDURE_INBOUND_SECRET as well, which the mail server sends, or anybody could "
            "send mail to agents"
        )


class MailResource:
    """Takes the mail that the mail server hands over."""

    def __init__(
        self,
        store: Store,
        signals: SignalStore,
        replies: ReplyAddresses,
        *,
        domain: str | None,
        secret: SecretStr | None,
        limit_bytes: int,
    ) -> None:
        self._store = store
        self._signals = signals
        self._replies = replies
        self._secret = secret if domain else None
        """What the mail server sends; ``None``: no mail is taken."""
        self._limit_bytes = limit_bytes
        self._reading = Aside(MAILS_AT_ONCE, "mail")
        self._turns = asyncio.Semaphore(MAILS_AT_ONCE)

    def routes(self) -> tuple[Route, ...]:
        """The rows of the route table."""
        # fmt: off
        return (
            Route(
                "POST", "/inbound/email", self.email, "receiveMail",
                "A raw mail (`message/rfc822`): a reply to a notice becomes a signal to its thread", "Waits",
                {200: http.MailIgnored, 202: http.MailAccepted},
                parameters=(
                    Parameter(
                        "Authorization", TEXT, "`Bearer` and `PERDURE_INBOUND_SECRET`.", "header"
                    ),
                ),
                problems=("unknown-route", "not-authorized", "unsupported-media-type", "body-too-large"),
                scope=Exempt("The mail server sends its own secret, PERDURE_INBOUND_SECRET."),
            ),
        )
        # fmt: on

    async def email(self, request: web.Request) -> web.Response:
        """``POST /inbound/email``."""
        self._require_caller(request)
        async with self._turns:
            return await self._take(request)

    async def _take(self, request: web.Request) -> web.Response:
        if request.content_type not in MEDIA_TYPES:
            raise RequestProblem(
                "unsupported-media-type", f"Send the raw mail as message/rfc822, not as {request.content_type}."
            )
        raw = await read_bytes(request, self._limit_bytes)
        heading = await self._reading.run(mail.heading_of, raw)
        if heading.automatic is not None:
            return _ignored(heading, "automatic", heading.automatic)
        address = await self._find(heading)
        if address is None:
            return _ignored(heading, "unknown-address", "it holds no reply address that was given out")
        thread = {"thread_id": address["thread_id"]}
        if reply_expired(address, now()):
            return _ignored(
                heading, "expired", f"the reply address expired at {address['expires_at'].isoformat()}", **thread
            )
        if address["wait_id"] is not None and not address["events"]:
            return _ignored(heading, "question-needs-link", "a question is answered on its page, not by mail", **thread)
        letter = await self._reading.run(mail.letter_of, raw)
        return await self._deliver(heading, letter, address)

    async def _find(self, heading: mail.Heading) -> ReplyAddressDocument | None:
        """What the first token stands for that was given out."""
        tokens = dict.fromkeys(token for header in heading.addressed for token in reply_tokens(header))
        self._store.require_available()
        for token in list(tokens)[:TOKENS]:
            found = await self._store.within(self._replies.find(token))
            if found is not None:
                return found
        return None

    async def _deliver(self, heading: mail.Heading, letter: mail.Letter, address: ReplyAddressDocument) -> web.Response:
        """Send a letter to its thread as a signal."""
        name = next(iter(address["events"]), SIGNAL)
        payload = payload_of(heading, letter, address["recipient"])
        signal = signal_document(
            tenant=address["tenant"],
            thread_id=address["thread_id"],
            name=name,
            payload=payload,
            key=f"mail\0{heading.message_id}",  # no client's key has a NUL
            request=request_digest("/inbound/email", payload),
            moment=now(),
        )
        accepted = await self._signals.accept(signal)
        if accepted.replayed:
            return _ignored(heading, "replayed", "this mail came before", thread_id=address["thread_id"])
        log.info("gateway.mail_accepted", thread_id=address["thread_id"], signal=name, message_id=heading.message_id)
        return json_response({"accepted": True, **signal_view(accepted.signal)}, status=202)

    def _require_caller(self, request: web.Request) -> None:
        """Refuse everybody but the mail server."""
        secret = self._secret
        if secret is None:
            raise RequestProblem(
                "unknown-route", "No mail is taken here: PERDURE_MAIL_DOMAIN and PERDURE_INBOUND_SECRET are not set."
            )
        given = request.headers.get("Authorization", "")
        expected = f"Bearer {secret.get_secret_value()}"
        if not hmac.compare_digest(given.encode(errors="replace"), expected.encode()):
            log.warning("gateway.mail_refused", reason="the Authorization header is not the inbound secret")
            raise RequestProblem(
                "not-authorized",
                "Send the secret of PERDURE_INBOUND_SECRET as Authorization: Bearer.",
                headers={"WWW-Authenticate": "Bearer"},
            )


def payload_of(heading: mail.Heading, letter: mail.Letter, recipient: str) -> dict[str, Any]:
    """A mail as agents get it."""
    return {
        "from": heading.sender,
        "from_name": heading.sender_name,
        "from_recipient": mail.same_address(heading.sender, recipient),
        "subject": heading.subject,
        "text": letter.text,
        "full_text": letter.full_text,
        "truncated": letter.truncated,
        "attachments": list(letter.attachments),
        "sent_at": _written(heading.sent_at),
        "message_id": heading.message_id,
    }


def _ignored(heading: mail.Heading, reason: str, detail: str, **about: str) -> web.Response:
    """The answer to a mail that is not taken; the log has it without what it says."""
    log.info("gateway.mail_ignored", reason=reason, detail=detail, message_id=heading.message_id, **about)
    return json_response({"accepted": False, "reason": reason, "detail": detail})


def _written(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
