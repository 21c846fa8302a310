"""The core of the saver: puts and loads on one event loop.

Contract: everything here runs on the event loop that the notebook is bound to; ``perdure.checkpoint.saver`` brings
other threads there. A put returns when the checkpoint and everything that it names is durable. What is encoded is the
value at the moment of the call, before anything is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from pymongo import ReplaceOne, UpdateOne

from perdure.chassis.at_rest import sealed
from perdure.chassis.group_commit import DuplicateKey, WriteRefused
from perdure.chassis.laned_commit import LanedCommit
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability
from perdure.checkpoint import clock, documents, keys, values
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.documents import NULL_TASK, Document, Place, StoredCheckpoint
from perdure.checkpoint.errors import Fenced, NotSerialisable, StoreRefused
from perdure.checkpoint.pages import Page, Pages, ThreadPages
from perdure.checkpoint.places import config_of, owned_config, place_of
from perdure.checkpoint.scope import RunScope, scope_of
from perdure.checkpoint.sealing import NOBODY, Bundle, encode_value, finish
from perdure.checkpoint.shown import before_first_write, encode_shown, known_blocks, split
from perdure.checkpoint.store import COLLECTION, Found, Store

HEAD_EVERY: Final = 32
"""Steps between two refreshes of a head hint."""
UPDATES: Final = frozenset({"update", "input"})
"""Sources of checkpoints that ``update_state`` makes."""


class Notebook:
    """Checkpoints and pending writes of one collection."""

    def __init__(self, database: Database, *, availability: Availability) -> None:
        self.store = Store(database, availability)
        self.commit = LanedCommit(self.store.collection, availability=availability)
        self.pages = Pages()
        self._codecs: dict[int, Codec] = {}

    def codec(self, serde: SerializerProtocol) -> Codec:
        """The codec of a serializer (LangGraph may clone the saver with another one)."""
        found = self._codecs.get(id(serde))
        if found is None or found.serde is not serde:
            found = self._codecs[id(serde)] = Codec(serde)
        return found

    async def put(
        self,
        codec: Codec,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint durably; see ``BaseCheckpointSaver.aput``."""
        scope = scope_of(config)
        place = place_of(config, checkpoint["id"])
        parent = config["configurable"].get("checkpoint_id")
        pages = self.pages.of(place.thread, scope)
        described = checkpoint
        if checkpoint.get("updated_channels") is None and metadata.get("source") in UPDATES:
            described = {**checkpoint, "updated_channels": list(new_versions)}  # a state update does not say it
        checkpoint, shown = split(checkpoint)
        if scope is not None and scope.initial and not place.ns:
            shown |= before_first_write(scope.initial, checkpoint)
        before = await self._parent_page(codec, pages, place, parent, checkpoint=checkpoint, new_versions=new_versions)
        recent = pages.namespaces.get(place.ns)
        page, bundle = _encode_checkpoint(
            codec, place, parent, checkpoint, metadata, new_versions=new_versions, before=before, pages=pages
        )
        if shown:
            encode_shown(codec, bundle, page, shown, before=before, recent=recent, new_versions=new_versions)
        if bundle.heavy:
            await bundle.finish_aside(codec)
        else:
            finish(codec, bundle)
        entries = {name: value.entry() for name, value in page.values.items()}
        stored_metadata = get_checkpoint_metadata(config, metadata)
        beside = {name: value.entry() for name, value in page.shown.items()}
        document = documents.checkpoint_document(
            codec, place, parent, checkpoint, stored_metadata, entries=entries, base=page.base, shown=beside
        )
        pages.turn(place.ns, page, loaded=False)
        try:
            if scope is None:
                await self._store(document, bundle)
                self.pages.trim()
            else:
                event = scope.describe(place.ns, described, stored_metadata, config) if scope.describe else None
                await self._store_owned(pages, scope, document, event, bundle)
        except BaseException:
            self.pages.drop(place.thread)
            raise
        return config_of(place) if scope is None else owned_config(config, place)

    async def put_writes(
        self, codec: Codec, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        """Store the pending writes of a task; see ``BaseCheckpointSaver.aput_writes``."""
        if not writes:
            return
        scope = scope_of(config)
        place = place_of(config, config["configurable"]["checkpoint_id"])
        if scope is None or scope.on_update is None or task_id != NULL_TASK:
            await self._put_writes(codec, place, scope, writes, task_id, task_path)
            return
        scope.updating = updating = asyncio.get_running_loop().create_future()
        try:
            await self._put_writes(codec, place, scope, writes, task_id, task_path)
            await scope.on_update(place.ns, place.checkpoint_id, [channel for channel, _ in writes])
        finally:
            updating.set_result(None)

    async def show_update(self, codec: Codec, place: Place, scope: RunScope, shown: Mapping[str, Any]) -> None:
        """Store what the writes of a command made of their channels, for readers."""
        await self._put_writes(codec, place, scope, (), NULL_TASK, "", shown)

    async def _put_writes(
        self,
        codec: Codec,
        place: Place,
        scope: RunScope | None,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        _refuse_if_fenced(scope)
        pages = self.pages.of(place.thread, scope)
        bundle = Bundle(place.thread, pages)
        encoded = []
        for index, (channel, value) in enumerate(writes):
            try:
                one = encode_value(
                    codec, place.thread, channel, value, None, task_id=task_id, task_path=task_path, ns=place.ns
                )
            except NotSerialisable as error:
                # The checkpoint of the superstep fails, too, and does not know who wrote this.
                if error.node is not None:
                    pages.unstorable.setdefault(place.ns, {}).setdefault(channel, []).append(error.node)
                raise
            bundle.add(one)
            encoded.append((WRITES_IDX_MAP.get(channel, index), channel, one))
        after = {name: encode_value(codec, place.thread, name, value, None) for name, value in (shown or {}).items()}
        for one in after.values():
            bundle.add(one)
        if bundle.heavy:
            await bundle.finish_aside(codec)
        else:
            finish(codec, bundle)
        rows = [(index, channel, one.entry()) for index, channel, one in encoded]
        beside = {name: one.entry() for name, one in after.items()}
        document = documents.writes_document(
            codec, place, keys.checked("task id", task_id), task_path, rows=rows, scope=scope, shown=beside
        )
        try:
            pages.take_written(place.ns, bundle.fresh)
            await self.commit.write(
                place.thread,
                content=bundle.submit(),
                inserts=[document],
                nbytes=bundle.nbytes + len(document["body"]) + 256,
            )
        except BaseException as error:
            self.pages.drop(place.thread)
            if isinstance(error, WriteRefused):
                raise StoreRefused(place.thread, str(error)) from error
            raise

    async def get_tuple(self, codec: Codec, config: RunnableConfig) -> CheckpointTuple | None:
        """Load a checkpoint with its pending writes; see ``BaseCheckpointSaver.aget_tuple``."""
        found = await self.locate(config)
        if found is None:
            return None
        return await self.assemble(codec, found, scope_of(config), remember=True)

    async def locate(self, config: RunnableConfig) -> Found | None:
        """Find the checkpoint that ``config`` names, or the newest of its namespace."""
        conf = config["configurable"]
        scope = scope_of(config)
        thread, ns = keys.checked("thread id", conf["thread_id"]), conf.get("checkpoint_ns", "")
        if checkpoint_id := conf.get("checkpoint_id"):
            return await self.store.exact(place_of(config, checkpoint_id))
        keys.checked("checkpoint namespace", ns, empty=True)
        if scope is None:
            return await self.store.newest(thread, ns)
        page = self.pages.of(thread, scope).namespaces.get(ns)
        if page is None and ns == "" and scope.found is not None:
            read, scope.found = scope.found, None
            return read
        if scope.new_thread and page is None:
            return None
        known = page.checkpoint_id if page else scope.head if ns == "" else None
        if known:
            found = await self.store.exact(Place(thread, ns, known))
            if found is not None:
                return found
        return await self.store.newest(thread, ns, scope.floor if ns == "" else None)

    async def assemble(
        self, codec: Codec, found: Found, scope: RunScope | None, *, remember: bool, shown: bool = False
    ) -> CheckpointTuple:
        """Decode what was found; ``remember`` keeps its page, to write only what changes.

        With ``shown`` the channels' values are those that LangGraph's ``get_state`` shows: for readers only.
        """
        stored = documents.read_checkpoint(codec, found.document)
        if shown:
            stored.entries = {**stored.entries, **stored.shown, **documents.shown_after_writes(codec, found.writes)}
        writes = documents.merge_writes(codec, found.writes)
        thread = stored.place.thread
        wanted = [one for entry in stored.entries.values() for one in values.digests_of(entry)]
        wanted.extend(one for write in writes for one in values.digests_of(write.entry))
        segments = await self.store.segments(codec, thread, wanted) if wanted else {}
        encoded: dict[str, values.Encoded] = {}
        for channel, entry in stored.entries.items():
            stored.checkpoint["channel_values"][channel], encoded[channel] = values.decode(codec, entry, segments)
        if remember:
            clock.follow(stored.place.checkpoint_id)
            pages = self.pages.of(thread, scope)
            pages.turn(stored.place.ns, _page_of(stored, encoded), loaded=True)
            pages.take_written(stored.place.ns, {one for write in writes for one in values.digests_of(write.entry)})
            self.pages.trim()
        return CheckpointTuple(
            config=config_of(stored.place),
            checkpoint=stored.checkpoint,
            metadata=stored.metadata,
            parent_config=config_of(Place(thread, stored.place.ns, stored.parent)) if stored.parent else None,
            pending_writes=[
                (write.task_id, write.channel, values.decode(codec, write.entry, segments)[0]) for write in writes
            ],
        )

    async def _parent_page(
        self,
        codec: Codec,
        pages: ThreadPages,
        place: Place,
        parent: str | None,
        *,
        checkpoint: Checkpoint,
        new_versions: ChannelVersions,
    ) -> Page | None:
        """The parent's page; read from the store only when the checkpoint leaves out values that the parent holds."""
        if not parent:
            return None
        page = pages.namespaces.get(place.ns)
        if page is not None and page.checkpoint_id == parent:
            return page
        held = checkpoint["channel_values"]
        if all(name in held or name in new_versions for name in checkpoint["channel_versions"]):
            return None
        found = await self.store.exact(Place(place.thread, place.ns, parent))
        if found is None:
            return None
        stored = documents.read_checkpoint(codec, found.document)
        return _page_of(stored, {name: values.Encoded.stored(entry) for name, entry in stored.entries.items()})

    async def _store(self, document: Document, bundle: Bundle) -> None:
        """Ordinary use: a checkpoint that is there already is replaced."""
        nbytes = bundle.nbytes + len(document["body"]) + 512
        hint = _head_update(document)
        thread = document["thread"]
        try:
            await self.commit.write(thread, content=bundle.submit(), inserts=[document], updates=hint, nbytes=nbytes)
        except DuplicateKey:
            replace = ReplaceOne({"_id": document["_id"]}, sealed(COLLECTION, document), upsert=True)
            await self.commit.write(thread, content=bundle.submit(), updates=[replace], nbytes=nbytes)
        except WriteRefused as error:
            raise StoreRefused(thread, str(error)) from error

    async def _store_owned(
        self,
        pages: ThreadPages,
        scope: RunScope,
        document: Document,
        event: Document | None,
        bundle: Bundle,
    ) -> None:
        """An owner's checkpoint takes a sequence number; a number that another holds ends the ownership (ADR 1)."""
        if scope.updating is not None:
            await scope.updating
        await pages.slots.acquire()
        try:
            _refuse_if_fenced(scope)
            seq = scope.take_seq()
            documents.own(document, scope, seq, event)
            nbytes = bundle.nbytes + len(document["body"]) + 2048
            written = await self.commit.submit(
                document["thread"],
                content=bundle.submit(),
                inserts=[document],
                updates=_head_update(document),
                nbytes=nbytes,
            )
        except BaseException:
            pages.slots.release()
            raise
        scope.in_flight.add(written)
        written.add_done_callback(partial(_landed, pages, scope, document))
        try:
            # Also of a run that is cancelled now: what is written is a part of the history, and its event has to be told.
            await asyncio.shield(written)
        except DuplicateKey as error:
            raise Fenced(scope.thread_id, scope.run_id, scope.epoch, seq) from error
        except WriteRefused as error:
            raise StoreRefused(scope.thread_id, str(error)) from error


def _landed(pages: ThreadPages, scope: RunScope, document: Document, written: asyncio.Future[None]) -> None:
    """An owner's checkpoint is written, or refused."""
    scope.in_flight.discard(written)
    pages.slots.release()
    if written.cancelled():
        return
    error = written.exception()
    if error is not None:
        scope.fenced |= isinstance(error, DuplicateKey)
        return
    if document["ns"] == "" and (scope.head is None or scope.head < document["checkpoint_id"]):
        scope.head = document["checkpoint_id"]
    if scope.on_durable is not None:
        scope.on_durable(document)


def _refuse_if_fenced(scope: RunScope | None) -> None:
    if scope is not None and scope.fenced:
        raise Fenced(scope.thread_id, scope.run_id, scope.epoch, scope.next_seq)


def _page_of(stored: StoredCheckpoint, encoded: dict[str, values.Encoded]) -> Page:
    shown = {name: values.Encoded.stored(entry) for name, entry in stored.shown.items()}
    versions = stored.checkpoint["channel_versions"]
    return Page(stored.place.checkpoint_id, stored.parent, versions, encoded, dict(stored.base), shown)


def _encode_checkpoint(
    codec: Codec,
    place: Place,
    parent: str | None,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    *,
    new_versions: ChannelVersions,
    before: Page | None,
    pages: ThreadPages,
) -> tuple[Page, Bundle]:
    """Encode the channels that changed; the others keep what the parent holds."""
    bundle = Bundle(place.thread, pages)
    recent = pages.namespaces.get(place.ns)
    held = checkpoint["channel_values"]
    writers = pages.unstorable.get(place.ns, NOBODY)
    kept: dict[str, values.Encoded] = {}
    for name, version in checkpoint["channel_versions"].items():
        inherited = before.values.get(name) if before is not None and name not in new_versions else None
        if inherited is not None and before is not None and before.versions.get(name) == version:
            kept[name] = inherited
        elif name in held:
            previous = known_blocks(recent, name)
            kept[name] = encode_value(codec, place.thread, name, held[name], previous, ns=place.ns, writers=writers)
            bundle.add(kept[name])
    base = _delta_base(parent, metadata.get("counters_since_delta_snapshot"), kept, before)
    return Page(place.checkpoint_id, parent, dict(checkpoint["channel_versions"]), kept, base), bundle


def _delta_base(
    parent: str | None, counters: Mapping[str, Any] | None, kept: Mapping[str, values.Encoded], before: Page | None
) -> dict[str, str]:
    """Where rebuilding each DeltaChannel may stop: at the parent if it holds a value, else where the parent's stops."""
    if not counters or before is None or parent is None:
        return {}
    return {
        name: parent if name in before.values else before.base.get(name, "") for name in counters if name not in kept
    }


def _head_update(document: Mapping[str, Any]) -> list[UpdateOne]:
    step = document["step"]
    if not isinstance(step, int) or step <= 0 or step % HEAD_EVERY:
        return []
    key = keys.head(document["thread"], document["ns"])
    return [UpdateOne({"_id": key}, {"$max": {"head": document["checkpoint_id"]}}, upsert=True)]
