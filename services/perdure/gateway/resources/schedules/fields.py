"""What a request says about a schedule, as fields of its document, and schedules as clients see them: pure functions.

Contract: our own paths and the Agent Server's crons use the same functions. Raises ``RequestProblem`` for what cannot be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from perdure.chassis.payload import pack, raw_bytes
from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.http.requests import require_metadata
from perdure.gateway.resources.targets import require_webhook
from perdure.gateway.stores.payloads import SHOWN_BYTES
from perdure.registry import cron, missed
from perdure.registry.cron import BadSchedule, Overlap
from perdure.registry.deliveries import shown_request
from perdure.registry.schedules import Firing
from perdure.schemas.schedule_http import RunFields

Document = dict[str, Any]

FOLLOWING = 4
"""Fire times after the next one that are shown."""
RUN_FIELDS = tuple(RunFields.model_fields)


def require_overlap(overlap: str, thread_id: str | None) -> None:
    """Refuse a policy that has no meaning."""
    if overlap == Overlap.QUEUE and thread_id is None:
        raise invalid(
            "/overlap", "queue needs a thread_id: runs on new threads have nothing to queue behind; use allow or skip"
        )
    if overlap == Overlap.ALLOW and thread_id is not None:
        raise invalid(
            "/overlap", "allow needs a new thread for each run (thread_id null): a thread runs one at a time; use queue"
        )


def refused(problem: BadSchedule, pointers: Mapping[str, str]) -> RequestProblem:
    """The problem of an expression or a time zone, at its place in the request."""
    return invalid(pointers[problem.field], str(problem))


def packed(payload: Mapping[str, Any]) -> bytes:
    """A payload as the document keeps it."""
    made = pack(dict(payload))
    if made.chunks or raw_bytes(made.inline) > SHOWN_BYTES:
        raise invalid("/input", f"larger than {SHOWN_BYTES} bytes; store large values elsewhere and pass a reference")
    return made.inline


def run_payload(body: Mapping[str, Any]) -> Document:
    """What a request says about the runs, as given; null where it says null."""
    require_webhook(body.get("webhook"))
    return {name: body[name] for name in RUN_FIELDS if name in body}


def checked_metadata(metadata: Document | None) -> Document:
    """Metadata that can be stored."""
    require_metadata(metadata)
    return metadata or {}


def schedule_view(schedule: Mapping[str, Any], payload: Any) -> Document:
    """A schedule as clients see it; ``payload``: what its runs are started with, ``None`` where a list is too long to show it."""
    next_at = schedule.get("next_at")
    shown = {
        name: schedule[name]
        for name in (
            "assistant_id", "graph_id", "thread_id", "cron", "timezone", "metadata", "overlap", "catch_up_s", "end_at",
            "created_at", "updated_at", "fired", "skipped", "missed",
        )
    }  # fmt: skip
    return {
        "schedule_id": schedule["_id"],
        **shown,
        "payload": None if payload is None else shown_request(payload),
        "state": "paused" if schedule["paused"] else "active" if next_at or schedule.get("catch_up") else "ended",
        "next_at": next_at,
        "following": _following(schedule, next_at) if next_at else [],
        "making_up": missed.left(schedule),
        **{name: schedule.get(name) for name in ("last_fired_at", "last_run_id", "last_thread_id")},
    }


def _following(schedule: Mapping[str, Any], next_at: datetime) -> list[datetime]:
    found = islice(cron.times(schedule["cron"], schedule["timezone"], next_at), FOLLOWING)
    end_at = schedule["end_at"]
    return [at for at in found if end_at is None or at <= end_at]


def firing_view(firing: Firing) -> Document:
    """What came of one fire time, as clients see it."""
    started = "fired" if firing.new else "fired_before"
    return {
        "at": firing.at,
        "result": started if firing.run_id else "skipped",
        "run_id": firing.run_id,
        "thread_id": firing.thread_id,
    }
