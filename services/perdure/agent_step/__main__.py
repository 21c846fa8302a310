"""Composition root of agent-step: ``python -m perdure.agent_step``."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from perdure.agent_step import strict

# isort: split
from langgraph.checkpoint.serde._msgpack import STRICT_MSGPACK_ENABLED
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from perdure.agent_step import metrics, verdicts
from perdure.agent_step.chunks import Streams
from perdure.agent_step.claims import Claims
from perdure.agent_step.endings import Endings
from perdure.agent_step.graphs import ServedGraph, load_graphs, schema_types
from perdure.agent_step.handlers import handle
from perdure.agent_step.hibernation import Hibernation
from perdure.agent_step.lease import Lease
from perdure.agent_step.pace import Allowance, Pace
from perdure.agent_step.poison import Poison
from perdure.agent_step.ports import Ports
from perdure.agent_step.publisher import SOURCE
from perdure.agent_step.settings import AgentStepSettings
from perdure.agent_step.shown import show_delta_channels
from perdure.agent_step.timings import Timings
from perdure.agent_step.worker import ShuttingDown, Worker
from perdure.chassis import mongo
from perdure.chassis.clock import now
from perdure.chassis.group_commit import GroupCommit
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.consumer import Consumer, Handler, Subscription
from perdure.chassis.kafka.deadletter import Keep
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import outlast
from perdure.chassis.project import read_auth
from perdure.chassis.service import run_service
from perdure.chassis.signatures import Signatures
from perdure.chassis.telemetry import logger
from perdure.checkpoint import PerdureSaver
from perdure.registry.dead_letters import Letters
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits
from perdure.schemas import commands, documents, topics, validation
from perdure.sdk.context import SdkContext

log = logger(__name__)

GROUP = "perdure.agent-step"
VERDICTS_GROUP = "perdure.agent-step.verdicts"


async def prepare(
    db: mongo.Database, saver: PerdureSaver, graphs: dict[str, ServedGraph], *, asks_handlers: bool = False
) -> None:
    """Create what is missing in the database and tell the gateway which graphs are served, however long that takes."""
    show_delta_channels()
    await outlast(partial(mongo.ensure_indexes, db), saver.availability)
    await saver.ensure_indexes()
    await outlast(partial(_register, db, graphs, asks_handlers=asks_handlers), saver.availability)


async def _register(db: mongo.Database, graphs: dict[str, ServedGraph], *, asks_handlers: bool) -> None:
    for graph_id, served in graphs.items():
        document = served.document() | {"asks_handlers": asks_handlers, "updated_at": now()}
        await db[documents.GRAPHS].update_one({"_id": graph_id}, {"$set": document}, upsert=True)


async def main(settings: AgentStepSettings, stopping: asyncio.Event) -> None:
    """Serve until ``stopping``; then hand every run over."""
    loop = asyncio.get_running_loop()
    # Nodes that are not async run in threads: as many as runs may be open, or one slow node would hold up the others.
    loop.set_default_executor(ThreadPoolExecutor(settings.max_open_runs + 8, thread_name_prefix="node"))
    client = mongo.connect(settings.mongodb)
    db = mongo.database(client, settings.mongodb)
    saver = PerdureSaver(db, serde=(serde := serializer_of(settings)))
    graphs = await load_graphs(settings.langgraph_config, saver)
    await prepare(db, saver, graphs, asks_handlers=read_auth(settings.langgraph_config) is not None)

    timings = Timings(db, sorted(graphs))
    paces = paces_of(graphs, timings, settings)
    runs = GroupCommit(db[documents.RUNS], availability=saver.availability)
    threads = GroupCommit(db[documents.THREADS], availability=saver.availability)
    producer = Producer(settings, settings.instance)

    async def renew() -> None:
        await outlast(lease.renew_incarnation, saver.availability)
        worker.resume()

    def lost() -> None:
        metrics.LEASES_LOST.inc()
        log.error("lease.lost", instance=settings.instance)
        worker.lose_everything()
        renewals.add(task := asyncio.create_task(renew()))
        task.add_done_callback(renewals.discard)

    renewals: set[asyncio.Task[None]] = set()
    lease = Lease(
        settings.mongodb,
        settings.lease_ttl_s,
        sorted(graphs),
        lost,
        lambda owned: worker.audit(owned),  # noqa: PLW0108 - the worker is made further down
        settings.max_open_runs,
    )
    claims = Claims(db, runs, saver.availability, lambda: lease.incarnation, graphs)
    waits, signatures = Waits(db, runs, producer, saver.availability, SOURCE), Signatures.of(settings)
    signals = Signals(db, waits, saver.availability)
    endings = Endings(runs, threads, Hibernation(waits, signals, producer, SOURCE, signatures))
    sdk = SdkContext(db, saver.availability, waits, loop, settings.mail_domain, receipts_of(serde, graphs))
    poison, streams = Poison(claims, settings.crash_limit), Streams(producer)
    worker = Worker(settings, Ports(saver, runs, claims, endings, producer, graphs, paces, poison, sdk, streams))
    saver.availability.on_outage(
        lambda down: log.warning("database.lost") if down else log.warning("database.regained")
    )
    letters = Letters(db, saver.availability)
    consumers = consumers_of(
        settings, worker, partial(verdicts.handle, waits, _clock_of(db, saver)), producer, letters.keep, signatures
    )
    health = HealthServer(
        settings,
        {
            "kafka": lambda: all(consumer.ready for consumer in consumers),
            "mongodb": lambda: saver.availability.available,
        },
    )
    await lease.start()
    await health.start()
    log.info("agent_step.serving", graphs={g: s.version for g, s in graphs.items()})
    background = [
        asyncio.create_task(timings.keep()),
        asyncio.create_task(_look_for_unserved(worker, settings.unserved_interval_s)),
    ]
    consuming = {asyncio.create_task(consumer.run()) for consumer in consumers}
    await _one_ends_or(stopping, consuming)
    for consumer in consumers:
        consumer.stop()
    await asyncio.gather(
        worker.drain(settings.shutdown_grace_s), asyncio.wait(consuming, timeout=settings.shutdown_grace_s)
    )
    for task in background:
        task.cancel()
    await producer.close()
    await lease.close()
    await saver.aclose()
    await health.close()
    client.close()
    await asyncio.gather(*consuming)


async def _look_for_unserved(worker: Worker, interval_s: float) -> None:
    """Take the runs that workers of other graphs left, until cancelled."""
    while True:
        try:
            await worker.take_unserved()
        except ShuttingDown:
            return
        except Exception:
            log.exception("unserved.failed")
        await asyncio.sleep(interval_s)


def _clock_of(db: mongo.Database, saver: PerdureSaver) -> verdicts.Clock:
    """Asks the database for the time, however long that takes."""
    return partial(outlast, partial(mongo.server_time, db), saver.availability)


def serializer_of(settings: AgentStepSettings) -> JsonPlusSerializer:
    """The serializer of checkpoints; what it may construct beside the graphs' own types is in the settings."""
    if not STRICT_MSGPACK_ENABLED:
        return JsonPlusSerializer()
    return JsonPlusSerializer(allowed_msgpack_modules=strict.type_keys(settings.allowed_types) or None)


def receipts_of(serde: JsonPlusSerializer, graphs: dict[str, ServedGraph]) -> JsonPlusSerializer:
    """The serializer of receipts: a receipt may be of any type that the schemas of a served graph name."""
    for served in graphs.values():
        serde = serde.with_msgpack_allowlist(schema_types(served.graph))
    return serde


async def _one_ends_or(stopping: asyncio.Event, consuming: set[asyncio.Task[None]]) -> None:
    """Wait until the service is told to stop or a consumer has failed."""
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({*consuming, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def consumers_of(
    settings: AgentStepSettings,
    worker: Worker,
    on_verdicts: Handler,
    dead: Producer,
    keep: Keep,
    signatures: Signatures,
) -> tuple[Consumer, Consumer]:
    """Of commands, as long as the worker has room, and of verdicts, which must be signed where a secret is set."""
    return (
        Consumer(
            settings,
            settings.instance,
            Subscription(topics.COMMANDS, GROUP, commands.COMMANDS, batch=settings.max_open_runs),
            partial(handle, worker),
            dead,
            room=worker.room,
            keep=keep,
        ),
        Consumer(
            settings,
            settings.instance,
            Subscription(topics.VERDICTS, VERDICTS_GROUP, validation.VERDICTS, verify=signatures.verify),
            on_verdicts,
            dead,
            keep=keep,
        ),
    )


def paces_of(graphs: dict[str, ServedGraph], timings: Timings, settings: AgentStepSettings) -> dict[str, Pace]:
    """The pace of each graph that is served."""
    allowance = Allowance(settings.expected_default_s, settings.expected_floor_s, settings.expected_factor)
    return {
        name: Pace(
            served.graph.nodes,
            served.graph.step_timeout,
            allowance,
            learned_s=partial(timings.learned_s, name),
            saw=partial(timings.saw, name),
        )
        for name, served in graphs.items()
    }


if __name__ == "__main__":
    run_service("agent-step", AgentStepSettings, main)
