"""The caller of a request: whom the request acts for, and what it may do.

Contract: :mod:`perdure.gateway.auth.middleware` makes the caller before any handler runs; handlers read it here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from aiohttp import web

from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.schemas.auth_user import packed_user
from perdure.schemas.scopes import EVERY, IMPLIED, Scope

TENANT_HEADER: Final = "Perdure-Tenant"


class CallerKind(StrEnum):
    """How a caller became known."""

    OPEN = "open"
    """Nobody was asked: the gateway is open to local programs, or ``PERDURE_AUTH=none``."""
    KEY = "key"
    JWT = "jwt"
    SESSION = "session"
    USER = "user"
    """Named by the ``auth`` handlers of the project."""
    LINK = "link"
    """Holds a link to answer one question."""


class Signature(NamedTuple):
    """Who did something: the caller where callers are known, else whom the body names, if anybody."""

    by: str | None
    on_behalf_of: str | None
    """Whom the body names, where the caller is known: nobody has proven it."""


class KnownSignature(NamedTuple):
    """A :class:`Signature` that names somebody."""

    by: str
    on_behalf_of: str | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        tenant: Whose data the request is about.
        subject: The name under which changes are recorded: ``key:<name>``, a token's ``sub``, a recipient.
        details: What an authenticator knows beyond that, such as a token's claims; as JSON.

    """

    tenant: str
    subject: str
    scopes: frozenset[Scope]
    kind: CallerKind
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_known(self) -> bool:
        """Whether somebody was asked who calls."""
        return self.kind is not CallerKind.OPEN

    @property
    def auth_user(self) -> bytes | None:
        """Who a run that this caller starts acts for (``perdure.schemas.auth_user``); ``None`` where nobody was asked."""
        if not self.is_known:
            return None
        if self.kind is CallerKind.USER:
            return packed_user({"is_authenticated": True, "display_name": self.subject, **self.details})
        return packed_user(
            {
                "identity": self.subject,
                "display_name": self.subject,
                "is_authenticated": True,
                "permissions": sorted(self.scopes),
                "kind": self.kind.value,
                "tenant": self.tenant,
            }
        )

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope."""
        return scope in self.scopes or scope in IMPLIED

    def require(self, scope: Scope) -> None:
        """Refuse a caller without a scope.

        Raises:
            RequestProblem: ``scope-missing``.

        """
        if not self.may(scope):
            raise RequestProblem(
                "scope-missing",
                f"{self.subject} lacks the scope {scope}. Use a caller that has it: `perdure keys create` makes keys.",
            )

    def signs(self, said: str | None) -> Signature:
        """Who does something, and in whose name; ``said``: whom the request's body names."""
        return Signature(self.subject, said) if self.is_known else Signature(said, None)

    def must_sign(self, said: str | None) -> KnownSignature:
        """As :meth:`signs`, where somebody must be named.

        Raises:
            RequestProblem: ``invalid-request``: nobody was asked who calls, and the body names nobody.

        """
        by, on_behalf_of = self.signs(said)
        if by is None:
            raise invalid("/by", "Field required: nobody else says who does this")
        return KnownSignature(by, on_behalf_of)


CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
"""Set by the middleware on every request that a row without an exemption takes."""


def open_caller(tenant: str) -> Caller:
    """Whoever reaches a gateway that asks nobody."""
    return Caller(tenant, "local", EVERY, CallerKind.OPEN)


def caller_of(request: web.Request) -> Caller:
    """The caller of a request."""
    return request[CALLER]


def tenant_of(request: web.Request) -> str:
    """The tenant of a request: its caller's."""
    return request[CALLER].tenant
