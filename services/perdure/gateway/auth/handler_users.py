"""Callers that the project's ``auth`` handlers name (ADR 43).

Contract: the ``authenticate`` handler is asked about every request that brings no other credentials. The user that it returns
becomes a caller: its identity is the subject, its tenant the user's field that ``PERDURE_AUTH_USER_TENANT`` names. Every user has
:data:`USER_SCOPES`; a permission ``perdure:<scope or set>`` adds to them. A malformed answer lets nobody in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import Caller, CallerKind
from perdure.gateway.auth.credentials import Credentials
from perdure.gateway.auth.handler_process import HandlerProcess, unavailable
from perdure.gateway.http.problems import RequestProblem
from perdure.schemas.auth_questions import AskedRequest, AuthAnswer
from perdure.schemas.auth_user import USER_LIMIT_BYTES, packed_user
from perdure.schemas.scopes import Scope, UnknownScope, scopes_of
from perdure.schemas.thread_ids import TENANT_PATTERN

log = logger(__name__)

USER_SCOPES: Final = frozenset(
    {
        Scope.THREADS_READ,
        Scope.THREADS_WRITE,
        Scope.STATES_READ,
        Scope.STATES_WRITE,
        Scope.RUNS_READ,
        Scope.RUNS_WRITE,
        Scope.SIGNALS_READ,
        Scope.SIGNALS_WRITE,
        Scope.APPROVALS_READ,
        Scope.APPROVALS_ANSWER,
        Scope.SCHEDULES_READ,
        Scope.SCHEDULES_WRITE,
        Scope.GRAPHS_READ,
        Scope.SEARCH_READ,
    }
)
"""What the ``authorize`` handlers govern, row by row (``perdure.gateway.auth.governed``)."""
PREFIX: Final = "perdure:"
SUBJECT_LIMIT: Final = 255
_TENANT: Final = re.compile(TENANT_PATTERN.removesuffix("$"))


class HandlerAuthenticator:
    """Knows callers by what the project's ``authenticate`` handler says."""

    def __init__(self, process: HandlerProcess, tenant: str, tenant_field: str | None) -> None:
        """``tenant``: of all users, unless ``tenant_field`` names the field of a user that says it."""
        self._process, self._tenant, self._tenant_field = process, tenant, tenant_field

    async def __call__(self, credentials: Credentials) -> Caller:
        """The caller that the handler names.

        Raises:
            RequestProblem: ``auth-refused`` with the handler's status, or ``auth-unavailable``.

        """
        asked: AskedRequest = {
            "method": credentials.method,
            "path": credentials.path,
            "path_params": dict(credentials.path_params),
            "query_params": dict(credentials.query),
            "headers": {name.lower(): value for name, value in credentials.headers.items()},
        }
        answer = await self._process.ask("authenticate", {"request": asked})
        require_allowed(answer)
        try:
            return self._caller_of(answer["user"])
        except (KeyError, TypeError, ValueError) as error:
            log.error("gateway.auth_user_refused", detail=f"{type(error).__name__}: {error}")
            raise unavailable("they name a user that cannot be a caller; the gateway's log has more") from error

    def _caller_of(self, user: dict[str, Any]) -> Caller:
        subject, permissions = user["identity"], user["permissions"]
        if not isinstance(subject, str) or not 1 <= len(subject) <= SUBJECT_LIMIT or not subject.isprintable():
            raise ValueError(f"the identity must have 1 to {SUBJECT_LIMIT} printable characters")
        if len(packed_user(user)) > USER_LIMIT_BYTES:
            raise ValueError(f"the user has more than {USER_LIMIT_BYTES} bytes as JSON")
        tenant = self._tenant if self._tenant_field is None else user.get(self._tenant_field)
        if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
            raise ValueError(f"the field {self._tenant_field!r} must name a tenant: 1 to 64 of A-Z a-z 0-9 . _ -")
        return Caller(tenant, subject, USER_SCOPES | granted(permissions), CallerKind.USER, user)


def granted(permissions: list[str]) -> frozenset[Scope]:
    """The scopes that permissions add; those of the project's own are no business of the gateway."""
    names = [one.removeprefix(PREFIX) for one in permissions if one.startswith(PREFIX)]
    try:
        return scopes_of(names)
    except UnknownScope as error:
        raise ValueError(str(error)) from error


def require_allowed(answer: AuthAnswer) -> None:
    """Refuse what a handler refused.

    Raises:
        RequestProblem: ``auth-refused``, with the status, detail and headers of the handler.

    """
    refused: Any = answer.get("refused")
    if refused is None:
        return
    status, headers = refused.get("status"), refused.get("headers")
    if not isinstance(status, int) or not HTTPStatus.BAD_REQUEST <= status <= 599:
        status = HTTPStatus.FORBIDDEN.value
    detail = str(refused.get("detail") or "The project's auth handlers refuse this.")
    raise RequestProblem("auth-refused", detail, status=status, headers=_headers(headers))


def _headers(given: Any) -> dict[str, str]:
    """The headers of a refusal that an answer may have."""
    if not isinstance(given, Mapping):
        return {}
    return {str(name): str(value) for name, value in given.items() if f"{name}{value}".isprintable()}
