"""Whether a node of a run is at work at this moment, by the stacks of the process's asyncio tasks.

Contract: pure observation of suspended tasks, made on the event loop; nothing is changed, and a run is called idle only when
every stack of the run was followed to the future that it waits for. What cannot be followed counts as work. A node that reads or
writes the checkpoint store is not at work: it waits for us.

Outside: what is done about an idle run (``perdure.agent_step.audit``).
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from langgraph.pregel._retry import arun_with_retry

from perdure.checkpoint import SCOPE_KEY

NODE = arun_with_retry.__code__
"""LangGraph runs every node of a graph, of its subgraphs, and every task of the functional API in this coroutine."""
STORE = "/perdure/checkpoint/"
DEPTH = 200

Stack = list[FrameType]


def stack_of(task: asyncio.Task[Any]) -> tuple[Stack, bool]:
    """The frames of a suspended task and of the tasks that it awaits, outermost first; and whether all could be followed."""
    frames: Stack = []
    awaited: Any = task.get_coro()
    for _ in range(DEPTH):
        frame = _frame(awaited)
        if frame is not None:
            frames.append(frame)
        if isinstance(awaited, asyncio.Task):
            awaited = awaited.get_coro()
            continue
        if isinstance(awaited, asyncio.Future):
            return frames, True
        awaited = _next(awaited)
        if awaited is None:
            return frames, False
    return frames, False


def working(tasks: Mapping[str, asyncio.Task[Any]], loop: asyncio.AbstractEventLoop) -> set[str]:
    """Of these runs, by id with the task that owns each, those of which a node may be at work."""
    found = {run_id for run_id, task in tasks.items() if _at_work(*stack_of(task))}
    owners = set(tasks.values())
    for task in asyncio.all_tasks(loop):
        if task in owners or task.done():
            continue
        frames, complete = stack_of(task)
        run_id = _run_of(frames)
        if run_id is not None and run_id in tasks and _at_work(frames, complete):
            found.add(run_id)
    return found


def stacks(run_id: str, owner: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> str:
    """Where a run stands, for people: the stack of the task that owns it, and of its nodes' tasks."""
    shown = [("owner", stack_of(owner)[0])]
    for task in asyncio.all_tasks(loop):
        frames, _ = stack_of(task)
        if task is not owner and _run_of(frames) == run_id:
            shown.append((task.get_name(), frames))
    return "\n".join(line for name, frames in shown for line in _lines(name, frames))


def _at_work(frames: Collection[FrameType], complete: bool) -> bool:
    inside = [frame.f_code is NODE for frame in frames]
    if any(inside):
        return not any(STORE in frame.f_code.co_filename for frame in frames)
    return not complete


def _run_of(frames: Iterable[FrameType]) -> str | None:
    """The run that a node's task belongs to."""
    for frame in frames:
        if frame.f_code is NODE:
            scope = frame.f_locals["task"].config.get("configurable", {}).get(SCOPE_KEY)
            return getattr(scope, "run_id", None)
    return None


def _frame(awaited: Any) -> FrameType | None:
    frame = (
        getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None) or getattr(awaited, "gi_frame", None)
    )
    return frame if isinstance(frame, FrameType) else None


def _next(awaited: Any) -> Any:
    """What a coroutine, generator, or one of CPython's wrappers around them waits for; ``None`` where that cannot be seen."""
    if inspect.iscoroutine(awaited):
        return awaited.cr_await
    if inspect.isasyncgen(awaited):
        return awaited.ag_await
    if inspect.isgenerator(awaited):
        return awaited.gi_yieldfrom
    inner = gc.get_referents(awaited)  # the step of an asynchronous generator, the iterator of a future
    return next((one for one in inner if _is_awaitable(one)), None)


def _is_awaitable(value: Any) -> bool:
    return (
        inspect.iscoroutine(value)
        or inspect.isasyncgen(value)
        or inspect.isgenerator(value)
        or isinstance(value, asyncio.Future)
    )


def _lines(name: str, frames: Iterable[FrameType]) -> Iterator[str]:
    yield f"{name}:"
    for frame in frames:
        yield f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
