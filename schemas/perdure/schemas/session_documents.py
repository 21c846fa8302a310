"""Sessions of people at the console, and what leads to one, as they are stored: digests, never the secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NotRequired, TypedDict

SESSIONS: Final = "sessions"
TICKET_PATH: Final = "/auth/ticket/"
"""The gateway's page for a ticket, whose secret follows."""


class CallerDocument(TypedDict):
    """Whom a session acts for.

    Attributes:
        key_id: The API key that opened the session: the session ends when the key does.

    """

    tenant: str
    subject: str
    scopes: list[str]
    details: dict[str, Any]
    key_id: str | None


class SessionDocument(TypedDict):
    """A session, a ticket that opens one once, or a sign-in under way at an issuer.

    Attributes:
        _id: ``<kind>:<SHA-256 of the secret, in hexadecimal>``.
        caller: Of a session and a ticket.
        state: Of a sign-in: what the issuer sends back.
        nonce: Of a sign-in: what the issuer writes into the token.
        verifier: Of a sign-in: what proves to the issuer who began (PKCE, RFC 7636).
        then: Of a sign-in: the path to go to afterwards.

    """

    _id: str
    created_at: datetime
    expires_at: datetime
    caller: NotRequired[CallerDocument]
    state: NotRequired[str]
    nonce: NotRequired[str]
    verifier: NotRequired[str]
    then: NotRequired[str]
