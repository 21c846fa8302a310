"""The one place that constructs MongoDB clients and that declares the indexes of the shared collections.

Scope: connection settings that every service must share (durability, time-outs, time zone). Outside: what is stored
(``perdure.schemas.documents``) and the notebook (``perdure.checkpoint``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING, IndexModel, MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from perdure.chassis import at_rest
from perdure.chassis.access import MongodbAccess
from perdure.chassis.clock import now
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.keyring import SealedError
from perdure.schemas import batch_documents, documents, notices
from perdure.schemas.key_documents import ENCRYPTION_KEYS

Document = dict[str, Any]
Client = AsyncIOMotorClient[Document]
Database = AsyncIOMotorDatabase[Document]
Collection = AsyncIOMotorCollection[Document]

DEFAULT_DATABASE = "perdure"
KEY_CHECK = "perdure"

OPTIONS: dict[str, Any] = {
    "w": "majority",
    "journal": True,
    "retryWrites": True,
    "retryReads": True,
    "tz_aware": True,
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 5_000,
    "socketTimeoutMS": 60_000,
    "maxPoolSize": 32,
    "appname": "perdure",
    "type_registry": at_rest.REGISTRY,
}
"""Every write is acknowledged by a majority and journalled before anything is told to anyone. Encrypted values are opened as they
are read."""


def connect(mongodb: MongodbAccess | str, **options: Any) -> Client:
    """A Motor client with Perdure's options; opens nothing until first use, and belongs to the loop that uses it first.

    Args:
        mongodb: Where the server is; text is a URI that says everything.
        options: The driver's.

    """
    access = access_of(mongodb)
    client: Client = AsyncIOMotorClient(access.uri, **(OPTIONS | access.options() | options))
    return client


def access_of(mongodb: MongodbAccess | str) -> MongodbAccess:
    """The access that a URI alone gives, or the given one."""
    return MongodbAccess(mongodb) if isinstance(mongodb, str) else mongodb


def database_of(client_or_database: Client | Database) -> Database:
    """The given database, or the default database of the given client (``perdure`` where its URI names none)."""
    if isinstance(client_or_database, AsyncIOMotorClient):
        return client_or_database.get_default_database(DEFAULT_DATABASE)
    return client_or_database


def connect_blocking(mongodb: MongodbAccess | str, **options: Any) -> MongoClient[Document]:
    """A PyMongo client for the threads that must not depend on the event loop (the lease heartbeat)."""
    access = access_of(mongodb)
    return MongoClient(access.uri, **(OPTIONS | access.options() | options))


def ping_blocking(mongodb: MongodbAccess, timeout_s: float) -> str | None:
    """Why the server does not answer within ``timeout_s`` seconds; None if it does."""
    options = {"serverSelectionTimeoutMS": int(timeout_s * 1000)} | mongodb.options()
    try:
        with MongoClient[Document](mongodb.uri, **options) as client:
            client.admin.command("ping")
    except PyMongoError as error:
        return f"no answer: {error}"
    return None


def database_name(mongodb: MongodbAccess | str) -> str:
    """The database that the URI names, or ``perdure``."""
    return parse_uri(access_of(mongodb).uri, validate=False)["database"] or DEFAULT_DATABASE


def database(client: Client, mongodb: MongodbAccess | str) -> Database:
    """The database of this installation."""
    return client[database_name(mongodb)]


THREAD_ORDERS: dict[str, list[str]] = {
    "thread_id": ["_id"],
    "created_at": ["created_at", "_id"],
    "updated_at": ["updated_at", "_id"],
    "state_updated_at": ["head", "_id"],
    "status": ["status", "_id"],
}
"""The orders in which threads are searched (ADR 31). ``archive.at`` comes before: what is archived is never walked over."""

INDEXES: dict[str, list[IndexModel]] = {
    documents.RUNS: [
        IndexModel(
            [("thread_id", ASCENDING)],
            name="one_running_per_thread",
            unique=True,
            partialFilterExpression={"status": "running"},
        ),
        IndexModel(
            [("rejects_after", ASCENDING)],
            name="one_rejecting_per_thread",
            unique=True,
            partialFilterExpression={"rejects_after": {"$exists": True}},
        ),
        IndexModel([("thread_id", ASCENDING), ("_id", ASCENDING)], name="by_thread"),
        IndexModel(
            [("tenant", ASCENDING), ("idempotency_key", ASCENDING)],
            name="idempotency",
            unique=True,
            partialFilterExpression={"idempotency_key": {"$exists": True}},
        ),
        IndexModel(
            [("settled", ASCENDING), ("owner", ASCENDING)],
            name="unsettled",
            partialFilterExpression={"settled": False},
        ),
        IndexModel([("start_at", ASCENDING)], name="delayed", partialFilterExpression={"delayed": True}),
        IndexModel([("unserved", ASCENDING)], name="unserved", partialFilterExpression={"unserved": True}),
        IndexModel([("parked_noted", ASCENDING)], name="parked", partialFilterExpression={"parked_noted": False}),
        IndexModel([("batch_noted", ASCENDING)], name="batch_ends", partialFilterExpression={"batch_noted": False}),
    ],
    documents.THREADS: [
        IndexModel(
            [("stuck.noticed_at", ASCENDING)],
            name="stuck",
            partialFilterExpression={"stuck.noticed_at": {"$exists": True}},
        ),
        IndexModel(
            [("updated_at", ASCENDING)], name="ended", partialFilterExpression={"ended_run_id": {"$exists": True}}
        ),
        IndexModel([("updated_at", ASCENDING)], name="ephemeral", partialFilterExpression={"ephemeral": True}),
        IndexModel(
            [("archive.expires_at", ASCENDING)],
            name="archive_work",
            partialFilterExpression={"archive.expires_at": {"$exists": True}},
        ),
        IndexModel(
            [("ttl.due_at", ASCENDING)], name="expiring", partialFilterExpression={"ttl.due_at": {"$exists": True}}
        ),
        IndexModel(
            [("archive.at", ASCENDING)], name="archived", partialFilterExpression={"archive.at": {"$exists": True}}
        ),
        *(
            IndexModel([(field, ASCENDING) for field in ("tenant", "archive.at", *order)], name=f"by_{name}")
            for name, order in THREAD_ORDERS.items()
        ),
        IndexModel([("tenant", ASCENDING), ("graph_id", ASCENDING)], name="by_graph"),
        IndexModel([("tenant", ASCENDING), ("assistant_id", ASCENDING)], name="by_assistant"),
        IndexModel([("metadata.$**", ASCENDING)], name="by_metadata"),
    ],
    batch_documents.BATCHES: [
        IndexModel([("open", ASCENDING)], name="open", partialFilterExpression={"open": True}),
        IndexModel([("touched_at", ASCENDING)], name="uploads", partialFilterExpression={"status": "uploading"}),
        IndexModel([("tenant", ASCENDING), ("_id", DESCENDING)], name="newest"),
        IndexModel(
            [("tenant", ASCENDING), ("idempotency_key", ASCENDING)],
            name="idempotency",
            unique=True,
            partialFilterExpression={"idempotency_key": {"$exists": True}},
        ),
    ],
    documents.NODE_TIMINGS: [IndexModel([("graph", ASCENDING)], name="by_graph")],
    documents.WAITS: [
        IndexModel([("due_at", ASCENDING)], name="due", partialFilterExpression={"due_at": {"$exists": True}}),
        IndexModel([("thread_id", ASCENDING)], name="by_thread"),
        IndexModel(
            [("tenant", ASCENDING), ("kind", ASCENDING), ("opened_at", ASCENDING)],
            name="open_by_kind",
            partialFilterExpression={"status": "open"},
        ),
        IndexModel(
            [("tenant", ASCENDING), ("status", ASCENDING), ("opened_at", ASCENDING), ("_id", ASCENDING)],
            name="questions",
            partialFilterExpression={"question.question": {"$exists": True}},
        ),
        IndexModel(
            [("requested_at", ASCENDING)],
            name="validations",
            partialFilterExpression={"status": "open", "kind": "validation"},
        ),
    ],
    documents.SCHEDULES: [
        IndexModel([("next_at", ASCENDING)], name="due", partialFilterExpression={"next_at": {"$exists": True}}),
        IndexModel(
            [("firing.at", ASCENDING)], name="decided", partialFilterExpression={"firing.at": {"$exists": True}}
        ),
        IndexModel(
            [("catch_up.at", ASCENDING)], name="missed", partialFilterExpression={"catch_up.at": {"$exists": True}}
        ),
        IndexModel([("tenant", ASCENDING), ("_id", ASCENDING)], name="by_tenant"),
        IndexModel([("thread_id", ASCENDING)], name="by_thread"),
    ],
    documents.SIGNALS: [
        IndexModel([("thread_id", ASCENDING)], name="free", partialFilterExpression={"state": "free"}),
        IndexModel([("created_at", ASCENDING)], name="unoffered", partialFilterExpression={"offered": False}),
        IndexModel([("thread_id", ASCENDING), ("created_at", ASCENDING), ("_id", ASCENDING)], name="by_thread"),
    ],
    documents.EFFECTS: [
        IndexModel(
            [("guards", ASCENDING)],
            name="guard_once",
            unique=True,
            partialFilterExpression={"guards": {"$exists": True}},
        ),
        IndexModel([("thread_id", ASCENDING)], name="by_thread"),
    ],
    documents.DEAD_LETTERS: [
        IndexModel([("tenant", ASCENDING), ("died_at", DESCENDING), ("_id", DESCENDING)], name="newest"),
        IndexModel([("topic", ASCENDING)], name="open", partialFilterExpression={"state": "open"}),
        IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
    ],
    notices.SUBSCRIPTIONS: [
        IndexModel([("scope_key", ASCENDING)], name="by_scope"),
        IndexModel([("tenant", ASCENDING), ("_id", ASCENDING)], name="by_tenant"),
    ],
    notices.DELIVERIES: [
        IndexModel([("due_at", ASCENDING)], name="due", partialFilterExpression={"due_at": {"$exists": True}}),
        IndexModel([("digest", ASCENDING)], name="gathered", partialFilterExpression={"state": "gathered"}),
        IndexModel([("ended_at", ASCENDING)], name="untold", partialFilterExpression={"told": False}),
        IndexModel([("tenant", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)], name="newest"),
        IndexModel([("thread_id", ASCENDING), ("created_at", DESCENDING)], name="by_thread"),
        IndexModel([("subscription_id", ASCENDING), ("created_at", DESCENDING)], name="by_subscription"),
        IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),
    ],
    documents.REPLY_ADDRESSES: [IndexModel([("remove_at", ASCENDING)], name="expiry", expireAfterSeconds=0)],
}
"""Indexes of the shared collections; the notebook declares its own."""


async def ensure_indexes(db: Database) -> None:
    """Check the encryption keys, and create the indexes that are missing. Idempotent.

    Raises:
        ConfigurationError: values are stored that are encrypted with a key which is not among those of this process.

    """
    await check_keys(db)
    for name, models in INDEXES.items():
        await db[name].create_indexes(models)


async def check_keys(db: Database) -> None:
    """Record the encrypting key of this process, and make sure that all keys in use are here.

    Raises:
        ConfigurationError: one is not.

    """
    ring, collection = at_rest.keys(), db[ENCRYPTION_KEYS].with_options(codec_options=CodecOptions())
    await _require_keys(collection)
    if ring is None:
        return
    made = {"$setOnInsert": {"check": at_rest.seal(KEY_CHECK, ENCRYPTION_KEYS), "since": now()}}
    await collection.update_one({"_id": ring.primary}, made, upsert=True)
    await _require_keys(collection)  # another process may have recorded another key under this id at the same moment


async def _require_keys(collection: Collection) -> None:
    for one in await collection.find({}).to_list(None):
        try:
            at_rest.open_sealed(one["check"])
        except SealedError as error:
            raise ConfigurationError(str(error)) from error


def from_now(seconds: float) -> dict[str, Any]:
    """For a pipeline update: the database's clock and so many seconds (whole milliseconds)."""
    return {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(seconds * 1000)}}


async def server_time(db: Database) -> datetime:
    """The database's clock. Comparing with a literal works on every server that speaks the protocol; ``$$NOW`` does not."""
    answer: dict[str, Any] = await db.command("hello")
    now: datetime = answer["localTime"]
    return now.replace(tzinfo=UTC)
