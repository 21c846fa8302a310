"""Composition root of the notifier: ``python -m perdure.notifier``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pymongo.errors import PyMongoError

from perdure.chassis import mongo
from perdure.chassis.addresses import AddressRules
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.consumer import Consumer, Subscription
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.mongo import Database
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.service import run_service
from perdure.chassis.telemetry import logger
from perdure.notifier.channels.email import EmailChannel
from perdure.notifier.channels.http import GuardedHttp, Limits
from perdure.notifier.channels.result import Send
from perdure.notifier.channels.slack import SlackChannel
from perdure.notifier.channels.webhook import WebhookChannel
from perdure.notifier.composing import Composer
from perdure.notifier.dispatch import Dispatcher
from perdure.notifier.domain import PASSED_OVER
from perdure.notifier.handlers import Notifying
from perdure.notifier.preparing import Preparing
from perdure.notifier.queue import Queue
from perdure.notifier.run_bodies import RunBodies
from perdure.notifier.settings import NotifierSettings
from perdure.notifier.sweeps import Sweeper
from perdure.notifier.telling import Telling
from perdure.registry.answer_links import NOT_OFFERED, links_offered
from perdure.registry.dead_letters import Letters
from perdure.registry.notes import Notes
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.registry.subscriptions import Subscriptions
from perdure.schemas import topics
from perdure.schemas.batches import NOTIFICATIONS
from perdure.schemas.events import EVENTS

log = logger(__name__)

GROUP = "perdure.notifier"
SOURCE = "perdure/notifier"
TELL_S = 1.0
PORTION_BYTES = 65_536
LAST_WRITES_S = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the notifier is made of."""

    queue: Queue
    notifying: Notifying
    dispatcher: Dispatcher
    telling: Telling
    sweeper: Sweeper
    channels: dict[str, Send]


def compose(settings: NotifierSettings, db: Database, availability: Availability, producer: Producer) -> Parts:
    """Put the parts together.

    Raises:
        ConfigurationError: a setting cannot be used.

    """
    queue = Queue(db, availability, settings.notifier_claim_s)
    subscriptions = Subscriptions(db, availability)
    links = links_offered(settings)
    if links is None:
        log.warning("notifier.no_links", hint=NOT_OFFERED)
    composer = Composer(links, ReplyAddresses(db, availability), settings.notifier_link_days)
    http = GuardedHttp(
        AddressRules(settings.notifier_allowed_targets, "PERDURE_NOTIFIER_ALLOWED_TARGETS"),
        Limits(settings.notifier_timeout_s, settings.notifier_response_limit),
        ca_file=settings.notifier_ca_file,
    )
    secret = settings.notifier_webhook_secret
    channels: dict[str, Send] = {
        "webhook": WebhookChannel(
            http, secret.get_secret_value() if secret is not None else None, RunBodies(db, availability)
        ),
        "email": EmailChannel(settings, composer),
        "slack": SlackChannel(http, composer),
    }
    preparing = Preparing(db, queue, subscriptions, composer, availability)
    return Parts(
        queue=queue,
        notifying=Notifying(settings, db, queue, subscriptions, availability),
        dispatcher=Dispatcher(settings, queue, preparing, subscriptions, channels),
        telling=Telling(db, Notes(db, producer, SOURCE)),
        sweeper=Sweeper(db, queue, subscriptions, settings),
        channels=channels,
    )


async def main(settings: NotifierSettings, stopping: asyncio.Event) -> None:
    """Tell people until ``stopping``; then let what is being sent end."""
    client = mongo.connect(settings.mongodb)
    db = mongo.database(client, settings.mongodb)
    availability = Availability()
    producer = Producer(settings, settings.instance)
    parts = compose(settings, db, availability, producer)
    letters = Letters(db, availability)
    consumers = [
        Consumer(
            settings,
            settings.instance,
            one,
            parts.notifying.handle,
            producer,
            keep=letters.keep,
        )
        for one in (
            Subscription(topics.EVENTS, GROUP, EVENTS, passed_over=PASSED_OVER, portion_bytes=PORTION_BYTES),
            Subscription(topics.NOTIFICATIONS, f"{GROUP}.notifications", NOTIFICATIONS),
        )
    ]
    health = HealthServer(
        settings,
        {"kafka": lambda: all(one.ready for one in consumers), "mongodb": lambda: availability.available},
    )
    await health.start()
    waiting = asyncio.create_task(stopping.wait())
    indexes = asyncio.create_task(outlast(lambda: mongo.ensure_indexes(db), availability))
    await asyncio.wait({indexes, waiting}, return_when=asyncio.FIRST_COMPLETED)
    log.info("notifier.serving", mail=settings.notifier_smtp_host is not None)
    working = [
        *(asyncio.create_task(one.run()) for one in consumers),
        asyncio.create_task(parts.dispatcher.run()),
        asyncio.create_task(_again("telling", TELL_S, parts.telling.turn, stopping)),
        asyncio.create_task(_again("sweeps", settings.notifier_sweep_s, parts.sweeper.turn, stopping)),
    ]
    await asyncio.wait({*working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, indexes):
        task.cancel()
    stopping.set()
    for consumer in consumers:
        consumer.stop()
    await parts.dispatcher.drain(settings.shutdown_grace_s / 2)
    _, left = await asyncio.wait(working, timeout=settings.shutdown_grace_s / 4)
    for task in left:
        task.cancel()
    await _last_writes(parts)
    await producer.close()
    await health.close()
    client.close()
    for task in working:
        if task.done() and not task.cancelled():
            task.result()  # what ended a part ends the process, which is started again


async def _again(name: str, every_s: float, turn: Callable[[], Awaitable[object]], stopping: asyncio.Event) -> None:
    """Take a turn each ``every_s`` seconds, at once while there is more to do; one that fails is logged and tried again."""
    while not stopping.is_set():
        more: object = None
        try:
            more = await turn()
        except PyMongoError as error:
            log.warning("notifier.database_away", loop=name, error=str(error))
        except Exception:
            log.exception("notifier.turn_failed", loop=name)
        if not more:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), every_s)


async def _last_writes(parts: Parts) -> None:
    """Results that are on their way; what does not arrive is sent again by another instance."""
    try:
        async with asyncio.timeout(LAST_WRITES_S):
            await parts.queue.close()
    except TimeoutError:
        log.warning("notifier.results_left")
    for channel in parts.channels.values():
        await channel.close()


if __name__ == "__main__":
    run_service("notifier", NotifierSettings, main)
