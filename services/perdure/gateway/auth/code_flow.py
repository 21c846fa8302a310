"""OpenID Connect's authorization code flow with PKCE (RFC 6749, RFC 7636), for one issuer.

Contract: :meth:`CodeFlow.begin` returns where to send the browser; :meth:`CodeFlow.finish` returns the caller that the issuer
names, after the code was exchanged and the ID token verified (signature, issuer, client, nonce).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from perdure.chassis import json
from perdure.gateway.auth.caller import Caller, CallerKind
from perdure.gateway.auth.issuers import ClaimsRefused, Issuer, Login, secure_url
from perdure.gateway.auth.jwks import LIMIT_BYTES, TIMEOUT_S, IssuerUnavailable, discover
from perdure.gateway.auth.tokens import SignIn, TokenRefused, Tokens

_SAID_LIMIT: Final = 200


class SignInRefused(Exception):
    """The issuer let nobody in, or somebody who is no caller; the message is shown to the person."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that has begun.

    Attributes:
        url: Where the browser goes.
        state: Comes back with the code.
        nonce: Comes back in the ID token.
        verifier: Is sent with the code.

    """

    url: str
    state: str
    nonce: str
    verifier: str


class CodeFlow:
    """Signs people in at an issuer."""

    def __init__(self, issuer: Issuer, login: Login, tokens: Tokens) -> None:
        """Read the client's secret.

        Raises:
            ConfigurationError: its file cannot be read.

        """
        self._issuer, self._login, self._tokens = issuer, login, tokens
        self._secret = login.client_secret()

    @property
    def host(self) -> str:
        """Where people sign in, as they know it."""
        return URL(self._issuer.issuer).host or self._issuer.issuer

    async def begin(self, redirect_uri: str) -> Begun:
        """Begin a sign-in.

        Raises:
            IssuerUnavailable: the issuer does not say where people sign in.

        """
        endpoint = await self._endpoint("authorization_endpoint")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        question = {
            "response_type": "code",
            "client_id": self._login.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._login.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return Begun(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(question)}", state, nonce, verifier)

    async def finish(self, code: str, redirect_uri: str, *, nonce: str, verifier: str) -> Caller:
        """Exchange a code.

        Raises:
            IssuerUnavailable: the issuer does not answer.
            SignInRefused: it refuses the code, or its token names no caller.
            RequestProblem: ``issuer-unavailable``: its keys cannot be had.

        """
        answer = await self._exchange(code, redirect_uri, verifier)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise SignInRefused(f"{self.host} sent no ID token. Is `openid` among the scopes of the login?")
        try:
            issuer, claims = await self._tokens.verified(token, sign_in=SignIn(self._login.client_id, nonce))
            if issuer != self._issuer:
                raise SignInRefused(f"The ID token is one of {issuer.issuer}.")
            return issuer.caller_of(claims, CallerKind.SESSION)
        except (TokenRefused, ClaimsRefused) as refused:
            raise SignInRefused(str(refused)) from refused

    async def _exchange(self, code: str, redirect_uri: str, verifier: str) -> dict[str, Any]:
        endpoint = await self._endpoint("token_endpoint")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        if self._secret is None:
            form["client_id"] = self._login.client_id
        else:
            parts = (self._login.client_id, self._secret.get_secret_value())
            headers["Authorization"] = aiohttp.encode_basic_auth(*map(_form_encoded, parts))
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
                session.post(URL(endpoint), data=form, headers=headers, allow_redirects=False) as response,
            ):
                content = json.loads(await response.content.read(LIMIT_BYTES))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise IssuerUnavailable(f"{endpoint}: {type(error).__name__}: {error}") from error
        if not isinstance(content, Mapping):
            raise IssuerUnavailable(f"{endpoint} answered no JSON object")
        if response.status != 200:
            said = content.get("error_description") or content.get("error") or response.status
            raise SignInRefused(f"{self.host} refused the sign-in: {str(said)[:_SAID_LIMIT]}")
        return dict(content)

    async def _endpoint(self, name: str) -> str:
        url = (await discover(self._issuer.issuer)).get(name)
        try:
            return secure_url(str(url))
        except ValueError as error:
            raise IssuerUnavailable(f"{self._issuer.issuer} names no usable {name}: it {error}") from error


def _form_encoded(text: str) -> str:
    """As RFC 6749, section 2.3.1, has the parts of a client's password."""
    return urlencode({"": text})[1:]
