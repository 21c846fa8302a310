"""Runs of graphs in memory, with what LangGraph streamed and what their histories would say: ``record``."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from perdure.chassis.json import dumps
from perdure.checkpoint.plain import plain_serializer
from perdure.gateway.streams.planned import Point, plan, works
from perdure.gateway.streams.saying import RunFacts, Standing, say_checkpoint, say_ended, say_resumed
from perdure.gateway.streams.telling import Told

MODES: Final = ("values", "updates", "tasks", "checkpoints", "debug")
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
CLASS: Final = JsonPlusSerializer()
PLAIN: Final = plain_serializer()

PLACE: Final = ("thread_id", "checkpoint_ns", "checkpoint_id")

Event = tuple[str, str, Any]
"""Namespace, mode and data as JSON."""


def plain(value: Any) -> Any:
    """As the gateway reads what a worker stored."""
    return PLAIN.loads_typed(CLASS.dumps_typed(value))


@dataclass
class Write:
    """One call of ``put_writes``."""

    ns: str
    checkpoint_id: str
    task_id: str
    path: str
    rows: Sequence[tuple[str, Any]]
    run_id: str


class Recording(InMemorySaver):
    """A saver that remembers the order of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.run_id = ""
        self.points: list[Point] = []
        self.written: list[Write] = []

    async def aput(self, config: RunnableConfig, checkpoint: Any, metadata: Any, new_versions: Any) -> RunnableConfig:
        conf = config["configurable"]
        document = {
            "thread": conf["thread_id"], "ns": conf.get("checkpoint_ns", ""), "checkpoint_id": checkpoint["id"],
            "parent": conf.get("checkpoint_id"), "at": AT, "run": self.run_id, "seq": len(self.points) + 1,
        }  # fmt: skip
        self.points.append(Point(document, plain(dict(checkpoint)), plain(dict(metadata))))
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(self, config: RunnableConfig, writes: Any, task_id: str, task_path: str = "") -> None:
        conf = config["configurable"]
        rows = [(channel, plain(value)) for channel, value in writes]
        place = (conf.get("checkpoint_ns", ""), conf["checkpoint_id"])
        self.written.append(Write(*place, task_id, task_path, rows, self.run_id))
        await super().aput_writes(config, writes, task_id, task_path)

    def standing(self, ns: str, checkpoint_id: str, written: int, command: Any = None) -> Standing | None:
        """Where a run stands, with the first ``written`` writes."""
        point = next((one for one in self.points if (one.ns, one.id) == (ns, checkpoint_id)), None)
        if point is None:
            return None
        own = [one for one in self.written[:written] if (one.ns, one.checkpoint_id) == (ns, checkpoint_id)]
        last = {one.task_id: one for one in own}
        pending = [(one.task_id, *row) for one in own if one is last[one.task_id] for row in one.rows]
        planned = plan(point, command)
        paths = {one.task_id: one.path for one in own}
        writers: dict[str, str | None] = {one.task_id: one.run_id for one in own}
        return Standing(point, planned, works(point, pending, paths, writers, planned))


@dataclass
class Recorded:
    """One run."""

    streamed: list[Event]
    said: list[Event]
    told: list[Told]


class Thread:
    """A thread in memory that runs are recorded of."""

    def __init__(self, builder: Any, **options: Any) -> None:
        self.saver = Recording()
        self.graph = builder.compile(checkpointer=self.saver, **options)
        self._runs = itertools.count(1)

    async def run(self, given: Any, command: Mapping[str, Any] | None = None, **asked: Any) -> Recorded:
        """Run the graph once; ``command``: what ``given`` is, as a client sends it."""
        run_id = self.saver.run_id = f"run-{next(self._runs)}"
        first, before = len(self.saver.points), len(self.saver.written)
        roots = [one for one in self.saver.points if one.ns == ""]
        streamed, status, error = await self._stream(given, asked)
        payload = {"input": None if command else given, "command": command, **asked}
        facts = RunFacts(run_id, "graph", "assistant", "thread", payload)
        told: list[Told] = []
        if roots and (command or given is None):
            standing = self.saver.standing("", roots[-1].id, before, command)
            assert standing is not None
            told += say_resumed(standing, self._inner(standing, before, first), facts, AT)
        for point in self.saver.points[first:]:
            parent = point.document["parent"]
            standing = self.saver.standing(point.ns, parent, len(self.saver.written)) if parent else None
            told += say_checkpoint(point, standing, facts, is_fork_of_run=point.metadata.get("source") == "fork")
        head = max((one for one in self.saver.points if one.ns == ""), key=lambda one: one.id)
        last = self.saver.standing("", head.id, len(self.saver.written))
        assert last is not None
        interrupts = [one for work in last.works for one in work.interrupts]
        entry = {"event": status, "at": AT, "ev": {"interrupts": interrupts, "error": error}}
        told += say_ended(
            entry, last, reversed(self._inner(last, len(self.saver.written), len(self.saver.points))), facts
        )
        said = [(one.ns, one.event, json.loads(one.data)) for one in told if one.mode in MODES]
        return Recorded(streamed, said, told)

    async def _stream(self, given: Any, asked: Mapping[str, Any]) -> tuple[list[Event], str, Any]:
        config: Any = {"configurable": {"thread_id": "thread"}}
        streamed: list[Event] = []
        try:
            async for ns, mode, data in self.graph.astream(
                given, config, stream_mode=[*MODES], subgraphs=True, durability="sync", **asked
            ):
                streamed.append(("|".join(ns), mode, json.loads(dumps(data))))
        except Exception as error:
            return streamed, "error", {"type": type(error).__name__, "message": str(error)}
        state = await self.graph.aget_state(config)
        return streamed, "interrupted" if state.next else "success", None

    def _inner(self, standing: Standing, written: int, stored: int) -> list[Standing]:
        found: list[Standing] = []
        outer = [standing]
        while outer:
            inner = []
            for one in outer:
                for work in one.works:
                    ns = f"{one.point.ns}|{work.name}:{work.id}" if one.point.ns else f"{work.name}:{work.id}"
                    ids = [point.id for point in self.saver.points[:stored] if point.ns == ns]
                    if not work.done and ids and (within := self.saver.standing(ns, max(ids), written)) is not None:
                        inner.append(within)
            found += inner
            outer = inner
        return found


def comparable(events: list[Event]) -> dict[str, list[Any]]:
    """By namespace, the events without what the history does not know; those of the tasks of a superstep in one order."""
    by_ns: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for ns, mode, data in events:
        by_ns[ns].append((mode, stripped(mode, data)))
    return {ns: in_order(found) for ns, found in by_ns.items()}


def stripped(mode: str, data: Any) -> Any:
    if mode == "debug":
        kind = {"checkpoint": "checkpoints", "task": "tasks", "task_result": "tasks"}[data["type"]]
        return {**data, "timestamp": None, "payload": stripped(kind, data["payload"])}
    if mode == "checkpoints":
        parent = data["parent_config"]
        return {
            "config": {name: data["config"]["configurable"][name] for name in PLACE},
            "parent_config": parent and {name: parent["configurable"][name] for name in PLACE},
            "values": before_the_input(data) if data["metadata"]["source"] == "input" else data["values"],
            "metadata": {name: data["metadata"].get(name) for name in ("source", "step", "parents")},
            "next": data["next"],
            "tasks": [without_schema({**task, "state": None}) for task in data["tasks"]],
        }
    if mode == "tasks":
        shown = {name: value for name, value in data.items() if name != "metadata"}  # nodes may have their own
        return without_schema({**shown, "error": bool(data.get("error"))})
    return without_schema(data)


def before_the_input(data: Any) -> Any:
    """Channels that are empty before anything is written to them are in the root graph's history of a worker only."""
    return {name: value for name, value in data["values"].items() if value not in ([], {})}


def without_schema(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(without_schema, value)]
    if isinstance(value, dict):
        return {k: without_schema(v) for k, v in value.items() if not (k == "response_schema" and v is None)}
    return value


def in_order(events: list[tuple[str, Any]]) -> list[Any]:
    """Between two checkpoints, the events of each task together, tasks by id; updates have no id and are sorted by node."""
    ordered: list[Any] = []
    part: list[tuple[str, Any]] = []
    for event in [*events, ("checkpoints", None)]:
        if event[0] in {"checkpoints", "values"} and "__interrupt__" not in (event[1] or {}):
            ordered += sorted(part, key=repr)
            part = []
            ordered.append(event)
        else:
            part.append(event)
    return ordered[:-1]
