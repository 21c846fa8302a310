"""Composition root of the validator: ``python -m perdure.validator``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pydantic import SecretStr

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.service import run_service
from perdure.chassis.telemetry import logger
from perdure.schemas import topics, validation
from perdure.validator.fetchers import load_fetchers
from perdure.validator.handlers import Validator
from perdure.validator.reading import Reader
from perdure.validator.settings import ValidatorSettings
from perdure.validator.sources.errors import SourceReader
from perdure.validator.sources.fetcher import FetcherReader
from perdure.validator.sources.http import HttpReader
from perdure.validator.sources.mongodb import MongoReader
from perdure.validator.sources.opensearch import OpenSearchReader

log = logger(__name__)

GROUP = "perdure.validator"
MONGODB = ("mongodb://", "mongodb+srv://")
OPENSEARCH = ("http://", "https://")


def connections(named: Mapping[str, SecretStr]) -> tuple[dict[str, str], dict[str, str]]:
    """The addresses of MongoDB and of OpenSearch among the named connections.

    Raises:
        ConfigurationError: one of them is neither.

    """
    found = {name: secret.get_secret_value() for name, secret in named.items()}
    for name, address in found.items():
        if not address.startswith(MONGODB + OPENSEARCH):
            raise ConfigurationError(
                f"PERDURE_VALIDATOR_CONNECTIONS: {name} must begin with one of {', '.join(MONGODB + OPENSEARCH)}"
            )
    return (
        {name: address for name, address in found.items() if address.startswith(MONGODB)},
        {name: address for name, address in found.items() if address.startswith(OPENSEARCH)},
    )


def readers(settings: ValidatorSettings) -> dict[str, SourceReader]:
    """A reader for each kind of source.

    Raises:
        ConfigurationError: a connection or a fetcher cannot be used.

    """
    mongodb, opensearch = connections(settings.validator_connections)
    limit = settings.validator_response_limit
    return {
        "http": HttpReader(settings.validator_source_hosts, limit),
        "mongodb": MongoReader(mongodb, limit),
        "opensearch": OpenSearchReader(opensearch, limit, settings.opensearch_ca_file),
        "fetcher": FetcherReader(load_fetchers(settings.langgraph_config), settings.validator_reads_per_source),
    }


async def main(settings: ValidatorSettings, stopping: asyncio.Event) -> None:
    """Validate until ``stopping``; then let open validations end."""
    reader = Reader(readers(settings), settings.validator_reads_per_source, settings.validator_max_reads)
    producer = Producer(settings.kafka_bootstrap_servers, settings.instance)
    validator = Validator(settings, reader, producer)
    consumer = Consumer(
        settings.kafka_bootstrap_servers,
        settings.instance,
        Subscription(topics.VALIDATIONS, GROUP, validation.VALIDATIONS, batch=settings.validator_max_open),
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
