"""What the gateway asks the process of a project's ``auth`` handlers, and what that process answers: one JSON object a line."""

from __future__ import annotations

from typing import Any, Final, Literal, NotRequired, TypedDict

SOCKET_VARIABLE: Final = "PERDURE_AUTH_SOCKET"
"""The number of the inherited socket."""
LINE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of a question or an answer."""


class AskedRequest(TypedDict):
    """An HTTP request, as an ``authenticate`` handler may see it."""

    method: str
    path: str
    path_params: dict[str, str]
    query_params: dict[str, str]
    headers: dict[str, str]


class AuthQuestion(TypedDict):
    """A question; ``ping`` is answered with an empty user.

    Attributes:
        request: Of ``authenticate``.
        user: Of ``authorize``: what ``authenticate`` answered.
        value: Of ``authorize``: what the request is about; a handler may change it.

    """

    id: int
    ask: Literal["authenticate", "authorize", "ping"]
    request: NotRequired[AskedRequest]
    user: NotRequired[dict[str, Any]]
    resource: NotRequired[str]
    action: NotRequired[str]
    value: NotRequired[dict[str, Any]]


class Refused(TypedDict):
    """What a handler raised as ``HTTPException``, or the denial that it returned."""

    status: int
    detail: str
    headers: dict[str, str]


class AuthAnswer(TypedDict):
    """An answer; exactly one of ``user``, ``filter``, ``refused`` and ``failed`` is there.

    Attributes:
        user: With ``identity`` and ``permissions``.
        filter: Of ``authorize``: conditions that what is read or changed must meet; empty: none.
        changed: Beside ``filter``: what the handler changed of the value, by name.
        written: Beside ``filter``: what the handler put into the value's metadata.
        failed: A handler failed; the message is for the gateway's log.

    """

    id: int
    user: NotRequired[dict[str, Any]]
    filter: NotRequired[dict[str, Any]]
    changed: NotRequired[dict[str, Any]]
    written: NotRequired[dict[str, Any]]
    refused: NotRequired[Refused]
    failed: NotRequired[str]
