"""What the documents of a thread's history say, as events of stream protocol 1.

Contract: pure. Events have the shapes and the order of LangGraph's ``astream`` with ``durability="sync"``, told when the superstep
is durable: a checkpoint says what the tasks of its superstep did, then the new values, then what is next. Every mode is said;
readers leave out what they did not ask for.

Where the history knows less than the process that wrote it:

- ``values``, the input of a task and its result show every channel of the state, also those that an input, output or private schema
  leaves out, or that a node does not read.
- Tasks that called tasks of the functional API have no name, so ``updates`` leaves them out.
- A superstep that ends with an interrupt changes no channel: what its other tasks wrote is in ``updates`` alone.
- ``state`` of a task in ``checkpoints`` is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from perdure.checkpoint import keys
from perdure.checkpoint.plain import ROOT
from perdure.checkpoint.shown import visible
from perdure.gateway.stores.tasks import RETURN
from perdure.gateway.stores.waits import questions
from perdure.gateway.streams.messages import ids_of, whole_messages
from perdure.gateway.streams.planned import Planned, Point, Work, is_visible, plan, stops, written_by
from perdure.gateway.streams.telling import ALWAYS, Told, told

INTERRUPT: Final = "__interrupt__"


@dataclass(frozen=True)
class Standing:
    """Where a run stands: a checkpoint and what became of the tasks after it."""

    point: Point
    planned: Sequence[Planned]
    works: Sequence[Work] = ()


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run from its registration on."""

    id: str
    graph_id: str
    assistant_id: str
    thread_id: str
    payload: Mapping[str, Any]
    """What it was started with."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_tasks(self) -> dict[str, Any]:
        """What its tasks carry as metadata."""
        asked = (self.payload.get("config") or {}).get("metadata") or {}
        ids = {"run_id": self.id, "graph_id": self.graph_id, "assistant_id": self.assistant_id}
        return {**asked, **self.metadata, **ids}

    @property
    def of_messages(self) -> dict[str, Any]:
        """What its messages carry in their metadata."""
        return {**self.of_tasks, "thread_id": self.thread_id}


def metadata(run_id: str, attempt: int) -> Told:
    """The beginning of a run, or of a later owner of it."""
    return told(ALWAYS, "", {"run_id": run_id, "attempt": attempt}, event="metadata")


def say_resumed(standing: Standing, inner: Iterable[Standing], run: RunFacts, at: datetime) -> Iterator[Told]:
    """What a run says that goes on where the thread stands: the values, the checkpoint, the tasks that it executes."""
    for one in (standing, *inner):
        point = one.point
        yield told("values", point.ns, point.values_json)
        yield from _checkpoint(one, at)
        if stops(point, one.planned, run.payload.get("interrupt_before"), None, ()):
            return
        yield from _tasks(one, run, at)
        for work in one.works:
            if work.done and not work.hidden and work.error is None and work.run_id != run.id:
                yield told("updates", point.ns, _update(work) | {"__metadata__": {"cached": True}})


def say_checkpoint(
    point: Point, before: Standing | None, run: RunFacts | None, *, is_fork_of_run: bool = False
) -> Iterator[Told]:
    """What a checkpoint says.

    Args:
        point: The checkpoint.
        before: Its parent, with what became of the tasks of the superstep; ``None``: it begins a thread, a subgraph or a branch.
        run: The run that wrote it, if one did.
        is_fork_of_run: Whether the run branches off here.

    """
    at, source = point.document["at"], point.metadata.get("source")
    ran: list[str] = []
    if source == "loop" and before is not None:
        ran = [work.name for work in before.works]
        yield from _worked(before, point, run, at)
    updated = point.checkpoint.get("updated_channels")
    changed = updated is None or any(map(is_visible, updated))
    if is_fork_of_run or (source in {"loop", "update"} and changed):
        yield told("values", point.ns, point.values_json)
    planned = plan(point)
    standing = Standing(point, planned)
    if source == "update" and not point.ns:
        yield told("state_update", "", {"thread_id": point.document["thread"], "state": _state(standing)})
    yield from _checkpoint(standing, at)
    if run is None or source == "update":
        return  # nothing is executed
    asked = run.payload
    if not stops(point, planned, asked.get("interrupt_before"), asked.get("interrupt_after"), ran):
        yield from _tasks(standing, run, at)


def say_ended(
    entry: Mapping[str, Any], standing: Standing | None, inner: Iterable[Standing], run: RunFacts
) -> Iterator[Told]:
    """What the end of a run says; ``standing``: where it left the thread, with what became of the tasks there."""
    status, ev, at = entry["event"], entry["ev"], entry["at"]
    if status != "success" and standing is not None and not entry.get("undone"):
        for one in (*inner, standing):
            yield from _left(one, run, at)
    if status == "interrupted" and not ev.get("interrupts"):
        yield told("updates", "", {INTERRUPT: []})
    if status in {"error", "timeout"}:
        error = ev.get("error") or {}
        name = str(error.get("type") or status).rpartition(".")[2]
        yield told(ALWAYS, "", {"error": name, "message": error.get("message", "")}, event="error")
    yield told(ALWAYS, "", None, event="end")


def brief(document: Mapping[str, Any]) -> list[Told] | None:
    """What a document says first, and in every mode, where nothing else has to be read to know that; ``None``: something has."""
    if document["kind"] == keys.CHECKPOINT:
        return []
    if document["kind"] == keys.ENTRY and document["event"] == "started":
        return [metadata(str(document.get("run")), int(document["epoch"]))]
    if document["kind"] == keys.ENTRY and document["event"] == "success":
        return [told(ALWAYS, "", None, event="end")]
    return None


def _worked(before: Standing, after: Point, run: RunFacts | None, at: datetime) -> Iterator[Told]:
    """What the tasks of a superstep that ended did, those whose work a run before told not again."""
    seen = ids_of(before.point.values)
    for work in before.works:
        if work.hidden or (run is not None and work.run_id not in {run.id, None}):
            continue
        yield from _work(work, before.point, after, seen, run, at)


def _left(standing: Standing, run: RunFacts, at: datetime) -> Iterator[Told]:
    """What the tasks of a superstep did that did not end."""
    point, seen = standing.point, ids_of(standing.point.values)
    for work in standing.works:
        if work.hidden or work.run_id not in {run.id, None}:
            continue
        if work.done and work.error is None:
            yield from _work(work, point, None, seen, run, at)
            continue
        asked = [_interrupt(one) for one in questions(map(_plain_interrupt, work.interrupts))]
        if asked and work.error is None:
            yield told("updates", point.ns, {INTERRUPT: asked})
            state = point.values if isinstance(point.values, dict) else {}
            yield told("values", point.ns, {**state, INTERRUPT: asked})
        if work.error is not None or work.interrupts:
            yield from _result(work, point, [*map(_interrupt, map(_plain_interrupt, work.interrupts))], at)


def _work(
    work: Work, before: Point, after: Point | None, seen: set[str], run: RunFacts | None, at: datetime
) -> Iterator[Told]:
    if work.done and work.error is None:
        yield from whole_messages(work, before, after, seen, run.of_messages if run is not None else {})
        if work.name:
            yield told("updates", before.ns, _update(work))
    yield from _result(work, before, [], at)


def _result(work: Work, before: Point, interrupts: list[Any], at: datetime) -> Iterator[Told]:
    content = told(
        "tasks",
        before.ns,
        {
            "id": work.id,
            "name": work.name,
            "error": None if work.error is None else str(work.error),
            "result": result_of(work),
            "interrupts": interrupts,
        },
    )
    yield content
    yield _debug("task_result", before.step + 1, before.ns, content, at)


def _checkpoint(standing: Standing, at: datetime) -> Iterator[Told]:
    point = standing.point
    place, parent = _config(point, point.id), _config(point, point.document.get("parent"))
    works = {work.id: work for work in standing.works}
    content = told(
        "checkpoints",
        point.ns,
        {
            "config": {"configurable": place},
            "parent_config": {"configurable": parent} if parent else None,
            "checkpoint": place,
            "parent_checkpoint": parent,
            "values": point.values_json,
            "metadata": point.metadata,
            "next": [one.name for one in standing.planned],
            "tasks": [_planned_task(one, works.get(one.id)) for one in standing.planned],
        },
    )
    yield content
    yield _debug("checkpoint", point.step, point.ns, content, at)


def _state(standing: Standing) -> dict[str, Any]:
    """The state after it was updated from outside."""
    point = standing.point
    return {
        "values": point.values_json,
        "next": [one.name for one in standing.planned],
        "tasks": [_planned_task(one, None) for one in standing.planned],
        "checkpoint": _config(point, point.id),
        "metadata": point.metadata,
        "created_at": point.checkpoint["ts"],
        "parent_checkpoint": _config(point, point.document.get("parent")),
    }


def _planned_task(one: Planned, work: Work | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": one.id, "name": one.name, "interrupts": [], "state": None}
    if work is not None and work.error is not None:
        return {"id": one.id, "name": one.name, "error": str(work.error), "state": None}
    if work is not None and work.done:
        shown["result"] = result_of(work)
    elif work is not None:
        shown["interrupts"] = [*map(_interrupt, map(_plain_interrupt, work.interrupts))]
    return shown


def _tasks(standing: Standing, run: RunFacts, at: datetime) -> Iterator[Told]:
    point = standing.point
    for one in standing.planned:
        if not one.hidden:
            value = {
                "id": one.id,
                "name": one.name,
                "input": one.input,
                "triggers": one.triggers,
                "metadata": run.of_tasks,
            }
            content = told("tasks", point.ns, value)
            yield content
            yield _debug("task", point.step + 1, point.ns, content, at)


def _debug(kind: str, step: int, ns: str, of: Told, at: datetime) -> Told:
    return told("debug", ns, {"step": step, "timestamp": at.isoformat(), "type": kind, "payload": of.content})


def _config(point: Point, checkpoint_id: str | None) -> dict[str, Any] | None:
    if not checkpoint_id:
        return None
    return {"thread_id": point.document["thread"], "checkpoint_ns": point.ns, "checkpoint_id": checkpoint_id}


def _update(work: Work) -> dict[str, Any]:
    """As ``map_output_updates`` of LangGraph says what one task wrote."""
    returned = [visible(value) for channel, value in work.writes if channel == RETURN]
    if returned:
        return {work.name: returned[0]}
    written = written_by(work)
    names = [channel for channel, _ in written]
    if ROOT in names:
        values = [value for channel, value in written if channel == ROOT]
    elif len(set(names)) < len(names):
        values = [{channel: value} for channel, value in written]
    else:
        values = [dict(written)] if written else []
    return {work.name: None if not values else values[0] if len(values) == 1 else values}


def result_of(work: Work) -> Any:
    """As ``map_task_result_writes`` of LangGraph says what one task wrote."""
    by_channel: dict[str, list[Any]] = {}
    for channel, value in work.writes:
        if channel == RETURN or is_visible(channel):
            by_channel.setdefault(channel, []).append(visible(value))
    return {name: values[0] if len(values) == 1 else {"$writes": values} for name, values in by_channel.items()}


def _plain_interrupt(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and "value" in value:
        return value
    return {"id": None, "value": value}


def _interrupt(one: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"value": one["value"], "id": one.get("id")}
    if (schema := one.get("response_schema")) is not None:
        shown["response_schema"] = schema
    return shown
