"""What the servers must hold before a service starts: topics, indexes of the store, templates of the search index.

Contract: idempotent; nothing that exists is lowered or removed. Used by ``perdure up`` and ``perdure dev``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from perdure.chassis import mongo
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.kafka.admin import Change, TopicAdmin
from perdure.chassis.service import settings_problem, switch_on
from perdure.chassis.settings import ServiceSettings
from perdure.checkpoint.store import INDEXES as NOTEBOOK_INDEXES
from perdure.schemas import topics
from perdure.schemas.documents import NOTEBOOK

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


async def _provision(settings: ServiceSettings) -> list[Change]:
    changes, _ = await asyncio.gather(
        TopicAdmin(settings.kafka_bootstrap_servers).apply(topics.ALL), _ensure_store(settings)
    )
    return changes


async def _ensure_store(settings: ServiceSettings) -> None:
    client = mongo.connect(settings.mongodb_uri)
    try:
        database = mongo.database(client, settings.mongodb_uri)
        await mongo.ensure_indexes(database)
        await database[NOTEBOOK].create_indexes(NOTEBOOK_INDEXES)
    finally:
        client.close()
