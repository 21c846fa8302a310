"""Sending one e-mail. ``SMTP_URL``: ``smtp://[user:password@]host[:port]`` (STARTTLS where it is offered) or ``smtps://...``."""

from __future__ import annotations

import hashlib
import os
import smtplib
import ssl
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

TIMEOUT_S = 30.0
NOT_SENT = (ConnectionRefusedError, smtplib.SMTPConnectError, smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused)
"""Errors after which the message certainly was not taken."""


def send(key: str, *, sender: str, to: str, subject: str, text: str, reply_to: str | None = None) -> dict[str, str]:
    """Send; returns when the server has taken the message.

    Args:
        key: The same for a repeat: it makes the Message-ID, so that even a repeat can be told by whoever receives it.
        sender: From whom.
        to: To whom.
        subject: One line.
        text: Plain text.
        reply_to: Where the reply goes; to the sender when absent.

    Raises:
        OSError: the server cannot be reached, or refuses (``smtplib.SMTPException`` is one).

    """
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, to, subject
    domain = sender.rpartition("@")[2] or "localhost"
    message["Message-ID"] = f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@{domain}>"
    if reply_to is not None:
        message["Reply-To"] = reply_to
    message.set_content(text)
    url = urlsplit(os.environ.get("SMTP_URL", "smtp://127.0.0.1:25"))
    host = url.hostname or "127.0.0.1"
    with _connect(url.scheme, host, url.port) as server:
        if url.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls(context=ssl.create_default_context())
        if url.username:
            server.login(unquote(url.username), unquote(url.password or ""))
        server.send_message(message)
    return {"message_id": message["Message-ID"], "to": to}


def _connect(scheme: str, host: str, port: int | None) -> smtplib.SMTP:
    if scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, port or 465, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        server = smtplib.SMTP(host, port or 25, timeout=TIMEOUT_S)
    server.ehlo_or_helo_if_needed()
    return server
