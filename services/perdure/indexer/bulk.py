"""Bulk requests: building the newline-delimited body and reading what became of each item. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Final

import orjson

from perdure.chassis.opensearch import UNAVAILABLE_STATUS
from perdure.indexer.domain import event_id, version
from perdure.schemas.index import IndexDocument


class Outcome(Enum):
    """What became of an item."""

    DONE = "done"
    """It is in the index, or something newer is."""
    AGAIN = "again"
    """The same item may succeed later."""
    MOVED = "moved"
    """Its index takes no writes any more or is gone: look again where to write."""
    REFUSED = "refused"
    """It will never be taken."""


@dataclass(frozen=True, slots=True)
class Item:
    """One document to write.

    Attributes:
        document: What is written.
        source: The document as JSON.
        newest: Whether it goes to the threads index (by thread, newest wins), else to the states index (by event id).

    """

    document: IndexDocument
    source: bytes
    newest: bool = False


_MOVED: Final = frozenset({"cluster_block_exception", "index_not_found_exception", "index_closed_exception"})


def state_item(document: IndexDocument) -> Item:
    """The item for the states index."""
    return Item(document, source_of(document))


def newest_item(document: IndexDocument) -> Item:
    """The item for the threads index."""
    return Item(document, source_of(document), newest=True)


def digest_of(document: Mapping[str, Any]) -> int:
    """32 bits of a document without its digest."""
    return int.from_bytes(blake2b(orjson.dumps(document, option=orjson.OPT_SORT_KEYS), digest_size=4).digest())


def source_of(document: IndexDocument) -> bytes:
    """The document with its digest, as JSON."""
    return orjson.dumps({**document, "digest": digest_of(document)})


def line(item: Item, states: str, threads: str) -> bytes:
    """The two lines of one item."""
    if item.newest:
        action: dict[str, Any] = {
            "_index": threads,
            "_id": item.document["thread_id"],
            "version": version(item.document),
            "version_type": "external",
        }
    else:
        action = {"_index": states, "_id": event_id(item.document)}
    return b'{"index":%b}\n%b\n' % (orjson.dumps(action), item.source)


def chunks(items: Sequence[Item], max_bytes: int) -> Iterator[Sequence[Item]]:
    """Items in portions of at most ``max_bytes`` of documents (or a single larger one)."""
    start, size = 0, 0
    for i, item in enumerate(items):
        if size + len(item.source) > max_bytes and i > start:
            yield items[start:i]
            start, size = i, 0
        size += len(item.source)
    if start < len(items):
        yield items[start:]


def outcome(item: Item, answer: Mapping[str, Any]) -> tuple[Outcome, str]:
    """What the answer to one item means, and why."""
    status: int = answer["status"]
    if status < 300:
        return Outcome.DONE, ""
    error = answer.get("error") or {}
    detail = f"{status} {error.get('type')}: {error.get('reason')}"
    if status == 409 and item.newest:
        return Outcome.DONE, "a newer state of the thread is there"
    if status in UNAVAILABLE_STATUS:  # among them a disk that is full: its block has this status too
        return Outcome.AGAIN, detail
    if error.get("type") in _MOVED:
        return Outcome.MOVED, detail
    if status >= 500 or status in {401, 403}:
        return Outcome.AGAIN, detail
    return Outcome.REFUSED, detail
