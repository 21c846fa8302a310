"""The format of archive objects: what went in comes out, byte for byte, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
import zstandard

from perdure.archive.errors import ArchiveDamagedError
from perdure.archive.packing import FORMAT, Manifest, pack, unpack
from perdure.archive.sources import SOURCES, Owner

OWNER = Owner("acme", "t1")
THREAD = {"_id": "t1", "seq": 7, "updated_at": datetime(2026, 11, 23, tzinfo=UTC)}
DOCUMENTS: list[tuple[str, list[bytes]]] = [
    ("runs", [bson.encode({"_id": "r1", "n": bson.Int64(1)})]),
    ("payloads", []),
    ("notebook", [bson.encode({"_id": f"c{n}", "d": hashlib.sha512(b"%d" % n).digest() * n}) for n in range(200)]),
    ("notebook", [bson.encode({"_id": "large", "d": bytes(range(256)) * 40_000})]),
]


async def portions(documents: Any) -> AsyncIterator[tuple[str, Sequence[bytes]]]:
    for portion in documents:
        yield portion


async def pieces(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def packed(documents: Any = DOCUMENTS) -> tuple[bytes, Manifest]:
    manifest = Manifest()
    data = b"".join([piece async for piece in pack(OWNER, THREAD, portions(documents), manifest)])
    return data, manifest


@pytest.mark.parametrize("size", [1_000, 10_000_000])
async def test_what_went_in_comes_out(size: int) -> None:
    data, manifest = await packed()
    found = [one async for one in unpack("key", pieces(data, size), manifest.sha256)]
    assert found == [(source, one) for source, documents in DOCUMENTS for one in documents]
    assert manifest.documents == {"runs": 1, "notebook": 201}
    assert manifest.raw_bytes["notebook"] == sum(len(one) for _, portion in DOCUMENTS[2:] for one in portion)
    assert (manifest.sha256, manifest.nbytes) == (hashlib.sha256(data).hexdigest(), len(data))


async def test_whoever_has_only_the_object_can_read_whose_it_is() -> None:
    data, _ = await packed()
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    header = bson.decode(plain[: int.from_bytes(plain[:4], "little")], bson.CodecOptions(tz_aware=True))
    assert header == {
        "format": FORMAT,
        "tenant": "acme",
        "thread": "t1",
        "sources": list(SOURCES),
        "document": THREAD,
    }


async def test_an_object_without_documents_is_whole() -> None:
    data, manifest = await packed([])
    assert [one async for one in unpack("key", pieces(data), manifest.sha256)] == []


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
async def test_an_object_that_was_cut_off_is_refused(cut: int) -> None:
    data, manifest = await packed()
    with pytest.raises(ArchiveDamagedError, match="key: "):
        async for _ in unpack("key", pieces(data[:cut]), manifest.sha256):
            pass


@pytest.mark.parametrize("at", [10, 5_000, -50])
async def test_a_byte_that_changed_is_noticed(at: int) -> None:
    data, manifest = await packed()
    broken = bytearray(data)
    broken[at] ^= 0x40
    with pytest.raises(ArchiveDamagedError, match="Nothing was changed"):
        async for _ in unpack("key", pieces(bytes(broken)), manifest.sha256):
            pass


async def test_another_whole_object_in_its_place_is_noticed() -> None:
    _, manifest = await packed()
    other, _ = await packed(DOCUMENTS[:1])
    with pytest.raises(ArchiveDamagedError, match=f"{manifest.sha256} was written"):
        async for _ in unpack("key", pieces(other), manifest.sha256):
            pass


async def test_a_newer_format_is_refused() -> None:
    data = zstandard.compress(bson.encode({"format": FORMAT + 1, "sources": []}))
    with pytest.raises(ArchiveDamagedError, match=f"format {FORMAT + 1}, and this version reads {FORMAT}"):
        async for _ in unpack("key", pieces(data)):
            pass


@pytest.mark.parametrize("bit", [0x01, 0x80])
async def test_whatever_byte_changed_it_is_damage_and_no_other_error(bit: int) -> None:
    data, _ = await packed(DOCUMENTS[:1])
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    compressed = [bytes([*data[:at], data[at] ^ bit, *data[at + 1 :]]) for at in range(len(data))]
    repacked = [zstandard.compress(bytes([*plain[:at], plain[at] ^ bit, *plain[at + 1 :]])) for at in range(len(plain))]
    for broken in compressed[2:] + repacked:
        try:
            found = [one async for one in unpack("key", pieces(broken))]
        except ArchiveDamagedError:
            continue
        # Bits of the frame's header that mean nothing, and the thread's own document, say nothing about the others.
        assert found == [("runs", DOCUMENTS[0][1][0])]


async def test_memory_holds_a_portion_of_what_compresses_well() -> None:
    megabyte = bson.encode({"_id": 1, "d": bytes(1_000_000)})
    data, manifest = await packed([("notebook", [megabyte])] * 300)
    assert len(data) < 100_000
    tracemalloc.start()
    try:
        count = 0
        async for _, document in unpack("key", pieces(data, 256 * 1024), manifest.sha256):
            assert document == megabyte
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (count, peak < 50_000_000) == (300, True), peak
