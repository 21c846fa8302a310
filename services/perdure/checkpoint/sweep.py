"""Deletes the segments of a thread that nothing names any more, while others may write to the thread (ADR 26).

Contract: a checkpoint that a run saves meanwhile stays readable. What makes it so:

* Segments that exist when the sweep begins are looked at, and nothing younger.
* A writer takes a segment for stored only while something that pruning keeps names it (``pages``). Otherwise it sends
  the segment with its checkpoint, and once more afterwards if it was there already (``GroupCommit``).
* After each deletion the names are read again, and what a checkpoint names by now is put back. So whichever came first,
  the deletion or the checkpoint, one of the two sides puts the segment there again.
* A segment that no deleted checkpoint named may belong to a commit that is just being applied: the sweep waits
  ``SETTLE_S`` before it believes that nothing names the segment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from perdure.checkpoint import documents, keys, values
from perdure.checkpoint.codec import Codec
from perdure.checkpoint.notebook import Notebook

AT_ONCE: Final = 64
"""Segments deleted at once; their bytes are held until the names are read again. Each is at most 4 MiB."""
SETTLE_S: Final = 1.0
"""How long the database may take between the first and the last document of one insert command."""


async def named(
    notebook: Notebook, codec: Codec, checkpoints: Mapping[str, Any], writes: Mapping[str, Any]
) -> set[bytes]:
    """The digests that the checkpoints and the pending writes of two queries name."""
    found: set[bytes] = set()
    for document in await notebook.store.find(checkpoints, {"body": 1, "z": 1, "enc": 1}):
        found.update(_digests(documents.named_entries(codec, document)))
    for document in await notebook.store.find(writes):
        found.update(_digests(documents.write_entries(codec, document)))
    return found


async def sweep_segments(notebook: Notebook, codec: Codec, thread: str, freed: Iterable[bytes]) -> None:
    """Delete the segments of a thread that nothing names; ``freed`` are those that deleted checkpoints named."""
    held = {
        document["_id"]
        for document in await notebook.store.find(keys.query(keys.of_kind(thread, keys.SEGMENT)), {"_id": 1})
    }
    loose = held - await _named_segments(notebook, codec, thread)
    if loose - {keys.segment(thread, one) for one in freed}:
        await asyncio.sleep(SETTLE_S)
        loose -= await _named_segments(notebook, codec, thread)
    doomed = sorted(loose)
    for start in range(0, len(doomed), AT_ONCE):
        query = {"_id": {"$in": doomed[start : start + AT_ONCE]}}
        bodies = await notebook.store.find(query)
        await notebook.store.delete(query)
        again = await _named_segments(notebook, codec, thread)
        if missed := [body for body in bodies if body["_id"] in again]:
            await notebook.commit.write(thread, content=missed, nbytes=sum(len(body["d"]) for body in missed))


async def _named_segments(notebook: Notebook, codec: Codec, thread: str) -> set[str]:
    checkpoints, writes = (keys.query(keys.of_kind(thread, kind)) for kind in (keys.CHECKPOINT, keys.WRITES))
    return {keys.segment(thread, one) for one in await named(notebook, codec, checkpoints, writes)}


def _digests(entries: Iterable[values.Entry]) -> Iterable[bytes]:
    return (one for entry in entries for one in values.digests_of(entry))
