"""Encrypting what is stored already, with the key that encrypts now: after keys are switched on, and after a new key came first.

Contract: :func:`reseal` walks the collections of ``at_rest.FIELDS`` by ``_id`` while the system runs. A value is replaced only
where it is still the one that was read, so that no write of a service is lost; what a service wrote meanwhile has the new key
already. The walk keeps its place in the database: one that died is gone on with. A value that no key opens stops the walk, and
nothing of it is changed. Idempotent.

Outside: objects of the archive. They keep the keys that they were written with (:attr:`Report.archived` counts them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bson.binary import Binary
from bson.codec_options import CodecOptions
from pymongo import UpdateOne

from perdure.chassis import at_rest
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.keyring import SETTING, KeyRing, SealedError, bound_digest, taken_apart
from perdure.chassis.mongo import Collection, Database, check_keys
from perdure.schemas.key_documents import ENCRYPTION_KEYS

PORTION: Final = 100
PORTION_BYTES: Final = 8 * 1024 * 1024
_AS_STORED: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True)
_ARCHIVED: Final = "archived"


@dataclass(slots=True)
class Report:
    """What a walk found.

    Attributes:
        key: The key that encrypts now.
        documents: Documents that were looked at, by collection.
        changed: Documents that were encrypted anew.
        left: Documents that had values in the clear or under another key, when they were last seen.
        keys: Ids of the keys that those values had.
        archived: Archived threads that may hold values of earlier keys.

    """

    key: str
    documents: dict[str, int] = field(default_factory=dict)
    changed: int = 0
    left: int = 0
    keys: set[str] = field(default_factory=set)
    archived: int = 0

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "keys": sorted(self.keys)}


def _silent(report: Report) -> None:
    """Report nothing."""


async def reseal(db: Database, progress: Callable[[Report], None] = _silent, *, change: bool = True) -> Report:
    """Walk all collections.

    Args:
        db: The database.
        progress: Called with the report as it is, now and then.
        change: False: only count what is left.

    Raises:
        ConfigurationError: this process has no keys, or not all that are in use.
        SealedError: a value cannot be opened.

    """
    ring = at_rest.keys()
    if ring is None:
        raise ConfigurationError(f"nothing can be encrypted: {SETTING} is not set")
    await check_keys(db)
    report = Report(ring.primary)
    for name in at_rest.FIELDS:
        await _Walk(db, name, ring, report, progress, change=change).run()
    keys = db[ENCRYPTION_KEYS].with_options(codec_options=_AS_STORED)
    mine: Any = await keys.find_one({"_id": ring.primary})
    earlier = {"archive.state": _ARCHIVED, "archive.at": {"$lt": mine["since"]}}
    report.archived = await db["threads"].count_documents(earlier)
    if change:
        await keys.update_one({"_id": ring.primary}, {"$unset": {"walked": ""}})
    elif not report.left and not report.archived:
        await keys.delete_many({"_id": {"$ne": ring.primary}})
    return report


class _Walk:
    """One collection."""

    def __init__(
        self,
        db: Database,
        name: str,
        ring: KeyRing,
        report: Report,
        progress: Callable[[Report], None],
        *,
        change: bool,
    ) -> None:
        self._name = name
        self._stored: Collection = db[name].with_options(codec_options=_AS_STORED)
        self._keys = db[ENCRYPTION_KEYS].with_options(codec_options=_AS_STORED)
        self._ring = ring
        self._report = report
        self._progress = progress
        self._change = change

    async def run(self) -> None:
        """From where the last walk with this key came to, to the end."""
        state: Any = await self._keys.find_one({"_id": self._ring.primary}) or {}
        walked = (state.get("walked") or {}).get(self._name) if self._change else None
        query = {} if walked is None else {"_id": {"$gt": walked}}
        portion: list[UpdateOne] = []
        size, last = 0, None
        self._report.documents.setdefault(self._name, 0)
        async for document in self._stored.find(query).sort("_id", 1).batch_size(PORTION):
            last = document["_id"]
            self._report.documents[self._name] += 1
            if (update := self._update(document)) is not None:
                portion.append(update)
                size += sum(len(one) for one in at_rest.values(self._name, document) if isinstance(one, bytes)) + 1024
            if len(portion) >= PORTION or size >= PORTION_BYTES:
                await self._write(portion, last)
                portion, size = [], 0
        await self._write(portion, last)

    async def _write(self, portion: list[UpdateOne], last: Any) -> None:
        if self._change and portion:
            done = await self._stored.bulk_write(portion, ordered=False)
            self._report.changed += done.modified_count
        elif not self._change:
            self._report.left += len(portion)
        if self._change and last is not None:
            await self._keys.update_one({"_id": self._ring.primary}, {"$set": {f"walked.{self._name}": last}})
        self._progress(self._report)

    def _update(self, document: Mapping[str, Any]) -> UpdateOne | None:
        """What seals a document's values with the first key; ``None`` where that is done already."""
        bound = at_rest.owner(self._name, document["_id"])
        stale = [one for one in at_rest.values(self._name, document) if self._is_stale(one)]
        if not stale:
            return None
        fresh = at_rest.changed(self._name, document, lambda value: self._fresh(value, bound))
        tops = {path[0] for path in at_rest.FIELDS[self._name] if path[0] in document}
        moved = [top for top in sorted(tops) if fresh[top] != document[top]]
        observed = {"_id": document["_id"], **{top: document[top] for top in moved}}
        return UpdateOne(observed, {"$set": {top: fresh[top] for top in moved}})

    def _is_stale(self, value: Any) -> bool:
        if isinstance(value, Binary) and value.subtype == at_rest.SUBTYPE:
            key = taken_apart(value).key_id
            if key != self._ring.primary:
                self._report.keys.add(key)
            return key != self._ring.primary
        return value not in (None, "", b"", [], {})

    def _fresh(self, value: Any, bound: str) -> Any:
        if not self._is_stale(value):
            return value
        if not isinstance(value, Binary) or value.subtype != at_rest.SUBTYPE:
            return at_rest.seal(value, bound)
        plain, owner = self._ring.open(value)
        if owner != bound_digest(bound):
            raise SealedError(f"an encrypted value of {self._name} was sealed for another document: {bound!r} holds it")
        return Binary(self._ring.seal(plain, owner), at_rest.SUBTYPE)
