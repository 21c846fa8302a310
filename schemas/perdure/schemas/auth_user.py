"""The user whom a run acts for, as graphs read it from their configuration (ADR 43).

Contract: runs, waits, schedules and batches have the user as JSON in ``user``. :func:`configurable` turns it into what
LangGraph's Agent Server puts into ``config["configurable"]``; clients cannot set these keys (``perdure.schemas.run_config``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

USER_LIMIT_BYTES: Final = 64 * 1024
"""Of a user as JSON."""


class AuthUser(dict[str, Any]):
    """A user; its fields are items and, where no method of ``dict`` has the name, attributes."""

    def __getattr__(self, name: str) -> Any:
        """A field."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the user has no field {name!r}") from None


def packed_user(user: Mapping[str, Any]) -> bytes:
    """A user as documents have it."""
    return json.dumps(user, separators=(",", ":")).encode()


def configurable(stored: bytes | None) -> dict[str, Any]:
    """The keys of a run's configuration that say who it acts for; none where nobody was asked."""
    if stored is None:
        return {}
    user = AuthUser(json.loads(stored))
    return {
        "langgraph_auth_user": user,
        "langgraph_auth_user_id": user["identity"],
        "langgraph_auth_permissions": list(user.get("permissions") or ()),
    }
