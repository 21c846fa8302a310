"""``PerdureSaver``: LangGraph's checkpointer on MongoDB, for any LangGraph program.

::

    with PerdureSaver.from_conn_string("mongodb://localhost:27017/perdure") as saver:
        graph = builder.compile(checkpointer=saver)
        graph.invoke(inputs, {"configurable": {"thread_id": "1"}})

    async with PerdureSaver.from_conn_string(uri) as saver:
        await builder.compile(checkpointer=saver).ainvoke(inputs, config)

Contract: a full ``BaseCheckpointSaver``. Synchronous and asynchronous methods are one implementation on one event
loop: ``with`` gives the saver a loop of its own, so that synchronous calls work everywhere, also where a loop runs
(Jupyter, a web handler); ``async with`` uses the loop that runs, and a synchronous call on that loop's thread raises
``WrongThread``. A put returns when the data is durable on a majority. A lost connection is waited for, however long it
takes.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from perdure.chassis import mongo
from perdure.chassis.mongo import Client, Database
from perdure.chassis.outage import Availability
from perdure.checkpoint import fencing, history, listing, undoing, upkeep
from perdure.checkpoint.bridge import Bridge
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.notebook import Notebook

if TYPE_CHECKING:
    from typing import Self


class PerdureSaver(BaseCheckpointSaver[Any]):
    """Stores checkpoints and pending writes in the collection ``notebook`` of a MongoDB database.

    Args:
        client_or_database: A Motor client (its default database, or ``perdure``) or database.
        serde: LangGraph serializer; must not unpickle. An ``EncryptedSerializer`` encrypts every stored value.
        availability: Shared with others that must know of an outage.

    """

    def __init__(
        self,
        client_or_database: Client | Database,
        *,
        serde: SerializerProtocol | None = None,
        availability: Availability | None = None,
    ) -> None:
        super().__init__(serde=serde)
        database = mongo.database_of(client_or_database)
        self.availability = availability or Availability()
        self.notebook = Notebook(database, availability=self.availability)
        self._codec: Codec = self.notebook.codec(self.serde)
        self._bridge = Bridge()
        self._client: Client | None = None

    @classmethod
    def from_conn_string(cls, uri: str, *, serde: SerializerProtocol | None = None, **options: Any) -> Self:
        """A saver with a client of its own, for ``with`` or ``async with``, which create the index and close it.

        ``with`` starts an event loop on a thread of its own for the saver; ``async with`` uses the loop that runs.

        Args:
            uri: MongoDB connection string; the database is the one that it names, ``perdure`` if it names none.
            serde: See the class.
            options: More options for the client.

        """
        client = mongo.connect(uri, **options)
        saver = cls(mongo.database(client, uri), serde=serde)
        saver._client = client
        saver._bridge = Bridge(here=False)
        return saver

    def __enter__(self) -> Self:
        self._bridge.call("ensure_indexes", self.notebook.store.ensure_indexes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.ensure_indexes()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Wait for what was submitted, then close what the saver opened itself."""
        self._bridge.call("close", self.notebook.commit.close())
        self._bridge.close()
        if self._client is not None:
            self._client.close()

    async def aclose(self) -> None:
        """:meth:`close` for ``async``."""
        await self._bridge.run(self.notebook.commit.close())
        self._bridge.close()
        if self._client is not None:
            self._client.close()

    async def ensure_indexes(self) -> None:
        """Create the index that keeps histories linear. Idempotent; needed once before runs with a scope."""
        await self._bridge.run(self.notebook.store.ensure_indexes())

    async def fence(self, thread_id: str, run_id: str, epoch: int, from_seq: int) -> int:
        """Make sure that no previous owner of the run can write any more; the next free sequence number (ADR 1)."""
        return await self._bridge.run(fencing.fence(self.notebook, thread_id, run_id, epoch, from_seq))

    async def undo(self, thread_id: str, run_id: str, first_seq: int, last_seq: int) -> None:
        """Undo what a run wrote between two of its sequence numbers (ADR 32). Idempotent."""
        await self._bridge.run(undoing.undo(self.notebook, thread_id, run_id, first_seq, last_seq))

    @property
    def codec(self) -> Codec:
        """The codec of the serializer in use (LangGraph may clone the saver with another one)."""
        if self._codec.serde is not self.serde:
            self._codec = self.notebook.codec(self.serde)
        return self._codec

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The version after ``current``, of the same kind.

        New threads count in integers. A thread that was copied from LangGraph's memory, SQLite or Postgres saver has
        text: the number in 32 digits, a dot, and a random part that tells forks apart. It continues so.

        Raises:
            ValueError: ``current`` is text that does not begin with a number.

        """
        if not isinstance(current, str):
            return super().get_next_version(current, channel)
        number = current.partition(".")[0]
        if not number.isdecimal():
            raise ValueError(f"channel version {current!r} has no successor: it does not begin with a number")
        return f"{int(number) + 1:032}.{random.random():016}"  # noqa: S311 - tells forks apart, protects nothing

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint durably.

        Raises:
            NotSerialisable: A channel's value cannot be stored.
            Fenced: The run of the scope has another owner.

        """
        return await self._bridge.run(self.notebook.put(self.codec, config, checkpoint, metadata, new_versions))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See :meth:`aput`."""
        return self._bridge.call("put", self.notebook.put(self.codec, config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the pending writes of a task durably.

        Raises:
            NotSerialisable: A value cannot be stored.
            Fenced: The run of the scope has another owner.

        """
        await self._bridge.run(self.notebook.put_writes(self.codec, config, writes, task_id, task_path))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """See :meth:`aput_writes`."""
        self._bridge.call("put_writes", self.notebook.put_writes(self.codec, config, writes, task_id, task_path))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that ``config`` names, or the newest of its thread and namespace, or ``None``.

        Raises:
            Damaged: What is stored is not whole.

        """
        return await self._bridge.run(self.notebook.get_tuple(self.codec, config))

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See :meth:`aget_tuple`."""
        return self._bridge.call("get_tuple", self.notebook.get_tuple(self.codec, config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Matching checkpoints, newest first. ``filter`` compares metadata values for equality."""
        found = listing.list_tuples(self.notebook, self.codec, config, filter=filter, before=before, limit=limit)
        try:
            while (one := await self._bridge.run(_next(found))) is not None:
                yield one
        finally:
            await self._bridge.run(_close(found))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See :meth:`alist`."""
        found = listing.list_tuples(self.notebook, self.codec, config, filter=filter, before=before, limit=limit)
        try:
            while (one := self._bridge.call("list", _next(found))) is not None:
                yield one
        finally:
            self._bridge.call("list", _close(found))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread. Not while it is executed."""
        await self._bridge.run(upkeep.delete_thread(self.notebook, thread_id))

    def delete_thread(self, thread_id: str) -> None:
        """See :meth:`adelete_thread`."""
        self._bridge.call("delete_thread", upkeep.delete_thread(self.notebook, thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str], *, thread_ids: Sequence[str] | None = None) -> None:
        """Delete the checkpoints and writes of runs; naming their threads spares a search of the whole collection.

        Raises:
            TypeError: ``run_ids`` or ``thread_ids`` is one string.

        """
        await self._bridge.run(upkeep.delete_for_runs(self.notebook, self.codec, run_ids, thread_ids))

    def delete_for_runs(self, run_ids: Sequence[str], *, thread_ids: Sequence[str] | None = None) -> None:
        """See :meth:`adelete_for_runs`."""
        self._bridge.call("delete_for_runs", upkeep.delete_for_runs(self.notebook, self.codec, run_ids, thread_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes to another thread."""
        await self._bridge.run(upkeep.copy_thread(self.notebook, source_thread_id, target_thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See :meth:`acopy_thread`."""
        self._bridge.call("copy_thread", upkeep.copy_thread(self.notebook, source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete what threads no longer need: ``keep_latest``, or ``delete`` for all of it.

        ``keep_latest`` keeps the newest checkpoint of each namespace and the ancestors that its DeltaChannels are
        rebuilt from. A kept checkpoint whose parent is deleted has no parent. The namespace of a subgraph call goes
        when the root graph has a newer checkpoint than the one the call started from; a ``checkpointer=True`` subgraph
        keeps its newest. A run may save checkpoints meanwhile; do not fork or replay from one that is being deleted.

        Raises:
            TypeError: ``thread_ids`` is one string.
            ValueError: Unknown strategy.

        """
        await self._bridge.run(upkeep.prune(self.notebook, self.codec, thread_ids, strategy))

    async def prune_telling(self, thread_id: str, before: upkeep.BeforePruning) -> None:
        """``aprune`` with ``keep_latest`` of one thread; ``before`` is told which sequence numbers go, before they do."""
        await self._bridge.run(upkeep.prune(self.notebook, self.codec, [thread_id], "keep_latest", before))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See :meth:`aprune`."""
        self._bridge.call("prune", upkeep.prune(self.notebook, self.codec, thread_ids, strategy))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Writes and seed of DeltaChannels along the ancestors of a checkpoint."""
        return await self._bridge.run(history.delta_history(self.notebook, self.codec, config, channels))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See :meth:`aget_delta_channel_history`."""
        return self._bridge.call(
            "get_delta_channel_history", history.delta_history(self.notebook, self.codec, config, channels)
        )


async def _next(found: AsyncIterator[CheckpointTuple]) -> CheckpointTuple | None:
    return await anext(found, None)


async def _close(found: AsyncIterator[CheckpointTuple]) -> None:
    await found.aclose()  # type: ignore[attr-defined]
