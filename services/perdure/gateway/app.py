"""The composition root: builds the stores and the resources, adds their routes, opens and closes what they use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Self

from aiohttp import web
from aiohttp.hdrs import METH_GET, METH_HEAD

from perdure.archive.pruning import Pruner
from perdure.chassis import mongo
from perdure.chassis.health import HealthServer
from perdure.chassis.kafka.admin import TopicAdmin
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch_circuit import CircuitOpenSearch
from perdure.chassis.outage import Availability, outlast
from perdure.chassis.telemetry import logger
from perdure.gateway.answers.answering import Answering
from perdure.gateway.answers.approvals import ApprovalsResource
from perdure.gateway.answers.inbound import MailResource, require_secret
from perdure.gateway.answers.links import PATH, LinkPages
from perdure.gateway.answers.questions import Questions
from perdure.gateway.auth.caller import tenant_of
from perdure.gateway.auth.callers import Callers
from perdure.gateway.authorization import Authorization, Finders
from perdure.gateway.console.resource import ConsolePages
from perdure.gateway.console.stored_states import StoredStates
from perdure.gateway.http.bodies import BODIES, Bodies
from perdure.gateway.http.browsers import BrowserGuard
from perdure.gateway.http.connections import CONNECTIONS, Connections
from perdure.gateway.http.cors import Cors
from perdure.gateway.http.middleware import SECRET_BELOW, problems
from perdure.gateway.http.openapi import SPECIFICATION, describe
from perdure.gateway.http.origins import Hosts, Origins, is_loopback
from perdure.gateway.http.places import Places
from perdure.gateway.http.route import ForPeople, Page, Resource, Route
from perdure.gateway.http.thread_ids import show_headers, thread_ids
from perdure.gateway.resources.archive import Archive, ArchiveResource
from perdure.gateway.resources.batches import BatchCreator, BatchesResource, BatchStore, Results
from perdure.gateway.resources.crons import CronsResource
from perdure.gateway.resources.dead_letters import DeadLettersResource, DeadLetterStore
from perdure.gateway.resources.deliveries import DeliveriesResource, DeliveryStore
from perdure.gateway.resources.graphs import GraphsResource
from perdure.gateway.resources.keys import KeysResource
from perdure.gateway.resources.runs import Joiner, Retrier, RunsResource, RunStreams, Starter
from perdure.gateway.resources.schedules import SchedulesResource, ScheduleStore
from perdure.gateway.resources.signals import SignalsResource, SignalStore
from perdure.gateway.resources.states import States, StatesResource, StateUpdates
from perdure.gateway.resources.stuck import Marks, StuckResource
from perdure.gateway.resources.subscriptions import SubscriptionsResource, SubscriptionStore
from perdure.gateway.resources.system import KAFKA_TIMEOUT_S, Conditions, SystemResource, installed_version
from perdure.gateway.resources.threads import ThreadChanges, ThreadChangesResource, ThreadSearching, ThreadsResource
from perdure.gateway.search.resource import SearchResource
from perdure.gateway.settings import GatewaySettings
from perdure.gateway.stores import limits
from perdure.gateway.stores.commands import SOURCE
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.quotas import Quotas
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.workers import Workers
from perdure.gateway.streams.asking import Asking
from perdure.gateway.streams.history import History
from perdure.gateway.streams.hub import Streams
from perdure.gateway.streams.watch import RunWatch
from perdure.registry.answer_links import NOT_OFFERED, AnswerLinks, links_offered
from perdure.registry.api_keys import ApiKeys
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.registry.schedules import Schedules
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits
from perdure.schemas.session_documents import TICKET_PATH

log = logger(__name__)

SELECTION_TIMEOUT_MS = 1_000
"""An unreachable database is noticed within this time, in milliseconds."""
FLUSH_S = 5.0
RESTART_S = 1.0


@dataclass(frozen=True, slots=True)
class Servers:
    """Clients of the servers that the gateway uses."""

    mongodb: mongo.Client
    database: mongo.Database
    availability: Availability
    """Of MongoDB."""
    producer: Producer
    admin: TopicAdmin
    opensearch: CircuitOpenSearch

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """The clients for these settings; only the Kafka producer begins to connect before its first use."""
        client = mongo.connect(settings.mongodb, serverSelectionTimeoutMS=SELECTION_TIMEOUT_MS)
        return cls(
            mongodb=client,
            database=mongo.database(client, settings.mongodb),
            availability=Availability(),
            producer=Producer(settings, f"perdure-gateway-{settings.instance}"),
            admin=TopicAdmin(settings, timeout_s=KAFKA_TIMEOUT_S),
            opensearch=CircuitOpenSearch(settings.opensearch),
        )

    async def close(self) -> None:
        """Send the records that are queued, for at most ``FLUSH_S`` seconds, and close the connections."""
        await self.producer.close(FLUSH_S)
        await self.opensearch.close()
        self.mongodb.close()


class Gateway:
    """The stores and resources of one gateway, built and not yet running."""

    def __init__(self, settings: GatewaySettings, servers: Servers, links: AnswerLinks | None = None) -> None:
        """Build everything; ``links``: to the pages of questions, ``None`` where they are not offered."""
        database, availability, producer = servers.database, servers.availability, servers.producer
        self._servers = servers
        self.callers = Callers(database, settings, settings.gateway_store_timeout_s)
        self._health = HealthServer(settings, {"gateway": lambda: all(self._conditions.required.values())})
        self._store = store = Store(database, availability, settings.gateway_store_timeout_s)
        self._waits = Waits(database, store.run_commit, producer, availability, SOURCE)
        self._signals = Signals(database, self._waits, availability)
        self._graphs = ServedGraphs(
            store.graphs, settings.gateway_registry_refresh_s, asks_handlers=self.callers.handlers is not None
        )
        self._workers = Workers(database, store)
        self._letters = DeadLetterStore(database, store, producer)
        self._conditions = Conditions(availability, servers.opensearch.circuit)
        self._streams = Streams(
            History(database, availability, store),
            store,
            Asking(producer),
            settings,
            f"perdure-gateway-{settings.instance}-streams",
        )
        self._ended, self._at_rest = RunWatch(store.ended, self._streams), RunWatch(store.at_rest, self._streams)
        quotas = Quotas(database, store, limits.load(settings.quotas_file))
        graphs, workers, opensearch = self._graphs, self._workers, servers.opensearch
        states = States(database, availability)
        updates = StateUpdates(
            store, states, graphs, workers, producer, ended=self._ended, timeout_s=settings.gateway_update_timeout_s
        )
        changes = ThreadChanges(database, store)
        batches = BatchStore(database, store, settings.gateway_batch_items_limit)
        self._schedule_store = schedules = ScheduleStore(
            database, store, Schedules(database, store.run_commit, producer, availability, SOURCE), quotas
        )
        watchers = Places(settings.gateway_watchers, "answers that wait for runs")
        marks = Marks(database, store)
        self._questions = questions = Questions(database, store)
        answering = Answering(store, questions, self._waits)
        signals = SignalStore(database, store, self._signals, quotas)
        starter = Starter(
            store,
            states,
            graphs,
            producer,
            quotas,
            status=settings.gateway_start_status,
            webhook_format=settings.gateway_webhook_format,
        )
        system = SystemResource(self._conditions, workers)
        self._resources: tuple[Resource, ...] = (
            ThreadsResource(store, states, ThreadSearching(database, store, states), changes, updates, quotas),
            ThreadChangesResource(store, states, changes, Pruner(database, producer, SOURCE, availability), quotas),
            StatesResource(store, states, updates, page=settings.gateway_history_page),
            RunsResource(
                store,
                starter,
                Retrier(store, producer, quotas),
                Joiner(
                    store,
                    states,
                    producer,
                    quotas,
                    ended=self._ended,
                    at_rest=self._at_rest,
                    timeout_s=settings.gateway_join_timeout_s,
                    heartbeat_s=settings.gateway_heartbeat_s,
                ),
                producer,
                watchers,
                page=settings.gateway_run_page,
            ),
            RunStreams(
                store, starter, producer, self._streams, watchers, quotas, heartbeat_s=settings.gateway_heartbeat_s
            ),
            SignalsResource(store, signals),
            ApprovalsResource(store, questions, answering),
            MailResource(
                store,
                signals,
                ReplyAddresses(database, availability),
                domain=settings.mail_domain,
                secret=settings.inbound_secret,
                limit_bytes=settings.inbound_limit_bytes,
            ),
            DeadLettersResource(self._letters),
            ArchiveResource(store, Archive(database, store)),
            BatchesResource(
                batches,
                BatchCreator(
                    batches,
                    graphs,
                    quotas,
                    limit_bytes=settings.gateway_upload_limit_bytes,
                    idle_s=settings.gateway_upload_idle_s,
                ),
                Results(database, store, states, batches),
            ),
            SubscriptionsResource(SubscriptionStore(database, store, quotas, settings.mail_to)),
            DeliveriesResource(DeliveryStore(database, store)),
            SchedulesResource(store, graphs, schedules),
            CronsResource(store, graphs, schedules),
            SearchResource(store, opensearch),
            StuckResource(store, opensearch, marks),
            GraphsResource(graphs, workers),
            KeysResource(store, ApiKeys(database)),
            system,
        )
        """In the order of the API description."""
        self._for_people: tuple[ForPeople, ...] = (
            ConsolePages(
                store=store,
                stored_states=StoredStates(database, store),
                opensearch=opensearch,
                marks=marks,
                batches=batches,
                graphs=graphs,
                workers=workers,
                conditions=self._conditions,
            ),
            system,
            self.callers,
            LinkPages(links, questions, answering, public_url=settings.public_url),
        )

    def routes(self) -> tuple[Route, ...]:
        """The routes that the API description has, in its order."""
        return tuple(route for resource in self._resources for route in resource.routes())

    def pages(self) -> tuple[Page, ...]:
        """The pages for people, which the API description leaves out."""
        return tuple(page for resource in self._for_people for page in resource.pages())

    def install_authorization(self, app: web.Application, rows: Iterable[Route | Page]) -> None:
        """Ask the project's handlers about the requests of the users that they name, if there are handlers."""
        if self.callers.handlers is not None:
            find = Finders(self._store.thread, self._schedule_store.find_one, self._questions.find)
            Authorization(self.callers.handlers, find).install(app, rows)

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Run the background tasks (aiohttp's ``cleanup_ctx``); at the end finish the writes and close the servers' clients."""
        servers, conditions = self._servers, self._conditions

        async def first_contact() -> None:
            await outlast(lambda: mongo.ensure_indexes(servers.database), servers.availability)
            await conditions.watch_mongodb(self._store.ping)

        background: dict[str, Callable[[], Awaitable[None]]] = {
            "mongodb": first_contact,
            "kafka": lambda: conditions.watch_kafka(servers.admin),
            "index": lambda: conditions.watch_index(servers.admin),
            "opensearch": servers.opensearch.circuit.watch,
            "registry": self._graphs.keep_fresh,
            "workers": self._workers.watch,
            **self.callers.background(),
        }
        await self._health.start()
        tasks = [asyncio.create_task(_tirelessly(name, watch), name=name) for name, watch in background.items()]
        try:
            await self.callers.started()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._health.close()
            await self.callers.close()
            await self._streams.close()
            await self._finish_waits()
            await self._letters.close()
            await self._store.close()
            await servers.close()

    async def release_waiting(self, _: web.Application) -> None:
        """Answer those who wait for a run's end: they poll another instance."""
        await self._ended.close()
        await self._at_rest.close()
        self._streams.release()

    async def _finish_waits(self) -> None:
        """Wait for the writes about waits and signals, at most the store's time-out."""
        try:
            async with asyncio.timeout(self._store.timeout_s):
                await self._signals.aclose()
                await self._waits.aclose()
        except TimeoutError:
            return  # whoever submitted was told 503, or the scheduler's sweep finishes it


def make_app(settings: GatewaySettings) -> web.Application:
    """The application, for the event loop that runs; its clean-up closes what is opened here.

    Raises:
        ConfigurationError: a setting cannot be followed; nothing was opened.

    """
    links = links_offered(settings)
    if links is None:
        log.info("gateway.links_not_offered", detail=NOT_OFFERED)
    require_secret(settings.mail_domain, settings.inbound_secret)
    gateway = Gateway(settings, Servers.of(settings), links)
    routes, pages = gateway.routes(), gateway.pages()
    app = web.Application(middlewares=[problems], client_max_size=settings.gateway_body_limit_bytes)
    local = is_loopback(settings.gateway_host)
    origins = Origins(settings.cors_allow_origins, settings.public_url, local=local)
    hosts = Hosts(settings.gateway_hosts, settings.public_url, local=local)
    BrowserGuard(hosts, origins, gateway.callers.policy.may_be_open, (PATH,)).install(app)
    Cors(origins).install(app)
    gateway.callers.authentication.install(app, (*routes, *pages))
    app[BODIES] = Bodies(
        settings.gateway_body_limit_bytes, settings.gateway_body_limit_values, settings.gateway_bodies_bytes, tenant_of
    )
    app[CONNECTIONS] = Connections(settings.gateway_headers_timeout_s, settings.gateway_idle_timeout_s)
    app[CONNECTIONS].install(app)
    app.middlewares.append(thread_ids)
    gateway.install_authorization(app, (*routes, *pages))
    app.on_response_prepare.append(show_headers)
    app[SECRET_BELOW] = (PATH, TICKET_PATH)
    app[SPECIFICATION] = describe(routes, installed_version(), gateway.callers.openapi)
    for route in routes:
        app.router.add_route(route.method, route.path, route.handle)
    for page in pages:
        app.router.add_route(page.method, page.path, page.handle)
        if page.method == METH_GET:  # monitors and link previews ask by HEAD
            app.router.add_route(METH_HEAD, page.path, page.handle)
    app.cleanup_ctx.append(gateway.run)
    app.on_shutdown.append(gateway.release_waiting)
    return app


async def _tirelessly(name: str, watch: Callable[[], Awaitable[None]]) -> None:
    """Keep a background task going: a failure is logged, and it starts again."""
    while True:
        try:
            await watch()
        except Exception:
            log.exception("gateway.background_failed", task=name)
        await asyncio.sleep(RESTART_S)
