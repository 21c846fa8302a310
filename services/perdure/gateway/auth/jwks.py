"""The public keys of one issuer (RFC 7517), fetched when they are needed and kept for a while.

Contract: a key is asked for by the ``kid`` of a token. A ``kid`` that is not known fetches the keys anew, at most once in
``RETRY_S``: a rotated key is found, and tokens with made-up ids cost the issuer nothing. Keys older than ``FRESH_S`` are fetched
again; while the issuer does not answer, the old ones hold for ``STALE_S``. After that, nobody is let in.
"""

from __future__ import annotations

import asyncio
import warnings
from time import monotonic
from typing import Any, Final

import aiohttp
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import JWKRegistry, Key
from yarl import URL

from perdure.chassis import json
from perdure.chassis.telemetry import logger

log = logger(__name__)

FRESH_S: Final = 600.0
STALE_S: Final = 24 * 3600.0
RETRY_S: Final = 10.0
TIMEOUT_S: Final = 5.0
LIMIT_BYTES: Final = 256 * 1024
DISCOVERY: Final = ".well-known/openid-configuration"
_PUBLIC_KINDS: Final = frozenset({"RSA", "EC", "OKP"})


class IssuerUnavailable(Exception):
    """The issuer did not answer, or not as it should."""


async def fetch_json(url: str) -> dict[str, Any]:
    """A JSON object by GET: no redirects, ``TIMEOUT_S``, at most ``LIMIT_BYTES``.

    Raises:
        IssuerUnavailable: there is none.

    """
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.get(URL(url), allow_redirects=False) as response,
        ):
            body = await response.content.read(LIMIT_BYTES + 1)
            while len(body) <= LIMIT_BYTES and (piece := await response.content.read(LIMIT_BYTES)):
                body += piece
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise IssuerUnavailable(f"{url}: {type(error).__name__}: {error}") from error
    if response.status != 200 or len(body) > LIMIT_BYTES:
        raise IssuerUnavailable(f"{url} answered {response.status} with {len(body)} bytes")
    try:
        content = json.loads(body)
    except ValueError as error:
        raise IssuerUnavailable(f"{url} answered no JSON") from error
    if not isinstance(content, dict):
        raise IssuerUnavailable(f"{url} answered no JSON object")
    return content


async def discover(issuer: str) -> dict[str, Any]:
    """What an issuer says of itself (OpenID Connect Discovery 1.0).

    Raises:
        IssuerUnavailable: it does not answer, or speaks for another issuer.

    """
    url = f"{issuer.rstrip('/')}/{DISCOVERY}"
    description = await fetch_json(url)
    if description.get("issuer") != issuer:
        raise IssuerUnavailable(f"{url} speaks for {description.get('issuer')!r}, not for {issuer!r}")
    return description


class IssuerKeys:
    """The keys of one issuer."""

    def __init__(self, issuer: str, jwks_url: str | None) -> None:
        """``jwks_url``: where the keys are; discovered when ``None``."""
        self._issuer = issuer
        self._url = jwks_url
        self._keys: dict[str | None, Key] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._lock = asyncio.Lock()

    async def key(self, kid: str | None) -> Key | None:
        """The key of this id; without an id the only key. ``None``: the issuer has no such key.

        Raises:
            IssuerUnavailable: no keys are known, and none can be fetched.

        """
        if monotonic() - self._fetched_at > FRESH_S or self._known(kid) is None:
            async with self._lock:
                await self._refresh(kid)
        if monotonic() - self._fetched_at > STALE_S:
            raise IssuerUnavailable(f"the keys of {self._issuer} cannot be fetched")
        return self._known(kid)

    def _known(self, kid: str | None) -> Key | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _refresh(self, kid: str | None) -> None:
        now = monotonic()
        is_current = now - self._fetched_at <= FRESH_S and self._known(kid) is not None
        if is_current or now - self._tried_at < RETRY_S:
            return
        self._tried_at = now
        try:
            url = self._url or str((await discover(self._issuer)).get("jwks_uri", ""))
            self._keys = _public_keys((await fetch_json(url)).get("keys"))
            self._fetched_at = monotonic()
        except IssuerUnavailable as error:
            log.warning("gateway.issuer_unavailable", issuer=self._issuer, detail=str(error))


def _public_keys(entries: Any) -> dict[str | None, Key]:
    """The usable keys of a key set by their ids: public keys for signatures that are long enough to be safe."""
    keys: dict[str | None, Key] = {}
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or entry.get("kty") not in _PUBLIC_KINDS or entry.get("use", "sig") != "sig":
            continue
        kid = entry.get("kid")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", SecurityWarning)
                keys[kid if isinstance(kid, str) else None] = JWKRegistry.import_key(entry)
        except (JoseError, ValueError, TypeError, SecurityWarning) as error:
            log.warning("gateway.issuer_key_unusable", kid=str(kid), detail=str(error))
    return keys
