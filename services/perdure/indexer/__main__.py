"""``python -m perdure.indexer``: the composition root of the indexer.

Order of the start: rules, OpenSearch (waits until templates and aliases are there), topics (waits until they exist), Faust, which
ends when it does not find Kafka at its start: nothing is waited for in between.
Order of the end: the batch in hand is finished and acknowledged, offsets are committed, the group is left.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from perdure.chassis.errors import UnavailableError
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch import OpenSearch
from perdure.chassis.service import run_service
from perdure.chassis.telemetry import logger
from perdure.indexer.handlers import Indexing
from perdure.indexer.rules import load
from perdure.indexer.settings import IndexerSettings
from perdure.indexer.stream import EventStream, make_app
from perdure.indexer.writer import Writer
from perdure.schemas import topics

log = logger("perdure.indexer")

WAIT_S: Final = 1.0
NEEDED: Final = tuple(topic for topic in topics.ALL if topic.name in {topics.EVENTS.name, topics.EVENTS.dead})


async def main(settings: IndexerSettings, stopping: asyncio.Event) -> None:
    """Run until ``stopping`` is set."""
    redaction = load(settings.redaction_file, settings.redaction_key)
    client = OpenSearch(settings.opensearch)
    writer = Writer(client, settings)
    stream: EventStream | None = None
    indexing: Indexing | None = None
    health = HealthServer(
        settings,
        {
            "opensearch": lambda: writer.available,
            "kafka": lambda: stream is not None and stream.ready and not (indexing and indexing.holding),
        },
    )
    await health.start()
    dead_letters = Producer(settings, f"indexer-{settings.instance}")
    try:
        if not await until(stopping, writer.open()) or not await until(stopping, wait_for_topics(settings)):
            return
        indexing = Indexing(writer, dead_letters, redaction, settings)
        app = make_app(settings)
        stream = EventStream(app, settings, indexing.handle, indexing.settle)
        await consume(app, stream, settings, stopping)
    finally:
        await dead_letters.close()
        await client.close()
        await health.close()


async def consume(app: Any, stream: EventStream, settings: IndexerSettings, stopping: asyncio.Event) -> None:
    """Start Faust, feed the stream until ``stopping``, and end in order.

    Raises:
        Exception: Faust ended by itself; whoever watches the process starts it again.

    """
    await app.start()
    feeding = asyncio.ensure_future(stream.run(stopping))
    crashed = asyncio.ensure_future(app.wait_until_stopped())
    asked = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((feeding, crashed, asked), return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            await asyncio.wait((feeding,), timeout=settings.shutdown_grace_s / 2)
            if feeding.done():
                await app.consumer.commit()
            else:
                log.warning("indexer.batch_left", detail="not acknowledged: it is read again after the next start")
        elif crashed.done():
            raise app.crash_reason or RuntimeError("Faust stopped consuming")
        if feeding.done():
            feeding.result()
    finally:
        for task in (feeding, crashed, asked):
            task.cancel()
        await asyncio.gather(feeding, crashed, asked, return_exceptions=True)
        await app.stop()


async def wait_for_topics(settings: IndexerSettings) -> None:
    """Wait until the topics exist: Faust would ignore one that does not."""
    admin = TopicAdmin(settings)
    while True:
        try:
            missing = [change.topic for change in await admin.diff(NEEDED) if change.action == "create"]
        except UnavailableError as error:
            log.warning("indexer.waiting_for_kafka", error=str(error))
        else:
            if not missing:
                return
            log.warning("indexer.waiting_for_topics", missing=missing, advice="run `perdure topics apply`")
        await asyncio.sleep(WAIT_S)


async def until(stopping: asyncio.Event, work: Any) -> bool:
    """Whether ``work`` was done before ``stopping`` was set; if not, it is cancelled."""
    task = asyncio.ensure_future(work)
    asked = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        task.cancel()
        asked.cancel()
        await asyncio.gather(task, asked, return_exceptions=True)


if __name__ == "__main__":
    run_service("indexer", IndexerSettings, main)
