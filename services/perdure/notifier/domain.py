"""From an event to what may be told about it. Pure.

Contract: a notice's cause is what its deliveries are deduplicated by. Of what ends a run or marks a thread it is the event's
id; of a question it is the wait and how often it was escalated, because LangGraph runs a waiting node again whenever a
sibling branch goes on, and each of these runs ends with an event of its own at the same question.

Outside: who is told (``matching``), when (``timing``), in which words (``composing``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from perdure.registry.deliveries import Notice
from perdure.registry.questions import question_of
from perdure.schemas.batches import BatchEvent, BatchFinished, BatchThresholdReached
from perdure.schemas.events import (
    ApprovalEscalated,
    CheckpointSaved,
    Event,
    InterruptInfo,
    NoticeDead,
    NoticeDelivered,
    RunCancelled,
    RunFailed,
    RunInterrupted,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    ThreadArchived,
    ThreadDeleted,
    ThreadPruned,
    ThreadRecovered,
    ThreadRestored,
    ThreadStuck,
)
from perdure.schemas.message import Message
from perdure.schemas.notices import NoticeKind, Scope
from perdure.schemas.thread_ids import shown_id
from perdure.schemas.waits import wait_id, wait_of

PASSED_OVER: Final = frozenset(
    e.TYPE
    for e in (
        CheckpointSaved,
        RunStarted,
        NoticeDelivered,
        NoticeDead,
        ThreadArchived,
        ThreadRestored,
        ThreadPruned,
        ThreadDeleted,
    )
)
"""Events that nobody can subscribe to: most of all events, and those about deliveries and the archive."""
RUN_ENDS: Final[dict[type[Event], tuple[NoticeKind, str]]] = {
    RunSucceeded: (NoticeKind.COMPLETED, "success"),
    RunFailed: (NoticeKind.FAILED, "error"),
    RunTimedOut: (NoticeKind.TIMED_OUT, "timeout"),
    RunCancelled: (NoticeKind.CANCELLED, "cancelled"),
}
QUESTION_FIELDS: Final = ("question", "details", "action", "action_digest", "answer_schema")


@dataclass(frozen=True, slots=True)
class Told:
    """An event and what it may tell: notices to whoever subscribed to one of the ids."""

    notice: Notice
    ids: Mapping[Scope, frozenset[str]]


def told_by(message: Message) -> list[Told]:
    """What a message may tell; nothing for most."""
    if isinstance(message, BatchEvent):
        return [_batch(message)]
    if not isinstance(message, Event) or message.quiet:
        return []
    ids = {
        Scope.THREAD: frozenset({message.thread_id}),
        Scope.RUN: frozenset({message.run_id}),
        Scope.ASSISTANT: frozenset({message.assistant_id, message.graph_id}),
    }
    return [Told(notice, ids) for notice in _notices(message)]


def _notices(event: Event) -> Iterator[Notice]:
    if type(event) in RUN_ENDS:
        kind, status = RUN_ENDS[type(event)]
        yield _notice(event, kind, {"status": status} | _ending(event))
    elif isinstance(event, RunInterrupted):
        for interrupt in event.interrupts:
            yield from _asked(event, interrupt)
        if not event.interrupts:
            yield _notice(event, NoticeKind.PAUSED, {"status": "interrupted", "nodes": [*event.next]} | _ending(event))
    elif isinstance(event, ApprovalEscalated):
        yield from _escalated(event)
    elif isinstance(event, ThreadStuck):
        stuck = {"code": event.code.value, "reason": event.reason, "nodes": [*event.next], "since": _iso(event.since)}
        yield _notice(event, NoticeKind.STUCK, stuck | {"expected_by": _iso(event.expected_by)})
    elif isinstance(event, ThreadRecovered):
        since = _iso(event.stuck_since)
        recovered = {"code": event.code.value, "stuck_since": since, "status": event.status, "nodes": [*event.next]}
        yield _notice(event, NoticeKind.RECOVERED, recovered)


def _ending(event: Event) -> dict[str, Any]:
    if isinstance(event, RunFailed | RunTimedOut):
        error = {"type": event.error.type, "message": event.error.message, "node": event.error.node}
        return {"error": error, "nodes": [*event.next], "checkpoint_id": event.checkpoint_id}
    found: dict[str, Any] = {"checkpoint_id": getattr(event, "checkpoint_id", None)}
    return found | ({"steps": event.steps} if isinstance(event, RunSucceeded) else {})


def _asked(event: Event, interrupt: InterruptInfo) -> Iterator[Notice]:
    """The question of an interrupt; nothing of a wait that asks nobody."""
    wait = wait_of(interrupt.value)
    question = wait.question if wait is not None else question_of(interrupt.value, interrupt.response_schema)
    if question is None:
        return
    shown = {name: value for name, value in question.model_dump(mode="json").items() if name in QUESTION_FIELDS}
    if wait is None:
        shown["interrupt"] = interrupt.model_dump(mode="json")
    shown["events"] = [*wait.events] if wait is not None else []
    due_at = wait.due_at if wait is not None else None
    yield from _approval(event, wait_id(event.thread_id, interrupt.id), 0, due_at, question.assigned_to, shown)


def _escalated(event: ApprovalEscalated) -> Iterator[Notice]:
    shown = {"question": event.question, "asked_before": event.asked}
    yield from _approval(event, event.wait_id, event.escalations, event.expected_by, event.assigned_to, shown)


def _approval(
    event: Event,
    wait: str,
    escalations: int,
    due_at: datetime | None,
    assigned_to: str | None,
    shown: Mapping[str, Any],
) -> Iterator[Notice]:
    """A question that is asked, and, where the clock ends it, that it is about to expire."""
    data = {
        "approval_id": wait,
        "assigned_to": assigned_to,
        "escalations": escalations,
        "expires_at": _iso(due_at),
        "nodes": [*getattr(event, "next", ())],
        **shown,
    }
    for kind in (NoticeKind.APPROVAL_WANTED, NoticeKind.APPROVAL_EXPIRING)[: 2 if due_at is not None else 1]:
        yield _notice(
            event,
            kind,
            data,
            cause=f"{kind.value}:{wait}:{escalations}",
            wait_id=wait,
            question_due_at=due_at,
            assigned_to=assigned_to,
        )


def _notice(event: Event, kind: NoticeKind, data: Mapping[str, Any], cause: str | None = None, **more: Any) -> Notice:
    common = {
        "thread_id": shown_id(event.thread_id),
        "run_id": event.run_id,
        "graph_id": event.graph_id,
        "assistant_id": event.assistant_id,
        "graph_version": event.graph_version,
        "tenant": event.tenant,
        "metadata": event.metadata,
    }
    return Notice(
        kind=kind,
        cause=cause or event.event_id,
        tenant=event.tenant,
        occurred_at=event.occurred_at,
        data=common | dict(data),
        thread_id=event.thread_id,
        run_id=event.run_id,
        seq=event.seq,
        **more,
    )


def _batch(event: BatchEvent) -> Told:
    counts = {"total": event.total, "succeeded": event.succeeded, "failed": event.failed, "cancelled": event.cancelled}
    data: dict[str, Any] = {"batch_id": event.batch_id, "tenant": event.tenant, "metadata": event.metadata, **counts}
    kind = NoticeKind.BATCH_FINISHED
    if isinstance(event, BatchFinished):
        data |= {"status": event.status, "started_at": _iso(event.started_at)}
    elif isinstance(event, BatchThresholdReached):
        kind = NoticeKind.BATCH_THRESHOLD
        data |= {"threshold": event.threshold, "action": event.action}
    notice = Notice(kind=kind, cause=event.event_id, tenant=event.tenant, occurred_at=event.occurred_at, data=data)
    ids = {Scope.BATCH: frozenset({event.batch_id})}
    if event.assistant_id is not None:
        ids[Scope.ASSISTANT] = frozenset({event.assistant_id})
    return Told(notice, ids)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
