"""What the servers must hold before a service starts: topics, indexes of the store, templates of the search index.

Contract: idempotent; nothing that exists is lowered or removed. Used by ``perdure up`` and ``perdure dev``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.kafka.admin import Change, TopicAdmin
from perdure.chassis.service import settings_problem, switch_on
from perdure.chassis.settings import ServiceSettings
from perdure.checkpoint.store import INDEXES as NOTEBOOK_INDEXES
from perdure.local.key_file import FILE, OwnKey, read_key_file, write_key_file
from perdure.registry.api_keys import ApiKeys, new_key, read_key, why_dead
from perdure.registry.sessions import Sessions, caller_of_key
from perdure.schemas import topics
from perdure.schemas.documents import NOTEBOOK
from perdure.schemas.scopes import EVERY

S = TypeVar("S", bound=ServiceSettings)


def service_settings(environment: Mapping[str, str], kind: type[S] = ServiceSettings) -> S:  # type: ignore[assignment]
    """The settings that a service gets which is started with these variables added to ours.

    Raises:
        ConfigurationError: a variable does not say what it should.

    """
    given = {name.removeprefix("PERDURE_").lower(): value for name, value in environment.items()}
    try:
        return kind.model_validate({**kind().model_dump(), **given})
    except (ValidationError, SettingsError) as error:
        raise ConfigurationError(settings_problem(error)) from error


def provision(environment: Mapping[str, str]) -> list[Change]:
    """Prepare the servers that the variables name; returns what changed in Kafka.

    Raises:
        UnavailableError: a server does not answer.

    """
    settings: ServiceSettings = service_settings(environment)
    switch_on(settings)
    return asyncio.run(_provision(settings))


def ensure_key(environment: Mapping[str, str], folder: Path) -> OwnKey:
    """The stack's own key; one is made unless the file has one that the database knows.

    Raises:
        UnavailableError: the database does not answer.

    """
    return asyncio.run(_ensure_key(service_settings(environment), folder))


async def _ensure_key(settings: ServiceSettings, folder: Path) -> OwnKey:
    client = mongo.connect(settings.mongodb)
    try:
        database = mongo.database(client, settings.mongodb)
        keys, file = ApiKeys(database), folder / FILE
        parts = read_key(read_key_file(folder) or "")
        key = None if parts is None else await keys.find(parts.id)
        if key is None or why_dead(key, now()) is not None:
            key, text = new_key(
                tenant=settings.tenant, name="local", scopes=EVERY, created_by="perdure up --secure", expires_at=None
            )
            await keys.create(key)
            file = write_key_file(folder, text)
        return OwnKey(file, await Sessions(database).issue_ticket(caller_of_key(key)))
    finally:
        client.close()


async def _provision(settings: ServiceSettings) -> list[Change]:
    changes, _ = await asyncio.gather(TopicAdmin(settings).apply(topics.ALL), _ensure_store(settings))
    return changes


async def _ensure_store(settings: ServiceSettings) -> None:
    client = mongo.connect(settings.mongodb)
    try:
        database = mongo.database(client, settings.mongodb)
        await mongo.ensure_indexes(database)
        await database[NOTEBOOK].create_indexes(NOTEBOOK_INDEXES)
    finally:
        client.close()
