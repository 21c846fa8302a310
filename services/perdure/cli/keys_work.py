"""What ``perdure keys`` does, on the database that the settings name.

Every function returns keys as the gateway shows them, and raises ``CommandError`` if the database does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Final, TypeVar

from pymongo.errors import PyMongoError

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.mongo import Database
from perdure.chassis.settings import ServiceSettings
from perdure.cli.errors import CommandError
from perdure.registry.api_keys import ApiKeys, key_view, new_key, why_dead
from perdure.registry.sessions import Sessions, caller_of_key
from perdure.schemas.scopes import Scope

T = TypeVar("T")

MAKER: Final = "cli"

Row = dict[str, Any]


def create(*, tenant: str, name: str, scopes: Iterable[Scope], expires_at: datetime | None) -> Row:
    """Make a key; with the key itself."""
    document, text = new_key(tenant=tenant, name=name, scopes=scopes, created_by=MAKER, expires_at=expires_at)
    _on_keys(lambda keys: keys.create(document))
    return key_view(document) | {"key": text}


def list_keys(tenant: str | None) -> list[Row]:
    """The keys of a tenant, or of all."""
    return [key_view(key) for key in _on_keys(lambda keys: keys.list(tenant))]


def revoke(key_id: str) -> Row:
    """Revoke a key of any tenant."""
    found = _on_keys(lambda keys: keys.revoke(key_id, None, MAKER))
    if found is None:
        raise CommandError(f"there is no key {key_id!r}; `perdure keys list` shows the ids")
    return key_view(found)


def ticket(key_id: str) -> str:
    """The secret of a ticket that opens one session of the console, which may do what the key may."""

    async def issue(database: Database) -> str:
        key = await ApiKeys(database).find(key_id)
        if key is None:
            raise CommandError(f"there is no key {key_id!r}; `perdure keys list` shows the ids")
        if (reason := why_dead(key, now())) is not None:
            raise CommandError(f"the key {key_id} {reason}")
        return await Sessions(database).issue_ticket(caller_of_key(key))

    return _on_database(issue)


def _on_keys(work: Callable[[ApiKeys], Awaitable[T]]) -> T:
    return _on_database(lambda database: work(ApiKeys(database)))


def _on_database(work: Callable[[Database], Awaitable[T]]) -> T:
    settings = ServiceSettings()

    async def run() -> T:
        client = mongo.connect(settings.mongodb)
        try:
            return await work(mongo.database(client, settings.mongodb))
        finally:
            client.close()

    try:
        return asyncio.run(run())
    except PyMongoError as error:
        raise CommandError(f"the database does not answer (PERDURE_MONGODB_URI): {error}") from error
