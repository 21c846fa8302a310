"""E-mail by SMTP.

Contract: one mail to one recipient a delivery, text and HTML. Its Message-ID is derived from the delivery, the same in every
attempt, so that a mail which was sent twice is shown once. The certificate of a server that speaks TLS is always verified.
What the server says decides: 5xx about the recipient or the content is final, everything else is tried again.

Outside: what the mail says (``perdure.notifier.composing``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, Final

import aiosmtplib

from perdure.notifier.channels.result import Result, dead, down, short
from perdure.notifier.composing import Composed, Composer
from perdure.notifier.settings import NotifierSettings
from perdure.registry.subscriptions import may_be_mailed

SUBJECT_LIMIT: Final = 200
NO_SERVER: Final = "no mail server is set: set PERDURE_NOTIFIER_SMTP_HOST for the notifier, then redrive"


class EmailChannel:
    """Sends mails."""

    def __init__(self, settings: NotifierSettings, composer: Composer) -> None:
        self._settings = settings
        self._composer = composer
        self._tls = ssl.create_default_context(cafile=settings.notifier_smtp_ca_file)

    async def send(self, delivery: Mapping[str, Any], _: Mapping[str, Any] | None) -> Result:
        """Send it."""
        settings = self._settings
        if settings.notifier_smtp_host is None:
            return dead(NO_SERVER)
        if not may_be_mailed(delivery["target"], settings.mail_to):
            return dead(f"{delivery['target']} may not be mailed: PERDURE_MAIL_TO names neither it nor its domain")
        composed = await self._composer.compose(delivery)
        message = mail_of(delivery, composed, settings)
        try:
            async with asyncio.timeout(settings.notifier_timeout_s):
                return await self._send(message, delivery["target"])
        except TimeoutError:
            return down(f"the mail server did not finish within {settings.notifier_timeout_s:g} s")

    async def close(self) -> None:
        """There is nothing to close."""

    async def _send(self, message: EmailMessage, recipient: str) -> Result:
        settings, mode = self._settings, self._settings.notifier_smtp_tls
        password = settings.notifier_smtp_password
        client = aiosmtplib.SMTP(
            hostname=settings.notifier_smtp_host,
            port=settings.notifier_smtp_port,
            use_tls=mode == "tls",
            start_tls=mode == "starttls",
            tls_context=self._tls if mode != "none" else None,
            timeout=settings.notifier_timeout_s,
            username=settings.notifier_smtp_user,
            password=password.get_secret_value() if password is not None else None,
        )
        try:
            async with client:
                await client.send_message(message, sender=settings.notifier_mail_from, recipients=[recipient])
        except aiosmtplib.SMTPException as error:
            return refusal(error)
        except (OSError, ssl.SSLError) as error:
            return down(f"no connection to the mail server: {error}")
        return Result(delivered=True, status=250)


def refusal(error: aiosmtplib.SMTPException) -> Result:
    """What a mail server's refusal means."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
        error = error.recipients[0]
    code: int | None = getattr(error, "code", None)
    if code is None or isinstance(error, aiosmtplib.SMTPConnectError):
        return down(f"the mail server cannot be used: {error}")
    reason = short(f"the mail server answered {code}: {getattr(error, 'message', error)}")
    if isinstance(error, aiosmtplib.SMTPAuthenticationError | aiosmtplib.SMTPSenderRefused):
        return down(f"{reason}. Look at PERDURE_NOTIFIER_SMTP_USER and PERDURE_NOTIFIER_MAIL_FROM", code)
    ours = isinstance(error, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
    if ours and code >= 500:
        return dead(reason, code)
    return Result(delivered=False, status=code, reason=reason, endpoint_failed=not ours)


def mail_of(delivery: Mapping[str, Any], composed: Composed, settings: NotifierSettings) -> EmailMessage:
    """The mail of a delivery."""
    message = EmailMessage(policy=SMTP)
    domain = settings.notifier_mail_from.rpartition("@")[2]
    message["From"] = Address(one_line(settings.notifier_mail_name), addr_spec=settings.notifier_mail_from)
    message["To"] = Address(addr_spec=delivery["target"])
    message["Subject"] = one_line(composed.subject)[:SUBJECT_LIMIT]
    message["Date"] = delivery["created_at"]
    message["Message-ID"] = composed.message_id or f"<{delivery['_id']}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Perdure-Delivery"] = delivery["_id"]
    if composed.reply_to is not None:
        message["Reply-To"] = Address(addr_spec=composed.reply_to)
    message.set_content(composed.text)
    message.add_alternative(composed.html, subtype="html")
    return message


def one_line(text: str) -> str:
    """Text fit for a header: without line ends and other control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
