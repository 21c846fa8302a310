"""Checkpoint ids grow along a thread's history, also when workers' clocks disagree.

LangGraph makes checkpoint ids from the clock (UUID version 6, RFC 9562) and takes the highest for the newest. It
keeps ids of one process increasing by remembering the last timestamp. Contract: after :func:`follow` every new id of
this process is higher than the one that was loaded, so a worker whose clock is behind continues a thread and does not
write into its past.

A timestamp more than ``MAX_AHEAD_S`` in the future is not followed: one broken id must not carry all later ones away.
"""

from __future__ import annotations

import logging
import time
from typing import Final
from uuid import UUID

from langgraph.checkpoint.base import id as ids

log = logging.getLogger(__name__)

MAX_AHEAD_S: Final = 24 * 3600
_TICKS: Final = 10_000_000
_UNIX_EPOCH: Final = 0x01B21DD213814000
"""100-nanosecond intervals between 1582-10-15 and 1970-01-01."""


def follow(checkpoint_id: str) -> None:
    """Make later checkpoint ids of this process higher than ``checkpoint_id``; ids of another kind are left alone."""
    try:
        value = UUID(checkpoint_id).int
    except ValueError:
        return
    if (value >> 76) & 0xF != 6:
        return
    timestamp = (value >> 80) << 12 | (value >> 64) & 0x0FFF
    now = time.time_ns() // 100 + _UNIX_EPOCH
    if timestamp <= now:
        return
    if timestamp > now + MAX_AHEAD_S * _TICKS:
        log.warning("checkpoint %s is more than a day ahead of the clock; later ones may sort before it", checkpoint_id)
        return
    last: int | None = getattr(ids, "_last_v6_timestamp", None)
    if last is None or last < timestamp:
        vars(ids)["_last_v6_timestamp"] = timestamp  # there is no public way; a test watches that it works
