"""Reading signals and questions from MongoDB.

Contract: reads only, each within the store's time-out; a list has one document more than ``limit`` where there are more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pymongo import ASCENDING

from perdure.chassis.mongo import Database
from perdure.gateway.http.cursors import later_than
from perdure.gateway.stores.store import Store
from perdure.schemas.documents import SIGNALS, WAITS, WaitDocument, WaitStatus
from perdure.schemas.validation import Verdict
from perdure.schemas.waits import OutcomeKind, WaitKind

Document = dict[str, Any]


class Inbox:
    """What waits for people, and what was sent to threads."""

    def __init__(self, database: Database, store: Store) -> None:
        self._waits = database[WAITS]
        self._signals = database[SIGNALS]
        self._store = store

    async def questions(self, query: Document, limit: int) -> list[Document]:
        """Questions, oldest first; ``query`` from ``perdure.gateway.http.cursors.approvals_query``."""
        order = [("opened_at", ASCENDING), ("_id", ASCENDING)]
        shown = {"validation": 0, "traceparent": 0}
        return await self._store.read(lambda: self._waits.find(query, shown).sort(order).limit(limit + 1).to_list(None))

    async def question(self, approval_id: str, tenant: str) -> WaitDocument | None:
        """A question of this tenant."""
        query = {"_id": approval_id, "tenant": tenant, "question.question": {"$exists": True}}
        found: Any = await self._store.read(lambda: self._waits.find_one(query))
        return found  # type: ignore[no-any-return]

    async def verdict_on(self, question: WaitDocument) -> Verdict | None:
        """The newest verdict that this thread got on the very action of a question."""
        digest = (question.get("question") or {}).get("action_digest")
        if digest is None:
            return None
        query = {
            "thread_id": question["thread_id"],
            "kind": WaitKind.VALIDATION.value,
            "status": WaitStatus.ANSWERED.value,
            "outcome.kind": OutcomeKind.VERDICT.value,
            "outcome.action_digest": digest,
        }
        found = await self._store.read(lambda: self._waits.find(query, {"outcome": 1, "ended_at": 1}).to_list(None))
        shown = [one for one in found if "payload" in one["outcome"]]  # one that is too large is in its run only
        newest = max(shown, key=lambda one: one["ended_at"], default=None)
        return Verdict.model_validate(newest["outcome"]["payload"]) if newest else None

    async def signals(
        self, thread_id: str, *, state: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[Document]:
        """Signals of a thread, oldest first."""
        query: Document = {"thread_id": thread_id}
        if state is not None:
            query["state"] = state
        if after is not None:
            query |= later_than("created_at", after)
        order = [("created_at", ASCENDING), ("_id", ASCENDING)]
        return await self._store.read(lambda: self._signals.find(query).sort(order).limit(limit + 1).to_list(None))

    async def signal(self, signal_id: str) -> Document | None:
        """A signal, without its payload."""
        return await self._store.read(lambda: self._signals.find_one({"_id": signal_id}, {"payload": 0}))
