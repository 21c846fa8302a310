"""The thread or run that the path of a request names, and what is answered when that cannot be had."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.stores.store import Store
from perdure.schemas.documents import ArchiveState
from perdure.schemas.http import THREAD_ID_PATTERN

THREAD, RUN = ("unknown-thread", "thread-archived"), ("unknown-run", "thread-archived")
"""Problems of the operations on a thread, and on a run."""

_THREAD_ID = re.compile(THREAD_ID_PATTERN.removesuffix("$"))


def is_thread_id(text: str) -> bool:
    """Whether ``text`` may name a thread."""
    return _THREAD_ID.fullmatch(text) is not None


async def require_thread(store: Store, request: web.Request) -> dict[str, Any]:
    """The thread that the path names, not archived.

    Raises:
        RequestProblem: ``unknown-thread``, ``thread-archived``.

    """
    thread = await require_known(store, request)
    require_here(thread)
    return thread


async def require_known(store: Store, request: web.Request) -> dict[str, Any]:
    """The thread that the path names, archived or not.

    Raises:
        RequestProblem: ``unknown-thread``.

    """
    thread_id = request.match_info["thread_id"]
    thread = await store.thread(thread_id, tenant_of(request))
    if thread is None:
        raise unknown_thread(thread_id)
    return thread


async def require_run(store: Store, request: web.Request) -> dict[str, Any]:
    """The run that the path names.

    Raises:
        RequestProblem: ``unknown-run``, ``thread-archived``.

    """
    thread_id, run_id = request.match_info["thread_id"], request.match_info["run_id"]
    tenant = tenant_of(request)
    run = await store.run(run_id, thread_id, tenant)
    if run is None:
        if (thread := await store.thread(thread_id, tenant)) is not None:
            require_here(thread)
        raise unknown_run(thread_id, run_id)
    return run


def unknown_thread(thread_id: str) -> RequestProblem:
    """No such thread in the caller's tenant."""
    return RequestProblem(
        "unknown-thread", f"Thread {thread_id!r} does not exist. Make it with POST /threads, or start with POST /runs."
    )


def require_here(thread: Mapping[str, Any]) -> None:
    """Refuse what needs the states and runs of a thread that is archived.

    Raises:
        RequestProblem: ``thread-archived``.

    """
    mark = thread.get("archive")
    if mark is None or (state := ArchiveState(mark["state"])).lives:
        return
    if state is ArchiveState.RESTORING:
        trouble = mark.get("trouble")
        hindered = f" It cannot yet: {trouble}; it is tried again and again." if trouble else " Try again in a moment."
        raise RequestProblem(
            "thread-archived",
            f"Thread {thread['_id']!r} is coming back from the archive.{hindered}",
            headers={"Retry-After": "2"},
        )
    if state is ArchiveState.PURGING:
        raise RequestProblem("thread-archived", being_purged(thread["_id"]))
    raise RequestProblem(
        "thread-archived",
        f"Thread {thread['_id']!r} was archived at {mark['at'].isoformat()}. Bring it back with POST "
        f"/threads/{thread['_id']}/restore or `perdure archive restore {thread['_id']}`; search still finds it.",
    )


def being_purged(thread_id: str) -> str:
    """What is said of a thread that is on its way out for good."""
    return (
        f"Thread {thread_id!r} is being purged: it is removed for good and does not come back. If that was broken off, "
        "`perdure archive purge --yes` goes on with it."
    )


def being_removed(thread_id: str) -> RequestProblem:
    """The thread id is taken, and whoever asks cannot see by what."""
    return RequestProblem(
        "thread-exists",
        f"Thread id {thread_id!r} is taken: by a thread that was deleted a few seconds ago. Try again in 20 seconds, or leave "
        "thread_id out.",
        headers={"Retry-After": "20"},
    )


def unknown_run(thread_id: str, run_id: str) -> RequestProblem:
    """No such run of this thread."""
    return RequestProblem(
        "unknown-run", f"Thread {thread_id!r} has no run {run_id!r}; GET /threads/{{id}}/runs lists them."
    )


def unknown_checkpoint(thread_id: str, checkpoint_id: str) -> RequestProblem:
    """No such checkpoint of this thread."""
    return RequestProblem("unknown-checkpoint", f"Thread {thread_id!r} has no checkpoint {checkpoint_id!r}.")
