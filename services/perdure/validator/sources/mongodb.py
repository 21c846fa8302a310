"""Documents of MongoDB: the first that fits, read from the primary, ``null`` when there is none.

Contract: a filter compares fields (:mod:`perdure.validator.queries`); the server keeps back a document that is too large, so that
not more than the limit is ever in memory here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from bson import Decimal128, ObjectId, json_util
from bson.errors import BSONError
from pymongo import ReadPreference
from pymongo.errors import PyMongoError

from perdure.chassis import json, mongo
from perdure.chassis.access import MongodbAccess
from perdure.chassis.outage import is_outage
from perdure.schemas.validation import MongoSource
from perdure.validator.queries import require_filter, require_listed
from perdure.validator.sources.errors import SourceError
from perdure.validator.sources.plain import plain

SELECTION_MS = 2_000
"""How long the driver looks for a primary before an attempt fails."""
READ_ONLY: Mapping[str, Any] = {"serverSelectionTimeoutMS": SELECTION_MS, "retryReads": False, "maxPoolSize": None}
"""Attempts are ours to count, and so is how many read at once."""
ALLOWED_IN: Final = "PERDURE_VALIDATOR_ALLOWED_COLLECTIONS"
SCRIPTED_IN: Final = "PERDURE_VALIDATOR_SCRIPTED"
_TOO_LARGE: Final = "perdure_too_large"
OPTIONS = json_util.JSONOptions(tz_aware=True)


class MongoReader:
    """Reads :class:`MongoSource`.

    Args:
        connections: Deployments by name; the URI of each names its database, and may stand for all of it.
        limit: Bytes of a document, as BSON and as JSON.
        allowed: By connection the collections that may be read (``*`` stands for any text); all without.
        scripted: Connections whose filters may use every operator.
        own: The system's own database, whose collections must be listed.

    """

    def __init__(
        self,
        connections: Mapping[str, MongodbAccess | str],
        limit: int,
        *,
        allowed: Mapping[str, Sequence[str]] | None = None,
        scripted: Sequence[str] = (),
        own: MongodbAccess | str | None = None,
    ) -> None:
        self._connections = dict(connections)
        self._limit = limit
        self._allowed: dict[str, Sequence[str]] = dict(allowed or {})
        self._scripted = frozenset(scripted)
        if own is not None:
            for name, access in self._connections.items():
                if _database_name(access) == _database_name(own):
                    self._allowed.setdefault(name, ())
        self._clients: dict[str, mongo.Client] = {}

    def key(self, source: MongoSource) -> str:
        """The connection."""
        if source.connection not in self._connections:
            raise SourceError(
                f"no MongoDB connection {source.connection!r} in PERDURE_VALIDATOR_CONNECTIONS (there are: "
                f"{', '.join(sorted(self._connections)) or 'none'})",
                retryable=False,
            )
        return f"MongoDB connection {source.connection}"

    async def read(self, source: MongoSource, timeout_s: float) -> Any:
        """Find one document."""
        where = self.key(source)
        require_listed(source.collection, self._allowed.get(source.connection), where, ALLOWED_IN)
        if source.connection not in self._scripted:
            require_filter(source.filter, SCRIPTED_IN)
        try:
            filter_ = json_util.loads(json.dumps_strict(source.filter), json_options=OPTIONS)
            collection = self._database(source.connection).get_collection(
                source.collection, read_preference=ReadPreference.PRIMARY
            )
            found = await self._first(collection, filter_, source.sort, timeout_s)
        except PyMongoError as error:
            raise SourceError(f"{where}: {_short(error)}", retryable=is_outage(error)) from error
        except (BSONError, TypeError, ValueError) as error:
            raise SourceError(f"{where}: the filter cannot be used: {_short(error)}", retryable=False) from error
        if found is not None and _TOO_LARGE in found:
            raise SourceError(f"{where}: the document is longer than {self._limit} bytes", retryable=False)
        value = plain(found, _simpler)
        if len(json.dumps(value)) > self._limit:
            raise SourceError(f"{where}: the document is longer than {self._limit} bytes of JSON", retryable=False)
        return value

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            client.close()

    async def _first(self, collection: Any, filter_: Any, sort: Mapping[str, int], timeout_s: float) -> Any:
        """The first document, or that it is too large."""
        fits = {"$lte": [{"$bsonSize": "$$ROOT"}, self._limit]}
        steps: list[dict[str, Any]] = [
            {"$match": filter_},
            *([{"$sort": dict(sort)}] if sort else []),
            {"$limit": 1},
            {"$replaceRoot": {"newRoot": {"$cond": [fits, "$$ROOT", {_TOO_LARGE: True}]}}},
        ]
        found = await collection.aggregate(steps, maxTimeMS=max(1, int(timeout_s * 1000))).to_list(1)
        return found[0] if found else None

    def _database(self, name: str) -> mongo.Database:
        access = self._connections[name]
        if name not in self._clients:
            self._clients[name] = mongo.connect(access, **READ_ONLY)
        return mongo.database(self._clients[name], access)


def _simpler(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, Decimal128):
        return float(value.to_decimal())
    return json_util.default(value, OPTIONS)


def _database_name(access: MongodbAccess | str) -> str:
    """The database that a URI names, read without asking DNS."""
    return urlsplit(mongo.access_of(access).uri).path.strip("/") or mongo.DEFAULT_DATABASE


def _short(error: Exception) -> str:
    return str(error).partition(", full error")[0][:300]
