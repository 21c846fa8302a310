"""Reading questions from MongoDB.

Contract: reads only, each within the store's time-out; a list has one document more than ``limit`` where there are more.
"""

from __future__ import annotations

from typing import Any

from pymongo import ASCENDING

from perdure.chassis.mongo import Database
from perdure.gateway.stores.store import Store
from perdure.registry.questions import question_in
from perdure.schemas.documents import WAITS, WaitDocument, WaitStatus
from perdure.schemas.validation import Verdict
from perdure.schemas.waits import OutcomeKind, WaitKind

Document = dict[str, Any]


class Questions:
    """What waits for people."""

    def __init__(self, database: Database, store: Store) -> None:
        self._waits = database[WAITS]
        self._store = store

    async def page(self, query: Document, limit: int) -> list[Document]:
        """Questions, oldest first; ``query`` from ``perdure.gateway.answers.views.approvals_query``."""
        order = [("opened_at", ASCENDING), ("_id", ASCENDING)]
        shown = {"validation": 0, "traceparent": 0}
        return await self._store.read(lambda: self._waits.find(query, shown).sort(order).limit(limit + 1).to_list(None))

    async def find(self, approval_id: str, tenant: str) -> WaitDocument | None:
        """A question of this tenant."""
        query = {"_id": approval_id, "tenant": tenant, "question.question": {"$exists": True}}
        found: Any = await self._store.read(lambda: self._waits.find_one(query))
        return found  # type: ignore[no-any-return]

    async def verdict_on(self, question: WaitDocument) -> Verdict | None:
        """The newest verdict that this thread got on the very action of a question."""
        digest = question_in(question).action_digest
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
