"""What a start asks for must be there: a checkpoint, a state to continue, a question to answer.

Contract: only what is certain is refused. A thread with a run under way may have a state, or wait, when the turn of the new run
comes. A start with an input, and an answer to a thread that waits, cost no read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.gateway.http.problems import RequestProblem, invalid
from perdure.gateway.resources.named import unknown_checkpoint
from perdure.gateway.resources.states import States
from perdure.gateway.stores.store import Store
from perdure.schemas.documents import ThreadDocument
from perdure.schemas.http import RunCreate


async def require_startable(
    store: Store,
    states: States,
    thread: ThreadDocument,
    wanted: RunCreate,
    payload: Mapping[str, Any],
    *,
    new_thread: bool,
) -> None:
    """Refuse a start that cannot do anything; ``new_thread``: nothing of the thread is stored yet.

    Raises:
        RequestProblem: ``unknown-checkpoint``, ``nothing-to-resume``, or ``invalid-request`` without an input.

    """
    thread_id = thread["_id"]
    if (checkpoint_id := payload.get("checkpoint_id")) is not None:
        if new_thread or not await store.patiently(states.exists(thread_id, checkpoint_id)):
            raise unknown_checkpoint(thread_id, checkpoint_id)
    elif wanted.command is not None:
        if wanted.command.resume is not None and (new_thread or not await _may_wait(store, states, thread)):
            raise RequestProblem(
                "nothing-to-resume",
                f"Thread {thread_id!r} waits for nothing, so there is nothing to resume. GET /threads/{thread_id}/state "
                f"shows where it stands; a run with an input continues it.",
            )
    elif wanted.input is None and (new_thread or not await _may_have_state(store, states, thread)):
        raise invalid(
            "/input",
            f"thread {thread_id!r} has no state that a run without input could continue; send an input ({{}} if the graph "
            f"needs none)",
        )


async def _may_wait(store: Store, states: States, thread: ThreadDocument) -> bool:
    thread_id = thread["_id"]
    if thread.get("interrupts") or await store.is_busy(thread_id):
        return True
    # A run that was under way when the thread was read has ended since; it wrote the thread's document first.
    current = await store.thread(thread_id, thread["tenant"])
    if current is not None and (current.get("interrupts") or current.get("next")):
        return True
    state = await store.patiently(states.newest(thread_id))
    return state is not None and bool(state["next"] or state["interrupts"])


async def _may_have_state(store: Store, states: States, thread: ThreadDocument) -> bool:
    thread_id = thread["_id"]
    if thread.get("head") or await store.is_busy(thread_id):
        return True
    return await store.patiently(states.newest(thread_id)) is not None
