"""How a run ended: the entry in the history decides, the documents of run and thread follow (ADR 1 and 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from perdure.agent_step.claims import Claimed
from perdure.agent_step.domain import Outcome
from perdure.agent_step.hibernation import Hibernation
from perdure.chassis.assignments import Assignment
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.registry.runs import first_run_of
from perdure.schemas.documents import RunStatus, ThreadStatus
from perdure.schemas.state_updates import CANCELLED

THREAD_STATUS = {
    RunStatus.INTERRUPTED: ThreadStatus.INTERRUPTED,
    RunStatus.ERROR: ThreadStatus.ERROR,
    RunStatus.TIMEOUT: ThreadStatus.ERROR,
}


class Endings:
    """Brings the documents of ended runs and their threads up to date."""

    def __init__(self, runs: GroupCommit, threads: GroupCommit, hibernation: Hibernation) -> None:
        self._runs = runs
        self._threads = threads
        self._hibernation = hibernation

    async def project(self, claimed: Claimed, outcome: Outcome, *, first_seq: int, seq: int, settled: bool) -> None:
        """Bring run, thread and waits up to date with the end that the history records at ``seq``. Idempotent."""
        run = claimed.run
        moment = now()
        shared: dict[str, Any] = {
            "head": outcome.head,
            "next": list(outcome.next),
            "interrupts": [i.model_dump() for i in outcome.interrupts],
            "error": outcome.error.model_dump() if outcome.error is not None else None,
            "updated_at": moment,
        }
        ended = shared | {
            "status": outcome.status.value,
            "owner": None,
            "first_seq": first_seq,
            "ended_seq": seq,
            "ended_at": moment,
            "steps": outcome.steps,
            "settled": settled,
        }
        if outcome.update is not None:
            ended |= _of_update(outcome.update)
        elif outcome.parked:
            ended |= {"parked": True, "parked_noted": False}
        if outcome.undone and outcome.update is None:
            ended["deleted"] = True
        if "batch" in run:
            ended["batch_noted"] = False  # in the same write: no end of an item can be missed (ADR 14)
        close_run = Assignment(run["_id"], ended, equal={"epoch": run["epoch"], "status": RunStatus.RUNNING.value})
        if outcome.refused is not None or not self._hibernation.concerns(claimed, outcome):
            await asyncio.gather(
                self._runs.write(assignments=[close_run]), self._close_thread(claimed, outcome, shared, first_seq, seq)
            )
            return
        # The run is closed last: until then it is recovered if we die, and nobody can wake a thread whose document does not
        # show yet what it waits for.
        await asyncio.gather(
            self._hibernation.project(claimed, outcome, moment),
            self._close_thread(claimed, outcome, shared, first_seq, seq),
        )
        await self._runs.write(assignments=[close_run])

    async def _close_thread(
        self, claimed: Claimed, outcome: Outcome, shared: Mapping[str, Any], first_seq: int, seq: int
    ) -> None:
        run = claimed.run
        # The gateway may have died between the run that made its thread and the thread.
        made = {"tenant": run["tenant"], "created_at": run["created_at"], "metadata": run.get("metadata") or {}}
        if run.get("ephemeral"):
            made["ephemeral"] = True
        left: dict[str, Any] = {"seq": seq, "ended_first_seq": first_seq}
        if outcome.refused is not None:
            left["refused_run_id"] = run["_id"]
            made |= {**shared, "status": ThreadStatus.IDLE.value}
        else:
            status = THREAD_STATUS.get(outcome.status, ThreadStatus.IDLE)
            if outcome.status is RunStatus.CANCELLED and outcome.next:
                status = ThreadStatus.INTERRUPTED
            left |= dict(shared) | {
                "status": status.value,
                "ended_run_id": run["_id"],
                "first_run_id": first_run_of(run),
                "graph_id": run["graph_id"],
                "assistant_id": run["assistant_id"],
            }
            if outcome.update is None:
                left["last_run_id"] = run["_id"]
            moved = _is_of_subgraph(outcome)
            if moved or (claimed.thread or {}).get("questions_moved"):
                left["questions_moved"] = moved
        await self._threads.write(assignments=[Assignment(run["thread_id"], left, below={"seq": seq}, otherwise=made)])


def _is_of_subgraph(outcome: Outcome) -> bool:
    """Whether the state of a subgraph was changed."""
    made = (outcome.update or {}).get("checkpoint") or {}
    return bool(made.get("checkpoint_ns"))


def _of_update(update: Mapping[str, Any]) -> dict[str, Any]:
    """What the document of a state update has beside how the thread stands after it."""
    refused = update.get("refused")
    if refused is None:
        return {"update": dict(update), "status": RunStatus.SUCCESS.value}
    status = RunStatus.CANCELLED if refused["type"] == CANCELLED else RunStatus.ERROR
    return {"update": dict(update), "status": status.value, "error": dict(refused), "interrupts": [], "next": []}
