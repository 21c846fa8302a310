"""Documents of MongoDB: the first that fits, read from the primary, ``null`` when there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson import Decimal128, ObjectId, json_util
from bson.errors import BSONError
from pymongo import ReadPreference
from pymongo.errors import PyMongoError

from perdure.chassis import json, mongo
from perdure.chassis.outage import is_outage
from perdure.schemas.validation import MongoSource
from perdure.validator.sources.errors import SourceError
from perdure.validator.sources.plain import plain

SELECTION_MS = 2_000
"""How long the driver looks for a primary before an attempt fails."""
READ_ONLY: Mapping[str, Any] = {"serverSelectionTimeoutMS": SELECTION_MS, "retryReads": False, "maxPoolSize": None}
"""Attempts are ours to count, and so is how many read at once."""
OPTIONS = json_util.JSONOptions(tz_aware=True)


class MongoReader:
    """Reads :class:`MongoSource`.

    Args:
        connections: URIs by name; each names its database.
        limit: Bytes of JSON of an answer.

    """

    def __init__(self, connections: Mapping[str, str], limit: int) -> None:
        self._uris = dict(connections)
        self._limit = limit
        self._clients: dict[str, mongo.Client] = {}

    def key(self, source: MongoSource) -> str:
        """The connection."""
        if source.connection not in self._uris:
            raise SourceError(
                f"no MongoDB connection {source.connection!r} in PERDURE_VALIDATOR_CONNECTIONS (there are: "
                f"{', '.join(sorted(self._uris)) or 'none'})",
                retryable=False,
            )
        return f"MongoDB connection {source.connection}"

    async def read(self, source: MongoSource, timeout_s: float) -> Any:
        """Find one document."""
        where = self.key(source)
        try:
            filter_ = json_util.loads(json.dumps_strict(source.filter), json_options=OPTIONS)
            collection = self._database(source.connection).get_collection(
                source.collection, read_preference=ReadPreference.PRIMARY
            )
            found = await collection.find_one(
                filter_, sort=list(source.sort.items()) or None, max_time_ms=max(1, int(timeout_s * 1000))
            )
        except PyMongoError as error:
            raise SourceError(f"{where}: {_short(error)}", retryable=is_outage(error)) from error
        except (BSONError, TypeError, ValueError) as error:
            raise SourceError(f"{where}: the filter cannot be used: {_short(error)}", retryable=False) from error
        value = plain(found, _simpler)
        if len(json.dumps(value)) > self._limit:
            raise SourceError(f"{where}: the document is longer than {self._limit} bytes of JSON", retryable=False)
        return value

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            client.close()

    def _database(self, name: str) -> mongo.Database:
        uri = self._uris[name]
        if name not in self._clients:
            self._clients[name] = mongo.connect(uri, **READ_ONLY)
        return mongo.database(self._clients[name], uri)


def _simpler(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, Decimal128):
        return float(value.to_decimal())
    return json_util.default(value, OPTIONS)


def _short(error: Exception) -> str:
    return str(error).partition(", full error")[0][:300]
