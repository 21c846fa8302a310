"""Group commit: the writes of many tasks in one round trip.

Contract: ``await commit.write(...)`` returns when everything submitted is durable. Writes that arrive while a commit
is in flight form the next one; when idle a commit starts at once, there is no timer. Within a commit the order of
submission holds, and within a submission: content, inserts, updates. Documents are inserted *unordered by failure*: a
refused document stops no other, and the error goes only to the submitter that it belongs to.

Every write must be idempotent by key: after a lost connection the same batch is sent again, with back-off and jitter,
for as long as the process lives. A refused insert whose document is there already with the same content is a repeat
that had succeeded. A cancelled submitter's write may still happen.

Memory is bounded: a submitter waits while more than ``max_pending_bytes`` are queued.

::

    RefusedError (perdure.chassis.errors)
    └── WriteRefused        the database refused the write, and waiting does not cure it
        └── DuplicateKey    a unique index holds the key already, with other content
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeAlias

import bson
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from perdure.chassis.assignments import Assignment, assign
from perdure.chassis.at_rest import sealed
from perdure.chassis.errors import RefusedError
from perdure.chassis.mongo import Collection
from perdure.chassis.outage import Availability, is_outage, outlast

log = logging.getLogger(__name__)

Document: TypeAlias = Mapping[str, Any]
Update: TypeAlias = UpdateOne | ReplaceOne[Any]

DUPLICATE_KEY = 11000
MAX_OPS = 2_000
MAX_BYTES = 24 * 1024 * 1024
MAX_PENDING_BYTES = 256 * 1024 * 1024
ASSUMED_BYTES = 512
"""Size of an operation whose submitter did not say."""
STALL_S = 2.0
"""A commit in flight for longer counts as an outage for the observers."""


class WriteRefused(RefusedError):
    """The database refused a write, and waiting does not cure it."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class DuplicateKey(WriteRefused):
    """A unique index holds the key already, with other content.

    ``index`` is the key pattern (``{"thread": 1, "seq": 1}``), ``key`` the value, ``document_id`` the refused
    document's ``_id``.
    """

    def __init__(self, index: Mapping[str, Any], key: Mapping[str, Any], document_id: Any) -> None:
        super().__init__(f"{document_id!r} is refused: the unique index {dict(index)} holds {dict(key)}", DUPLICATE_KEY)
        self.index = dict(index)
        self.key = dict(key)
        self.document_id = document_id


@dataclass(slots=True)
class CommitStatistics:
    """Counters since the start of the process."""

    commits: int = 0
    submissions: int = 0
    documents: int = 0
    bytes: int = 0


@dataclass(slots=True, eq=False)
class _Submission:
    content: Sequence[Document]
    inserts: Sequence[Document]
    updates: Sequence[Update]
    assignments: Sequence[Assignment]
    nbytes: int
    done: asyncio.Future[None]

    @property
    def ops(self) -> int:
        return len(self.content) + len(self.inserts) + len(self.updates) + len(self.assignments)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class GroupCommit:
    """Commits to one collection in groups. Belongs to the event loop that uses it first."""

    def __init__(
        self,
        collection: Collection,
        *,
        availability: Availability | None = None,
        statistics: CommitStatistics | None = None,
        max_ops: int = MAX_OPS,
        max_bytes: int = MAX_BYTES,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self.availability = availability or Availability()
        self.statistics = statistics or CommitStatistics()
        self._collection = collection
        self._max_ops = max_ops
        self._max_bytes = max_bytes
        self._max_pending_bytes = max_pending_bytes
        self._queue: deque[_Submission] = deque()
        self._pending_bytes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def write(
        self,
        *,
        content: Sequence[Document] = (),
        inserts: Sequence[Document] = (),
        updates: Sequence[Update] = (),
        assignments: Sequence[Assignment] = (),
        nbytes: int | None = None,
    ) -> None:
        """Write durably, together with whatever else is waiting.

        Args:
            content: Documents whose ``_id`` is derived from their content: one that is there already is a success, and is
                sent once more after all that names it, in case it was deleted before that arrived.
            inserts: Documents that must be new, or be there with the same content (a repeat).
            updates: Idempotent updates (``$set``, ``$max``, replace; never a bare ``$inc``), applied after the inserts.
            assignments: Fields to set in documents with a known ``_id``, applied last.
            nbytes: Size of all of it, for the bounds; 512 bytes an operation are assumed.

        Raises:
            DuplicateKey: A unique index holds the key of one of these documents already.
            WriteRefused: Refused for a reason that waiting does not cure.
            pymongo.errors.PyMongoError: The client could not send it (not BSON, too large, not allowed).

        """
        await (
            await self.submit(content=content, inserts=inserts, updates=updates, assignments=assignments, nbytes=nbytes)
        )

    async def submit(
        self,
        *,
        content: Sequence[Document] = (),
        inserts: Sequence[Document] = (),
        updates: Sequence[Update] = (),
        assignments: Sequence[Assignment] = (),
        nbytes: int | None = None,
    ) -> asyncio.Future[None]:
        """Hand over what :meth:`write` writes, when there is room for it.

        Returns:
            A future that is done when it is written, or has the error. What was handed over is written even if it is cancelled.

        """
        if self._closed:
            raise WriteRefused("this group commit is closed")
        ops = len(content) + len(inserts) + len(updates) + len(assignments)
        if not ops:
            nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            nothing.set_result(None)
            return nothing
        size = ops * ASSUMED_BYTES if nbytes is None else nbytes
        if self._waiters or (self._pending_bytes and self._pending_bytes + size > self._max_pending_bytes):
            await self._room(size)
        done = asyncio.get_running_loop().create_future()
        submission = _Submission(content, inserts, updates, assignments, size, done)
        self._pending_bytes += size
        self._queue.append(submission)
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="group-commit", context=Context())
        return submission.done

    async def close(self) -> None:
        """Refuse new writes and wait for those that were submitted."""
        self._closed = True
        while self._task is not None:
            await asyncio.wait({self._task})

    async def _room(self, size: int) -> None:
        """Wait, in order of arrival, until ``size`` bytes fit."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            while self._waiters[0] is not waiter or (
                self._pending_bytes and self._pending_bytes + size > self._max_pending_bytes
            ):
                await waiter
                waiter = self._renew(waiter)
        finally:
            self._waiters.remove(waiter)
            self._wake()

    def _renew(self, waiter: asyncio.Future[None]) -> asyncio.Future[None]:
        fresh: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[self._waiters.index(waiter)] = fresh
        return fresh

    def _wake(self) -> None:
        if self._waiters and not self._waiters[0].done():
            self._waiters[0].set_result(None)

    async def _drain(self) -> None:
        try:
            await asyncio.sleep(0)  # what was submitted in this turn of the loop goes out together
            while self._queue:
                await self._commit(self._take())
        finally:
            self._task = None
            if self._queue and not self._closed:  # only after a cancellation: never leave submitters behind
                self._task = asyncio.create_task(self._drain(), name="group-commit", context=Context())

    def _take(self) -> list[_Submission]:
        batch: list[_Submission] = []
        ops = nbytes = 0
        while self._queue:
            ahead = self._queue[0]
            if batch and (ops + ahead.ops > self._max_ops or nbytes + ahead.nbytes > self._max_bytes):
                break
            batch.append(self._queue.popleft())
            ops += ahead.ops
            nbytes += ahead.nbytes
        return batch

    async def _commit(self, batch: list[_Submission]) -> None:
        loop = asyncio.get_running_loop()
        stall = _Stall(self.availability)
        timer = loop.call_later(STALL_S, stall.begin)
        try:
            await self._attempt(batch)
        except Exception as error:
            await self._isolate(batch, error)
        finally:
            timer.cancel()
            stall.end()
            self._account(batch)
        for submission in batch:
            if not submission.done.done():
                submission.done.set_result(None)

    def _account(self, batch: list[_Submission]) -> None:
        statistics = self.statistics
        statistics.commits += 1
        for submission in batch:
            statistics.submissions += 1
            statistics.documents += submission.ops
            statistics.bytes += submission.nbytes
            self._pending_bytes -= submission.nbytes
        self._wake()

    async def _isolate(self, batch: list[_Submission], error: Exception) -> None:
        """One bad document (not BSON, too large) fails a whole command on the client: give each submitter its own."""
        if len(batch) == 1:
            batch[0].fail(error)
            return
        for submission in batch:
            if submission.done.done():
                continue
            try:
                await self._attempt([submission])
            except Exception as own:
                submission.fail(own)

    async def _attempt(self, batch: list[_Submission]) -> None:
        present: list[Document] = []
        documents, ends = _flatten(batch, lambda one: itertools.chain(one.content, one.inserts))
        if documents:
            failures = await outlast(lambda: self._insert(documents), self.availability)
            present = await self._attribute_inserts(batch, documents, ends, failures) if failures else []
        owners = [one for one in batch if not one.done.done()]
        updates, ends = _flatten(owners, lambda one: one.updates)
        if updates:
            failures = await outlast(lambda: self._update(updates), self.availability)
            for failure in failures:
                owners[bisect_right(ends, failure["index"])].fail(_refusal(failure, None))
        assignments = [one for owner in owners if not owner.done.done() for one in owner.assignments]
        if assignments:
            try:
                await outlast(lambda: assign(self._collection, assignments), self.availability)
            except OperationFailure as error:  # of whom it is shows when each is tried by itself
                raise WriteRefused(str(error), error.code) from error
        if present:
            await outlast(lambda: self._insert(present), self.availability)

    async def _insert(self, documents: list[Document]) -> list[dict[str, Any]]:
        stored = [sealed(self._collection.name, document) for document in documents]
        try:
            await self._collection.insert_many(stored, ordered=False)  # type: ignore[arg-type]
        except BulkWriteError as error:
            if is_outage(error):
                raise
            return list(error.details["writeErrors"])
        return []

    async def _update(self, updates: list[Update]) -> list[dict[str, Any]]:
        try:
            await self._collection.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            if is_outage(error):
                raise
            return list(error.details["writeErrors"])
        return []

    async def _attribute_inserts(
        self, batch: list[_Submission], documents: list[Document], ends: list[int], failures: list[dict[str, Any]]
    ) -> list[Document]:
        suspects: list[tuple[_Submission, Document, dict[str, Any]]] = []
        present: list[Document] = []  # content that was there
        for failure in failures:
            index = failure["index"]
            position = bisect_right(ends, index)
            submission = batch[position]
            offset = index - (ends[position - 1] if position else 0)
            if failure["code"] == DUPLICATE_KEY and offset < len(submission.content):
                present.append(documents[index])
                continue
            if failure["code"] == DUPLICATE_KEY:
                suspects.append((submission, documents[index], failure))
            else:
                submission.fail(_refusal(failure, documents[index]["_id"]))
        if suspects:
            await self._judge_duplicates(suspects)
        return present

    async def _judge_duplicates(self, suspects: list[tuple[_Submission, Document, dict[str, Any]]]) -> None:
        """A document that is there already with the same content is a repeat that had succeeded."""
        ids = [document["_id"] for _, document, _ in suspects]

        async def fetch() -> list[dict[str, Any]]:
            return await self._collection.find({"_id": {"$in": ids}}).to_list(None)

        stored = {document["_id"]: document for document in await outlast(fetch, self.availability)}
        options = self._collection.codec_options
        for submission, document, failure in suspects:
            held = stored.get(document["_id"])
            if held is None or held != bson.decode(bson.encode(document), options):
                submission.fail(_refusal(failure, document["_id"]))


class _Stall:
    """Tells the observers that a commit takes too long, once."""

    def __init__(self, availability: Availability) -> None:
        self._availability = availability
        self._begun = False

    def begin(self) -> None:
        self._begun = True
        self._availability.lost()

    def end(self) -> None:
        if self._begun:
            self._begun = False
            self._availability.regained()


def _flatten(batch: list[_Submission], part: Any) -> tuple[list[Any], list[int]]:
    """All operations in order, and for each submission the position after its last one."""
    operations: list[Any] = []
    ends: list[int] = []
    for submission in batch:
        operations.extend(part(submission))
        ends.append(len(operations))
    return operations, ends


def _refusal(failure: Mapping[str, Any], document_id: Any) -> WriteRefused:
    if failure["code"] == DUPLICATE_KEY:
        return DuplicateKey(failure.get("keyPattern") or {}, failure.get("keyValue") or {}, document_id)
    return WriteRefused(f"{document_id!r} is refused: {failure.get('errmsg')}", failure["code"])


__all__ = ["CommitStatistics", "DuplicateKey", "GroupCommit", "PyMongoError", "WriteRefused"]
