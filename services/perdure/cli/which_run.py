"""Which run a command is about: named by a thread, by a run, or by both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from perdure.cli.client import Gateway
from perdure.cli.errors import CommandError, ProblemError

UNKNOWN_THREAD = "urn:perdure:problem:unknown-thread"
LOOKED_AT = 100
"""Runs of a thread that are looked through."""


def run_of(
    gateway: Gateway, thread_or_run: str, run_id: str | None = None, fitting: Collection[str] = ()
) -> Mapping[str, Any]:
    """The run that is meant.

    Args:
        gateway: Who knows.
        thread_or_run: A thread id, or a run id, whose thread the search index knows.
        run_id: The run, if the thread is named too.
        fitting: Of a thread, the newest run in one of these statuses is meant; the newest of all where there is none, so that
            the gateway can say why the command does not fit.

    Raises:
        CommandError: there is none.

    """
    if run_id is not None:
        run: Mapping[str, Any] = gateway.get("threads", thread_or_run, "runs", run_id)
        return run
    try:
        runs: list[Mapping[str, Any]] = gateway.get("threads", thread_or_run, "runs", limit=LOOKED_AT)
    except ProblemError as error:
        if error.problem.get("type") != UNKNOWN_THREAD:
            raise
        return _by_run_id(gateway, thread_or_run, error)
    if not runs:
        raise CommandError(f"thread {thread_or_run} has no run; start one with `perdure runs start`")
    return next((run for run in runs if run["perdure_status"] in fitting), runs[0])


def _by_run_id(gateway: Gateway, run_id: str, unknown: ProblemError) -> Mapping[str, Any]:
    try:
        states = gateway.get("search", run_id=run_id, limit=1)["items"]
    except ProblemError as error:
        raise CommandError(
            f"there is no thread {run_id}, and the search index, which knows the threads of runs, is away: name THREAD RUN"
        ) from error
    if not states:
        raise CommandError(
            f"there is no thread {run_id}, and no run of this id has been indexed: name THREAD RUN"
        ) from unknown
    run: Mapping[str, Any] = gateway.get("threads", states[0]["thread_id"], "runs", run_id)
    return run
