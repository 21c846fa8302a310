"""From encoded values to segment documents.

Contract: a value is serialized at once, on the caller's thread (its content is fixed from then on); sealing, digests
and compression of large bundles happen aside, so that the event loop keeps turning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from perdure.checkpoint import values
from perdure.checkpoint.codec import DIGEST_BYTES, Codec, address_of
from perdure.checkpoint.documents import Document, segment_document
from perdure.checkpoint.errors import NotSerialisable
from perdure.checkpoint.pages import ThreadPages
from perdure.checkpoint.values import Block, Encoded

ASIDE_BYTES: Final = 2 * 1024 * 1024
"""Bundles above this size are finished in a thread."""
NOBODY: Final[Mapping[str, Sequence[str]]] = {}


class Bundle:
    """The new segments of one put, in the order of the values that name them."""

    __slots__ = ("_blocks", "_pages", "_size", "fresh", "nbytes", "sealed", "segments", "thread")

    def __init__(self, thread: str, pages: ThreadPages) -> None:
        self.thread = thread
        self.fresh: set[bytes] = set()
        self.sealed: dict[int, bytes] = {}
        self._pages = pages
        self.segments: list[Document] = []
        self.nbytes = 0
        self._blocks: list[Block] = []
        self._size = 0

    @property
    def heavy(self) -> bool:
        """Whether finishing would hold up the event loop."""
        return self._size > ASIDE_BYTES

    def add(self, value: Encoded) -> None:
        """Take the unfinished blocks of a value."""
        for block in value.order:
            if block.pieces is not None:
                self._blocks.append(block)
                self._size += block.size

    def unfinished(self) -> list[Block]:
        """The blocks still to be sealed."""
        return self._blocks

    def holds(self, address: bytes) -> bool:
        """Whether a segment is stored already, or part of this bundle."""
        return address in self.fresh or address in self._pages.stored

    def sealed_before(self, block: Block) -> bytes | None:
        """The segments that hold the same plain bytes: found without a digest, which could not tell ciphertext."""
        known = self.sealed.get(block.mark) or self._pages.sealed.get(block.mark)
        if known is None or all(self.holds(known[at : at + DIGEST_BYTES]) for at in range(0, len(known), DIGEST_BYTES)):
            return known
        return None

    def submit(self) -> list[Document]:
        """The segments, at the moment when they are handed to the commit: from now on others need not store them."""
        self._pages.stored |= self.fresh
        self._pages.sealed |= self.sealed
        return self.segments

    async def finish_aside(self, codec: Codec) -> None:
        """:func:`finish` in a thread."""
        await asyncio.get_running_loop().run_in_executor(None, finish, codec, self)


def finish(codec: Codec, bundle: Bundle) -> None:
    """Seal, address and compress the new blocks; a segment that is stored already makes no document."""
    for block in bundle.unfinished():
        if block.pieces is None:
            continue
        if known := bundle.sealed_before(block):
            block.digests, block.pieces = known, None
            continue
        addresses = []
        for piece in block.pieces:
            typ, sealed = codec.seal(block.typ, piece)
            address = address_of(bundle.thread, typ, sealed)
            addresses.append(address)
            if bundle.holds(address):
                continue
            bundle.fresh.add(address)
            data, compressed = codec.compress(sealed)
            bundle.segments.append(segment_document(bundle.thread, address, typ, data, compressed=compressed))
            bundle.nbytes += len(data) + 128
        block.digests = b"".join(addresses)
        block.pieces = None
        bundle.sealed[block.mark] = block.digests


def encode_value(
    codec: Codec,
    thread: str,
    channel: str,
    value: Any,
    previous: Encoded | None,
    *,
    shallow: bool = False,
    task_id: str | None = None,
    task_path: str = "",
    ns: str = "",
    writers: Mapping[str, Sequence[str]] = NOBODY,
) -> Encoded:
    """:func:`perdure.checkpoint.values.encode` with a failure that says what could not be stored, and who wrote it.

    ``task_path`` names the node of a write; ``writers`` (by channel) those that wrote what a checkpoint holds.

    Raises:
        NotSerialisable: The serializer cannot serialize the value.

    """
    try:
        return values.encode(codec, value, previous, shallow=shallow)
    except Exception as error:
        raise NotSerialisable(
            thread_id=thread,
            channel=channel,
            value_type=f"{type(value).__module__}.{type(value).__qualname__}",
            detail=str(error) or type(error).__name__,
            task_id=task_id,
            node=_node_of(task_path) or ", ".join(writers.get(channel, ())) or None,
            ns=ns,
        ) from error


def _node_of(task_path: str) -> str | None:
    """LangGraph's task path of a node is ``~__pregel_pull, <node>``."""
    kind, _, node = task_path.partition(", ")
    return node if kind == "~__pregel_pull" and node else None


__all__ = ["DIGEST_BYTES", "Bundle", "encode_value", "finish"]
