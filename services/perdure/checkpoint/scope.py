"""What an executor tells the saver about the run that it owns.

Contract: the executor puts a :class:`RunScope` into ``config["configurable"][SCOPE_KEY]``. LangGraph hands it on to
subgraphs and keeps names that begin with two underscores out of the checkpoint metadata. With a scope every
checkpoint takes a sequence number, and a number that someone else occupies raises
:class:`perdure.checkpoint.errors.Fenced` (ADR 1). Without one the saver is an ordinary checkpointer.

Outside: claiming, leases and epochs. They are the executor's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata

if TYPE_CHECKING:
    from perdure.checkpoint.store import Found

SCOPE_KEY = "__perdure_run"
"""The key in ``config["configurable"]``."""

IN_FLIGHT_LIMIT = 8
"""Sequenced checkpoints of one run in flight at once, at most; a fence goes that far beyond the highest number seen."""

Describe: TypeAlias = Callable[[str, Checkpoint, CheckpointMetadata, RunnableConfig], dict[str, Any]]
"""``describe(ns, checkpoint, metadata, config)`` gives the event fields, a small BSON document."""

OnDurable: TypeAlias = Callable[[Mapping[str, Any]], None]

OnUpdate: TypeAlias = Callable[[str, str, Sequence[str]], Awaitable[None]]
"""``on_update(ns, checkpoint_id, channels)``: a command's writes to these channels of a checkpoint are durable."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class RunScope:
    """One run, as its owner knows it. Used on the saver's event loop only."""

    thread_id: str
    run_id: str
    epoch: int
    """How often the run had been claimed; the owner's fencing token."""
    next_seq: int
    """The next sequence number of the thread; executor and saver take from the same counter."""
    new_thread: bool = False
    """Nothing can be stored for this thread yet: what this run has not written itself need not be looked for."""
    head: str | None = None
    """The newest root checkpoint id if known, so that the load is exact. The saver keeps it current."""
    found: Found | None = None
    """The checkpoint ``head`` with its pending writes, if it was read since the run was claimed; used for the first load."""
    floor: str | None = None
    """Without ``head``: a root checkpoint id that the newest one is not below, if known; saves a read."""
    describe: Describe | None = None
    """Event fields, stored in the checkpoint's document as ``ev``."""
    on_durable: OnDurable | None = None
    """Called on the event loop with each checkpoint's document once it is durable, in order of completion; must not
    raise."""
    on_update: OnUpdate | None = None
    """Called when the writes of a command are durable. No checkpoint takes a sequence number before it returns."""
    updating: asyncio.Future[None] | None = None
    """Done when ``on_update`` has returned; set by the saver."""
    initial: Mapping[str, Any] = field(default_factory=dict)
    """Values that channels of the root graph have before anything is written to them (ADR 22)."""
    sdk: object = None
    """What ``perdure.sdk`` works with (``perdure.sdk.context.SdkContext``); the saver does not look at it."""
    in_flight: set[asyncio.Future[None]] = field(default_factory=set, repr=False)
    """Writes of checkpoints that have a sequence number and are not known to be durable yet."""
    fenced: bool = False
    """Set by the saver when another owner was met; every later write raises at once."""
    _closers: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def take_seq(self) -> int:
        """The next sequence number; each is given out once."""
        seq = self.next_seq
        self.next_seq = seq + 1
        return seq

    async def landed(self) -> None:
        """Wait until all checkpoints that were handed to the database are durable, or refused; also those of cancelled puts."""
        while self.in_flight:
            await asyncio.wait(self.in_flight)

    def on_close(self, closer: Callable[[], None]) -> None:
        """Have ``closer`` called when the run ends (the saver drops what it keeps for the run)."""
        self._closers.append(closer)

    def close(self) -> None:
        """The run is over here: drop everything kept for it. Idempotent."""
        closers, self._closers = self._closers, []
        for closer in closers:
            closer()

    def __deepcopy__(self, _: dict[int, Any]) -> RunScope:
        return self


def scope_of(config: RunnableConfig) -> RunScope | None:
    """The scope that travels in ``config``, if any. A node may use another thread: that is not the run's history."""
    conf = config["configurable"]
    scope = conf.get(SCOPE_KEY)
    return scope if isinstance(scope, RunScope) and scope.thread_id == conf.get("thread_id") else None
