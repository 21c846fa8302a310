"""Idempotency keys of requests that start runs or change states: which keys clients may use.

Contract: runs of a tenant have one key each; whoever registers a run with a key that is taken gets ``IdempotencyTaken``.
"""

from __future__ import annotations

import hashlib
from typing import Final

from aiohttp import web

from perdure.gateway.auth.caller import CallerKind, caller_of
from perdure.gateway.http.problems import invalid
from perdure.gateway.http.requests import IDEMPOTENCY_KEY, idempotency_key

SUPERSTEPS: Final = "supersteps:"
"""Before a thread's id: the key of the run that makes a new thread's states (ADR 33). Stored; never change it."""
OWN_KEYS: Final = ("wake:", "schedule:", "retry:", SUPERSTEPS)
"""Runs that Perdure starts itself have keys with these beginnings: the insert of a waking run decides a wait (ADR 6), there is one
retry of a failed run, and a thread is made with its states once."""

OF_USER: Final = "user:"
"""Before the digest of the subject and the key of a user that the project's ``auth`` handlers name. Stored; never change it."""


def run_key(request: web.Request) -> str | None:
    """The ``Idempotency-Key`` of a run, or ``None``; those that Perdure gives its own runs are refused."""
    key = idempotency_key(request)
    if key is not None and key.startswith(OWN_KEYS):
        detail = f"must not begin with {' or '.join(OWN_KEYS)}: runs that Perdure starts itself have such keys"
        raise invalid(f"header:{IDEMPOTENCY_KEY}", detail)
    caller = caller_of(request)
    if key is not None and caller.kind is CallerKind.USER:  # two users of a tenant do not know each other's keys
        return f"{OF_USER}{hashlib.sha256(caller.subject.encode()).hexdigest()[:32]}:{key}"
    return key
