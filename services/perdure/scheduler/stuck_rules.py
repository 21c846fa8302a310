"""Who is stuck, why, and when it is over: pure decisions (ADR 10).

Contract: a cause names one standstill, so that each is marked and told of once: the position of a run in its history, a claim that
does not come, a wait, a parked run. Reasons are for people: where, since when, what was expected, what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from perdure.schemas.events import StuckCode
from perdure.schemas.stuck_documents import StuckMark

UNKNOWN_ALLOWANCE = timedelta(minutes=15)
"""Of an entry that does not say when the next one is expected."""


@dataclass(frozen=True, slots=True)
class Standstill:
    """A thread that should have gone on and has not."""

    cause: str
    code: StuckCode
    reason: str
    run: Mapping[str, Any]
    """The document of the run that it is about."""
    nodes: tuple[str, ...]
    """Where the thread stands."""
    since: datetime
    expected_by: datetime | None
    after: int
    """The newest sequence number that is known."""
    wait_id: str | None = None

    def mark(self, now: datetime) -> StuckMark:
        """As the thread's document says it."""
        return {
            "cause": self.cause,
            "code": self.code.value,
            "reason": self.reason,
            "node": self.nodes[0] if len(self.nodes) == 1 else None,
            "nodes": list(self.nodes),
            "since": self.since,
            "expected_by": self.expected_by,
            "run_id": self.run["_id"],
            "after": self.after,
            "wait_id": self.wait_id,
            "noticed_at": now,
        }

    def event(self) -> dict[str, Any]:
        """The fields of ``ThreadStuck``."""
        return {
            "code": self.code.value,
            "reason": self.reason[:4000],
            "next": list(self.nodes),
            "since": self.since,
            "expected_by": self.expected_by,
        }


def expected_by(entry: Mapping[str, Any]) -> datetime:
    """By when the entry after this one should be there."""
    expected: datetime = entry["ev"].get("expected_by") or entry["at"] + UNKNOWN_ALLOWANCE
    return expected


def overdue(
    run: Mapping[str, Any], entry: Mapping[str, Any], now: datetime, grace: timedelta, worker: str
) -> Standstill | None:
    """A running run whose newest history entry is ``entry``; ``None`` while it is in time."""
    if entry["kind"] == "f":
        return None  # a recovery is on its way
    expected = expected_by(entry)
    if now < expected + grace:
        return None
    nodes = tuple(entry["ev"].get("next") or ())
    where = f"node {', '.join(nodes)}" if nodes else "its first superstep"
    reason = (
        f"{where} has not ended since {_at(entry['at'])} ({_for(now - entry['at'])}); it was expected by {_at(expected)}. "
        f"It runs on {worker}. Look at what the node waits for; to try again from the last checkpoint, cancel the run and retry it."
    )
    cause = f"overdue:{run['_id']}:{entry['seq']}"
    return Standstill(cause, StuckCode.OVERDUE, reason, run, nodes, entry["at"], expected, entry["seq"])


def unclaimed(
    run: Mapping[str, Any],
    thread: Mapping[str, Any],
    served: bool,
    now: datetime,
    *,
    unserved_after: timedelta,
    queued_after: timedelta,
) -> Standstill | None:
    """A pending run that no worker takes; ``None`` while it need not be taken yet.

    Args:
        run: Its document.
        thread: The thread's document, or an empty one.
        served: Whether a living worker serves its graph.
        now: By the database's clock.
        unserved_after: How long it may wait when nobody serves its graph.
        queued_after: How long it may wait otherwise.

    """
    since: datetime = max(run["updated_at"], run.get("not_before", run["updated_at"]))
    expected = since + (queued_after if served else unserved_after)
    if now < expected:
        return None
    why = (
        f"all workers that serve graph {run['graph_id']!r} are busy; start more of them"
        if served
        else f"no living worker serves graph {run['graph_id']!r}; start an agent-step whose langgraph.json has it"
    )
    reason = f"run {run['_id']} is pending since {_at(since)} ({_for(now - since)}): {why}."
    cause = f"unclaimed:{run['_id']}:{run['epoch']}"
    nodes = tuple(thread.get("next") or ())
    return Standstill(cause, StuckCode.UNCLAIMED, reason, run, nodes, since, expected, thread.get("seq", 0))


def wait_overdue(wait: Mapping[str, Any], run: Mapping[str, Any], now: datetime, grace: timedelta) -> Standstill | None:
    """An open wait that the clock should have ended; ``None`` while it is in time."""
    due_at: datetime = wait["due_at"]
    if now < due_at + grace:
        return None
    reason = (
        f"its wait at {', '.join(wait['nodes'])} should have been ended by the clock at {_at(due_at)} "
        f"({_for(now - due_at)} ago). Is a scheduler running?"
    )
    nodes = tuple(wait["nodes"])
    return Standstill(
        f"wait:{wait['_id']}", StuckCode.WAIT_OVERDUE, reason, run, nodes, due_at, due_at, run["ended_seq"], wait["_id"]
    )


def poisoned(run: Mapping[str, Any]) -> Standstill:
    """A parked run."""
    reason = (run.get("error") or {}).get("message") or "Parked: it crashed its workers again and again."
    nodes = tuple(run.get("next") or ())
    return Standstill(
        f"poison:{run['_id']}", StuckCode.POISON, reason, run, nodes, run["ended_at"], None, run["ended_seq"]
    )


def over(mark: StuckMark, run: Mapping[str, Any] | None, newest_seq: int, *, wait_open: bool) -> bool:
    """Whether a marked thread has gone on.

    Args:
        mark: Its mark.
        run: The run that the mark is about; ``None`` when it is gone.
        newest_seq: The newest sequence number of the thread's history.
        wait_open: Whether the wait of the mark is still open.

    """
    code = StuckCode(mark["code"])
    if code is StuckCode.WAIT_OVERDUE:
        return not wait_open
    if run is None or newest_seq > mark["after"]:
        return True
    return code is StuckCode.UNCLAIMED and run["status"] != "pending"


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _for(duration: timedelta) -> str:
    seconds = int(duration.total_seconds())
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(shown) or "0 s"
