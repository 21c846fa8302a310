"""JSON Web Tokens (RFC 7519) of trusted issuers as callers.

Contract: a token counts only with a signature of its issuer's key by an allowed algorithm, with the issuer and an audience of the
settings, and within its life (``exp`` is required, ``nbf`` heeded, ``LEEWAY_S`` for clocks that differ).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import ExpiredTokenError, JoseError, SecurityWarning
from joserfc.jwk import Key
from joserfc.jwt import ClaimsOption

from perdure.chassis import json
from perdure.gateway.auth.caller import Caller, CallerKind
from perdure.gateway.auth.credentials import Credentials, Refusal
from perdure.gateway.auth.issuers import ClaimsRefused, Issuer
from perdure.gateway.auth.jwks import IssuerKeys, IssuerUnavailable
from perdure.gateway.http.problems import RequestProblem

LEEWAY_S: Final = 60
LIMIT_BYTES: Final = 16 * 1024
_NOT_ACCEPTED: Final = "The token is not accepted: {}."


@dataclass(frozen=True, slots=True)
class SignIn:
    """What an ID token must belong to: the client that it is meant for, and the nonce of the sign-in."""

    client_id: str
    nonce: str


class TokenRefused(Exception):
    """A token does not hold; the message is shown to the client."""


class Tokens:
    """Makes callers of the tokens of some issuers."""

    def __init__(self, issuers: Sequence[Issuer], *, foreign: bool = False) -> None:
        """Fetch nothing yet. ``foreign``: a token of another issuer may be for the project's handlers."""
        self._foreign = foreign
        self._issuers = {issuer.issuer: (issuer, IssuerKeys(issuer.issuer, issuer.jwks_url)) for issuer in issuers}

    async def authenticate(self, credentials: Credentials) -> Caller | Refusal | None:
        """The caller of a bearer token in three parts; ``None`` for anything else.

        Raises:
            RequestProblem: ``issuer-unavailable``.

        """
        token = credentials.bearer
        if token is None or token.count(".") != 2:
            return None
        if self._foreign and not self._is_of_issuer(token):
            return None
        try:
            issuer, claims = await self.verified(token)
            return issuer.caller_of(claims, CallerKind.JWT)
        except (TokenRefused, ClaimsRefused) as refused:
            return Refusal(str(refused))

    async def verified(self, token: str, *, sign_in: SignIn | None = None) -> tuple[Issuer, dict[str, Any]]:
        """A token's issuer and its claims, which hold; ``sign_in``: for an ID token, to which sign-in it must belong.

        Raises:
            TokenRefused: they do not.
            RequestProblem: ``issuer-unavailable``.

        """
        if len(token) > LIMIT_BYTES:
            raise TokenRefused(_NOT_ACCEPTED.format(f"it is longer than {LIMIT_BYTES:,} bytes"))
        header, issuer, keys = self._of_unverified(token)
        kid = header.get("kid")
        try:
            key = await keys.key(kid if isinstance(kid, str) else None)
        except IssuerUnavailable as error:
            raise RequestProblem(
                "issuer-unavailable", f"It cannot be told who calls: {error}. Try again.", headers={"Retry-After": "5"}
            ) from error
        if key is None:
            raise TokenRefused(_NOT_ACCEPTED.format(f"{issuer.issuer} has no key {kid!r}"))
        return issuer, _held(token, key, issuer, sign_in)

    def _is_of_issuer(self, token: str) -> bool:
        """Whether a token says that it is one of the issuers'; nothing of it is believed yet."""
        try:
            self._of_unverified(token)
        except TokenRefused:
            return False
        return True

    def _of_unverified(self, token: str) -> tuple[dict[str, Any], Issuer, IssuerKeys]:
        """The header, and whose keys to verify with; nothing of it is believed yet."""
        try:
            unverified = jws.extract_compact(token.encode())
            claims = json.loads(unverified.payload)
        except (JoseError, ValueError) as error:
            raise TokenRefused(_NOT_ACCEPTED.format("it is no JSON Web Token")) from error
        issuer = claims.get("iss") if isinstance(claims, dict) else None
        known = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if known is None:
            raise TokenRefused(_NOT_ACCEPTED.format("its issuer is not one that this gateway trusts"))
        return unverified.headers(), *known


def _held(token: str, key: Key, issuer: Issuer, sign_in: SignIn | None) -> dict[str, Any]:
    """The claims of a token, verified.

    Raises:
        TokenRefused: the signature or a claim does not hold.

    """
    options: dict[str, ClaimsOption] = {
        "iss": {"essential": True, "value": issuer.issuer},
        "aud": {"essential": True, "values": [sign_in.client_id] if sign_in else list(issuer.audience)},
        "exp": {"essential": True},
    }
    if sign_in is not None:
        options["nonce"] = {"essential": True, "value": sign_in.nonce}
    registry = jwt.JWTClaimsRegistry(None, LEEWAY_S, **options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of the name EdDSA, which issuers use
            decoded = jwt.decode(token, key, algorithms=list(issuer.algorithms))
        registry.validate(decoded.claims)
    except ExpiredTokenError as error:
        raise TokenRefused("The token has expired.") from error
    except (JoseError, ValueError, TypeError) as error:
        raise TokenRefused(_NOT_ACCEPTED.format(f"{type(error).__name__}: {error}")) from error
    return dict(decoded.claims)
