"""Channel values as entries and segments (ADR 3).

An *entry* is what a document's body holds for one value:

* an atom (number, boolean, ``None``, short ASCII text) as it is;
* ``[INLINE, type, bytes]`` up to 1 KiB;
* ``[BLOB, type, size, digests]``: one serialized value in pieces;
* ``[LIST, length, levels, digests]`` and ``[DICT, length, levels, digests]``: cut into blocks
  (``perdure.checkpoint.blocks``);
* ``[SNAPSHOT, entry]``: a DeltaChannel's snapshot of the value.

Contract: encoding takes the value as it is *now*; unchanged parts are found by the identity of immutable items, or
else by serializing again and comparing fingerprints, so a change in place is never missed. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from langgraph.checkpoint.serde.types import _DeltaSnapshot

from perdure.checkpoint import blocks
from perdure.checkpoint.codec import DIGEST_BYTES, Codec, mark
from perdure.checkpoint.watch import Watched, same_beginning, same_objects, unchanged, watch

INLINE, BLOB, LIST, DICT, SNAPSHOT = 0, 1, 2, 3, 4
INLINE_LIMIT: Final = 1024
"""Serialized bytes of a value that stays in the document."""
ATOM_TEXT: Final = 256
WHOLE_FIRST: Final = 64
"""A list or dict of at most so many items is serialized whole first: it is probably inline."""

Entry: TypeAlias = Any
Segments: TypeAlias = Mapping[bytes, tuple[str, bytes]]
"""Plain segments by digest: type name and bytes."""

_SMALL_ATOMS = frozenset({int, float, bool, type(None)})
_INT64 = range(-(2**63), 2**63)


@dataclass(slots=True, eq=False)
class Block:
    """A serialized run of items, or a whole value; ``digests`` is filled when its pieces are finished."""

    typ: str
    size: int
    mark: int
    seen: Watched | None = None
    """The items as they were, where that tells exactly whether they changed; else they are serialized to compare."""
    items: tuple[Any, ...] | None = None
    """The items, for a shallow comparison; kept for DeltaChannels only."""
    digests: bytes = b""
    pieces: list[bytes] | None = None
    """Plain pieces that are still to be sealed and stored."""


CUT: Final = Block("", 0, 0)
"""Marks a block that is stored as its eight children."""

BlockMap: TypeAlias = dict[tuple[int, int], Block]


@dataclass(slots=True, eq=False)
class Encoded:
    """A value ready to store: kept between checkpoints to find what did not change."""

    kind: int
    length: int
    levels: bytes = b""
    order: list[Block] = field(default_factory=list)
    blocks: BlockMap = field(default_factory=dict)
    inline: Entry = None
    snapshot: bool = False
    items: list[Any] | None = None
    """The items of a list, for a shallow comparison."""
    _entry: Entry = None

    def entry(self) -> Entry:
        """What the body holds. Call it when all pieces are finished."""
        if self._entry is None:
            found: Entry = self.inline
            if self.kind == BLOB:
                found = [BLOB, self.order[0].typ, self.length, self.order[0].digests]
            elif self.kind != INLINE:
                found = [self.kind, self.length, self.levels, b"".join(block.digests for block in self.order)]
            self._entry = [SNAPSHOT, found] if self.snapshot else found
        return self._entry

    @classmethod
    def stored(cls, entry: Entry) -> Encoded:
        """An entry that is stored already and whose value is not loaded."""
        return cls(INLINE, 0, _entry=entry) if isinstance(entry, list) else atom(entry)

    def size(self) -> int:
        """Serialized bytes, about."""
        return sum(block.size for block in self.order)


def atom(value: Any) -> Encoded:
    """An atom as an encoded value."""
    return Encoded(INLINE, 0, inline=value)


NOTHING: Final = atom(None)
"""Most channels hold ``None`` most of the time."""


def is_atom(value: Any) -> bool:
    """Whether a body can hold ``value`` as it is."""
    kind = type(value)
    if kind is str:
        return len(value) <= ATOM_TEXT and value.isascii()
    return kind in _SMALL_ATOMS and (kind is not int or value in _INT64)


def encode(codec: Codec, value: Any, previous: Encoded | None, *, shallow: bool = False) -> Encoded:
    """Encode one value; ``previous`` is what the same channel held before, if known.

    Args:
        codec: Serializes.
        value: The value; a DeltaChannel's snapshot is compared with what the channel held, snapshot or not.
        previous: Where unchanged blocks are found.
        shallow: An item that is the same object is unchanged. For values that nobody changes in place.

    Raises:
        Exception: What the serializer raises for a value that it cannot serialize.

    """
    if codec.plain_atoms and is_atom(value):
        return NOTHING if value is None else atom(value)
    if not isinstance(value, _DeltaSnapshot):
        return _marked(_encode_plain(codec, value, previous, shallow), snapshot=False)
    return _marked(_encode_plain(codec, value.value, previous, shallow), snapshot=True)


def _marked(encoded: Encoded, *, snapshot: bool) -> Encoded:
    """The same value as a snapshot or not: another entry that names the same segments."""
    return encoded if encoded.snapshot is snapshot else replace(encoded, snapshot=snapshot, _entry=None)


def _encode_plain(codec: Codec, value: Any, previous: Encoded | None, shallow: bool) -> Encoded:
    kind = type(value)
    if kind is list or kind is dict:
        return _encode_items(codec, value, LIST if kind is list else DICT, previous, shallow)
    return _encode_whole(codec, value, previous, shallow)


def _encode_whole(codec: Codec, value: Any, previous: Encoded | None, shallow: bool) -> Encoded:
    if previous is not None and previous.kind == BLOB and _is_unchanged(previous.order[0], (value,), shallow):
        return previous
    typ, data = codec.encode(value)
    if len(data) <= INLINE_LIMIT:
        return Encoded(INLINE, 0, inline=[INLINE, typ, bytes(data)])
    fingerprint = mark(typ, data)
    if previous is not None and previous.kind == BLOB and previous.order[0].mark == fingerprint:
        return previous
    kept = (value,) if shallow else None
    block = Block(typ, len(data), fingerprint, watch((value,)), kept, pieces=blocks.pieces(bytes(data)))
    return Encoded(BLOB, len(data), order=[block])


def _is_unchanged(block: Block, items: Sequence[Any], shallow: bool) -> bool:
    """Whether the items are known to serialize to what the block holds."""
    if shallow and block.items is not None:
        return same_objects(block.items, items)
    return block.seen is not None and unchanged(block.seen, items)


def _encode_items(codec: Codec, value: Any, kind: int, previous: Encoded | None, shallow: bool) -> Encoded:
    length = len(value)
    segmented = previous is not None and previous.kind == kind and bool(previous.order)
    if not segmented and length <= WHOLE_FIRST:
        typ, data = codec.encode(value)
        if len(data) <= INLINE_LIMIT:
            return Encoded(INLINE, 0, inline=[INLINE, typ, data])
    cutter = _Cutter(codec, value, kind, previous.blocks if segmented and previous else {}, shallow)
    if shallow and kind == LIST:
        known = previous.items if segmented and previous is not None else None
        cutter.same = same_beginning(known, value) if known is not None else 0
    result = cutter.run()
    if shallow and kind == LIST:
        result.items = value.copy()
    if result.size() <= INLINE_LIMIT:
        typ, data = codec.encode(value)
        if len(data) <= INLINE_LIMIT:
            return Encoded(INLINE, 0, inline=[INLINE, typ, data])
    return result


class _Cutter:
    """Cuts one list or dict, reusing the blocks of the value before."""

    def __init__(self, codec: Codec, value: Any, kind: int, before: BlockMap, shallow: bool) -> None:
        self._codec = codec
        self._shallow = shallow
        self.same = 0
        """So many items at the beginning are the same objects as before."""
        self._length = len(value)
        self._kind = kind
        self._before = before
        self._levels = bytearray()
        self._order: list[Block] = []
        self._blocks: BlockMap = {}
        self._slice: Callable[[int, int], tuple[Any, list[Any]]]
        if kind == LIST:
            self._slice = lambda start, stop: (found := value[start:stop], found)
        else:
            names, values = list(value), list(value.values())
            self._slice = lambda start, stop: (
                dict(zip(names[start:stop], values[start:stop], strict=True)),
                names[start:stop] + values[start:stop],
            )

    def run(self) -> Encoded:
        for level, start, stop in blocks.cut(self._length):
            self._visit(level, start, stop)
        return Encoded(self._kind, self._length, bytes(self._levels), self._order, self._blocks)

    def _visit(self, level: int, start: int, stop: int) -> None:
        before = self._before.get((level, start))
        if before is CUT or (before is None and level and self._too_large(level, start)):
            self._split(level, start)
            return
        if before is not None and stop <= self.same:
            self._keep(level, start, before)
            return
        items, flat = self._slice(start, stop)
        if before is not None and _is_unchanged(before, flat, self._shallow):
            self._keep(level, start, before)
            return
        typ, data = self._codec.encode(items)
        fingerprint = mark(typ, data)
        kept = tuple(flat) if self._shallow else None
        if before is not None and before.mark == fingerprint:
            if kept is not None:
                before.items = kept  # other objects that serialize to the same bytes
            self._keep(level, start, before)
        elif level and len(data) > blocks.BLOCK_LIMIT:
            self._split(level, start)
        else:
            pieces = blocks.pieces(data)
            self._keep(level, start, Block(typ, len(data), fingerprint, watch(flat), kept, pieces=pieces))

    def _too_large(self, level: int, start: int) -> bool:
        """Whether the children, known from before, are too large together: saves serializing them at once."""
        size = 0
        for key in ((child, first) for child, first, _ in blocks.children(level, start)):
            child_block = self._before.get(key)
            if child_block is None:
                return False
            if child_block is CUT:
                return True
            size += child_block.size
        return size > blocks.BLOCK_LIMIT + 5 * blocks.BASE

    def _split(self, level: int, start: int) -> None:
        self._blocks[level, start] = CUT
        for child in blocks.children(level, start):
            self._visit(*child)

    def _keep(self, level: int, start: int, block: Block) -> None:
        self._blocks[level, start] = block
        self._order.append(block)
        self._levels.append(level)
        count = len(block.pieces) if block.pieces is not None else len(block.digests) // DIGEST_BYTES
        self._levels.extend([blocks.CONTINUED] * (count - 1))


def digests_of(entry: Entry) -> Iterator[bytes]:
    """The segments that an entry names, in order."""
    if not isinstance(entry, list):
        return
    kind = entry[0]
    if kind == SNAPSHOT:
        yield from digests_of(entry[1])
    elif kind != INLINE:
        joined = entry[3]
        for start in range(0, len(joined), DIGEST_BYTES):
            yield joined[start : start + DIGEST_BYTES]


def decode(codec: Codec, entry: Entry, segments: Segments, *, shallow: bool = False) -> tuple[Any, Encoded]:
    """The value of an entry, and what the next encoding (``shallow`` as there) compares with."""
    if not isinstance(entry, list):
        return entry, atom(entry)
    kind = entry[0]
    if kind == INLINE:
        return codec.decode(entry[1], entry[2]), Encoded(INLINE, 0, inline=entry)
    if kind == SNAPSHOT:
        value, encoded = decode(codec, entry[1], segments, shallow=shallow)
        return _DeltaSnapshot(value), _marked(encoded, snapshot=True)
    if kind == BLOB:
        digests = list(digests_of(entry))
        data = b"".join(segments[one][1] for one in digests)
        value = codec.decode(entry[1], data)
        kept = (value,) if shallow else None
        block = Block(entry[1], len(data), mark(entry[1], data), watch((value,)), kept, entry[3])
        return value, Encoded(BLOB, len(data), order=[block])
    return _decode_items(codec, entry, segments, shallow)


def _decode_items(codec: Codec, entry: Entry, segments: Segments, shallow: bool) -> tuple[Any, Encoded]:
    kind, length, levels, joined = entry
    encoded = Encoded(kind, length, levels)
    value: Any = [] if kind == LIST else {}
    grow: Callable[[Any], None] = value.extend if kind == LIST else value.update
    for start, stop, first, last in blocks.runs(levels):
        digests = joined[first * DIGEST_BYTES : last * DIGEST_BYTES]
        parts = [segments[digests[at : at + DIGEST_BYTES]] for at in range(0, len(digests), DIGEST_BYTES)]
        typ = parts[0][0]
        data = parts[0][1] if len(parts) == 1 else b"".join(part[1] for part in parts)
        items = codec.decode(typ, data)
        grow(items)
        flat = items if kind == LIST else [*items, *items.values()]
        block = Block(typ, len(data), mark(typ, data), watch(flat), tuple(flat) if shallow else None, digests)
        encoded.order.append(block)
        encoded.blocks[levels[first], start] = block
        _mark_cut(encoded.blocks, levels[first], start, length)
        if stop > length:
            break
    return value, encoded


def _mark_cut(known: BlockMap, level: int, start: int, length: int) -> None:
    """Mark the larger aligned blocks around a stored one as cut, where the length says that they would exist."""
    for larger in range(level + 1, blocks.TOP_LEVEL + 1):
        width = blocks.BASE**larger
        first = start - start % width
        if first + width > length:
            return
        known[larger, first] = CUT
