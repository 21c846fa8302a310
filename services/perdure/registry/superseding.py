"""Runs that end the active runs of their thread: ``multitask_strategy`` ``interrupt`` and ``rollback`` (ADR 32).

Contract: which runs are to end follows from the stored runs of a thread alone. Whoever reads them (the gateway right after the
insert, a worker before each claim) comes to the same conclusion, so that nothing is lost with the process that inserted the run.
Outside: publishing ``CancelRun``; an owner that misses the command sees the request at its next heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from perdure.chassis.mongo import Collection
from perdure.schemas.documents import CancelAction, RunStatus

SUPERSEDING: Final = frozenset({"interrupt", "rollback"})
"""Values of ``multitask_strategy``."""
FIELDS: Final = ("thread_id", "created_at", "status", "multitask_strategy", "cancel_requested_at", "cancel_action")
"""What :func:`superseded` reads of a run's document."""
ACTIVE: Final = [RunStatus.PENDING.value, RunStatus.RUNNING.value]


def superseded(runs: Iterable[dict[str, Any]]) -> dict[CancelAction, list[dict[str, Any]]]:
    """The active runs that a run registered later on their thread supersedes and that nobody has asked to end so, by action."""
    by_thread: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run["status"] in ACTIVE:
            by_thread.setdefault(run["thread_id"], []).append(run)
    found: dict[CancelAction, list[dict[str, Any]]] = {}
    for active in by_thread.values():
        strategies: set[str] = set()
        for run in sorted(active, key=_registered, reverse=True):
            if CancelAction.ROLLBACK in strategies:
                if run.get("cancel_action") != CancelAction.ROLLBACK:
                    found.setdefault(CancelAction.ROLLBACK, []).append(run)
            elif strategies and "cancel_requested_at" not in run:
                found.setdefault(CancelAction.INTERRUPT, []).append(run)
            strategies |= SUPERSEDING & {run.get("multitask_strategy", "enqueue")}
    return found


async def ask_to_end(runs: Collection, run_ids: Sequence[str], action: CancelAction, moment: datetime) -> None:
    """Ask for the end of those of the runs that are active. Idempotent; a rollback that was asked for once stays one."""
    query = {"_id": {"$in": list(run_ids)}, "status": {"$in": ACTIVE}}
    await runs.update_many(query, cancel_change(action, moment))


def cancel_change(action: CancelAction, moment: datetime) -> dict[str, Any]:
    """The update that asks for the end of a run. The first request's time is kept."""
    change: dict[str, Any] = {"$min": {"cancel_requested_at": moment}}
    if action is CancelAction.ROLLBACK:
        change["$set"] = {"cancel_action": action.value}
    return change


def _registered(run: Mapping[str, Any]) -> tuple[datetime, str]:
    return run["created_at"], run["_id"]
