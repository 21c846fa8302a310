"""What a request brings to say who calls, and what an authenticator makes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from aiohttp import hdrs, web

from perdure.gateway.auth.caller import Caller

API_KEY_HEADER = "x-api-key"
BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request says about its caller.

    Attributes:
        api_key: The header ``x-api-key``.
        bearer: What follows ``Authorization: Bearer``.
        headers: All headers, whatever the case of their names.
        remote: The address of the peer.

    """

    api_key: str | None
    bearer: str | None
    headers: Mapping[str, str]
    cookies: Mapping[str, str]
    method: str
    path: str
    query: Mapping[str, str]
    remote: str | None
    path_params: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request: web.Request) -> Self:
        """The credentials of a request."""
        authorization = request.headers.get(hdrs.AUTHORIZATION, "")
        is_bearer = authorization[: len(BEARER)].lower() == BEARER
        return cls(
            api_key=request.headers.get(API_KEY_HEADER),
            bearer=authorization[len(BEARER) :].strip() if is_bearer else None,
            headers=request.headers,
            cookies=request.cookies,
            method=request.method,
            path=request.path,
            query=request.query,
            remote=request.remote,
            path_params=request.match_info,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Credentials that are meant for an authenticator and do not hold; the detail is shown to the client."""

    detail: str


Authenticator = Callable[[Credentials], Awaitable[Caller | Refusal | None]]
"""Makes the caller of credentials. ``None``: there are none of its kind, so the next authenticator is asked.

Raises:
    RequestProblem: ``store-unavailable`` and the like: it cannot be told now who calls; the request fails.

"""
