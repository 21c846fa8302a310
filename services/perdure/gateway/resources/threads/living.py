"""A thread's time to live, from a request to its document and back. Pure (ADR 33)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from perdure.schemas.moments import in_milliseconds
from perdure.schemas.state_documents import TtlMark
from perdure.schemas.thread_http import TimeToLive


def ttl_mark(wanted: TimeToLive, moment: datetime) -> TtlMark:
    """The mark of a thread whose time begins at ``moment``."""
    end = in_milliseconds(moment + timedelta(minutes=wanted.ttl))
    return {"strategy": wanted.strategy or "delete", "minutes": wanted.ttl, "expires_at": end, "due_at": end}


def ttl_view(thread: Mapping[str, Any]) -> dict[str, Any] | None:
    """The time to live as clients see it; ``None`` without one."""
    mark = thread.get("ttl")
    if mark is None:
        return None
    return {"strategy": mark["strategy"], "ttl_minutes": mark["minutes"], "expires_at": mark["expires_at"]}
