"""State updates: a client changes a thread's state, as if nodes had written it (ADR 33).

Contract: an update is a run of its own kind. It is claimed, fenced and recorded like any other and executes LangGraph's
``abulk_update_state`` in place of nodes: all of its supersteps, or nothing. Nothing else is executed between the moment in which
the client's request found the thread at rest and the update; if another run has written since, the update is refused. A refused
update leaves the thread as it stood.

Outside: claiming and recording (``perdure.agent_step.worker``), and telling the client (the gateway reads the run's document).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command, StateUpdate

from perdure.agent_step.claims import Claimed
from perdure.agent_step.domain import Outcome, goto_of
from perdure.agent_step.execution import Execution
from perdure.agent_step.history import Beginning
from perdure.checkpoint import PerdureSaver, clock
from perdure.checkpoint.documents import Place
from perdure.schemas.documents import RunKind, RunStatus, ThreadStatus
from perdure.schemas.events import ErrorInfo, InterruptInfo
from perdure.schemas.state_updates import CANCELLED, MOVED_ON, NO_CHECKPOINT

STATUS: Final = {
    ThreadStatus.INTERRUPTED: RunStatus.INTERRUPTED,
    ThreadStatus.ERROR: RunStatus.ERROR,
    ThreadStatus.IDLE: RunStatus.SUCCESS,
}


class RefusedError(Exception):
    """The update cannot be made; ``type`` is one of ``perdure.schemas.state_updates``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def is_update(run: Mapping[str, Any]) -> bool:
    """Whether a run is a state update."""
    return run.get("kind") == RunKind.UPDATE


class Updating(Execution):
    """One state update, executed here."""

    _made: RunnableConfig | None = None

    def _is_overtaken(self) -> bool:
        return False

    async def _stream(self) -> None:
        """Make the update in place of executing nodes."""
        run, given = self._claimed.run, self._claimed.payload
        if self._beginning.moved_on or run.get("at_seq") != self._beginning.first_seq - 1:
            raise RefusedError(MOVED_ON, f"another run of thread {run['thread_id']} has ended since it was asked for")
        config = self._config()
        ns, checkpoint_id = given.get("checkpoint_ns") or "", given.get("checkpoint_id")
        config["configurable"] |= {
            "checkpoint_ns": ns,
            **{name: given[name] for name in ("checkpoint_id", "checkpoint_map") if given.get(name)},
        }
        saver: Any = self._served.graph.checkpointer
        await self._require(saver, ns, checkpoint_id)
        if self._beginning.head is not None:
            clock.follow(self._beginning.head)  # a fork of an old checkpoint is to become the newest one
        self._made = await self._served.graph.abulk_update_state(config, supersteps_of(given["supersteps"]))

    async def _require(self, saver: PerdureSaver, ns: str, checkpoint_id: str | None) -> None:
        """Refuse an update of a checkpoint that is not there: LangGraph would begin with an empty state."""
        store, thread_id = saver.notebook.store, self.scope.thread_id
        if checkpoint_id is not None:
            found = await store.exact(Place(thread_id, ns, checkpoint_id))
        elif ns:
            found = await store.newest(thread_id, ns)
        else:
            return
        if found is None:
            raise RefusedError(NO_CHECKPOINT, f"thread {thread_id} has no checkpoint {checkpoint_id or 'of ' + ns}")

    def _ended(self) -> Outcome:
        made: Mapping[str, Any] = (self._made or {}).get("configurable", {})
        checkpoint = {
            "checkpoint_ns": made.get("checkpoint_ns") or "",
            "checkpoint_id": made["checkpoint_id"],
            "checkpoint_map": made.get("checkpoint_map") or {},
        }
        outcome = self._outcome(RunStatus.INTERRUPTED if self.progress.next else RunStatus.SUCCESS)
        if self.progress.head == self._beginning.head:  # of a subgraph: the thread waits for what it waited for
            interrupts = tuple(InterruptInfo.model_validate(one) for one in self._waiting())
            outcome = replace(outcome, interrupts=interrupts)
        return replace(outcome, update={"checkpoint": checkpoint})


def supersteps_of(given: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[StateUpdate]]:
    """The updates for LangGraph, from those of the API."""
    return [[StateUpdate(_values_of(one), one.get("as_node")) for one in superstep] for superstep in given]


def _values_of(update: Mapping[str, Any]) -> Any:
    command = update.get("command")
    if not command:
        return update.get("values")
    return Command(update=command.get("update"), resume=command.get("resume"), goto=goto_of(command.get("goto")))


def stood_before(claimed: Claimed, beginning: Beginning) -> Outcome:
    """How the thread stood before the update, as the history says it, else its document."""
    if beginning.before is not None:
        return beginning.before
    thread = claimed.thread or {}
    error = thread.get("error")
    status = STATUS[ThreadStatus(thread.get("status") or ThreadStatus.IDLE)]
    if status is RunStatus.SUCCESS and thread.get("head") is None:
        status = RunStatus.CANCELLED  # nothing has happened on it yet
    if status is RunStatus.ERROR and not error:
        status = RunStatus.CANCELLED
    return replace(Outcome.of_thread(thread), status=status, error=ErrorInfo.model_validate(error) if error else None)


async def start_over(saver: PerdureSaver, claimed: Claimed, beginning: Beginning) -> None:
    """Undo what an owner before wrote, where there was one: an update is made as a whole."""
    if claimed.run["epoch"] == 1:
        return
    first = min(entry["seq"] for entry in beginning.entries)
    await saver.undo(claimed.run["thread_id"], claimed.run["_id"], first, beginning.next_seq - 1)
    before = stood_before(claimed, beginning)
    beginning.head, beginning.waiting_at, beginning.found = before.head, before.next, None
    beginning.progressed = False


def concluded(outcome: Outcome, claimed: Claimed, beginning: Beginning) -> Outcome:
    """What is recorded of an update that ended so: itself, or, where it failed or was cancelled, how the thread stood before."""
    if outcome.update is not None:
        return outcome
    reason = outcome.error or ErrorInfo(type=CANCELLED, message="it was cancelled before it was made")
    if isinstance(outcome.exception, RefusedError):
        reason = reason.model_copy(update={"type": outcome.exception.kind, "traceback": None})
    before = replace(stood_before(claimed, beginning), undone=True, exception=outcome.exception)
    return replace(before, update={"refused": reason.model_dump()})
