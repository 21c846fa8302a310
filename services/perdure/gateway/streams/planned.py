"""The tasks of a superstep: those that a checkpoint plans, and what became of them.

Contract: pure, and without the graph. Ids are those that LangGraph gives (``langgraph.pregel._algo``): a task's id is made of the
checkpoint, the step, the node and its triggers, all of which a ``StateGraph`` writes into the names of its channels.

Outside: graphs that are no ``StateGraph``. What their checkpoints plan is not known; their tasks are told when they have written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1
from typing import Any, Final
from uuid import UUID, uuid5

import xxhash
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED, TASKS

from perdure.checkpoint.documents import NULL_TASK
from perdure.checkpoint.plain import BRANCH, HIDDEN_PREFIXES, JOIN, ROOT
from perdure.checkpoint.plain import visible_values as shown_values
from perdure.checkpoint.shown import visible
from perdure.gateway.stores.tasks import INPUT, PULL, PUSH, START, Path, path_of
from perdure.gateway.streams.telling import Json

SPECIAL: Final = frozenset({ERROR, INTERRUPT, RESUME, SCHEDULED, "__error_source_node__"})
NO_WRITES: Final = "__no_writes__"
HEX: Final = 32


@dataclass(frozen=True)
class Point:
    """A checkpoint with its values."""

    document: Mapping[str, Any]
    """As stored."""
    checkpoint: Mapping[str, Any]
    """With the values of its channels, as readers are shown them."""
    metadata: Mapping[str, Any]

    @property
    def ns(self) -> str:
        """Its namespace."""
        return str(self.document["ns"])

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.document["checkpoint_id"])

    @property
    def step(self) -> int:
        """The number of the superstep that it ended."""
        return int(self.metadata.get("step") or 0)

    @property
    def channels(self) -> Mapping[str, Any]:
        """The values of its channels."""
        values: Mapping[str, Any] = self.checkpoint["channel_values"]
        return values

    @cached_property
    def values(self) -> Any:
        """The state that a user of the graph knows."""
        return shown_values(self.channels)

    @cached_property
    def values_json(self) -> Json:
        """The same as JSON, shared by all events that show it."""
        return Json(self.values)


@dataclass(frozen=True, slots=True)
class Planned:
    """A task that a checkpoint plans."""

    id: str
    name: str
    path: Path
    triggers: Sequence[str]
    input: Any

    @property
    def hidden(self) -> bool:
        """Whether it is LangGraph's own."""
        return self.name.startswith("__")


@dataclass(slots=True)
class Work:
    """What became of a task."""

    id: str
    name: str
    path: Path
    triggers: Sequence[str] = ()
    run_id: str | None = None
    """The run that it wrote for; ``None`` where no run owned the thread."""
    writes: list[tuple[str, Any]] = field(default_factory=list)
    done: bool = False
    error: Any = None
    interrupts: list[Any] = field(default_factory=list)

    @property
    def hidden(self) -> bool:
        """Whether it is LangGraph's own."""
        return self.name.startswith("__")


def plan(point: Point, command: Mapping[str, Any] | None = None) -> list[Planned]:
    """The tasks of the superstep after a checkpoint, in LangGraph's order; ``command``: that of the run that goes on there."""
    nodes = {} if command is None else _gone_to(command)
    sends = [*(point.channels.get(TASKS) or ()), *nodes.pop("", ())]
    found = [
        Planned(_id(point, send["node"], PUSH, str(index)), send["node"], [PUSH, index, False], (PUSH,), send["arg"])
        for index, send in enumerate(sends)
    ]
    due = sorted({*_due(point), *nodes})
    return found + [_pulled(point, node) for node in due]


def works(
    point: Point,
    pending: Iterable[tuple[str, str, Any]],
    paths: Mapping[str, str],
    writers: Mapping[str, str | None],
    planned: Iterable[Planned],
) -> list[Work]:
    """What became of the tasks after a checkpoint, those that left writes, in the order of their paths.

    Args:
        point: The checkpoint.
        pending: Its pending writes: task id, channel, value.
        paths: By task id, the path stored with its writes.
        writers: By task id, the run that wrote.
        planned: The tasks that the checkpoint plans.

    """
    known = {one.id: one for one in planned}
    own = {NULL_TASK, _input_task(point.id)}
    found: dict[str, Work] = {}
    for task_id, channel, value in pending:
        if task_id in own:
            continue
        work = found.get(task_id)
        if work is None:
            path = path_of(paths.get(task_id, ""))
            one = known.get(task_id)
            name = one.name if one is not None else _name_of(path, point)
            triggers = one.triggers if one is not None else ()
            work = found[task_id] = Work(task_id, name, path, triggers, writers.get(task_id))
        if channel == INTERRUPT:
            work.interrupts = value if isinstance(value, list) else [value]
        elif channel == ERROR:
            work.error = value
        elif channel not in SPECIAL:
            work.done = True
            if channel != NO_WRITES:
                work.writes.append((channel, value))
    return sorted(found.values(), key=lambda work: _order(work.path))


def stops(point: Point, planned: Sequence[Planned], before: Any, after: Any, ran: Iterable[str]) -> bool:
    """Whether the run that a checkpoint belongs to was asked to stop there, before or after nodes of these names or all (``*``)."""
    if not (before or after):
        return False
    versions: Mapping[str, Any] = point.checkpoint["channel_versions"]
    seen: Mapping[str, Any] = point.checkpoint["versions_seen"].get(INTERRUPT, {})
    if not any(name not in seen or version > seen[name] for name, version in versions.items()):
        return False
    return _matches(before, (one.name for one in planned)) or _matches(after, ran)


def is_visible(channel: str) -> bool:
    """Whether a channel is part of the state that a user of the graph knows."""
    return channel == ROOT or not channel.startswith(HIDDEN_PREFIXES)


def written_by(work: Work) -> list[tuple[str, Any]]:
    """What a task wrote to channels that users know."""
    return [(channel, visible(value)) for channel, value in work.writes if is_visible(channel)]


def _matches(asked: Any, names: Iterable[str]) -> bool:
    if not asked:
        return False
    return any(not name.startswith("__") if asked == "*" else name in asked for name in names)


def _gone_to(command: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes that a command goes to, and under the empty name the tasks that it sends."""
    goto = command.get("goto")
    found: dict[str, Any] = {"": []}
    for one in goto if isinstance(goto, list) else [goto] if goto else []:
        if isinstance(one, dict):
            found[""].append({"node": one["node"], "arg": one.get("input")})
        else:
            found[str(one)] = True
    return found


def _due(point: Point) -> list[str]:
    """The nodes that the channels trigger."""
    found = []
    versions, seen = point.checkpoint["channel_versions"], point.checkpoint["versions_seen"]
    for channel, value in point.channels.items():
        if channel == START:
            found.append(START)
            continue
        if channel.startswith(BRANCH):
            node = channel.removeprefix(BRANCH)
        elif channel.startswith(JOIN):
            sources, _, node = channel.removeprefix(JOIN).rpartition(":")
            names = value if isinstance(value, list) else []
            if not set(sources.split("+")) <= set(map(str, names)):
                continue
        else:
            continue
        last = seen.get(node, {}).get(channel)
        if channel in versions and (last is None or versions[channel] > last):
            found.append(node)
    return found


def _pulled(point: Point, node: str) -> Planned:
    if node == START:
        value = point.channels.get(START)
        return Planned(_id(point, node, PULL, START), node, [PULL, START], (START,), value)
    names = {f"{BRANCH}{node}"}
    names |= {one for one in point.checkpoint["channel_versions"] if one.startswith(JOIN) and one.endswith(f":{node}")}
    triggers = sorted(names)
    return Planned(_id(point, node, PULL, *triggers), node, [PULL, node], triggers, point.values_json)


def _id(point: Point, node: str, *parts: str) -> str:
    try:
        namespace = UUID(point.id).bytes
    except ValueError:
        return f"{point.id}:{node}:{parts[-1]}"
    within = f"{point.ns}|{node}" if point.ns else node
    joined = namespace + "".join([within, str(point.step + 1), node, *parts]).encode()
    hashed = xxhash.xxh3_128(joined) if point.checkpoint["v"] > 1 else sha1(joined, usedforsecurity=False)
    return str(UUID(hashed.hexdigest()[:HEX]))


def _input_task(checkpoint_id: str) -> str:
    try:
        return str(uuid5(UUID(checkpoint_id), INPUT))
    except ValueError:
        return ""


def _name_of(path: Path, point: Point) -> str:
    if not path:
        return ""
    if path[0] == PULL:
        return str(path[1])
    sends = point.channels.get(TASKS) or ()
    return str(sends[path[1]]["node"]) if isinstance(path[1], int) and path[1] < len(sends) else ""


def _order(path: Path) -> tuple[int, int, str]:
    """Sends first, by number, then nodes by name: as LangGraph plans them."""
    if path and path[0] == PUSH:
        return (0, path[1], "") if isinstance(path[1], int) else (2, 0, str(path))
    return (1, 0, str(path[1]) if len(path) > 1 else "")
