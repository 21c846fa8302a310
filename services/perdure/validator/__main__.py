"""Composition root of the validator: ``python -m perdure.validator``."""

from __future__ import annotations

import asyncio
import os

from perdure.chassis.addresses import AddressRules
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.health import HealthServer
from perdure.chassis.hosts import Hosts
from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.service import run_service
from perdure.chassis.signatures import Signatures
from perdure.chassis.telemetry import logger
from perdure.schemas import topics, validation
from perdure.validator.connections import connections
from perdure.validator.fetchers import load_fetchers
from perdure.validator.handlers import Validator
from perdure.validator.reading import Reader
from perdure.validator.secrets import HOSTS, Secrets
from perdure.validator.settings import ValidatorSettings
from perdure.validator.sources.errors import SourceReader
from perdure.validator.sources.fetcher import FetcherReader
from perdure.validator.sources.http import HOSTS_SETTING, TARGETS_SETTING, HttpReader
from perdure.validator.sources.mongodb import MongoReader
from perdure.validator.sources.opensearch import OpenSearchReader

log = logger(__name__)

GROUP = "perdure.validator"


def readers(settings: ValidatorSettings) -> dict[str, SourceReader]:
    """A reader for each kind of source.

    Raises:
        ConfigurationError: a connection or a fetcher cannot be used.

    """
    mongodb, opensearch = connections(settings)
    limit = settings.validator_response_limit
    allowed, scripted = settings.validator_allowed_collections, settings.validator_scripted
    for name in (*allowed, *scripted):
        if name not in settings.validator_connections:
            raise ConfigurationError(f"{name!r} is no connection of PERDURE_VALIDATOR_CONNECTIONS")
    return {
        "http": http_reader(settings, limit),
        "mongodb": MongoReader(mongodb, limit, allowed=allowed, scripted=scripted, own=settings.mongodb),
        "opensearch": OpenSearchReader(opensearch, limit, allowed=allowed, scripted=scripted),
        "fetcher": FetcherReader(load_fetchers(settings.langgraph_config), settings.validator_reads_per_source),
    }


def http_reader(settings: ValidatorSettings, limit: int) -> HttpReader:
    """The reader of HTTP premises.

    Raises:
        ConfigurationError: a list of hosts cannot be used.

    """
    only, secrets = settings.validator_source_hosts, Secrets(os.environ)
    for name in secrets.unbound():
        log.warning("validator.secret_unbound", variable=name, hint=f"it is sent to the hosts of {name}{HOSTS} only")
    return HttpReader(
        AddressRules((*settings.validator_allowed_targets, *(only or ())), TARGETS_SETTING),
        limit,
        secrets,
        Hosts(only, HOSTS_SETTING) if only is not None else None,
    )


async def main(settings: ValidatorSettings, stopping: asyncio.Event) -> None:
    """Validate until ``stopping``; then let open validations end."""
    reader = Reader(readers(settings), settings.validator_reads_per_source, settings.validator_max_reads)
    producer = Producer(settings, settings.instance)
    signatures = Signatures.of(settings)
    validator = Validator(settings, reader, producer, signatures)
    wanted = Subscription(
        topics.VALIDATIONS,
        GROUP,
        validation.VALIDATIONS,
        batch=settings.validator_max_open,
        verify=signatures.verify,
    )
    consumer = Consumer(
        settings,
        settings.instance,
        wanted,
        validator.handle,
        producer,
        room=validator.room,
    )
    health = HealthServer(settings, {"kafka": lambda: consumer.ready})
    await health.start()
    log.info("validator.serving", connections=sorted(settings.validator_connections))
    consuming = asyncio.create_task(consumer.run())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({consuming, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    consumer.stop()
    await validator.drain(settings.shutdown_grace_s / 2)
    await producer.close()
    await reader.close()
    await health.close()
    await consuming


if __name__ == "__main__":
    run_service("validator", ValidatorSettings, main)
