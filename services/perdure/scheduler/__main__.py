"""Composition root of the scheduler: ``python -m perdure.scheduler``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any

from perdure.archive import policy
from perdure.archive.pruning import Pruner
from perdure.archive.removing import Remover
from perdure.archive.store import ArchiveStore
from perdure.chassis import mongo
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.service import run_service
from perdure.chassis.signatures import Signatures
from perdure.chassis.telemetry import logger
from perdure.registry.notes import Notes
from perdure.registry.schedules import Schedules
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits
from perdure.scheduler import delayed
from perdure.scheduler.ahead import Ahead
from perdure.scheduler.archive import Archiving
from perdure.scheduler.batch_events import Outbox
from perdure.scheduler.batch_uploads import Uploads
from perdure.scheduler.batches import Batches
from perdure.scheduler.clock import DatabaseClock
from perdure.scheduler.completed import Completed
from perdure.scheduler.deadletters import DeadLetters
from perdure.scheduler.escalation import Escalations
from perdure.scheduler.expiring import EVERY_S, Expiries
from perdure.scheduler.firing import MISSED_S, Firings
from perdure.scheduler.handlers import Lead, Loop, recovering, run_loops, sweeping
from perdure.scheduler.leader import Leadership
from perdure.scheduler.removing import Removals
from perdure.scheduler.settings import SchedulerSettings
from perdure.scheduler.shares import RENEW_S, Members, Shares
from perdure.scheduler.stuck import StuckWatch
from perdure.scheduler.sweeps import SOURCE, Sweeper
from perdure.scheduler.timers import Timers
from perdure.scheduler.unfinished import Unfinished
from perdure.schemas.documents import RUNS, SCHEDULES, WAITS

log = logger(__name__)

WAITS_REST_S = 0.25
"""How long the clock of waits rests at most while none falls due: a wait shorter than that is late by as much."""
REST_S = 0.5
"""The same for schedules and delayed starts."""
LAST_WRITES_S = 5.0
"""How long writes on their way may take to arrive, once the scheduler is told to stop."""


async def main(settings: SchedulerSettings, stopping: asyncio.Event) -> None:
    """Run every loop until ``stopping``."""
    retention = policy.load(settings.retention_file)
    store = (
        ArchiveStore(settings.archive_url, settings.archive_store_options, settings.archive_ca_file)
        if settings.archive_url
        else None
    )
    client = mongo.connect(settings.mongodb)
    db = mongo.database(client, settings.mongodb)
    producer = Producer(settings, settings.instance)
    availability = Availability()
    clock = DatabaseClock(db)
    lead = Lead(Leadership(db, clock, "sweeps", settings.instance, settings.leader_ttl_s), settings)
    members = Members(db, clock, settings.instance)
    runs = GroupCommit(db[RUNS], availability=availability)
    waits = Waits(db, runs, producer, availability, SOURCE)
    signals = Signals(db, waits, availability)
    notes = Notes(db, producer, SOURCE)
    escalations = Escalations(db, notes)
    timers = Timers(db, waits, clock, Shares(members), escalations)
    schedules = Schedules(db, runs, producer, availability, SOURCE)
    firings = Firings(db, schedules, clock, Shares(members), Shares(members))
    stuck = StuckWatch(db, notes, clock, settings)
    unfinished = Unfinished(db, producer, signals, clock, Signatures.of(settings))
    dead_letters = DeadLetters(db, settings)
    sweeper = Sweeper(db, producer, clock, settings)
    batches = Batches(db, producer, waits, settings)
    removals = Removals(db, Remover(db, store, producer, SOURCE), settings)
    expiries = Expiries(db, Pruner(db, producer, SOURCE, availability), clock)
    loops = [
        Loop("members", RENEW_S, members.renew),
        Loop("timers", settings.timer_interval_s, timers.turn, Ahead(db, WAITS, "due_at", clock, WAITS_REST_S)),
        Loop("schedules", settings.timer_interval_s, firings.turn, Ahead(db, SCHEDULES, "next_at", clock, REST_S)),
        Loop("missed-schedules", MISSED_S, firings.make_up),
        Loop("decided-schedules", 5.0, lead.only(firings.finish)),
        Loop(
            "delayed",
            delayed.EVERY_S,
            lead.only(delayed.Delayed(db, producer, clock).turn),
            Ahead(db, RUNS, "start_at", clock, REST_S, {"delayed": True}),
        ),
        Loop("lead", settings.sweep_interval_s, lead.renew),
        Loop("signals", settings.sweep_interval_s, lead.only(unfinished.offer_signals)),
        Loop("validations", settings.sweep_interval_s, lead.only(unfinished.ask_validator)),
        Loop("stuck", settings.stuck_interval_s, lead.only(stuck.turn)),
        Loop("notes", 5.0, lead.only(stuck.publish_notes)),
        Loop("batches", settings.batch_interval_s, lead.only(batches.turn), batches),
        Loop("batches-told", 0.5, lead.only(Outbox(db, producer).publish)),
        Loop("completed", 1.0, lead.only(Completed(db, clock, settings.completed_delete_s).turn)),
        Loop("removals", 2.0, lead.only(removals.turn)),
        Loop("expiries", EVERY_S, lead.only(expiries.turn)),
        Loop("uploads", 15.0, lead.only(Uploads(db, settings.batch_upload_grace_s).sweep)),
        Loop("dead-letters", 5.0, partial(dead_letters.consume, stopping)),
        Loop("dead-letters-count", 15.0, dead_letters.count),
        Loop("recovery", settings.sweep_interval_s, recovering(sweeper, lead)),
        Loop("sweeps", settings.sweep_interval_s, sweeping(sweeper, lead)),
    ]
    if store is not None:
        archive = Archiving(db, store, retention, producer, settings)
        loops += [
            Loop("archive", settings.archive_interval_s, lead.only(archive.turn)),
            Loop("archive-left", 2.0, lead.only(archive.finish)),
        ]
    else:
        log.info("archive.off", detail="PERDURE_ARCHIVE_URL is not set: ended threads stay in MongoDB")
    health = HealthServer(settings, {"mongodb": lambda: lead.answering})
    await health.start()
    await _before_stop(outlast(lambda: mongo.ensure_indexes(db), availability), stopping)
    await run_loops(loops, lead, stopping)
    await members.leave()
    await asyncio.gather(timers.aclose(), firings.aclose())
    await _within(asyncio.gather(signals.aclose(), waits.aclose(), runs.close()))
    await producer.close()
    await health.close()
    client.close()


async def _before_stop(work: Coroutine[Any, Any, None], stopping: asyncio.Event) -> None:
    """Await work that may take as long as an outage of the database, unless the service is told to stop."""
    tasks = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    if not stopping.is_set():
        await tasks[0]


async def _within(work: Awaitable[Any]) -> None:
    """Await what is on its way to the database; what does not arrive is done by another instance."""
    try:
        async with asyncio.timeout(LAST_WRITES_S):
            await work
    except TimeoutError:
        log.warning("scheduler.writes_left")


if __name__ == "__main__":
    run_service("scheduler", SchedulerSettings, main)
