"""What ``perdure archive run | verify | purge`` do, on the database and the archive store themselves.

Contract: each returns rows for people and scripts: ``thread_id``, ``tenant``, ``result`` and more. The caller's limit bounds how
many threads are changed, or would be; those that are kept are shown beside them. Nothing is changed by a dry run. A server that
does not answer ends it: the next thread would wait as long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pymongo.errors import PyMongoError

from perdure.archive import policy, purging
from perdure.archive.archiving import Archiver, LivesError
from perdure.archive.candidates import Candidates
from perdure.archive.errors import ArchiveDamagedError, ArchiveError
from perdure.archive.packing import unpack
from perdure.archive.policy import RetentionPolicy
from perdure.archive.purging import Purger
from perdure.archive.store import ArchiveStore
from perdure.chassis import mongo
from perdure.chassis.errors import PerdureError
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.telemetry import configure_logging
from perdure.cli.errors import CommandError
from perdure.indexer.forgetting import forget, newest_of
from perdure.scheduler.settings import SchedulerSettings
from perdure.schemas.documents import THREADS, ArchiveState

SOURCE: Final = "perdure-cli"

AWAY: Final = "failed, a server is away"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Open:
    db: mongo.Database
    store: ArchiveStore
    policy: RetentionPolicy


async def run(settings: SchedulerSettings, *, limit: int, dry_run: bool) -> list[Row]:
    """Archive what is due now; what would be, in a dry run."""
    rows: list[Row] = []
    left = limit
    async with _opened(settings) as opened, _archiving(settings, opened, dry_run=dry_run) as archiver:
        async for one in _due(opened):
            result = f"kept: {one.kept}" if one.kept else "would be archived"
            if one.kept is None:
                left -= 1
                result = result if archiver is None else await _archive(archiver, one.thread)
            rows.append(_row(one.thread, one.due_at, one.rule, result))
            if left == 0 or result.startswith(AWAY):
                break
    return rows


async def verify(settings: SchedulerSettings, thread_ids: Sequence[str]) -> list[Row]:
    """Read the objects of archived threads; ``whole``, or what is wrong with each."""
    rows: list[Row] = []
    async with _opened(settings) as opened:
        query: Row = {
            "archive.at": {"$exists": True},
            "archive.state": {"$nin": [ArchiveState.PURGING.value, ArchiveState.REMOVING.value]},
        }
        if thread_ids:
            query["_id"] = {"$in": list(thread_ids)}
        async for thread in opened.db[THREADS].find(query, {"tenant": 1, "archive": 1}):
            mark = thread["archive"]
            try:
                async for _ in unpack(mark["object"], opened.store.read(mark["object"]), mark["sha256"]):
                    pass
                result = "whole"
            except ArchiveDamagedError as error:
                same = {"_id": thread["_id"], "archive.object": mark["object"], "archive.at": mark["at"]}
                if await opened.db[THREADS].find_one(same, {"_id": 1}) is None:
                    continue  # it came back, or was purged, meanwhile
                result = str(error)
            rows.append(
                {"thread_id": thread["_id"], "tenant": thread["tenant"], "result": result}
                | {name: mark[name] for name in ("object", "bytes", "at")}
            )
    missing = set(thread_ids) - {row["thread_id"] for row in rows}
    if missing:
        raise CommandError(f"not archived: {', '.join(sorted(missing))}")
    return rows


async def purge(settings: SchedulerSettings, *, limit: int, dry_run: bool) -> list[Row]:
    """Remove archived threads that are old enough; what would be, in a dry run."""
    rows: list[Row] = []
    left = limit
    async with _opened(settings) as opened:
        search = OpenSearch(settings.opensearch)

        async def forgotten(tenant: str, thread_id: str) -> int:
            return await forget(search, tenant, thread_id)

        purger = Purger(opened.db, opened.store, forgotten, settings.archive_lease_s)
        try:
            if not dry_run:
                rows += [_row(one, one["archive"]["at"], "begun before", "purged") async for one in purger.go_on()]
            now = await mongo.server_time(opened.db)
            async for one in purging.plan(opened.db, opened.policy, now):
                kept = one.kept or await _unheard(search, one.thread)
                result = f"kept: {kept}" if kept else "would be purged"
                if kept is None:
                    left -= 1
                    result = result if dry_run else await _purge(purger, one.thread)
                rows.append(_row(one.thread, one.due_at, one.rule, result))
                if left == 0 or result.startswith(AWAY):
                    break
        finally:
            await search.close()
    return rows


@asynccontextmanager
async def _opened(settings: SchedulerSettings) -> AsyncIterator[_Open]:
    if not settings.archive_url:
        raise CommandError(
            "PERDURE_ARCHIVE_URL is not set, so nothing is archived; set it as for the scheduler: a folder, s3://bucket/..."
        )
    # What is done is in the rows; the log says only what went wrong.
    configure_logging(SOURCE, settings.model_copy(update={"log_level": "warning"}))
    store = ArchiveStore(settings.archive_url, settings.archive_store_options, settings.archive_ca_file)
    retention = policy.load(settings.retention_file)
    try:
        client = mongo.connect(settings.mongodb)
    except (PyMongoError, ValueError) as error:
        raise CommandError(f"PERDURE_MONGODB_URI cannot be used: {error}") from error
    try:
        yield _Open(mongo.database(client, settings.mongodb), store, retention)
    except PyMongoError as error:
        reason = str(error).partition(", Timeout:")[0]
        raise CommandError(
            f"MongoDB did not do what it was asked ({reason}). Check PERDURE_MONGODB_URI and the server, then repeat the "
            "command: what was begun is gone on with"
        ) from error
    finally:
        client.close()


@asynccontextmanager
async def _archiving(settings: SchedulerSettings, opened: _Open, *, dry_run: bool) -> AsyncIterator[Archiver | None]:
    """What archives; nothing in a dry run."""
    if dry_run:
        yield None
        return
    # It is told before anything is deleted: without a broker the first thread would be neither here nor there meanwhile.
    await TopicAdmin(settings).existing()
    producer = Producer(settings, SOURCE)
    try:
        yield Archiver(opened.db, opened.store, producer, SOURCE, settings.archive_lease_s)
    finally:
        await producer.close()


async def _due(opened: _Open) -> AsyncIterator[Any]:
    candidates, more = Candidates(opened.db, opened.policy), True
    now = await mongo.server_time(opened.db)
    while more:
        found, more = await candidates.portion(now)
        for one in found:
            yield one


async def _archive(archiver: Archiver, thread: Mapping[str, Any]) -> str:
    try:
        await archiver.archive(thread)
    except LivesError as error:
        return f"kept: {error.why}"
    except ArchiveError as error:
        return _failed(error)
    return "archived"


async def _purge(purger: Purger, thread: Mapping[str, Any]) -> str:
    try:
        return "purged" if await purger.purge(thread) else "kept: it changed meanwhile"
    except PerdureError as error:
        return _failed(error)


async def _unheard(search: OpenSearch, thread: Mapping[str, Any]) -> str | None:
    """Why a purge would leave search documents behind: those that the indexer has not written yet."""
    newest = await newest_of(search, thread["tenant"], thread["_id"])
    if newest is None or (newest.get("archived") or {}).get("object") == thread["archive"]["object"]:
        return None
    return "the index has not heard that it was archived: purge again once the indexer has caught up"


def _failed(error: PerdureError) -> str:
    return f"{AWAY if error.retryable else 'failed'}: {error}"


def _row(thread: Mapping[str, Any], due_at: datetime, rule: str, result: str) -> Row:
    due = due_at.isoformat(timespec="seconds")
    return {"thread_id": thread["_id"], "tenant": thread["tenant"], "due_at": due, "rule": rule, "result": result}
