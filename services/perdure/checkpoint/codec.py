"""From values to stored bytes and back, through LangGraph's serializer.

Contract: every stored value goes through the serializer that the saver was given. Nothing is ever unpickled.
Two stages, so that an unchanged value is found before it is encrypted (ciphertext differs each time):

* ``encode`` / ``decode``: value <-> type name and plain bytes, by the serializer (the inner one of an
  ``EncryptedSerializer``);
* ``seal`` / ``open``: plain <-> stored bytes, by the cipher of an ``EncryptedSerializer``, else unchanged.

The digest of a segment is the blake2b-128 of its sealed bytes, personalised with the type name. Sealed bytes above 1
KiB are compressed with zstd, which carries a checksum, when that makes them smaller (ciphertext is not tried).
Where the services encrypt what they store (``perdure.chassis.at_rest``), the digest is keyed and another one in each thread,
so that nobody without the key can tell what a segment holds by guessing it.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from typing import Any, Final

import ormsgpack
import xxhash
import zstandard
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from perdure.chassis import at_rest
from perdure.checkpoint.errors import UnsafeSerializer

DIGEST_BYTES: Final = 16
COMPRESS_ABOVE: Final = 1024
ZSTD_LEVEL: Final = 1
MAX_SEGMENT_BYTES: Final = 64 * 1024 * 1024
"""Bound of a decompressed segment or body: refuses a decompression bomb."""

_SEED = secrets.randbits(64)
_BODY_OPTIONS = ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_REPLACE_SURROGATES


class Codec:
    """Binds the two stages to one serializer."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self.serde = serde
        self._cipher = serde.cipher if type(serde) is EncryptedSerializer else None
        self._inner: SerializerProtocol = serde.serde if type(serde) is EncryptedSerializer else serde
        if getattr(self._inner, "pickle_fallback", False) or getattr(serde, "pickle_fallback", False):
            raise UnsafeSerializer
        self.encode = self._inner.dumps_typed
        self.encrypts = self._cipher is not None
        self.plain_atoms: Final = type(self._inner) is JsonPlusSerializer
        """Whether numbers, booleans, ``None`` and short ASCII text need no call of the serializer to survive."""

    def decode(self, typ: str, data: bytes) -> Any:
        """The value of plain bytes."""
        return self._inner.loads_typed((typ, data))

    def seal(self, typ: str, data: bytes) -> tuple[str, bytes]:
        """Plain to stored."""
        if self._cipher is None:
            return typ, data
        name, sealed = self._cipher.encrypt(data)
        return f"{typ}+{name}", sealed

    def open(self, typ: str, data: bytes) -> tuple[str, bytes]:
        """Stored to plain."""
        if self._cipher is None or "+" not in typ:
            return typ, data
        plain_type, name = typ.split("+", 1)
        return plain_type, self._cipher.decrypt(name, data)

    def compress(self, data: bytes) -> tuple[bytes, bool]:
        """Stored bytes, compressed where that helps, and whether they are."""
        if self.encrypts or len(data) <= COMPRESS_ABOVE:
            return data, False
        packed = _compressor().compress(data)
        return (packed, True) if len(packed) < len(data) else (data, False)


_per_thread = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    """A compressor must not be used by two threads at once."""
    found: zstandard.ZstdCompressor | None = getattr(_per_thread, "compressor", None)
    if found is None:
        found = _per_thread.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_per_thread, "decompressor", None)
    if found is None:
        found = _per_thread.decompressor = zstandard.ZstdDecompressor()
    return found


def digest(typ: str, sealed: bytes) -> bytes:
    """Content address of a segment, 16 bytes."""
    return hashlib.blake2b(sealed, digest_size=DIGEST_BYTES, person=typ.encode()[:16]).digest()


def address_of(thread: str, typ: str, sealed: bytes) -> bytes:
    """The content address of a new segment: :func:`digest`, or a keyed one of its thread where stored values are encrypted."""
    ring = at_rest.keys()
    if ring is None:
        return digest(typ, sealed)
    return ring.address(thread, sealed, typ.encode(), DIGEST_BYTES)


def mark(typ: str, plain: bytes) -> int:
    """Fingerprint of plain bytes within this process: finds unchanged blocks, is never stored, its seed is secret."""
    return xxhash.xxh3_128_intdigest(plain, _SEED) ^ hash(typ)


def decompress(data: bytes) -> bytes:
    """Inverse of ``compress``; verifies the checksum.

    Raises:
        zstandard.ZstdError: The data is damaged or larger than 64 MiB.

    """
    size = zstandard.frame_content_size(data)
    if size > MAX_SEGMENT_BYTES:
        raise zstandard.ZstdError(f"{size} bytes exceed the bound of {MAX_SEGMENT_BYTES}")
    return _decompressor().decompress(data, max_output_size=MAX_SEGMENT_BYTES)


def pack_body(body: Any) -> bytes:
    """The structure of a document (names, versions, manifests), as MessagePack."""
    return ormsgpack.packb(body, option=_BODY_OPTIONS)


def unpack_body(data: bytes) -> Any:
    """Inverse of :func:`pack_body`."""
    return ormsgpack.unpackb(bytes(data), option=ormsgpack.OPT_NON_STR_KEYS)  # it takes no subclass
