"""Pure decisions of agent-step: what a checkpoint says about nodes, how an execution ended, what a resumed run is given.

Outside: any I/O. The text of a checkpoint is in ``perdure.agent_step.text``.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Final

from langgraph.errors import ErrorCode, GraphRecursionError, NodeTimeoutError, create_error_message
from langgraph.types import Send

from perdure.chassis import json
from perdure.schemas.documents import RunStatus
from perdure.schemas.events import POISON, ErrorInfo, InterruptInfo
from perdure.schemas.outbox import INTERRUPTS_LIMIT, fitting
from perdure.schemas.waits import is_wait, wait_of

INTERRUPT_VALUE_LIMIT = 65_536
"""Bytes of JSON of one interrupt's value that events and documents carry."""
START = "__start__"
BRANCH = "branch:to:"
JOIN = "join:"
TASKS = "__pregel_tasks"

MACHINERY: Final = ("langgraph", "langchain_core", "asyncio", "concurrent", "perdure.agent_step")
"""Modules whose frames lead from the worker to a node, and say nothing about why it failed."""

_FAILED_TASK = re.compile(r"^During task with name '(.*)' and id '")


class NodeGoneError(Exception):
    """The thread waits at a node that the graph no longer has."""


class NothingToContinueError(Exception):
    """The run has no input, and there is no state that it could continue."""


class UnknownGraphError(Exception):
    """The run's graph is not among those that the workers serve."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended.

    ``status`` is one of the statuses that end a run; a hand-over or a lost run has no outcome.
    """

    status: RunStatus
    error: ErrorInfo | None = None
    interrupts: tuple[InterruptInfo, ...] = ()
    next: tuple[str, ...] = ()
    head: str | None = None
    steps: int = 0
    undone: bool = False
    """Whether what the run wrote is undone (ADR 32); the other fields then say how the thread stood before the run."""
    update: Mapping[str, Any] | None = None
    """Of a state update: what came of it (:class:`perdure.schemas.state_documents.StateUpdateMark`); the other fields say how the
    thread stands after it."""
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    """What ``error`` was made of, where this process saw it; not stored."""

    @property
    def parked(self) -> bool:
        """Whether the run ended because it is poison."""
        return self.error is not None and self.error.type == POISON

    @property
    def refused(self) -> Mapping[str, Any] | None:
        """Why a state update changed nothing; ``None`` of one that is done, and of any other run."""
        return (self.update or {}).get("refused")

    def event_fields(self) -> dict[str, Any]:
        """The ``ev`` of the entry that ends the run (see ``perdure.schemas.outbox``)."""
        fields: dict[str, Any] = {"checkpoint_id": self.head}
        if self.update is not None:
            fields |= {"quiet": True, "update": dict(self.update)}
        if self.status is RunStatus.SUCCESS:
            return fields | {"steps": self.steps}
        fields["next"] = list(self.next)
        if self.error is not None:
            fields["error"] = self.error.model_dump()
        if self.interrupts:
            fields["interrupts"] = [i.model_dump() for i in self.interrupts]
        if self.status is RunStatus.INTERRUPTED and (due_at := earliest_due(self.interrupts)) is not None:
            fields["expected_by"] = due_at
        return fields

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Outcome:
        """The outcome that an entry of the history records; the inverse of :meth:`event_fields`."""
        ev = entry["ev"]
        return cls(
            status=RunStatus(entry["event"]),
            error=ErrorInfo.model_validate(ev["error"]) if ev.get("error") else None,
            interrupts=tuple(InterruptInfo.model_validate(i) for i in ev.get("interrupts", ())),
            next=tuple(ev.get("next", ())),
            head=ev.get("checkpoint_id"),
            steps=ev.get("steps", 0),
            undone=bool(entry.get("undone")),
            update=ev.get("update"),
        )

    @classmethod
    def of_thread(cls, thread: Mapping[str, Any]) -> Outcome:
        """How a thread was left, by its document."""
        return cls(
            status=RunStatus.CANCELLED,
            interrupts=tuple(InterruptInfo.model_validate(one) for one in thread.get("interrupts") or ()),
            next=tuple(thread.get("next") or ()),
            head=thread.get("head"),
        )

    def undo(self, before: Outcome) -> Outcome:
        """The outcome of a run that is undone: the thread stands again where ``before`` left it."""
        return replace(self, interrupts=before.interrupts, next=before.next, head=before.head, undone=True)


def earliest_due(interrupts: Iterable[InterruptInfo]) -> datetime | None:
    """The earliest time at which the clock ends one of these waits; ``None`` when it ends none."""
    waits = (wait_of(one.value) for one in interrupts)
    return min((wait.due_at for wait in waits if wait is not None and wait.due_at is not None), default=None)


@dataclass(slots=True)
class Progress:
    """What an execution has seen of itself: filled as its checkpoints become durable."""

    head: str | None = None
    next: tuple[str, ...] = ()
    steps: int = 0
    interrupts: dict[str, InterruptInfo] = field(default_factory=dict)
    interrupted: bool = False


def nodes_ran(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """The nodes whose superstep this checkpoint ends.

    LangGraph gives every channel that a superstep changed the same new version, higher than all before, and records for each
    node the versions that triggered it: those that ran last saw the highest. Nodes that a ``Send`` ran leave no such record;
    where the checkpoint before is known, what it planned says it better.
    """
    seen = checkpoint["versions_seen"]
    latest: Any = None
    found: list[str] = []
    for node, versions in seen.items():
        if node.startswith("__") or not versions:
            continue
        newest = max(versions.values())
        if latest is None or newest > latest:
            latest, found = newest, [node]
        elif newest == latest:
            found.append(node)
    start = seen.get("__start__")
    if start and (latest is None or max(start.values()) > latest):
        return ()
    return tuple(sorted(found))


def nodes_next(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """The nodes that run next, from the channels that trigger them: branches, joins and sends."""
    found: list[str] = []
    for channel, value in checkpoint["channel_values"].items():
        if channel == START:
            found.append(START)
        elif channel.startswith(BRANCH):
            found.append(channel[len(BRANCH) :])
        elif channel.startswith(JOIN):
            sources, _, target = channel[len(JOIN) :].rpartition(":")
            if isinstance(value, set | list | tuple) and set(sources.split("+")) == set(value):
                found.append(target)
        elif channel == TASKS and isinstance(value, Sequence):
            found.extend(send.node for send in value if hasattr(send, "node"))
    return tuple(sorted(set(found) - {"__end__"}))


def gone_nodes(waiting_at: Iterable[str], known: Iterable[str]) -> list[str]:
    """The nodes that a thread waits at and the graph does not have."""
    return sorted(set(waiting_at) - set(known) - {START})


def interrupt_info(interrupt: Any) -> InterruptInfo:
    """An interrupt as data; a value over the limit is replaced by a note, and a schema over what the value leaves is left out."""
    raw = json.dumps(interrupt.value)
    schema = json.dumps(getattr(interrupt, "response_schema", None))
    with_schema = len(raw) + len(schema) <= INTERRUPT_VALUE_LIMIT
    value = (
        json.loads(raw)
        if len(raw) <= INTERRUPT_VALUE_LIMIT
        else f"<{len(raw)} bytes: more than {INTERRUPT_VALUE_LIMIT}; see the thread's state>"
    )
    return InterruptInfo(id=interrupt.id, value=value, response_schema=json.loads(schema) if with_schema else None)


def bounded_interrupts(interrupts: Sequence[InterruptInfo]) -> tuple[InterruptInfo, ...]:
    """The interrupts of one run: of those that are no waits, the largest are replaced by a note until all of them fit an event.

    A wait keeps its value, without which nobody could end it.
    """
    if len(interrupts) * INTERRUPT_VALUE_LIMIT <= INTERRUPTS_LIMIT:
        return (*interrupts,)
    bounded = fitting([one.model_dump() for one in interrupts], INTERRUPTS_LIMIT, keep=is_wait)
    return tuple(InterruptInfo.model_validate(one) for one in bounded)


def error_info(error: BaseException, nodes: Sequence[str] = ()) -> ErrorInfo:
    """A failure as data, with the node that LangGraph names in the exception's notes, or ``nodes`` where it names none."""
    node = getattr(error, "node", None)
    for note in getattr(error, "__notes__", ()):
        if match := _FAILED_TASK.match(note):
            node = match[1]
            break
    return ErrorInfo(
        type=f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."),
        message=str(error)[:4000],
        node=node if isinstance(node, str) else ", ".join(nodes) or None,
        traceback=traceback_of(error)[-8000:],
    )


def traceback_of(error: BaseException) -> str:
    """The traceback as text, from the first frame that is not LangGraph's, asyncio's or the worker's on."""
    return "".join(traceback.format_exception(type(error), error, _without_machinery(error.__traceback__)))


def _without_machinery(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that lead to the node; all of it where nothing else is there."""
    left = frames
    while left is not None and _is_machinery(left.tb_frame.f_globals.get("__name__", "")):
        left = left.tb_next
    return left or frames


def _is_machinery(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in MACHINERY)


def is_of_task(error: BaseException) -> bool:
    """Whether LangGraph says that a task raised it, not the loop around the tasks."""
    return any(map(_FAILED_TASK.match, getattr(error, "__notes__", ())))


def is_timeout(error: BaseException) -> bool:
    """Whether LangGraph's own limits ended the run: a node's timeout, or the graph's ``step_timeout``.

    A ``TimeoutError`` that a node raised itself carries LangGraph's note about the task and is an ordinary error.
    """
    if isinstance(error, NodeTimeoutError):
        return True
    return isinstance(error, TimeoutError) and not is_of_task(error)


def resume_map(resume: Any, waiting: Sequence[str]) -> Any:
    """Address a plain answer to the one interrupt that waits.

    With an address, an answer that is given again after a crash cannot be taken for the answer to the next question.
    An answer that is addressed already, or with none or several interrupts waiting, is left to LangGraph.
    """
    if len(waiting) != 1 or (isinstance(resume, dict) and set(resume) & set(waiting)):
        return resume
    return {waiting[0]: resume}


def goto_of(goto: Any) -> Any:
    """The ``goto`` of a command for LangGraph, from that of the API: a node, ``{"node", "input"}``, or a list of either."""
    if goto is None:
        return ()
    if isinstance(goto, list):
        return [goto_of(one) for one in goto]
    if isinstance(goto, dict):
        return Send(goto["node"], goto.get("input"))
    return goto


def still_to_answer(resume: Any, pending: Iterable[str]) -> dict[str, Any] | None:
    """Of an addressed answer, what is still asked; ``None`` when everything was taken before the crash."""
    if not isinstance(resume, dict):
        return None
    wanted = set(pending)
    left = {key: value for key, value in resume.items() if key in wanted}
    return left or None


def recursion_error(limit: int) -> GraphRecursionError:
    """The error of a run that needed more supersteps than its recursion limit, in LangGraph's words."""
    message = (
        f"Recursion limit of {limit} reached without hitting a stop condition. You can increase the limit by setting the "
        f"`recursion_limit` config key."
    )
    return GraphRecursionError(create_error_message(message=message, error_code=ErrorCode.GRAPH_RECURSION_LIMIT))
