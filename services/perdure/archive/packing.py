"""The format of an archive object: one zstd frame over records (ADR 15).

    header     BSON: format, tenant, thread, sources (names of collections), the thread's own document
    record     one byte: which source; the document as BSON
    ...
    manifest   one byte 0xff; BSON: documents and bytes by source, sha256 of everything before that byte

Contract: memory holds a portion of the documents, whatever the size of the thread. :func:`unpack` raises at the end of an object
that is not whole, so whoever acts on documents as they come has read the object once before. The format is stored: a reader
refuses a newer one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import bson
import zstandard
from bson.errors import BSONError

from perdure.archive.errors import ArchiveDamagedError
from perdure.archive.sources import SOURCES, Owner

FORMAT: Final = 1
LEVEL: Final = 3
END: Final = 0xFF
FLUSH_BYTES: Final = 1024 * 1024
"""Plain bytes that are compressed at once, beside the event loop."""
SLICE_BYTES: Final = 512
"""Compressed bytes that are decompressed at once: they can become 32,768 times as many, and an object may be anybody's."""
MAX_DOCUMENT: Final = 17 * 1024 * 1024


@dataclass(slots=True)
class Manifest:
    """What is in an object.

    Attributes:
        documents: How many, by source.
        raw_bytes: Their size as BSON, by source.
        sha256: Of the object itself, hexadecimal.
        nbytes: Of the object itself.
        states: How many of the documents the search index has a document for.

    """

    documents: dict[str, int] = field(default_factory=dict)
    raw_bytes: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    nbytes: int = 0
    states: int = 0

    def count(self, source: str, nbytes: int) -> None:
        """One more document."""
        self.documents[source] = self.documents.get(source, 0) + 1
        self.raw_bytes[source] = self.raw_bytes.get(source, 0) + nbytes


async def pack(
    owner: Owner, document: Mapping[str, Any], portions: AsyncIterator[tuple[str, Sequence[bytes]]], manifest: Manifest
) -> AsyncIterator[bytes]:
    """The bytes of an object, as they are made; ``manifest`` is filled, and complete at the end.

    Args:
        owner: Whose.
        document: The thread's own document, which stays in the database; kept here for whoever has only the object.
        portions: Documents as BSON, by source, in the order of ``SOURCES``.
        manifest: A new one.

    """
    packer = _Packer(manifest)
    header = {"format": FORMAT, "tenant": owner.tenant, "thread": owner.thread_id, "sources": list(SOURCES)}
    packer.buffer += bson.encode({**header, "document": document})
    async for source, documents in portions:
        for one in documents:
            packer.buffer.append(SOURCES.index(source))
            packer.buffer += one
            manifest.count(source, len(one))
        if len(packer.buffer) >= FLUSH_BYTES and (made := await asyncio.to_thread(packer.flush)):
            yield made
    yield await asyncio.to_thread(packer.end)


class _Packer:
    """Compresses what is in its buffer and keeps the digests."""

    def __init__(self, manifest: Manifest) -> None:
        self.buffer = bytearray()
        self._manifest = manifest
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
        self._inner, self._whole = hashlib.sha256(), hashlib.sha256()

    def flush(self) -> bytes:
        """Bytes of the object that are there now; often none."""
        data, self.buffer = self.buffer, bytearray()
        self._inner.update(data)
        return self._count(self._compressor.compress(data))

    def end(self) -> bytes:
        """The last bytes."""
        rest = self.flush()
        said = {
            "documents": self._manifest.documents,
            "bytes": self._manifest.raw_bytes,
            "sha256": self._inner.hexdigest(),
        }
        last = self._compressor.compress(bytes([END]) + bson.encode(said)) + self._compressor.flush()
        rest += self._count(last)
        self._manifest.sha256 = self._whole.hexdigest()
        return rest

    def _count(self, made: bytes) -> bytes:
        self._whole.update(made)
        self._manifest.nbytes += len(made)
        return made


async def unpack(key: str, pieces: AsyncIterator[bytes], sha256: str | None = None) -> AsyncIterator[tuple[str, bytes]]:
    """The documents of an object, in order: (source, BSON).

    Args:
        key: The object's, for errors.
        pieces: Its bytes.
        sha256: What the object's digest must be, when that is known.

    Raises:
        ArchiveDamagedError: it is not whole, or not what was written; of a newer format.

    """
    reader = _Reader(key)
    whole = hashlib.sha256()
    async for piece in pieces:
        whole.update(piece)
        reader.give(piece)
        while reader.has_more:
            for one in await asyncio.to_thread(reader.take):
                yield one
    reader.require_end()
    if sha256 is not None and whole.hexdigest() != sha256:
        raise ArchiveDamagedError(key, f"its sha-256 is {whole.hexdigest()}, and {sha256} was written")


class _Reader:
    """Takes an object apart as its bytes come."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._decompressor = zstandard.ZstdDecompressor().decompressobj()
        self._given = memoryview(b"")
        self._buffer = bytearray()
        self._inner = hashlib.sha256()
        self._found = Manifest()
        self._sources: list[str] | None = None
        self._ended = False

    @property
    def has_more(self) -> bool:
        """Whether something of what was given is still to be taken."""
        return len(self._given) > 0

    def give(self, piece: bytes) -> None:
        """More bytes, once everything before them is taken."""
        self._given = memoryview(piece)

    def take(self) -> list[tuple[str, bytes]]:
        """Some of the documents that are whole now."""
        taken: list[tuple[str, bytes]] = []
        size = 0
        while self._given and size < FLUSH_BYTES:
            try:
                self._buffer += self._decompressor.decompress(self._given[:SLICE_BYTES])
            except zstandard.ZstdError as error:
                raise ArchiveDamagedError(self._key, f"it cannot be decompressed ({error})") from error
            self._given = self._given[SLICE_BYTES:]
            for source, document in self._records():
                taken.append((source, document))
                size += len(document)
            if self._ended and self._buffer:
                raise ArchiveDamagedError(self._key, "it goes on after its end")
        return taken

    def require_end(self) -> None:
        """Refuse an object that is cut off."""
        if not self._ended:
            raise ArchiveDamagedError(self._key, "it has no end: it was cut off")

    def _records(self) -> Iterator[tuple[str, bytes]]:
        if self._sources is None:
            header = self._take(0)
            if header is None:
                return
            self._sources = self._read_header(header)
        while not self._ended and self._buffer:
            kind = self._buffer[0]
            record = self._take(1, hashed=kind != END)
            if record is None:
                return
            if kind == END:
                self._check(self._decode(record))
                self._ended = True
            elif kind < len(self._sources):
                source = self._sources[kind]
                self._found.count(source, len(record))
                yield source, record
            else:
                raise ArchiveDamagedError(self._key, f"it has a record of kind {kind}, which it does not name")

    def _take(self, skipped: int, *, hashed: bool = True) -> bytes | None:
        """The BSON document after so many bytes, once it is whole."""
        if len(self._buffer) < skipped + 4:
            return None
        size = int.from_bytes(self._buffer[skipped : skipped + 4], "little")
        if not 5 <= size <= MAX_DOCUMENT:
            raise ArchiveDamagedError(self._key, f"it has a document of {size} bytes")
        end = skipped + size
        if len(self._buffer) < end:
            return None
        taken = bytes(self._buffer[:end])
        del self._buffer[:end]
        if hashed:
            self._inner.update(taken)
        return taken[skipped:]

    def _read_header(self, data: bytes) -> list[str]:
        header = self._decode(data)
        if header.get("format") != FORMAT:
            raise ArchiveDamagedError(
                self._key, f"it has format {header.get('format')}, and this version reads {FORMAT}"
            )
        sources = header.get("sources")
        if not isinstance(sources, list) or not set(sources) <= set(SOURCES):
            raise ArchiveDamagedError(self._key, f"it is of {sources!r}, and this version knows {', '.join(SOURCES)}")
        return sources

    def _decode(self, data: bytes) -> dict[str, Any]:
        try:
            return bson.decode(data)
        except (BSONError, ValueError, OverflowError) as error:
            raise ArchiveDamagedError(self._key, f"it has a document that is no BSON ({error})") from error

    def _check(self, said: Mapping[str, Any]) -> None:
        if said.get("sha256") != self._inner.hexdigest() or said.get("documents") != self._found.documents:
            raise ArchiveDamagedError(self._key, "its documents are not those that its manifest names")
