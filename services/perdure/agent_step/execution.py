"""One execution of one run: LangGraph itself, from where the run stands to its end, its next wait, or its hand-over.

Contract: :meth:`Execution.run` returns an :class:`Outcome`, or raises :class:`HandedOver` (it stopped at a superstep's end because
it was told to) or :class:`Lost` (another owner has it; nothing may be written any more).

Outside: claiming, and recording the outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import EmptyInputError, GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import Command

from perdure.agent_step import streaming
from perdure.agent_step.chunks import Asked, RunChunks
from perdure.agent_step.claims import Claimed
from perdure.agent_step.description import ROOT, Description
from perdure.agent_step.domain import (
    NodeGoneError,
    NothingToContinueError,
    Outcome,
    Progress,
    bounded_interrupts,
    error_info,
    gone_nodes,
    goto_of,
    interrupt_info,
    is_of_task,
    is_timeout,
    recursion_error,
    resume_map,
    still_to_answer,
)
from perdure.agent_step.graphs import ServedGraph
from perdure.agent_step.history import Beginning, append
from perdure.agent_step.pace import Pace
from perdure.agent_step.text import is_internal
from perdure.chassis.telemetry import logger
from perdure.checkpoint import SCOPE_KEY, PerdureSaver, RunScope, documents
from perdure.checkpoint.documents import Place
from perdure.checkpoint.errors import NotSerialisable
from perdure.checkpoint.places import config_of
from perdure.schemas import auth_user, run_config
from perdure.schemas.documents import RunStatus
from perdure.schemas.events import InterruptInfo
from perdure.schemas.waits import is_wait, wait_id
from perdure.sdk.context import SdkContext

log = logger(__name__)

INTERRUPT = "__interrupt__"


class StopReason(StrEnum):
    """Why an execution is told to stop before its end."""

    CANCELLED = "cancelled"
    LOST = "lost"
    SHUTDOWN = "shutdown"


class HandedOver(Exception):
    """Stopped at the end of a superstep, or within one when the grace period is over; another worker goes on."""


class Lost(Exception):
    """The run has another owner."""


class Execution:
    """One run, executed here."""

    def __init__(
        self,
        claimed: Claimed,
        served: ServedGraph,
        beginning: Beginning,
        publish: Callable[[Mapping[str, Any]], None],
        recursion_limits: tuple[int, int],
        sdk: SdkContext,
        pace: Pace,
        chunks: RunChunks,
    ) -> None:
        run = claimed.run
        self._claimed = claimed
        self._served = served
        self._beginning = beginning
        self._publish = publish
        self._recursion_limit, self._recursion_limit_max = recursion_limits
        self._chunks = chunks
        self._control = RunControl()
        self._draining = False
        self._told: Asked | None = None
        """What is told of the supersteps under way; ``None`` before the first."""
        self._limit: int | None = None
        """The run's recursion limit once LangGraph was started again here, which counts supersteps anew."""
        self._root_steps: tuple[int, int] | None = None
        """The steps of the first and of the newest root checkpoint that were written here."""
        self._stop: StopReason | None = None
        self._task: asyncio.Task[Any] | None = None
        self.progress = Progress(head=beginning.head, next=beginning.waiting_at)
        self._description = Description(claimed.payload, pace)
        self.scope = RunScope(
            thread_id=run["thread_id"],
            run_id=run["_id"],
            epoch=run["epoch"],
            next_seq=beginning.next_seq,
            new_thread=bool(run.get("new_thread")) and run["epoch"] == 1 and beginning.head is None,
            head=beginning.head,
            found=beginning.found,
            describe=self._description.of_checkpoint,
            on_durable=self._on_durable,
            on_update=self._on_update,
            initial=served.initial,
            sdk=sdk,
        )

    @property
    def is_of(self) -> tuple[str, str]:
        """The tenant and the thread of the run."""
        return self._claimed.run["tenant"], self._claimed.run["thread_id"]

    def drain(self) -> None:
        """Stop when the current superstep is durable."""
        self._draining = True
        self._control.request_drain()

    def stop(self, reason: StopReason) -> None:
        """Stop at once; what is not checkpointed is not kept."""
        if self._stop is None:
            self._stop = reason
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> Outcome:
        """Execute.

        Raises:
            HandedOver: it stopped because it was told to.
            Lost: another owner was met.

        """
        self._task = asyncio.current_task()
        if self._stop is not None or self._claimed.run.get("cancel_requested_at"):
            return self._stopped()
        if self._is_overtaken():
            return self._outcome(RunStatus.CANCELLED)
        try:
            await self._stream()
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            if self._task is not None:
                self._task.uncancel()
            if self._stop is not StopReason.LOST:
                await self.scope.landed()
            return self._stopped()
        except GraphDrained as error:
            raise HandedOver from error
        except Exception as error:
            await self.scope.landed()  # LangGraph cancels the tasks beside the one that failed
            if self.scope.fenced:
                raise Lost from error
            status = RunStatus.TIMEOUT if is_timeout(error) else RunStatus.ERROR
            return self._outcome(status, self._explained(error))
        return self._ended()

    def _ended(self) -> Outcome:
        """The outcome of an execution that came to its end."""
        return self._outcome(RunStatus.INTERRUPTED if self.progress.interrupted else RunStatus.SUCCESS)

    def _explained(self, error: Exception) -> Exception:
        """The error, in plain words where LangGraph's own say nothing about the run."""
        if not isinstance(error, EmptyInputError) or is_of_task(error):
            return error
        thread_id, checkpoint_id = self.scope.thread_id, self._claimed.payload.get("checkpoint_id")
        missing = f"has no checkpoint {checkpoint_id}" if checkpoint_id else "has no state yet"
        return NothingToContinueError(
            f"thread {thread_id} {missing} that a run without input could continue; start a run with an input"
        )

    def _is_overtaken(self) -> bool:
        """Whether the thread has gone on, past the wait that this run ends or the failed run that it takes the place of."""
        run = self._claimed.run
        wait, resumes = run.get("wait_id"), run.get("resumes")
        if self._beginning.progressed:
            return False
        if resumes:
            return (self._claimed.thread or {}).get("ended_run_id") != resumes[-1]
        if wait is None:
            return False
        return wait not in {wait_id(self.scope.thread_id, one["id"]) for one in self._waiting()}

    def _waiting(self) -> Sequence[Mapping[str, Any]]:
        """The interrupts that the thread was left at."""
        return (self._claimed.thread or {}).get("interrupts") or ()

    def _stopped(self) -> Outcome:
        if self._stop is StopReason.LOST or self.scope.fenced:
            raise Lost
        if self._stop is StopReason.SHUTDOWN:
            raise HandedOver
        return self._outcome(RunStatus.CANCELLED)

    def _outcome(self, status: RunStatus, error: BaseException | None = None) -> Outcome:
        progress = self.progress
        interrupts = tuple(progress.interrupts.values())
        if status is RunStatus.CANCELLED and progress.head == self._beginning.head:
            # Nothing happened: the thread waits for what it waited for.
            interrupts = tuple(InterruptInfo.model_validate(one) for one in self._waiting())
        return Outcome(
            status=status,
            error=error_info(error, self._nodes_of(error)) if error is not None else None,
            interrupts=bounded_interrupts(interrupts),
            next=progress.next,
            head=progress.head,
            steps=progress.steps,
            exception=error,
        )

    def _nodes_of(self, error: BaseException) -> Sequence[str]:
        """The nodes of the superstep whose state could not be stored, where the error does not name one of them."""
        if not isinstance(error, NotSerialisable):
            return ()
        return self._description.planned.get(error.ns, self.progress.next if error.ns == "" else ())

    async def _stream(self) -> None:
        """Execute, as often as LangGraph stops for no other reason than that more is to be told from the next superstep on."""
        config = self._config()
        graph_input = await self._input(config)
        while True:
            self._told = told = self._chunks.tell()
            try:
                await self._supersteps(graph_input, config, told)
                if not self._is_beyond_limit() or self.progress.interrupted:
                    return
            except GraphDrained:
                if self._draining:
                    raise
            if self._is_beyond_limit():
                raise recursion_error(config["recursion_limit"])
            self._control, self._limit = RunControl(), config["recursion_limit"]
            # As the next owner after a hand-over would: from the newest checkpoint, which is this run's.
            graph_input = None
            config["configurable"].pop("checkpoint_id", None)

    async def _supersteps(self, graph_input: Any, config: RunnableConfig, told: Asked) -> None:
        given = self._claimed.payload
        options: dict[str, Any] = {"durability": "sync", "control": self._control}
        for name in ("interrupt_before", "interrupt_after", "context"):
            if given.get(name) is not None:
                options[name] = given[name]
        graph = self._served.graph
        if "events" in told.modes:
            config = {**config, "run_id": self._root_run_id()}
        stream = (
            streaming.updates(graph, graph_input, config, told, self._chunks, options)
            if told
            else graph.astream(graph_input, config, stream_mode="updates", **options)
        )
        async for update in stream:
            if isinstance(update, dict) and INTERRUPT in update:
                self.progress.interrupted = True
                for interrupt in update[INTERRUPT]:
                    self.progress.interrupts[interrupt.id] = self._interrupt(interrupt)

    def _is_beyond_limit(self) -> bool:
        """Whether LangGraph would have stopped by now, had it not been started again."""
        if self._limit is None or self._root_steps is None:
            return False
        first, newest = self._root_steps
        return newest - first > self._limit

    def _root_run_id(self) -> uuid.UUID:
        """What LangChain's events call the run: its id, but LangChain wants another one for what is executed once more."""
        if self.scope.epoch == 1 and self.progress.steps == 0:
            with contextlib.suppress(ValueError):
                return uuid.UUID(self.scope.run_id)
        return uuid.uuid4()

    def _interrupt(self, interrupt: Any) -> InterruptInfo:
        """As data. A wait that the thread was at before keeps its first deadline (ADR 6)."""
        info = interrupt_info(interrupt)
        if not is_wait(info.value):
            return info
        before = next((one for one in self._waiting() if one["id"] == info.id), None)
        return InterruptInfo.model_validate(before) if before is not None else info

    def _config(self) -> RunnableConfig:
        run, given = self._claimed.run, self._claimed.payload
        asked, dropped = run_config.allowed(given.get("config"))
        if dropped:
            log.warning("run.config_left_out", run_id=run["_id"], thread_id=run["thread_id"], keys=dropped)
        own: dict[str, Any] = {
            "thread_id": run["thread_id"],
            "run_id": run["_id"],
            "graph_id": run["graph_id"],
            "assistant_id": run["assistant_id"],
        }
        configurable = dict(asked.pop("configurable", None) or {}) | own | {SCOPE_KEY: self.scope}
        configurable |= auth_user.configurable(run.get("user"))
        if given.get("checkpoint_id") and not self._beginning.progressed:
            configurable["checkpoint_id"] = given["checkpoint_id"]
        asked["recursion_limit"] = min(asked.get("recursion_limit", self._recursion_limit), self._recursion_limit_max)
        metadata = dict(asked.pop("metadata", None) or {}) | (run.get("metadata") or {}) | own
        config: dict[str, Any] = {**asked, "configurable": configurable, "metadata": metadata}
        return config  # type: ignore[return-value]

    async def _input(self, config: RunnableConfig) -> Any:
        """What LangGraph is given: the input, a command, or nothing when the run's own checkpoint is the newest."""
        given, start = self._claimed.payload, self._beginning
        command = given.get("command")
        goes_on = start.progressed or command is not None or given.get("input") is None
        if goes_on and (gone := gone_nodes(start.waiting_at, self._served.graph.nodes)):
            raise NodeGoneError(
                f"thread {self.scope.thread_id} waits at {', '.join(gone)}, which graph {self._served.graph_id!r} "
                f"(version {self._served.version}) does not have; serve a version that has it, or start a run with "
                f"a command that goes to another node"
            )
        if start.progressed:
            return None
        if command is None:
            return given.get("input")
        resume = command.get("resume")
        if resume is not None:
            moved = (self._claimed.thread or {}).get("questions_moved")
            waiting = [] if moved else [one["id"] for one in self._waiting()]
            resume = resume_map(resume, waiting)
            if self.scope.epoch > 1 or self._claimed.run.get("resumes"):
                state = await self._served.graph.aget_state(config)
                resume = still_to_answer(resume, [i.id for i in state.interrupts]) if waiting else resume
                if resume is None:
                    return None
        if start.head is not None and await self._is_stored(start.head):
            await self._on_update("", start.head, self._description.updated_channels())
            return None if resume is None else Command(resume=resume)
        return Command(update=command.get("update"), resume=resume, goto=goto_of(command.get("goto")))

    async def _is_stored(self, head: str) -> bool:
        """Whether an owner before stored the command's update and goto at ``head``: LangGraph applies what is stored there."""
        run = self._claimed.run
        runs = [run["_id"], *run.get("resumes", ())]
        if self.scope.epoch == 1 and len(runs) == 1:
            return False
        saver: Any = self._served.graph.checkpointer
        found = await saver.notebook.store.exact(Place(self.scope.thread_id, "", head))
        return found is not None and documents.is_commanded_by(saver.codec, found.writes, runs)

    async def _on_update(self, ns: str, checkpoint_id: str, channels: Sequence[str]) -> None:
        """Store and publish what the command's update made of the state: there may be no checkpoint for a long time."""
        changed = [c for c in dict.fromkeys(channels) if c == ROOT or not is_internal(c)]
        if ns or not changed or not self._description.updated_channels():
            return
        place = Place(self.scope.thread_id, ns, checkpoint_id)
        graph: Any = self._served.graph
        state = await graph.aget_state(config_of(place))
        if state.metadata is None:
            return  # the run begins the thread: there is no checkpoint yet, and the first one follows at once
        values = state.values if isinstance(state.values, dict) else {ROOT: state.values}
        shown = {name: values[name] for name in changed if name in values}
        saver: PerdureSaver = graph.checkpointer
        await saver.notebook.show_update(saver.codec, place, self.scope, shown)
        described = self._description.of_update(shown, self.progress.next)
        event = {"checkpoint_id": checkpoint_id, "step": state.metadata["step"], **described}
        self._publish(await append(saver, self._claimed.run, self.scope.take_seq(), "updated", event))

    def _on_durable(self, document: Mapping[str, Any]) -> None:
        if document["ns"] == "":
            self.progress.head = document["checkpoint_id"]
            self.progress.next = tuple(document["ev"]["next"])
            self._root_steps = (self._root_steps or (document["step"],))[0], document["step"]
            if document["ev"]["source"] == "loop":
                self.progress.steps += 1
                is_more_asked = self._told is not None and self._told != self._chunks.asked
                if is_more_asked or self._is_beyond_limit():
                    self._control.request_drain()  # between two supersteps of the root graph: nothing is executed again
        self._publish(document)


def cancelled_before(claimed: Claimed, beginning: Beginning) -> Outcome:
    """The outcome of a run that is cancelled before anything of it is executed: the thread waits for what it waited for."""
    waiting = (claimed.thread or {}).get("interrupts") or ()
    return Outcome(
        RunStatus.CANCELLED,
        interrupts=tuple(InterruptInfo.model_validate(one) for one in waiting),
        next=beginning.waiting_at,
        head=beginning.head,
    )
