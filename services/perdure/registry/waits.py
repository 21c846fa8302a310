"""The waits of hibernating threads: opened by the run that ends at them, ended by the one run that wakes them (ADR 6, ADR 34).

Contract: :meth:`Waits.wake` is called by whoever thinks that a wait is over; exactly one call registers the waking run, every other
learns who was first. Every method is idempotent and returns when what it says is durable; a lost database is waited for.

Outside: deciding that a wait is over, and signals (``perdure.registry.signals``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import ReplaceOne

from perdure.chassis.assignments import Assignment
from perdure.chassis.at_rest import sealed
from perdure.chassis.clock import now
from perdure.chassis.group_commit import DuplicateKey, GroupCommit
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.payload import pack, unpack
from perdure.registry.questions import question_of
from perdure.registry.runs import first_run_of, new_traceparent, publish_start, run_document
from perdure.schemas.commands import StartReason
from perdure.schemas.documents import PAYLOADS, RUNS, WAITS, RunDocument, RunStatus, WaitDocument, WaitStatus
from perdure.schemas.events import InterruptInfo
from perdure.schemas.waits import Question, Wait, WaitKind, WaitOutcome, outcome_of, wait_id, wait_of, wake_key

OUTCOME_SHOWN_BYTES = 64 * 1024
"""A larger payload of an outcome is in the waking run only, not in the wait's document."""
WAKING = (
    "tenant", "thread_id", "interrupt_id", "run_id", "origin_run_id", "first_run_id", "graph_id", "graph_version",
    "metadata", "traceparent", "batch", "interrupt", "stream", "user",
)  # fmt: skip
"""What :meth:`Waits.wake` reads of a wait's document, for those who read no more than they need."""


@dataclass(frozen=True, slots=True)
class Woken:
    """How a wait ended."""

    run: RunDocument
    """The run that wakes the thread."""
    outcome: WaitOutcome
    won: bool
    """Whether it was this call's outcome that ended it."""


def wait_documents(
    run: Mapping[str, Any], interrupts: Iterable[InterruptInfo], nodes: Sequence[str], moment: datetime
) -> list[WaitDocument]:
    """What a run waits for at its interrupts, as documents: waits of ``perdure.sdk``, and questions of plain interrupts."""
    found: list[WaitDocument] = []
    for interrupt in interrupts:
        known = wait_of(interrupt.value)
        wait = known or _question_wait(interrupt)
        document: WaitDocument = {
            "_id": wait_id(run["thread_id"], interrupt.id),
            "tenant": run["tenant"],
            "thread_id": run["thread_id"],
            "interrupt_id": interrupt.id,
            "run_id": run["_id"],
            "graph_id": run["graph_id"],
            "graph_version": run.get("graph_version"),
            "assistant_id": run["assistant_id"],
            "metadata": run.get("metadata") or {},
            "traceparent": run.get("traceparent"),
            "nodes": list(nodes),
            "origin_run_id": run.get("origin_run_id") or run["_id"],
            "first_run_id": first_run_of(run),
            "kind": wait.kind.value,
            "status": WaitStatus.OPEN.value,
            "opened_at": moment,
            "events": list(wait.events),
            "question": wait.question.model_dump(mode="json") if wait.question else None,
            "assigned_to": wait.question.assigned_to if wait.question else None,
            "escalations": 0,
            "validation": wait.validation.model_dump(mode="json") if wait.validation else None,
        }
        if known is None:
            document["interrupt"] = {"value": interrupt.value, "response_schema": interrupt.response_schema}
        if wait.due_at is not None:
            document["due_at"] = wait.due_at
        if wait.validation is not None:
            document["requested_at"] = moment
        if "batch" in run:
            document["batch"] = run["batch"]
        if "user" in run:
            document["user"] = run["user"]
        found.append(document)
    return found


def _question_wait(interrupt: InterruptInfo) -> Wait:
    """What a plain interrupt waits for: an answer, for as long as it takes."""
    text = question_of(interrupt.value, None).question
    return Wait(kind=WaitKind.APPROVAL, question=Question(question=text))


def waking_payload(wait: Mapping[str, Any], outcome: WaitOutcome) -> dict[str, Any]:
    """The payload of the run that resumes a wait with its outcome: a plain interrupt gets the bare answer.

    The run is streamed as the run was that waited, so that readers of the thread go on reading.
    """
    streamed = {"stream": wait["stream"]} if "stream" in wait else {}
    if wait.get("interrupt") is None:
        return {"command": {"resume": {wait["interrupt_id"]: outcome.value()}}} | streamed
    told = outcome.value()
    answer = told.pop("payload", None)
    return {"command": {"resume": {wait["interrupt_id"]: answer}}, "outcome": told} | streamed


def outcome_in(payload: Mapping[str, Any]) -> WaitOutcome | None:
    """The outcome that :func:`waking_payload` put into a run's payload; ``None`` where there is none."""
    (answer,) = payload["command"]["resume"].values()
    if "outcome" in payload:
        return WaitOutcome.model_validate({**payload["outcome"], "payload": answer})
    return outcome_of(answer)


class Waits:
    """The waits of all threads. Belongs to one event loop."""

    def __init__(
        self, db: Database, runs: GroupCommit, commands: Producer, availability: Availability, source: str
    ) -> None:
        self._db = db
        self._waits = GroupCommit(db[WAITS], availability=availability)
        self._payloads = GroupCommit(db[PAYLOADS], availability=availability)
        self._runs = runs
        self._commands = commands
        self._availability = availability
        self._source = source

    async def open(self, waits: Sequence[WaitDocument]) -> None:
        """Store waits; one that is there already stays as it is, with its first deadline."""

        async def insert(wait: WaitDocument) -> None:
            try:
                await self._waits.write(inserts=[wait])
            except DuplicateKey:
                await self._open_again(wait)

        await asyncio.gather(*map(insert, waits))

    async def close(self, waits: Iterable[str], moment: datetime) -> None:
        """Close those of these waits that are open: their thread went on without them."""
        change = {"status": WaitStatus.CLOSED.value, "ended_at": moment}
        are_open = {"status": WaitStatus.OPEN.value}
        await self._waits.write(
            assignments=[Assignment(wait, change, equal=are_open, removed=("due_at",)) for wait in waits]
        )

    async def open_on(self, thread_id: str) -> set[str]:
        """The ids of a thread's open waits."""
        query = {"thread_id": thread_id, "status": WaitStatus.OPEN.value}
        found = await outlast(lambda: self._db[WAITS].find(query, {"_id": 1}).to_list(None), self._availability)
        return {wait["_id"] for wait in found}

    async def find(self, wait: str) -> WaitDocument | None:
        """The wait with this id."""
        found: Any = await outlast(lambda: self._db[WAITS].find_one({"_id": wait}), self._availability)
        return found  # type: ignore[no-any-return]

    async def wake(self, wait: WaitDocument, outcome: WaitOutcome) -> Woken:
        """End a wait and start the run that goes on, unless it has ended already."""
        run = await self._register(wait, outcome, wake_key(wait["_id"]))
        if run is None:
            earlier = await self.woken(wait["tenant"], wait["_id"])
            if earlier is None:
                raise LookupError(f"the run that woke wait {wait['_id']} is registered and not found")
            await self.mark(wait["_id"], earlier.outcome, earlier.run["_id"])
            return earlier
        await self.mark(wait["_id"], outcome, run["_id"])
        return Woken(run, outcome, won=True)

    async def _open_again(self, wait: WaitDocument) -> None:
        """A run ended at a wait that is stored already: after a crash, beside a sibling, after a failure, or after time travel."""
        stored = await self.find(wait["_id"])
        if stored is None or stored["run_id"] == wait["run_id"] or stored["status"] == WaitStatus.OPEN.value:
            return
        ended = await self.woken(wait["tenant"], wait["_id"])
        if ended is None:
            reopened = ReplaceOne({"_id": wait["_id"], "status": WaitStatus.CLOSED.value}, sealed(WAITS, wait))
            await self._waits.write(updates=[reopened])
        elif ended.run["_id"] != wait["run_id"] and not RunStatus(ended.run["status"]).active:
            # The run that was woken failed before its checkpoint, and a later one stands here again: the outcome stands too.
            await self._register(wait, ended.outcome, f"{wake_key(wait['_id'])}:{wait['run_id']}")

    async def _register(self, wait: WaitDocument, outcome: WaitOutcome, key: str) -> RunDocument | None:
        """Register a run that resumes a wait with an outcome, and publish its start; ``None`` when the key is taken."""
        packed = pack(waking_payload(wait, outcome))
        run = run_document(
            tenant=wait["tenant"],
            thread_id=wait["thread_id"],
            graph_id=wait["graph_id"],
            graph_version=wait.get("graph_version"),
            packed=packed,
            metadata=wait.get("metadata") or {},
            traceparent=wait.get("traceparent") or new_traceparent(),
            moment=now(),
            idempotency_key=key,
            user=wait.get("user"),
        )
        run["wait_id"] = wait["_id"]
        run["origin_run_id"] = wait.get("origin_run_id") or wait["run_id"]
        run["first_run_id"] = wait.get("first_run_id") or run["origin_run_id"]
        if "batch" in wait:
            run["batch"] = wait["batch"]
        if packed.chunks:
            chunks = packed.chunk_documents(run["_id"])
            await self._payloads.write(content=chunks, nbytes=sum(map(len, packed.chunks)))
        try:
            await self._runs.write(inserts=[run], nbytes=1024 + len(packed.inline))
        except DuplicateKey:
            return None
        publish_start(self._commands, run, StartReason.WOKEN, self._source)
        return run

    async def woken(self, tenant: str, wait: str) -> Woken | None:
        """How a wait ended; ``None`` while it has not. This is what decides, not the wait's status."""
        query = {"tenant": tenant, "idempotency_key": wake_key(wait)}
        run: Any = await outlast(lambda: self._db[RUNS].find_one(query), self._availability)
        if run is None:
            return None
        data = run["payload"]
        if run.get("payload_chunks"):
            ids = [f"{run['_id']}:{n}" for n in range(run["payload_chunks"])]
            found = await outlast(
                lambda: self._db[PAYLOADS].find({"_id": {"$in": ids}}).to_list(None), self._availability
            )
            chunks = {chunk["_id"]: chunk["data"] for chunk in found}
            data = b"".join(chunks[one] for one in ids)
        outcome = outcome_in(unpack(data))
        if outcome is None:
            raise TypeError(f"run {run['_id']} has the key of a waking run and no outcome")
        return Woken(run, outcome, won=False)

    async def mark(self, wait: str, outcome: WaitOutcome, run_id: str) -> None:
        """Bring a wait's document up to date with how it ended."""
        shown = outcome.value()
        if len(outcome.model_dump_json()) > OUTCOME_SHOWN_BYTES:
            shown.pop("payload", None)
        change = {"status": WaitStatus.ANSWERED.value, "outcome": shown, "woken_by": run_id, "ended_at": outcome.at}
        answered = {"status": WaitStatus.ANSWERED.value}
        await self._waits.write(assignments=[Assignment(wait, change, unequal=answered, removed=("due_at",))])

    async def aclose(self) -> None:
        """Wait for what was submitted."""
        await asyncio.gather(self._waits.close(), self._payloads.close())
