"""What runs and schedules were given, for lists of them: as much as a page may show.

Contract: a payload over ``SHOWN_BYTES`` as JSON is not shown, and none beyond ``PAGE_BYTES`` of a page, in the order of the page.
Sizes are those before compression: an input of 4 MiB may take 200 bytes in the database. Documents come without their payloads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from perdure.chassis.payload import Packed, raw_bytes, unpack

SHOWN_BYTES: Final = 1024 * 1024
PAGE_BYTES: Final = 8 * 1024 * 1024
AT_ONCE: Final = 20
"""Payloads that are read from the database together."""
ASIDE_BYTES: Final = 64 * 1024

Read = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


def is_shown(packed: Packed) -> bool:
    """Whether a payload is small enough to repeat it."""
    return not packed.chunks and raw_bytes(packed.inline) <= SHOWN_BYTES


def shown_payload(document: Mapping[str, Any]) -> Any:
    """The payload of a document, ``None`` where it is too large to repeat."""
    shown = not document.get("payload_chunks") and raw_bytes(document["payload"]) <= SHOWN_BYTES
    return unpack(document["payload"]) if shown else None


async def unpacked(data: bytes) -> Any:
    """A payload of any size, unpacked beside the event loop where it is large."""
    return await asyncio.to_thread(unpack, data) if raw_bytes(data) > ASIDE_BYTES else unpack(data)


async def payloads_of(read: Read, collection: Any, page: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The payloads of a page by document id; those that are not shown are left out.

    Args:
        read: Reads within the store's time-outs.
        collection: Of the documents.
        page: The documents.

    """
    ids = [str(one["_id"]) for one in page if not one.get("payload_chunks")]
    rest, shown = PAGE_BYTES, {}
    for start in range(0, len(ids), AT_ONCE):
        query = {"_id": {"$in": ids[start : start + AT_ONCE]}}
        found = await read(lambda query=query: collection.find(query, {"payload": 1}).to_list(None))  # type: ignore[misc]
        packed = {one["_id"]: one["payload"] for one in found if one.get("payload")}
        for id_ in ids[start : start + AT_ONCE]:
            size = raw_bytes(packed[id_]) if id_ in packed else rest + 1
            if size <= min(rest, SHOWN_BYTES):
                rest -= size
                shown[id_] = packed[id_]
        if not rest:
            break
    return await asyncio.to_thread(lambda: {id_: unpack(data) for id_, data in shown.items()})
