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

from perdure.chassis.clock import now
from perdure.chassis.telemetry import logger
from perdure.gateway import mail, waiting
from perdure.gateway.context import CONTEXT, Context
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.requests import read_bytes, request_digest
from perdure.gateway.http.responses import json_response
from perdure.gateway.signalling import accept
from perdure.registry.answer_links import reply_expired, reply_tokens
from perdure.schemas.documents import ReplyAddressDocument

log = logger(__name__)

MEDIA_TYPES: Final = frozenset({"message/rfc822", "application/octet-stream"})
SIGNAL: Final = "email"
"""The signal of a reply to a mail that is about no wait for a signal."""
TOKENS: Final = 20
"""Tokens of one mail that are looked up at most."""


async def email(request: web.Request) -> web.Response:
    """``POST /inbound/email``."""
    context = request.app[CONTEXT]
    _require_caller(request, context)
    if request.content_type not in MEDIA_TYPES:
        raise RequestProblem(
            "unsupported-media-type", f"Send the raw mail as message/rfc822, not as {request.content_type}."
        )
    raw = await read_bytes(request, context.settings.inbound_limit_bytes)
    heading = mail.heading_of(raw)
    if heading.automatic is not None:
        return _ignored(heading, "automatic", heading.automatic)
    address = await _find(context, heading)
    if address is None:
        return _ignored(heading, "unknown-address", "it holds no reply address that was given out")
    thread = {"thread_id": address["thread_id"]}
    if reply_expired(address, now()):
        return _ignored(
            heading, "expired", f"the reply address expired at {address['expires_at'].isoformat()}", **thread
        )
    if address["wait_id"] is not None and not address["events"]:
        return _ignored(heading, "question-needs-link", "a question is answered on its page, not by mail", **thread)
    letter = await asyncio.to_thread(mail.letter_of, raw)
    return await _deliver(context, heading, letter, address)


async def _find(context: Context, heading: mail.Heading) -> ReplyAddressDocument | None:
    """What the first token stands for that was given out."""
    tokens = dict.fromkeys(token for header in heading.addressed for token in reply_tokens(header))
    context.store.require_available()
    for token in list(tokens)[:TOKENS]:
        found = await context.store.within(context.replies.find(token))
        if found is not None:
            return found
    return None


async def _deliver(
    context: Context, heading: mail.Heading, letter: mail.Letter, address: ReplyAddressDocument
) -> web.Response:
    """Send a letter to its thread as a signal."""
    name = next(iter(address["events"]), SIGNAL)
    payload = payload_of(heading, letter, address["recipient"])
    signal = waiting.signal_document(
        tenant=address["tenant"],
        thread_id=address["thread_id"],
        name=name,
        payload=payload,
        key=f"mail\0{heading.message_id}",  # no client's key has a NUL
        request=request_digest("/inbound/email", payload),
        moment=now(),
    )
    accepted = await accept(context, signal)
    if accepted.replayed:
        return _ignored(heading, "replayed", "this mail came before", thread_id=address["thread_id"])
    log.info("gateway.mail_accepted", thread_id=address["thread_id"], signal=name, message_id=heading.message_id)
    return json_response({"accepted": True, **waiting.signal_view(accepted.signal)}, status=202)


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


def _require_caller(request: web.Request, context: Context) -> None:
    """Refuse everybody but the mail server, where a secret is set."""
    secret = context.settings.inbound_secret
    if secret is None:
        return
    given = request.headers.get("Authorization", "")
    expected = f"Bearer {secret.get_secret_value()}"
    if not hmac.compare_digest(given.encode(errors="replace"), expected.encode()):
        log.warning("gateway.mail_refused", reason="the Authorization header is not the inbound secret")
        raise RequestProblem(
            "not-authorized",
            "Send the secret of PERDURE_INBOUND_SECRET as Authorization: Bearer.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _ignored(heading: mail.Heading, reason: str, detail: str, **about: str) -> web.Response:
    """The answer to a mail that is not taken; the log has it without what it says."""
    log.info("gateway.mail_ignored", reason=reason, detail=detail, message_id=heading.message_id, **about)
    return json_response({"accepted": False, "reason": reason, "detail": detail})


def _written(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
