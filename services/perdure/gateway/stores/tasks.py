"""The tasks of a superstep, from what a checkpoint holds: ids, paths, what they wrote and what they wait for.

Contract: pure. Paths and results have the shapes of LangGraph's ``PregelTask``, by which clients tell calls of sub-agents apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid5

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED, TASKS

from perdure.checkpoint.documents import NULL_TASK
from perdure.checkpoint.plain import BRANCH, HIDDEN_PREFIXES, JOIN, ROOT
from perdure.checkpoint.shown import visible
from perdure.gateway.stores.waits import questions

Document = dict[str, Any]
Path = list[Any]
"""``["__pregel_pull", node]``, or ``["__pregel_push", index, false]`` of a ``Send``; an inner path where a task called another."""

START: Final = "__start__"
RETURN: Final = "__return__"
INPUT: Final = "__input__"
PULL, PUSH = "__pregel_pull", "__pregel_push"
SPECIAL: Final = frozenset({ERROR, INTERRUPT, RESUME, SCHEDULED})


@dataclass(slots=True)
class Task:
    """A task that ran, waits or is planned."""

    id: str
    name: str
    path: Path
    error: str | None = None
    done: bool = False
    interrupts: list[Any] | None = None
    writes: list[tuple[str, Any]] = field(default_factory=list)


def tasks_of(document: Mapping[str, Any], stored: CheckpointTuple, paths: Mapping[str, str]) -> list[Task]:
    """The tasks after a checkpoint: those that left writes, then those planned that have not written yet.

    Args:
        document: The checkpoint's document.
        stored: The checkpoint with its values and pending writes.
        paths: By task id, the path that was stored with its writes.

    """
    waiting = _planned(document, stored)
    sends = _sends(stored)
    tasks: dict[str, Task] = {}
    own = {NULL_TASK, _input_task(stored.checkpoint["id"]), *_update_tasks(stored)}
    for task_id, channel, value in stored.pending_writes or ():
        if task_id in own:
            continue
        task = tasks.get(task_id)
        if task is None:
            task = tasks[task_id] = _take(task_id, path_of(paths.get(task_id, "")), waiting, sends)
        if channel == INTERRUPT:
            task.interrupts = [_interrupt(one) for one in (value if isinstance(value, list) else [value])]
        elif channel == ERROR:
            task.error = value if isinstance(value, str) else str(value)
        elif channel not in SPECIAL:
            task.done = True
            task.writes.append((channel, value))
    for task in tasks.values():
        if task.done:
            task.interrupts = None
    checkpoint_id = stored.checkpoint["id"]
    pending = [Task(f"{checkpoint_id}:{number}:{name}", name, path) for number, (name, path) in enumerate(waiting)]
    return [*tasks.values(), *pending]


def task_view(task: Task) -> Document:
    """A task in the Agent Server's shape."""
    return {
        "id": task.id,
        "name": task.name,
        "path": task.path,
        "error": task.error,
        "interrupts": questions(task.interrupts or ()),
        "checkpoint": None,
        "state": None,
        "result": _result(task) if task.done else None,
    }


def path_of(text: str) -> Path:
    """The path that LangGraph's ``task_path_str`` wrote; empty for what is none."""
    kind, _, rest = text.removeprefix("~").partition(", ")
    if kind == PULL:
        return [PULL, *_parts(rest)]
    if kind != PUSH:
        return []
    if not rest.startswith("~"):
        return [PUSH, *_parts(rest)]
    inner, *last = rest.rsplit(", ", 2)
    return [PUSH, path_of(inner), *(part for text in last for part in _parts(text))]


def _parts(text: str) -> list[str | int | bool]:
    """The parts of a path; LangGraph writes an index with ten digits."""
    flags = {"True": True, "False": False}
    return [
        flags[part] if part in flags else int(part) if part.isdigit() and len(part) >= 10 else part
        for part in text.split(", ")
    ]


def _take(task_id: str, path: Path, waiting: list[tuple[str, Path]], sends: Sequence[str]) -> Task:
    """The task of this path, out of those that are planned."""
    name = _name_of(path, sends) or (waiting[0][0] if len({name for name, _ in waiting}) == 1 else "")
    fitting = [one for one in waiting if one[0] == name]
    planned = next((one for one in fitting if one[1] == path), fitting[0] if fitting else None)
    if planned is not None:
        waiting.remove(planned)
    return Task(task_id, name, path or (planned[1] if planned else []))


def _name_of(path: Path, sends: Sequence[str]) -> str | None:
    """The node that a path names."""
    if not path:
        return None
    if path[0] == PULL:
        return str(path[1])
    return sends[path[1]] if isinstance(path[1], int) and path[1] < len(sends) else None


def _planned(document: Mapping[str, Any], stored: CheckpointTuple) -> list[tuple[str, Path]]:
    """Node and path of each task of the next superstep: what the executor recorded, else what the channel versions say."""
    sends = _sends(stored)
    pushed: list[tuple[str, Path]] = [(node, [PUSH, index, False]) for index, node in enumerate(sends)]
    recorded = (document.get("ev") or {}).get("next")
    if recorded is None:
        if START in stored.checkpoint["channel_values"]:
            return [(START, [PULL, START])]
        return [*pushed, *((node, [PULL, node]) for node in _inferred_next(stored))]
    return [*pushed, *((node, [PULL, node]) for node in recorded if node not in sends)]


def _sends(stored: CheckpointTuple) -> list[str]:
    return [send["node"] for send in stored.checkpoint["channel_values"].get(TASKS) or ()]


def _inferred_next(stored: CheckpointTuple) -> Iterator[str]:
    """Nodes that are due by the channel versions: what ``prepare_next_tasks`` finds, without the graph and without sends."""
    checkpoint = stored.checkpoint
    held, versions, seen = (
        checkpoint["channel_values"],
        checkpoint["channel_versions"],
        checkpoint["versions_seen"],
    )
    for channel in sorted(held):
        if channel.startswith(BRANCH):
            node = channel.removeprefix(BRANCH)
            last = seen.get(node, {}).get(channel)
            if last is None or versions[channel] > last:  # type: ignore[operator]
                yield node
        elif channel.startswith(JOIN):
            sources, _, node = channel.removeprefix(JOIN).rpartition(":")
            if isinstance(held[channel], list) and set(sources.split("+")) == set(held[channel]):
                yield node


def _input_task(checkpoint_id: str) -> str:
    """The task id under which LangGraph keeps a DeltaChannel's part of the input that follows a checkpoint."""
    try:
        return str(uuid5(UUID(checkpoint_id), INPUT))
    except ValueError:
        return ""


def _update_tasks(stored: CheckpointTuple) -> Iterator[str]:
    """The task ids under which LangGraph keeps what an update of this state wrote as a node that was not planned."""
    checkpoint_id = stored.checkpoint["id"]
    count = len({task_id for task_id, _, _ in stored.pending_writes or ()})
    try:
        for number in range(count):
            yield str(uuid5(UUID(checkpoint_id), f"{INTERRUPT}:{number}" if number else INTERRUPT))
    except ValueError:
        return


def _interrupt(value: Any) -> Document:
    if isinstance(value, dict) and "value" in value:
        shown = {"id": value.get("id"), "value": value["value"]}
        schema = value.get("response_schema")
        return shown if schema is None else {**shown, "response_schema": schema}
    return {"id": None, "value": value}


def _result(task: Task) -> Any:
    """What a task wrote, by channel, as ``tasks_w_writes`` of LangGraph says it; several writes to one are ``$writes``."""
    by_channel: dict[str, list[Any]] = {}
    for channel, value in task.writes:
        by_channel.setdefault(channel, []).append(visible(value))
    if RETURN in by_channel:
        return by_channel[RETURN][0]
    shown = {channel: values[0] if len(values) == 1 else {"$writes": values} for channel, values in by_channel.items()}
    if ROOT in shown:
        return shown[ROOT]
    return {channel: value for channel, value in shown.items() if not channel.startswith(HIDDEN_PREFIXES)}
