"""Encryption of stored values: which fields of which collections are sealed, how they are written, and how they are read.

Contract: :func:`switch_on` is called once, before anything is written. From then on :func:`sealed` turns the values of
:data:`FIELDS` into BSON binaries of subtype :data:`SUBTYPE`; without keys it changes nothing. Reading needs no call: every client
has :data:`REGISTRY`, which opens sealed values wherever they are. Plain values are read as before. A value is bound to its
document's collection and id; :func:`require_own` refuses one that was moved.

Outside: keys and ciphers (``perdure.chassis.keyring``), encrypting what is there already (``perdure.chassis.resealing``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import bson
from bson.binary import Binary
from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry

from perdure.chassis.keyring import SETTING, KeyRing, SealedError, bound_digest

SUBTYPE: Final = 0x90
"""Of the range that BSON leaves to applications."""
EACH: Final = "*"
"""In a path: every item of a list."""
REST: Final = "~"
"""In a path: every value of a checkpoint's metadata but :data:`PUBLIC_METADATA`: it may be a client's configuration."""
PUBLIC_METADATA: Final = frozenset(
    {"source", "step", "parents", "run_id", "thread_id", "graph_id", "assistant_id", "counters_since_delta_snapshot"}
)
"""What is searched by, and tells nothing of a client's values."""
Path = tuple[str, ...]
D = TypeVar("D", bound=Mapping[str, Any])


def _paths(*names: str) -> tuple[Path, ...]:
    return tuple(tuple(name.split(".")) for name in names)


FIELDS: Final[Mapping[str, tuple[Path, ...]]] = {
    "notebook": _paths(
        "body", "d", "meta.~", "meta_x",
        "ev.text", "ev.interrupts", "ev.error", "ev.reason", "ev.question", "ev.update",
    ),
    "runs": _paths("payload", "interrupts", "error", "webhook", "update", "user"),
    "threads": _paths("interrupts", "error"),
    "payloads": _paths("data"),
    "waits": _paths(
        "question.question", "question.details", "question.action", "question.answer_schema", "interrupt", "validation",
        "outcome.payload", "outcome.findings", "user",
    ),
    "signals": _paths("payload"),
    "effects": _paths("receipt", "more_receipts.*.receipt", "attempts.*.error"),
    "schedules": _paths("payload", "user"),
    "batches": _paths("defaults", "outbox.*.body", "user"),
    "batch_items": _paths("payload", "error"),
    "subscriptions": _paths("target", "secrets"),
    "deliveries": _paths("target", "data"),
    "dead_letters": _paths("key", "value", "headers", "detail"),
}  # fmt: skip
"""What is sealed. Ids, statuses, times, names of nodes and graphs, and metadata are not: they are searched by."""
_ROOTS: Final = {name: frozenset(path[0] for path in paths) for name, paths in FIELDS.items()}


class Opened:
    """Mixin of values that were sealed: what they are bound to."""

    bound: bytes


class OpenedBytes(bytes, Opened):
    """Bytes that were sealed."""


class OpenedText(str, Opened):
    """Text that was sealed."""


class OpenedList(list[Any], Opened):
    """A list that was sealed."""


class OpenedDict(dict[str, Any], Opened):
    """A document that was sealed."""


_OPENED: Final[Mapping[type, type]] = {bytes: OpenedBytes, str: OpenedText, list: OpenedList, dict: OpenedDict}


class _State:
    """The keys of this process."""

    ring: KeyRing | None = None


def switch_on(ring: KeyRing | None) -> None:
    """Use these keys in this process from now on; ``None``: none."""
    _State.ring = ring


def keys() -> KeyRing | None:
    """The keys of this process; ``None`` while nothing is encrypted."""
    return _State.ring


def seal(value: Any, bound: str) -> Any:
    """A value as it is stored; empty ones are left as they are."""
    ring = _State.ring
    if ring is None or value in (None, "", b"", [], {}) or isinstance(value, Binary):
        return value
    plain = bson.encode({"v": bytes(value) if isinstance(value, bytes) else value})
    return Binary(ring.seal(plain, bound_digest(bound)), SUBTYPE)


def open_sealed(data: bytes) -> Any:
    """The inverse of :func:`seal`.

    Raises:
        SealedError: there is no key for it, or it was changed.

    """
    if _State.ring is None:
        raise SealedError(f"the database holds encrypted values, and {SETTING} is not set")
    plain, bound = _State.ring.open(data)
    value = bson.decode(plain, _PLAIN)["v"]
    kind = _OPENED.get(type(value))
    if kind is None:
        return value
    opened = kind(value)
    opened.bound = bound
    return opened


class _Decoder(TypeDecoder):
    bson_type = Binary

    def transform_bson(self, value: Any) -> Any:
        return open_sealed(value) if value.subtype == SUBTYPE else value


_PLAIN: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True)
REGISTRY: Final = TypeRegistry([_Decoder()])
"""Opens sealed values of whatever a client reads."""


def owner(collection: str, document_id: Any) -> str:
    """What the values of a document are bound to."""
    return f"{collection}\x1f{document_id}"


def sealed(collection: str, document: D, document_id: Any = None) -> D:
    """A document, or some top-level fields of one, as they are stored. The given one is not changed.

    Args:
        collection: The name of the collection.
        document: The document, or its fields.
        document_id: Its ``_id``, where it is not among the fields.

    """
    if _State.ring is None or collection not in FIELDS or _ROOTS[collection].isdisjoint(document):
        return document
    bound = owner(collection, document["_id"] if document_id is None else document_id)
    return changed(collection, document, lambda value: seal(value, bound))


def changed(collection: str, document: D, change: Callable[[Any], Any]) -> D:
    """A copy of a document with its sealed fields changed."""
    found: Any = dict(document)
    for path in FIELDS[collection]:
        if path[0] in found:
            found[path[0]] = _changed(found[path[0]], path[1:], change)
    return found  # type: ignore[no-any-return]


def _changed(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    if path[0] == EACH:
        return [_changed(item, path[1:], change) for item in value] if isinstance(value, list | tuple) else value
    if not isinstance(value, Mapping):
        return value
    if path[0] == REST:
        return {name: item if name in PUBLIC_METADATA else change(item) for name, item in value.items()}
    if path[0] not in value:
        return value
    return {**value, path[0]: _changed(value[path[0]], path[1:], change)}


def values(collection: str, document: Mapping[str, Any]) -> Iterator[Any]:
    """The values of a document's sealed fields, as far as they are there."""
    for path in FIELDS.get(collection, ()):
        yield from _values(document, path)


def _values(value: Any, path: Path) -> Iterator[Any]:
    if not path:
        yield value
    elif path[0] == EACH:
        for item in value if isinstance(value, list | tuple) else ():
            yield from _values(item, path[1:])
    elif path[0] == REST:
        yield from (item for name, item in value.items() if name not in PUBLIC_METADATA)
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def require_own(collection: str, documents: Sequence[Mapping[str, Any]]) -> None:
    """Refuse values that were sealed for another document.

    Raises:
        SealedError: somebody moved one.

    """
    if _State.ring is None:
        return
    for document in documents:
        found = {value.bound for value in values(collection, document) if isinstance(value, Opened)}
        if found and found != {bound_digest(owner(collection, document["_id"]))}:
            raise SealedError(
                f"an encrypted value in document {document['_id']!r} of {collection} was sealed for another document: "
                f"somebody moved it"
            )
