"""The issuers of JSON Web Tokens that the gateway trusts, and how their claims become a caller.

Contract: the file that ``PERDURE_AUTH_ISSUERS_FILE`` names is TOML, an ``[[issuers]]`` table for each issuer. A claim is named by a
JSON pointer (RFC 6901) into the token's claims. A mistake is a :class:`ConfigurationError` that names the file and the field.
A token whose claims name no subject or no valid tenant is refused; a claim value that grants nothing is ignored.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from jsonpointer import JsonPointer, JsonPointerException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from perdure.chassis.errors import ConfigurationError
from perdure.gateway.auth.caller import Caller, CallerKind
from perdure.schemas.scopes import Scope, UnknownScope, scopes_of
from perdure.schemas.thread_ids import TENANT_PATTERN

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signatures with a public key. Never ``none``, never a shared secret."""
_TENANT: Final = re.compile(TENANT_PATTERN.removesuffix("$"))
_SUBJECT_LIMIT: Final = 255
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class ClaimsRefused(Exception):
    """Claims name no caller; the message is shown to the client."""


def _pointer(text: str) -> str:
    try:
        JsonPointer(text)
    except JsonPointerException as error:
        raise ValueError(f"is no JSON pointer: {error}") from error
    return text


def secure_url(url: str) -> str:
    """The URL itself.

    Raises:
        ValueError: it is neither https nor on loopback.

    """
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return url
    raise ValueError("must begin with https:// (http:// only on loopback)")


Pointer = Annotated[str, AfterValidator(_pointer)]
SecureUrl = Annotated[str, AfterValidator(secure_url)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Login(_Table):
    """How people sign in to the console with this issuer (OpenID Connect, authorization code with PKCE).

    Attributes:
        client_id: As the issuer knows the gateway. An ID token of a sign-in is meant for it, and for nothing else here.
        client_secret_file: Holds the client's secret; without one the client is public.
        scopes: What the sign-in asks the issuer for.

    """

    client_id: str = Field(min_length=1)
    client_secret_file: Path | None = None
    scopes: tuple[str, ...] = ("openid", "profile", "email")

    def client_secret(self) -> SecretStr | None:
        """The secret, read now.

        Raises:
            ConfigurationError: the file cannot be read.

        """
        if self.client_secret_file is None:
            return None
        try:
            return SecretStr(self.client_secret_file.read_text().strip())
        except OSError as error:
            raise ConfigurationError(f"client_secret_file {self.client_secret_file}: {error.strerror}") from error


class Issuer(_Table):
    """An issuer of tokens.

    Attributes:
        issuer: Exactly as the tokens' ``iss``.
        audience: A token must be meant for one of these.
        jwks_url: Where the issuer's keys are; found by ``<issuer>/.well-known/openid-configuration`` without it.
        subject: Which claim names the caller.
        tenant: Which claim names the tenant, or
        tenant_is: the tenant of all who come by this issuer.
        granted_by: Which claim grants: a list, or words separated by spaces.
        grants: Scopes, or sets of scopes, by a value of that claim. A value that is itself a scope grants that scope if
            ``scopes_are_granted``.

    """

    issuer: SecureUrl
    audience: tuple[str, ...] = Field(min_length=1)
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA", "Ed25519")
    jwks_url: SecureUrl | None = None
    subject: Pointer = "/sub"
    tenant: Pointer | None = None
    tenant_is: str | None = Field(default=None, pattern=TENANT_PATTERN)
    granted_by: Pointer = "/scope"
    scopes_are_granted: bool = True
    grants: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    login: Login | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> Issuer:
        if (self.tenant is None) == (self.tenant_is is None):
            raise ValueError("name the tenant by exactly one of tenant (a claim) and tenant_is (a name)")
        if wrong := set(self.algorithms) - set(ALGORITHMS):
            raise ValueError(
                f"algorithms: {', '.join(sorted(wrong))} cannot be trusted. Possible: {', '.join(ALGORITHMS)}"
            )
        for value, names in self.grants.items():
            try:
                scopes_of(names)
            except UnknownScope as error:
                raise ValueError(f"grants.{value}: {error}") from error
        return self

    def caller_of(self, claims: Mapping[str, Any], kind: CallerKind) -> Caller:
        """The caller that verified claims name.

        Raises:
            ClaimsRefused: they name no subject or no valid tenant.

        """
        subject = _text(claims, self.subject)
        if not 1 <= len(subject) <= _SUBJECT_LIMIT or not subject.isprintable():
            raise ClaimsRefused(
                f"The claim {self.subject} of the token must name the caller in 1 to {_SUBJECT_LIMIT} characters."
            )
        tenant = self.tenant_is or _text(claims, self.tenant or "")
        if not _TENANT.fullmatch(tenant):
            raise ClaimsRefused(
                f"The claim {self.tenant} of the token must name a tenant: 1 to 64 of A-Z a-z 0-9 . _ -"
            )
        return Caller(tenant, subject, self._granted(claims), kind, dict(claims))

    def _granted(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        said = _found(claims, self.granted_by)
        values = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
        granted: set[Scope] = set()
        for value in values:
            if not isinstance(value, str):
                continue
            granted |= scopes_of(self.grants.get(value, ()))
            if self.scopes_are_granted and value in frozenset(Scope):
                granted.add(Scope(value))
        return frozenset(granted)


class _File(_Table):
    issuers: tuple[Issuer, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> _File:
        names = [issuer.issuer for issuer in self.issuers]
        if len(set(names)) < len(names):
            raise ValueError("an issuer stands here twice")
        if sum(issuer.login is not None for issuer in self.issuers) > 1:
            raise ValueError("only one issuer may have a login table: the console has one way to sign in")
        return self


def read_issuers(file: Path) -> tuple[Issuer, ...]:
    """The issuers that a file names.

    Raises:
        ConfigurationError: the file cannot be read, is not TOML, or has a field that is not understood.

    """
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigurationError(f"PERDURE_AUTH_ISSUERS_FILE {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error
    try:
        return _File.model_validate(content).issuers
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{file}: {where or 'the file'}: {first['msg']}") from error


def _found(claims: Mapping[str, Any], pointer: str) -> Any:
    return JsonPointer(pointer).resolve(claims, None)


def _text(claims: Mapping[str, Any], pointer: str) -> str:
    value = _found(claims, pointer)
    return value if isinstance(value, str) else ""
