"""The history of a thread as its owner sees it: entries for transitions, and what is there when a run is taken over (ADR 1).

Contract: :func:`begin` returns when the run's ``started`` entry is durable; from then on no earlier owner can write. If an earlier
owner had ended the run already, the outcome that it recorded is returned instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from perdure.agent_step.claims import Claimed
from perdure.agent_step.domain import Outcome
from perdure.chassis.clock import now
from perdure.chassis.group_commit import DuplicateKey
from perdure.checkpoint import PerdureSaver, keys
from perdure.checkpoint.documents import Place
from perdure.checkpoint.errors import Fenced
from perdure.checkpoint.store import Found
from perdure.schemas.documents import RunKind

ENTRY_FIELDS = dict.fromkeys(
    ("kind", "thread", "run", "epoch", "seq", "ns", "checkpoint_id", "parent", "step", "event", "at", "ev", "undone"), 1
)
"""Projection of a history document that holds what its event needs, without the state."""
UNDER_WAY = frozenset({"started", "updated"})
"""Entries that do not end their run."""


@dataclass(slots=True)
class Beginning:
    """Where an owner begins."""

    first_seq: int
    """The first sequence number of the run, over all its owners."""
    next_seq: int
    """The next free one."""
    head: str | None
    """The newest root checkpoint id; ``None`` when the thread has none."""
    waiting_at: tuple[str, ...] = ()
    """The nodes that are next there."""
    progressed: bool = False
    """Whether the newest root checkpoint is this run's own, or of a failed one that it takes the place of, so that it goes on
    without its input."""
    read_back: bool = False
    """Whether the history itself was read: the thread's document, which was read before it, may be older."""
    found: Found | None = None
    """``head`` as it is stored, where it was read already."""
    entries: list[dict[str, Any]] = field(default_factory=list)
    """The run's entries that may not have been published, oldest first, the new ``started`` last."""
    before: Outcome | None = None
    """How the run before left the thread, where the history was read and says so; else the thread's document does."""
    ended: Outcome | None = None
    ended_seq: int = 0
    moved_on: bool = False
    """Whether another run wrote to the thread since the thread's document said where it stood."""


Expect = Callable[[Sequence[str]], datetime]


async def begin(saver: PerdureSaver, claimed: Claimed, worker_id: str, expect: Expect) -> Beginning:
    """Take over a run that was claimed; ``expect`` says by when a superstep of some nodes should have ended."""
    run, thread = claimed.run, claimed.thread or {}
    first = thread.get("seq", 0) + 1
    if run["_id"] in (thread.get("ended_run_id"), thread.get("refused_run_id")):
        # The owner before died between the thread's document and the run's: the end is in the history below ``seq`` already.
        first = thread["ended_first_seq"]
    left = Beginning(
        first_seq=first,
        next_seq=first,
        head=thread.get("head"),
        waiting_at=tuple(thread.get("next") or ()),
        progressed=await _is_of_those_before(saver, run, thread.get("head")),
    )
    if run["epoch"] == 1:
        # Nobody had the run before, and whoever had the thread has ended: nothing is added to its head any more.
        found = asyncio.ensure_future(_head(saver, run, left))
        try:
            await _start(saver, run, left, worker_id, expect)
            left.found = await found
            return left
        except Fenced:
            pass  # the run before ended and the thread's document does not say so yet: look at the history itself
        finally:
            found.cancel()
    left.read_back = True
    while True:
        left.next_seq = await saver.fence(run["thread_id"], run["_id"], run["epoch"], left.first_seq)
        await _read_back(saver, run, left)
        if left.ended is not None:
            return left
        try:
            return await _start(saver, run, left, worker_id, expect)
        except Fenced:
            continue  # somebody wrote between the fence and the start: look again


async def entries_of(saver: PerdureSaver, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The history entries of a run that has ended, oldest first."""
    bounds = {"$gte": run["first_seq"], "$lte": run["ended_seq"]}
    query = {"thread": run["thread_id"], "seq": bounds, "run": run["_id"]}
    return sorted(await saver.notebook.store.find(query, ENTRY_FIELDS), key=lambda entry: entry["seq"])


async def entries_from(saver: PerdureSaver, thread_id: str, seq: int) -> list[dict[str, Any]]:
    """The history entries of a thread from a sequence number on, oldest first."""
    query = {"thread": thread_id, "seq": {"$gte": seq}, "kind": {"$ne": keys.FENCE}}
    return sorted(await saver.notebook.store.find(query, ENTRY_FIELDS), key=lambda entry: entry["seq"])


async def append(
    saver: PerdureSaver, run: Mapping[str, Any], seq: int, event: str, ev: dict[str, Any], *, undone: bool = False
) -> dict[str, Any]:
    """Add a transition of a run to its thread's history, durably; the entry. ``undone``: what the run wrote is undone.

    Raises:
        Fenced: the sequence number is taken: the run has another owner.

    """
    entry: dict[str, Any] = {
        "_id": keys.entry(run["thread_id"], seq),
        "kind": keys.ENTRY,
        "thread": run["thread_id"],
        "run": run["_id"],
        "epoch": run["epoch"],
        "seq": seq,
        "at": now(),
        "event": event,
        "ev": ev,
    }
    if undone:
        entry["undone"] = True
    try:
        await saver.notebook.commit.write(run["thread_id"], inserts=[entry])
    except DuplicateKey as error:
        raise Fenced(run["thread_id"], run["_id"], run["epoch"], seq) from error
    return entry


async def _is_of_those_before(saver: PerdureSaver, run: Mapping[str, Any], head: str | None) -> bool:
    """Whether the newest checkpoint was left by one of the failed runs that this one takes the place of."""
    if head is None or not run.get("resumes"):
        return False
    key = keys.checkpoint(run["thread_id"], "", head)
    return any(entry["run"] in run["resumes"] for entry in await saver.notebook.store.find({"_id": key}, {"run": 1}))


async def _head(saver: PerdureSaver, run: Mapping[str, Any], left: Beginning) -> Found | None:
    if left.head is None:
        return None
    return await saver.notebook.store.exact(Place(run["thread_id"], "", left.head))


async def _start(
    saver: PerdureSaver, run: Mapping[str, Any], left: Beginning, worker_id: str, expect: Expect
) -> Beginning:
    ev: dict[str, Any] = {"worker_id": worker_id, "expected_by": expect(left.waiting_at), "next": list(left.waiting_at)}
    if run.get("kind") == RunKind.UPDATE:
        ev["quiet"] = True
    entry = await append(saver, run, left.next_seq, "started", ev)
    left.next_seq += 1
    left.entries.append(entry)
    return left


async def _read_back(saver: PerdureSaver, run: Mapping[str, Any], left: Beginning) -> None:
    """Read what is stored from the run's first number on."""
    query = {"thread": run["thread_id"], "seq": {"$gte": left.first_seq, "$lt": left.next_seq}}
    found = [e for e in await saver.notebook.store.find(query, ENTRY_FIELDS) if e["kind"] != keys.FENCE]
    found.sort(key=lambda entry: entry["seq"])
    left.entries = [entry for entry in found if entry["run"] == run["_id"]]
    left.moved_on = len(left.entries) < len(found)
    checkpoints = (entry for entry in found if entry["kind"] == keys.CHECKPOINT and entry["ns"] == "")
    roots = [entry for entry in checkpoints if not entry.get("undone")]
    if roots:
        newest = max(roots, key=lambda entry: str(entry["checkpoint_id"]))
        left.head = newest["checkpoint_id"]
        left.waiting_at = tuple(newest.get("ev", {}).get("next", ()))
        left.progressed = newest["run"] in {run["_id"], *run.get("resumes", ())}
    ends = [entry for entry in found if entry["kind"] == keys.ENTRY and entry["event"] not in UNDER_WAY]
    for entry in ends:
        if entry["run"] == run["_id"]:
            left.ended, left.ended_seq = Outcome.from_entry(entry), entry["seq"]
        else:
            left.before = Outcome.from_entry(entry)
