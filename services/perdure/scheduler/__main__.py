"""Composition root of the scheduler: ``python -m perdure.scheduler``."""

from __future__ import annotations

import asyncio
from functools import partial

from perdure.chassis import mongo
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.service import run_service
from perdure.scheduler.deadletters import DeadLetters
from perdure.scheduler.handlers import Lead, Loop, run_loops, sweeping
from perdure.scheduler.leader import Leadership
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.sweeps import Sweeper


async def main(settings: SchedulerSettings, stopping: asyncio.Event) -> None:
    """Run every loop until ``stopping``."""
    client = mongo.connect(settings.mongodb_uri)
    db = mongo.database(client, settings.mongodb_uri)
    producer = Producer(settings.kafka_bootstrap_servers, settings.instance)
    lead = Lead(Leadership(db, "sweeps", settings.instance, settings.leader_ttl_s), settings)
    dead_letters = DeadLetters(db, settings)
    loops = (
        Loop("lead", settings.sweep_interval_s, lead.renew),
        Loop("dead-letters", 5.0, partial(dead_letters.consume, stopping)),
        Loop("dead-letters-count", 15.0, dead_letters.count),
        Loop("sweeps", settings.sweep_interval_s, sweeping(Sweeper(db, producer, settings), lead)),
    )
    health = HealthServer(settings, {"mongodb": lambda: lead.answering})
    await health.start()
    await run_loops(loops, lead, stopping)
    await producer.close()
    await health.close()
    client.close()


if __name__ == "__main__":
    run_service("scheduler", SchedulerSettings, main)
