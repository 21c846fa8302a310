"""Questions as the gateway filters and shows them: pure functions.

Contract: no I/O. Documents are those of ``perdure.schemas.documents``; views have the shapes of ``perdure.schemas.http``.
A question is a wait that holds one; its status tells an answer from what else may have ended it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.gateway.auth.caller import KnownSignature
from perdure.gateway.http.cursors import Cursor, later_than
from perdure.registry.questions import question_in
from perdure.registry.waits import Woken
from perdure.schemas.documents import WaitStatus
from perdure.schemas.waits import OutcomeKind, digest

Document = dict[str, Any]

OPEN, ANSWERED, EXPIRED, CLOSED, ALL = "open", "answered", "expired", "closed", "all"
STATUSES: Final = (OPEN, ANSWERED, EXPIRED, CLOSED, ALL)

_ELSE = [OutcomeKind.SIGNAL.value, OutcomeKind.VERDICT.value]


def approvals_query(
    tenant: str,
    *,
    status: str,
    thread_id: str | None = None,
    graph: str | None = None,
    assigned_to: str | None = None,
    after: Cursor | None = None,
) -> Document:
    """The filter for questions; ``graph`` is a graph id or an assistant id."""
    query: Document = {"tenant": tenant, "question.question": {"$exists": True}}
    query |= {
        name: value for name, value in (("thread_id", thread_id), ("assigned_to", assigned_to)) if value is not None
    }
    parts: list[Document] = [_STATUS[status]] if _STATUS[status] else []
    if graph is not None:
        parts.append({"$or": [{"graph_id": graph}, {"assistant_id": graph}]})
    if after is not None:
        parts.append(later_than("opened_at", after))
    return {**query, "$and": parts} if parts else query


_STATUS: Final[Mapping[str, Document]] = {
    OPEN: {"status": WaitStatus.OPEN.value},
    ANSWERED: {"status": WaitStatus.ANSWERED.value, "outcome.kind": OutcomeKind.ANSWER.value},
    EXPIRED: {"status": WaitStatus.ANSWERED.value, "outcome.kind": OutcomeKind.DUE.value},
    CLOSED: {
        "$or": [
            {"status": WaitStatus.CLOSED.value},
            {"status": WaitStatus.ANSWERED.value, "outcome.kind": {"$in": _ELSE}},
        ]
    },
    ALL: {},
}


def approval_status(wait: Mapping[str, Any]) -> str:
    """What became of a question."""
    if wait["status"] != WaitStatus.ANSWERED.value:
        return OPEN if wait["status"] == WaitStatus.OPEN.value else CLOSED
    kind = (wait.get("outcome") or {}).get("kind")
    return {OutcomeKind.ANSWER.value: ANSWERED, OutcomeKind.DUE.value: EXPIRED}.get(str(kind), CLOSED)


def approval_view(wait: Mapping[str, Any]) -> Document:
    """A question as clients see it."""
    question = question_in(wait)
    interrupt = wait.get("interrupt")
    return {
        "approval_id": wait["_id"],
        "thread_id": wait["thread_id"],
        "run_id": wait["run_id"],
        "graph_id": wait["graph_id"],
        "assistant_id": wait["assistant_id"],
        "nodes": wait.get("nodes") or [],
        "question": question.question,
        "details": question.details,
        "action": question.action,
        "action_digest": question.action_digest,
        "answer_schema": question.answer_schema,
        **({"interrupt": _interrupt_view(wait, interrupt)} if interrupt is not None else {}),
        "events": wait.get("events") or [],
        "assigned_to": wait.get("assigned_to"),
        "escalate_to": list(question.escalate_to),
        "escalations": wait.get("escalations", 0),
        "opened_at": wait["opened_at"],
        "expires_at": wait.get("due_at"),
        "status": approval_status(wait),
        "outcome": outcome_view(wait["outcome"]) if wait.get("outcome") else None,
        "ended_at": wait.get("ended_at"),
        "waking_run_id": wait.get("woken_by"),
        "metadata": wait.get("metadata") or {},
    }


def _interrupt_view(wait: Mapping[str, Any], interrupt: Mapping[str, Any]) -> Document:
    """A plain interrupt, as states show it."""
    shown = {"id": wait["interrupt_id"], "value": interrupt["value"]}
    schema = interrupt.get("response_schema")
    return shown if schema is None else {**shown, "response_schema": schema}


def outcome_view(outcome: Mapping[str, Any]) -> Document:
    """How a question ended."""
    answered = outcome["kind"] == OutcomeKind.ANSWER.value
    return {
        "kind": outcome["kind"],
        "at": outcome["at"],
        "by": outcome.get("by"),
        "on_behalf_of": outcome.get("on_behalf_of"),
        "answer": outcome.get("payload") if answered else None,
        "signal": outcome.get("name"),
    }


def as_woken(wait: Mapping[str, Any], woken: Woken) -> Document:
    """A wait's document as its waking run decided it, whatever the projection says yet."""
    ended = {
        "status": WaitStatus.ANSWERED.value,
        "outcome": woken.outcome.value(),
        "woken_by": woken.run["_id"],
        "ended_at": woken.outcome.at,
    }
    return {**{name: value for name, value in wait.items() if name != "due_at"}, **ended}


def is_repeat(woken: Woken, signature: KnownSignature, answer: Any) -> bool:
    """Whether this answer is the very one that ended the wait, sent once more."""
    outcome = woken.outcome
    return (
        outcome.kind is OutcomeKind.ANSWER
        and (outcome.by, outcome.on_behalf_of) == signature
        and digest(outcome.payload) == digest(answer)
    )
