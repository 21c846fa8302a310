"""What the handlers work with: one frozen object, built by the composition root, found in the application under ``CONTEXT``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from perdure.chassis.kafka.producer import Producer
from perdure.chassis.opensearch import OpenSearch
from perdure.gateway.archive import Archive
from perdure.gateway.batches import Batches
from perdure.gateway.conditions import Conditions
from perdure.gateway.deadletters import DeadLetters
from perdure.gateway.inbox import Inbox
from perdure.gateway.notices import Notices
from perdure.gateway.registry import Registry
from perdure.gateway.schedules import Scheduling
from perdure.gateway.settings import GatewaySettings
from perdure.gateway.states import States
from perdure.gateway.store import Store
from perdure.gateway.stored_states import StoredStates
from perdure.gateway.stuck import Marks
from perdure.gateway.watch import RunWatch
from perdure.registry.answer_links import AnswerLinks
from perdure.registry.reply_addresses import ReplyAddresses
from perdure.registry.signals import Signals
from perdure.registry.waits import Waits

TENANT_HEADER = "Perdure-Tenant"


@dataclass(frozen=True, slots=True)
class Context:
    """The gateway's adapters and settings."""

    settings: GatewaySettings
    store: Store
    states: States
    stored_states: StoredStates
    registry: Registry
    watch: RunWatch
    threads_at_rest: RunWatch
    """Waits for threads to come to rest, as ``watch`` does for runs to end."""
    producer: Producer
    opensearch: OpenSearch
    waits: Waits
    signals: Signals
    inbox: Inbox
    marks: Marks
    dead_letters: DeadLetters
    notices: Notices
    schedules: Scheduling
    batches: Batches
    archive: Archive
    links: AnswerLinks | None
    """``None``: not offered."""
    replies: ReplyAddresses
    conditions: Conditions


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer; what JSON cannot say (bytes, odd objects of a state) is written as text."""
    return web.Response(body=as_json(value), status=status, headers=headers, content_type="application/json")


def as_json(value: Any, more: int = 0) -> bytes:
    """JSON of a state; what JSON cannot say is written as text. ``more``: options of orjson."""
    return orjson.dumps(value, default=_text, option=orjson.OPT_NON_STR_KEYS | more)


def _text(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return repr(value)
