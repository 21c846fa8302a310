"""Reads a thread's history and says what each document says.

Contract: reads only, by ranges of keys and sequence numbers whose size is bounded. The same document says the same for ever: what
was stored after it is left out, by the sequence numbers that pending writes carry.

Outside: what is said (``saying``), who reads how far (``feed``, ``reader``).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability
from perdure.checkpoint import documents, keys, values
from perdure.checkpoint.documents import Place
from perdure.checkpoint.plain import plain_serializer
from perdure.checkpoint.saver import PerdureSaver
from perdure.checkpoint.store import Found
from perdure.gateway.stores.store import Store
from perdure.gateway.streams.planned import Point, is_visible, plan, works
from perdure.gateway.streams.saying import RunFacts, Standing, metadata, say_checkpoint, say_ended, say_resumed
from perdure.gateway.streams.telling import Said, Told, numbered
from perdure.schemas.documents import RunStatus

Document = Mapping[str, Any]

PAGE: Final = 16
"""History documents read at once."""
GAP: Final = 9
"""More numbers than an owner has in flight: where so many are missing, nothing follows."""
POINTS_KEPT: Final = 16
MAX_DEPTH: Final = 8
UNDER_WAY: Final = frozenset({"started", "updated"})


@dataclass(frozen=True)
class RunRecord:
    """A run, as far as its stream needs to know it."""

    facts: RunFacts
    document: Document
    first_seq: int
    """No entry of the run is before this number."""


class History:
    """Histories of threads. Belongs to one event loop."""

    def __init__(self, database: Database, availability: Availability, store: Store) -> None:
        self._saver = PerdureSaver(database, serde=plain_serializer(), availability=availability)
        self._notebook = self._saver.notebook
        self._notebook.store.share_segment_reads()
        self._store = store
        self._points: OrderedDict[tuple[str, str, str], Point] = OrderedDict()

    async def page(self, thread_id: str, after: int) -> list[dict[str, Any]]:
        """The documents with the next ``PAGE`` numbers after one, in order, as far as they are there."""
        query = {"thread": thread_id, "seq": {"$gt": after, "$lte": after + PAGE}}
        found = await self._notebook.store.find(query)
        return sorted(found, key=lambda document: int(document["seq"]))

    async def newest(self, thread_id: str, known: int) -> int:
        """The highest number of a thread; ``known``: a number that is there, or 0."""
        low, step = known, 1
        while await self._follows(thread_id, low + step):
            low, step = low + step, step * 2
        while step > 1:
            step //= 2
            if await self._follows(thread_id, low + step):
                low += step
        query = {"thread": thread_id, "seq": {"$gte": low, "$lt": low + GAP}}
        found = await self._notebook.store.find(query, {"seq": 1})
        return max((int(one["seq"]) for one in found), default=known)

    async def first_seq(self, run: Document) -> int:
        """A number that no entry of the run is before; ``run`` may be older than what is stored."""
        if run.get("first_seq"):
            return int(run["first_seq"])
        thread = await self._store.thread(run["thread_id"], run["tenant"]) or {}
        if thread.get("ended_run_id") == run["_id"]:
            return int(thread["ended_first_seq"])
        # The thread's document was read first: if the run has not ended now, the thread's number is from before it.
        now = await self._store.run_even_deleted(run["_id"], run["thread_id"], run["tenant"]) or {}
        return int(now.get("first_seq") or thread.get("seq", 0) + 1)

    async def run(self, run_id: str, thread_id: str, tenant: str) -> RunRecord | None:
        """A run of a thread; ``None`` if it does not exist."""
        run = await self._store.run_even_deleted(run_id, thread_id, tenant)
        if run is None:
            return None
        kwargs, first = await asyncio.gather(self._store.kwargs(run), self.first_seq(run))
        facts = RunFacts(
            run_id, run["graph_id"], run["assistant_id"], thread_id, kwargs or {}, run.get("metadata") or {}
        )
        return RunRecord(facts, run, first)

    async def say(self, document: Document, run: RunRecord | None) -> Said:
        """What one document of the history says; ``run``: that it belongs to."""
        seq, kind, run_id = int(document["seq"]), document["kind"], document.get("run")
        if kind == keys.CHECKPOINT and not document.get("undone"):
            return await self._say_checkpoint(document, run)
        if kind != keys.ENTRY or run is None:
            return Said(seq, run_id, "", ())
        event = document["event"]
        if event == "started":
            events = [metadata(str(run_id), int(document["epoch"])), *await self._say_started(document, run)]
            return Said(seq, run_id, "", numbered(events), begins=True)
        if event == "updated":
            return Said(seq, run_id, "", numbered(await self._say_updated(document, run)))
        head = document["ev"].get("checkpoint_id")
        standing = None if head is None else await self._standing(document["thread"], "", head, seq)
        inner = [] if standing is None else await self._inner(document["thread"], standing, seq)
        events = [*say_ended(document, standing, reversed(inner), run.facts)]
        since = 0 if standing is None else int(standing.point.document.get("seq") or 0)
        return Said(seq, run_id, "", numbered(events), since=since, ends=True, status=event)

    async def _follows(self, thread_id: str, seq: int) -> bool:
        query = {"thread": thread_id, "seq": {"$gte": seq, "$lt": seq + GAP}}
        return bool(await self._notebook.store.find(query, {"_id": 1}))

    async def _say_checkpoint(self, document: Document, run: RunRecord | None) -> Said:
        thread_id, ns, parent = document["thread"], document["ns"], document.get("parent")
        seq = int(document["seq"])
        point, before = await asyncio.gather(
            self._point(Found(dict(document))),
            self._standing(thread_id, ns, parent, seq) if parent else _nothing(),
        )
        facts = run.facts if run is not None else None
        fork = run is not None and point.metadata.get("source") == "fork"
        events = numbered(say_checkpoint(point, before, facts, is_fork_of_run=fork))
        since = int(before.point.document.get("seq") or 0) if before is not None else 0
        nbytes = 4 * len(point.values_json.data) + 4096
        return Said(seq, document.get("run"), ns, events, since=since, nbytes=nbytes)

    async def _say_started(self, entry: Document, run: RunRecord) -> Sequence[Told]:
        """What a run says at its beginning, where it goes on with what the thread left."""
        payload, thread_id, seq = run.facts.payload, entry["thread"], int(entry["seq"])
        command = payload.get("command") or {}
        if await self._began_before(entry, run):
            return ()
        head = await self._head_before(entry, run)
        base = payload.get("checkpoint_id") or head
        if base is None or _updates(command):
            return ()  # a command's update is said when it is durable
        standing = await self._standing(thread_id, "", base, seq, command)
        if standing is None:
            return ()
        replaces = standing.point.document.get("run") in (run.document.get("resumes") or ())
        if not command and payload.get("input") is not None and not replaces:
            return ()
        if payload.get("checkpoint_id") and command.get("resume") is None:
            settled = standing.point.metadata.get("source") in {"update", "fork"} and base == head
            if not settled:
                return ()  # the run branches off: the fork is a checkpoint of its own
        inner = await self._inner(thread_id, standing, seq)
        return [*say_resumed(standing, inner, run.facts, entry["at"])]

    async def _say_updated(self, entry: Document, run: RunRecord) -> Sequence[Told]:
        thread_id, seq = entry["thread"], int(entry["seq"])
        command = run.facts.payload.get("command") or {}
        # Tasks of the run may have written already: that is said when their superstep ends.
        standing = await self._standing(
            thread_id, "", entry["ev"]["checkpoint_id"], seq, command, of_tasks=run.first_seq
        )
        if standing is None:
            return ()
        inner = await self._inner(thread_id, standing, seq)
        return [*say_resumed(standing, inner, run.facts, entry["at"])]

    async def _began_before(self, entry: Document, run: RunRecord) -> bool:
        """Whether an earlier owner of the run began it."""
        if entry["epoch"] == 1:
            return False
        bounds = {"$gte": run.first_seq, "$lt": entry["seq"]}
        query = {"thread": entry["thread"], "seq": bounds, "run": entry["run"], "kind": keys.ENTRY}
        return bool(await self._notebook.store.find(query, {"_id": 1}))

    async def _head_before(self, entry: Document, run: RunRecord) -> str | None:
        """The newest root checkpoint when the run began: what ended before it names it."""
        seq = int(entry["seq"])
        query = {"thread": entry["thread"], "seq": {"$gte": max(run.first_seq - 1, 1), "$lt": seq}}
        for found in sorted(await self._notebook.store.find(query), key=lambda one: -int(one["seq"])):
            if found["kind"] == keys.ENTRY and found["event"] not in UNDER_WAY:
                head: str | None = found["ev"].get("checkpoint_id")
                return head
            if found["kind"] == keys.CHECKPOINT and found["ns"] == "" and not found.get("undone"):
                return str(found["checkpoint_id"])
        if RunStatus(run.document["status"]).active:
            thread = await self._store.thread(entry["thread"], run.document["tenant"])
            return None if thread is None else thread.get("head")
        return await self._parent_of_first(entry)

    async def _parent_of_first(self, entry: Document) -> str | None:
        """The parent of the first root checkpoint of the run that begins with an entry, if it is near."""
        for document in await self.page(entry["thread"], int(entry["seq"])):
            if document["kind"] == keys.CHECKPOINT and document["ns"] == "" and document.get("run") == entry["run"]:
                parent: str | None = document.get("parent")
                return parent
        return None

    async def _standing(
        self,
        thread_id: str,
        ns: str,
        checkpoint_id: str,
        seq: int,
        command: Document | None = None,
        *,
        of_tasks: int | None = None,
    ) -> Standing | None:
        """A checkpoint with what became of its tasks until a sequence number; ``None`` if it is not there.

        ``of_tasks``: for what tasks wrote themselves an earlier number.
        """
        found = await self._notebook.store.exact(Place(thread_id, ns, checkpoint_id))
        if found is None:
            return None
        codec = self._saver.codec
        until = [one for one in found.writes if documents.written_after(one["_id"]) <= seq]
        if of_tasks is not None:
            until = [one for one in until if _is_of_command(one) or documents.written_after(one["_id"]) <= of_tasks]
        updated = bool(documents.shown_after_writes(codec, until))
        point = await self._point(Found(found.document, until if updated else []))
        planned = plan(point, command)
        if not until:
            return Standing(point, planned)
        pending = await self._pending(thread_id, until)
        paths, writers = documents.task_paths(codec, until), documents.writers(codec, until)
        return Standing(point, planned, works(point, pending, paths, writers, planned))

    async def _pending(self, thread_id: str, found: Sequence[Document]) -> list[tuple[str, str, Any]]:
        """What pending writes wrote: task id, channel, value."""
        codec = self._saver.codec
        writes = documents.merge_writes(codec, found)
        wanted = [digest for write in writes for digest in values.digests_of(write.entry)]
        segments = await self._notebook.store.segments(codec, thread_id, wanted) if wanted else {}
        return [(one.task_id, one.channel, values.decode(codec, one.entry, segments)[0]) for one in writes]

    async def _inner(self, thread_id: str, standing: Standing, seq: int) -> list[Standing]:
        """Where the subgraphs stand in which tasks failed or wait, outer ones first."""
        found: list[Standing] = []
        outer = [standing]
        for _ in range(MAX_DEPTH):
            inner: list[Standing] = []
            for one in outer:
                for work in one.works:
                    if work.done or not (work.interrupts or work.error is not None):
                        continue
                    prefix = f"{one.point.ns}|" if one.point.ns else ""
                    ns = f"{prefix}{work.name}:{work.id}"
                    if (newest := await self._newest_of(thread_id, ns, seq)) is not None:
                        within = await self._standing(thread_id, ns, newest, seq)
                        inner += [within] if within is not None else []
            if not inner:
                break
            found += inner
            outer = inner
        return found

    async def _newest_of(self, thread_id: str, ns: str, seq: int) -> str | None:
        """The newest checkpoint of a subgraph that was there when a sequence number was taken."""
        query = keys.query(keys.checkpoints(thread_id, ns))
        fields = {"checkpoint_id": 1, "seq": 1, "undone": 1}
        found = await self._notebook.store.find(query, fields)
        stood = [one["checkpoint_id"] for one in found if int(one.get("seq") or 0) < seq and not one.get("undone")]
        return max(stood, default=None)

    async def _point(self, found: Found) -> Point:
        """A checkpoint with the values that readers are shown."""
        document = found.document
        place = (document["thread"], document["ns"], document["checkpoint_id"])
        if not found.writes and (kept := self._points.get(place)) is not None:
            self._points.move_to_end(place)
            return kept
        full = await self._notebook.assemble(self._saver.codec, found, None, remember=False, shown=True)
        point = Point(document, full.checkpoint, full.metadata)
        if not found.writes:
            self._points[place] = point
            if len(self._points) > POINTS_KEPT:
                self._points.popitem(last=False)
        return point


async def _nothing() -> None:
    return None


def _is_of_command(writes: Document) -> bool:
    return keys.parts(writes["_id"])[4] == documents.NULL_TASK


def _updates(command: Document) -> bool:
    """Whether a command changes what users see of the state."""
    update = command.get("update")
    if isinstance(update, dict):
        return any(map(is_visible, update))
    return bool(update)
