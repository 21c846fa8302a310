"""Composition root of the scheduler: ``python -m perdure.scheduler``."""

from __future__ import annotations

import asyncio

from perdure.chassis import mongo
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.service import run_service
from perdure.scheduler.handlers import Turns
from perdure.scheduler.leader import Leadership
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.sweeps import Sweeper


async def main(settings: SchedulerSettings, stopping: asyncio.Event) -> None:
    """Sweep until ``stopping``."""
    client = mongo.connect(settings.mongodb_uri)
    db = mongo.database(client, settings.mongodb_uri)
    producer = Producer(settings.kafka_bootstrap_servers, settings.instance)
    turns = Turns(
        settings,
        Leadership(db, "sweeps", settings.instance, settings.leader_ttl_s),
        Sweeper(db, producer, settings),
    )
    health = HealthServer(settings, {"mongodb": lambda: turns.answering})
    await health.start()
    await turns.run(stopping)
    await producer.close()
    await health.close()
    client.close()


if __name__ == "__main__":
    run_service("scheduler", SchedulerSettings, main)
