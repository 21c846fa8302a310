"""Bodies that come compressed with gzip, opened here and not by aiohttp.

aiohttp takes a compressed body that ends too early for a complete one and reads the first member only of one that was put together
from several files: of an upload, items would be missing and nobody would know. So the server is made with ``AUTO_DECOMPRESS`` off.

Contract: pieces are bounded, whatever the ratio. Compressed data is known by its first bytes, with or without ``Content-Encoding``.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

MAGIC: Final = b"\x1f\x8b"
"""No JSON begins so."""
AUTO_DECOMPRESS: Final = False
PIECE_BYTES: Final = 1024 * 1024
GZIP_WINDOW: Final = zlib.MAX_WBITS | 16


class BadGzipError(ValueError):
    """The data is no gzip, or it ends too early."""


class Gunzip:
    """Opens one stream, of any number of members."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP_WINDOW)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes hold, in pieces.

        Raises:
            BadGzipError: they are no gzip.

        """
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(GZIP_WINDOW)
            self._begun = True
            try:
                piece = self._member.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise BadGzipError(f"the gzip data is damaged ({error})") from error
            data = self._member.unused_data or self._member.unconsumed_tail
            if piece:
                yield piece

    def end(self) -> None:
        """Nothing more comes.

        Raises:
            BadGzipError: something is missing.

        """
        if self._begun and not self._member.eof:
            raise BadGzipError("the gzip data ends too early; the upload is not complete")


async def opened(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content of a stream: decompressed, beside the event loop, if it is compressed.

    Raises:
        BadGzipError: it cannot be.

    """
    gunzip: Gunzip | None = None
    first = True
    async for chunk in chunks:
        if first:
            gunzip, first = Gunzip() if chunk.startswith(MAGIC) else None, False
        if gunzip is None:
            yield chunk
            continue
        pieces = gunzip.feed(chunk)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece
    if gunzip is not None:
        gunzip.end()


def opened_whole(body: bytes, limit: int) -> bytes:
    """The content of a body that is in memory; more than ``limit`` bytes are cut off.

    Raises:
        BadGzipError: it is no gzip.

    """
    if not body.startswith(MAGIC):
        return body
    gunzip, found = Gunzip(), bytearray()
    for piece in gunzip.feed(body):
        found += piece
        if len(found) > limit:
            return bytes(found[: limit + 1])
    gunzip.end()
    return bytes(found)
