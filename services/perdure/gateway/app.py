"""The application factory: routes, middleware, and the adapters' lives (``cleanup_ctx``)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.hdrs import METH_GET, METH_HEAD

from perdure.chassis import mongo
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch_circuit import CircuitOpenSearch
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.telemetry import logger
from perdure.gateway.archive import Archive
from perdure.gateway.batches import Batches
from perdure.gateway.conditions import KAFKA_TIMEOUT_S, Conditions
from perdure.gateway.context import CONTEXT, Context
from perdure.gateway.deadletters import DeadLetters
from perdure.gateway.handlers.system import installed_version
from perdure.gateway.http.middleware import SECRET_BELOW, problems
from perdure.gateway.http.openapi import SPECIFICATION, describe
from perdure.gateway.http.tenants import DEFAULT_TENANT
from perdure.gateway.inbox import Inbox
from perdure.gateway.notices import Notices
from perdure.gateway.publish import SOURCE
from perdure.gateway.registry import Registry
from perdure.gateway.routes import PAGES, ROUTES
from perdure.gateway.schedules import Scheduling
from perdure.gateway.settings import GatewaySettings
from perdure.gateway.states import States
from perdure.gateway.store import Store
from perdure.gateway.stored_states import StoredStates
from perdure.gateway.stuck import Marks
from perdure.gateway.watch import RunWatch
from perdure.gateway.workers import Workers
from perdure.registry.answer_links import NOT_OFFERED, links_offered
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.registry.schedules import Schedules
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits

log = logger(__name__)

SELECTION_TIMEOUT_MS = 1_000
"""An unreachable database is noticed within this time, in milliseconds."""
FLUSH_S = 5.0
RESTART_S = 1.0


def make_app(settings: GatewaySettings) -> web.Application:
    """The application; opens nothing until it is started."""
    app = web.Application(middlewares=[problems], client_max_size=settings.gateway_body_limit_bytes)
    app[DEFAULT_TENANT] = settings.tenant
    app[SECRET_BELOW] = ("/answer/",)
    app[SPECIFICATION] = describe(ROUTES, installed_version())
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handle)
    for method, path, handle in PAGES:
        app.router.add_route(method, path, handle)
        if method == METH_GET:  # monitors and link previews ask by HEAD
            app.router.add_route(METH_HEAD, path, handle)

    async def adapters(running: web.Application) -> AsyncIterator[None]:
        async for context in _open(settings):
            running[CONTEXT] = context
            yield

    app.cleanup_ctx.append(adapters)
    app.on_shutdown.append(_release_waiting)
    return app


async def _release_waiting(app: web.Application) -> None:
    """Answer those who wait for a run's end: they poll another instance."""
    await app[CONTEXT].watch.close()
    await app[CONTEXT].threads_at_rest.close()


async def _tirelessly(name: str, watch: Callable[[], Awaitable[None]]) -> None:
    """Keep a background task going: a failure is logged, and it starts again."""
    while True:
        try:
            await watch()
        except Exception:
            log.exception("gateway.background_failed", task=name)
        await asyncio.sleep(RESTART_S)


async def _finish_waits(context: Context) -> None:
    """Wait for the writes about waits and signals, at most the store's time-out."""
    try:
        async with asyncio.timeout(context.store.timeout_s):
            await context.signals.aclose()
            await context.waits.aclose()
    except TimeoutError:
        return  # whoever submitted was told 503, or the scheduler's sweep finishes it


async def _open(settings: GatewaySettings) -> AsyncIterator[Context]:
    """Open the adapters, and close them in the opposite order."""
    links = links_offered(settings)
    if links is None:
        log.info("gateway.links_not_offered", detail=NOT_OFFERED)
    availability = Availability()
    client = mongo.connect(settings.mongodb_uri, serverSelectionTimeoutMS=SELECTION_TIMEOUT_MS)
    database = mongo.database(client, settings.mongodb_uri)
    store = Store(database, availability, settings.gateway_store_timeout_s)
    producer = Producer(settings.kafka_bootstrap_servers, f"perdure-gateway-{settings.instance}")
    opensearch = CircuitOpenSearch(settings.opensearch_url, ca_file=settings.opensearch_ca_file)
    waits = Waits(database, store.run_commit, producer, availability, SOURCE)
    context = Context(
        settings=settings,
        store=store,
        states=States(database, availability),
        stored_states=StoredStates(database, store),
        registry=Registry(store.graphs, settings.gateway_registry_refresh_s),
        workers=Workers(database, store),
        watch=RunWatch(store.ended),
        threads_at_rest=RunWatch(store.at_rest),
        producer=producer,
        opensearch=opensearch,
        waits=waits,
        signals=Signals(database, waits, availability),
        inbox=Inbox(database, store),
        marks=Marks(database, store),
        dead_letters=DeadLetters(database, store, producer),
        notices=Notices(database, store),
        schedules=Scheduling(database, store, Schedules(database, store.run_commit, producer, availability, SOURCE)),
        batches=Batches(database, store, settings.gateway_batch_items_limit),
        archive=Archive(database, store),
        links=links,
        replies=ReplyAddresses(database, availability),
        conditions=Conditions(availability, opensearch.circuit),
    )
    admin = TopicAdmin(settings.kafka_bootstrap_servers, timeout_s=KAFKA_TIMEOUT_S)

    async def first_contact() -> None:
        await outlast(lambda: mongo.ensure_indexes(database), availability)
        await context.conditions.watch_mongodb(store.ping)

    background: dict[str, Callable[[], Awaitable[None]]] = {
        "mongodb": first_contact,
        "kafka": lambda: context.conditions.watch_kafka(admin),
        "index": lambda: context.conditions.watch_index(admin),
        "opensearch": opensearch.circuit.watch,
        "registry": context.registry.keep_fresh,
        "workers": context.workers.watch,
    }
    tasks = [asyncio.create_task(_tirelessly(name, watch), name=name) for name, watch in background.items()]
    try:
        yield context
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _finish_waits(context)
        await context.dead_letters.close()
        await store.close()
        await context.producer.close(FLUSH_S)
        await context.opensearch.close()
        client.close()
