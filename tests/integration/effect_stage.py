"""A stage for effects: one node under LangGraph with the scope that agent-step gives it, on a real database, without Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.chassis.payload import pack
from perdure.checkpoint import SCOPE_KEY, RunScope
from perdure.registry.runs import new_id, new_traceparent, run_document
from perdure.registry.waits import Waits
from perdure.schemas.validation import Verdict, VerdictOutcome
from perdure.schemas.waits import OutcomeKind, WaitOutcome, digest, wait_id, wake_key
from perdure.sdk import effect
from perdure.sdk.context import SdkContext

TENANT = "acme"


class State(TypedDict, total=False):
    result: Any


class Stage:
    """One process's view of the store."""

    def __init__(self, db: mongo.Database) -> None:
        self.db = db
        self.availability = Availability()
        self._producer = Producer("127.0.0.1:9", "test")  # nothing is produced
        runs = GroupCommit(db.runs, availability=self.availability)
        waits = Waits(db, runs, self._producer, self.availability, "test")
        self.sdk = SdkContext(db, self.availability, waits, asyncio.get_running_loop())

    async def close(self) -> None:
        await self._producer.close()

    async def thread(self, thread_id: str | None = None) -> str:
        """A new thread with a running run of the same id."""
        thread_id = thread_id or str(uuid.uuid4())
        run = self._run(thread_id, run_id=thread_id) | {"status": "running", "epoch": 1}
        await self.db.runs.insert_one(run)
        return thread_id

    async def taken_over(self, thread_id: str) -> int:
        """The run of a thread gets another owner; the new epoch."""
        found = await self.db.runs.find_one_and_update({"_id": thread_id}, {"$inc": {"epoch": 1}}, return_document=True)
        return int(found["epoch"])

    def player(self, thread_id: str, node: Callable[..., Any], epoch: int = 1) -> Callable[..., Any]:
        """``await play(input or Command)`` runs the thread's one node."""
        builder = StateGraph(State)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        builder.add_edge("node", END)
        graph = builder.compile(checkpointer=InMemorySaver())
        scope = RunScope(thread_id=thread_id, run_id=thread_id, epoch=epoch, next_seq=1, sdk=self.sdk)
        config: Any = {"configurable": {"thread_id": thread_id, SCOPE_KEY: scope}}

        async def play(given: Any = None) -> Any:
            return await graph.ainvoke(given or {"result": None}, config)

        return play

    async def play(self, thread_id: str, node: Callable[..., Any], epoch: int = 1) -> Any:
        """What one node returns as ``result``."""
        return (await self.player(thread_id, node, epoch)())["result"]

    async def verdict(
        self, thread_id: str, action: Any, outcome: str = "proceed", expires_in_s: float = 60, **changed: Any
    ) -> str:
        """A verdict as the validator gives it; its id."""
        moment = datetime.now(UTC)
        verdict = Verdict(
            outcome=VerdictOutcome(outcome),
            findings=(),
            action_digest=digest(action),
            read_at=moment,
            expires_at=moment + timedelta(seconds=expires_in_s),
        )
        fields = {"action_digest": digest(action), "expires_at": verdict.expires_at, **changed}
        return await self._woken(thread_id, OutcomeKind.VERDICT, verdict.model_dump(mode="json"), fields)

    async def approval(self, thread_id: str, action: Any, answer: Any = True, **fields: Any) -> str:
        """An approval as the gateway gives it; its id."""
        return await self._woken(
            thread_id, OutcomeKind.ANSWER, answer, {"by": "ada", "action_digest": digest(action), **fields}
        )

    async def _woken(self, thread_id: str, kind: OutcomeKind, payload: Any, fields: dict[str, Any]) -> str:
        wait = wait_id(thread_id, uuid.uuid4().hex)
        outcome = WaitOutcome(kind=kind, wait_id=wait, at=now(), payload=payload, **fields)
        run = self._run(
            thread_id, idempotency_key=wake_key(wait), payload={"command": {"resume": {"x": outcome.value()}}}
        )
        await self.db.runs.insert_one(run | {"wait_id": wait})
        return wait

    def _run(self, thread_id: str, payload: Any = None, **fields: Any) -> Any:
        return run_document(
            tenant=TENANT,
            thread_id=thread_id,
            graph_id="g",
            graph_version=None,
            packed=pack(payload or {}),
            metadata={},
            traceparent=new_traceparent(),
            moment=now(),
            **({"run_id": new_id()} | fields),
        )


@asynccontextmanager
async def opened(uri: str) -> AsyncIterator[Stage]:
    """A stage with a database of its own, which is dropped at the end."""
    client = mongo.connect(uri)
    name = f"effects_{uuid.uuid4().hex[:8]}"
    await mongo.ensure_indexes(client[name])
    made = Stage(client[name])
    yield made
    await made.close()
    await client.drop_database(name)
    client.close()


def doing(key: str, fn: Callable[[str], Any], **more: Any) -> Callable[[Any], Any]:
    """A node whose result is that of an effect."""

    async def node(_: Any) -> dict[str, Any]:
        return {"result": await effect(key, fn, **more)}

    return node
