"""Fences: how a new owner makes sure that the previous one can write nothing any more (ADR 1).

Contract: after :func:`fence` returns ``n``, every number from ``from_seq`` to ``n - 1`` is occupied, and whatever a
previous owner still sends is refused: it has at most ``IN_FLIGHT_LIMIT`` numbers in flight, and so many are occupied
beyond the highest seen. What the previous owner got in before is part of the history.
"""

from __future__ import annotations

import asyncio

from perdure.chassis.group_commit import DuplicateKey
from perdure.checkpoint import keys
from perdure.checkpoint.documents import fence_document
from perdure.checkpoint.notebook import Notebook
from perdure.checkpoint.scope import IN_FLIGHT_LIMIT


async def fence(notebook: Notebook, thread_id: str, run_id: str, epoch: int, from_seq: int) -> int:
    """Occupy every free sequence number from ``from_seq``, the first of the run, on; the next free number."""
    thread = keys.checked("thread id", thread_id)
    placed: set[int] = set()
    while True:
        query = {"thread": thread, "seq": {"$gte": from_seq}}
        occupied = {found["seq"] for found in await notebook.store.find(query, {"seq": 1, "_id": 0})}
        highest = max(occupied - placed, default=from_seq - 1)
        end = highest + IN_FLIGHT_LIMIT + 1
        free = [seq for seq in range(from_seq, end) if seq not in occupied]
        fences = (notebook.commit.write(thread, inserts=[fence_document(thread, run_id, epoch, seq)]) for seq in free)
        outcomes = await asyncio.gather(*fences, return_exceptions=True)
        placed.update(seq for seq, outcome in zip(free, outcomes, strict=True) if outcome is None)
        refused = [outcome for outcome in outcomes if outcome is not None]
        for outcome in refused:
            if not isinstance(outcome, DuplicateKey):
                raise outcome
        if not refused:
            return max(end, max(occupied, default=0) + 1)
