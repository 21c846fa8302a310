"""Run payloads (input, command, config) as stored: JSON, zstd above 1 KiB, cut into documents when large.

Contract: :func:`pack` and :func:`unpack` are inverse, and nothing over ``RAW_LIMIT`` is unpacked. A payload below ``INLINE_LIMIT``
stays in the run's document; a larger payload is cut into ``payloads`` documents with ``_id`` ``<run_id>:<n>``, which are to be
written before the run's document.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import zstandard

from perdure.chassis import json

COMPRESS_ABOVE = 1024
INLINE_LIMIT = 1024 * 1024
CHUNK_BYTES = 8 * 1024 * 1024
RAW_LIMIT = 256 * 1024 * 1024
"""Bytes of JSON of a payload: more than any setting of the gateway takes in one request."""

RAW, ZSTD = b"\x00", b"\x01"


@dataclass(frozen=True, slots=True)
class Packed:
    """A payload ready to store: either inline or in chunks."""

    inline: bytes
    chunks: tuple[bytes, ...] = ()

    def chunk_documents(self, run_id: str) -> list[dict[str, Any]]:
        """The documents for ``payloads``."""
        return [{"_id": f"{run_id}:{n}", "run_id": run_id, "data": data} for n, data in enumerate(self.chunks)]


def pack(payload: Any) -> Packed:
    """Pack a JSON-compatible value."""
    raw = json.dumps_strict(payload)
    data = ZSTD + _compressor().compress(raw) if len(raw) > COMPRESS_ABOVE else RAW + raw
    if len(data) <= INLINE_LIMIT:
        return Packed(data)
    return Packed(b"", tuple(data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)))


def unpack(data: bytes) -> Any:
    """The inverse of :func:`pack` on the inline bytes or the joined chunks.

    Raises:
        ValueError: these are not the bytes that :func:`pack` made, or they are too many.

    """
    kind, body = data[:1], data[1:]
    if (size := raw_bytes(data)) > RAW_LIMIT:
        raise ValueError(f"it has {size} bytes of JSON, over the limit of {RAW_LIMIT}")
    try:
        return json.loads(zstandard.decompress(body) if kind == ZSTD else body)
    except zstandard.ZstdError as error:
        raise ValueError(f"damaged: {error}") from error


def raw_bytes(data: bytes) -> int:
    """The size of a payload's JSON, told without unpacking it.

    Raises:
        ValueError: these are not the bytes that :func:`pack` made.

    """
    if data[:1] != ZSTD:
        return len(data) - 1
    try:
        size: int = zstandard.frame_content_size(data[1:])
    except zstandard.ZstdError as error:
        raise ValueError(f"damaged: {error}") from error
    if size < 0:
        raise ValueError("damaged: it does not say its size")
    return size


_per_thread = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    """One for each thread: making one costs more than a small payload, and two threads must not share it."""
    found: zstandard.ZstdCompressor | None = getattr(_per_thread, "compressor", None)
    if found is None:
        found = _per_thread.compressor = zstandard.ZstdCompressor(level=1)
    return found
