"""The stored shape of marks on stuck threads, of the workers that a run lost, and of node timings (ADR 10).

Contract: BSON documents as typed dictionaries. The marks are parts of a thread's and of a run's document
(``perdure.schemas.documents``); node timings are in the collection ``node_timings``.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict


class StuckMark(TypedDict):
    """Why a thread counts as stuck (ADR 10)."""

    cause: str
    """What tells one cause from another; marked once for each."""
    code: str
    """``perdure.schemas.events.StuckCode``."""
    reason: str
    node: str | None
    """Where it stands, if that is one node."""
    nodes: list[str]
    """Where it stands; absent in marks of earlier versions."""
    since: datetime
    """The last sign of progress."""
    expected_by: datetime | None
    run_id: str
    after: int
    """The newest sequence number that was known."""
    wait_id: str | None
    noticed_at: datetime


class CrashRecord(TypedDict, total=False):
    """One worker that a run lost."""

    at: datetime
    worker: str | None
    """The incarnation that owned it."""
    error: str
    """Why its handling failed; absent when the worker died."""


class NodeTimingDocument(TypedDict, total=False):
    """How long a node takes: statistics, not truth; ``_id`` is graph and node (ADR 10)."""

    _id: str
    graph: str
    node: str
    buckets: dict[str, int]
    """Supersteps by the smallest n for which they took at most 2^n milliseconds."""
