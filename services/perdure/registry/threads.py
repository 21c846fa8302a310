"""A thread's document as it is registered, the same whoever makes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from perdure.schemas.documents import ThreadDocument, ThreadStatus


def thread_document(
    thread_id: str, tenant: str, metadata: Mapping[str, Any] | None, moment: datetime
) -> ThreadDocument:
    """A new thread."""
    return {
        "_id": thread_id,
        "tenant": tenant,
        "created_at": moment,
        "updated_at": moment,
        "metadata": dict(metadata or {}),
        "status": ThreadStatus.IDLE.value,
        "seq": 0,
        "head": None,
        "next": [],
        "interrupts": [],
        "error": None,
    }
