"""What the handlers work with: one frozen object, built by the composition root, found in the application under ``CONTEXT``."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch import OpenSearch
from perdure.gateway.resources.archive import Archive
from perdure.gateway.resources.batches import BatchStore
from perdure.gateway.resources.dead_letters import DeadLetterStore
from perdure.gateway.resources.schedules import ScheduleStore
from perdure.gateway.resources.states import States
from perdure.gateway.resources.stuck import Marks
from perdure.gateway.resources.system import Conditions
from perdure.gateway.settings import GatewaySettings
from perdure.gateway.stored_states import StoredStates
from perdure.gateway.stores.graphs import ServedGraphs
from perdure.gateway.stores.store import Store
from perdure.gateway.stores.workers import Workers
from perdure.gateway.streams.watch import RunWatch
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits


@dataclass(frozen=True, slots=True)
class Context:
    """The gateway's adapters and settings."""

    settings: GatewaySettings
    store: Store
    states: States
    stored_states: StoredStates
    graphs: ServedGraphs
    workers: Workers
    watch: RunWatch
    threads_at_rest: RunWatch
    """Waits for threads to come to rest, as ``watch`` does for runs to end."""
    producer: Producer
    opensearch: OpenSearch
    waits: Waits
    signals: Signals
    marks: Marks
    dead_letters: DeadLetterStore
    schedules: ScheduleStore
    batches: BatchStore
    archive: Archive
    conditions: Conditions


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
