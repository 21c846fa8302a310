"""API keys as they are stored: a digest of the secret, never the secret."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypedDict

API_KEYS: Final = "api_keys"
ENCRYPTION_KEYS: Final = "encryption_keys"
"""Which keys stored values are encrypted with: an id, and a sealed text to check the key by; never the key."""


class ApiKeyDocument(TypedDict):
    """A key. It is never removed, only revoked, so that whoever looks at changes learns whose key it was.

    Attributes:
        _id: The public part of the key: 16 characters of a-z and 2-7.
        digest: SHA-256 of the secret part.
        name: What it is for, as its maker wrote it; the caller's subject is ``key:<name>``.
        scopes: Names of scopes; a name that is no scope any more permits nothing.
        created_by: The subject of the caller that made it, or ``cli``.
        last_used: At most ``perdure.registry.api_keys.USED_EVERY`` behind.

    """

    _id: str
    digest: bytes
    tenant: str
    name: str
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
