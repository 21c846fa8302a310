"""A stage for the notifier: a receiver that does what a test says, subscriptions, events, the parts in this process."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from tests.support.polling import until

from perdure.chassis import mongo
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.outage import Availability
from perdure.notifier.__main__ import Parts, compose
from perdure.notifier.settings import NotifierSettings
from perdure.registry.subscriptions import new_secret, scope_key
from perdure.schemas.envelope import Decoded
from perdure.schemas.events import RunSucceeded
from perdure.schemas.message import Message

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAST: dict[str, Any] = {
    "notifier_allowed_targets": ("127.0.0.0/8",),
    "notifier_retry_first_s": 0.05,
    "notifier_retry_cap_s": 0.2,
    "notifier_patience_s": 60.0,
    "notifier_poll_s": 0.02,
    "notifier_timeout_s": 0.5,
    "notifier_claim_s": 5.0,
    "notifier_breaker_first_s": 0.1,
    "notifier_breaker_cap_s": 0.3,
    "notifier_sweep_s": 0.2,
}


@dataclass
class Request:
    """What a receiver got."""

    at: float
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


async def ok(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


@dataclass
class Receiver:
    """A real HTTP server. ``answers`` by path; 200 by default."""

    answers: dict[str, Answer] = field(default_factory=dict)
    got: list[Request] = field(default_factory=list)
    url: str = ""

    def at(self, path: str) -> list[Request]:
        return [one for one in self.got if one.path == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Request(time.monotonic(), request.path, headers, await request.read()))
        return await self.answers.get(request.path, ok)(request)


@contextlib.asynccontextmanager
async def receiving(**answers: Answer) -> AsyncIterator[Receiver]:
    """A receiver on a free port of this machine; ``fails=...`` answers at ``/fails``."""
    receiver = Receiver({f"/{name}": answer for name, answer in answers.items()})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


class Stage:
    """The notifier's parts on a database of their own."""

    def __init__(self, db: mongo.Database, parts: Parts, settings: NotifierSettings, producer: Producer) -> None:
        self.db = db
        self.producer = producer
        self.parts = parts
        self.settings = settings

    async def subscribe(self, target: str, kinds: tuple[str, ...] = ("completed",), **more: Any) -> dict[str, Any]:
        """A subscription to everything of a tenant of its own, made a day ago."""
        tenant = more.pop("tenant", None) or f"t-{uuid.uuid4().hex[:8]}"
        channel = more.pop("channel", "webhook")
        document = {
            "_id": uuid.uuid4().hex,
            "tenant": tenant,
            "scope": "tenant",
            "scope_id": None,
            "scope_key": scope_key(tenant, "tenant", None),
            "kinds": [*kinds],
            "channel": channel,
            "target": target,
            "secrets": [{"secret": new_secret(), "until": None}] if channel == "webhook" else [],
            "digest_s": None,
            "quiet": None,
            "lead_s": 3600.0,
            "description": "",
            "state": "active",
            "disabled_reason": None,
            "created_at": datetime.now(UTC) - timedelta(days=1),
            "updated_at": datetime.now(UTC),
            **more,
        }
        await self.db.subscriptions.insert_one(document)
        return document

    async def happen(self, *messages: Message) -> None:
        """Let the notifier read events."""
        await self.parts.notifying.handle([Decoded(None, one) for one in messages])  # type: ignore[arg-type]

    async def tell(self, target: str, count: int = 1, **more: Any) -> list[dict[str, Any]]:
        """Subscribe a target, let ``count`` runs succeed; the deliveries."""
        subscription = await self.subscribe(target, **more)
        await self.happen(*(succeeded(subscription["tenant"]) for _ in range(count)))
        return await self.deliveries(subscription)

    async def deliveries(self, subscription: dict[str, Any]) -> list[dict[str, Any]]:
        return await self.db.deliveries.find({"subscription_id": subscription["_id"]}).to_list(None)

    async def until(self, delivery: dict[str, Any], *states: str) -> dict[str, Any]:
        """A delivery once it is in one of these states."""

        return await until(
            lambda: self.db.deliveries.find_one({"_id": delivery["_id"]}),
            f"{delivery['_id']} is {states}",
            holds=lambda found: found is not None and found["state"] in states,
        )

    async def attempts(self, delivery: dict[str, Any], count: int) -> dict[str, Any]:
        """A delivery once it was tried so often."""

        return await until(
            lambda: self.db.deliveries.find_one({"_id": delivery["_id"]}),
            f"{delivery['_id']} was tried {count} times",
            holds=lambda found: found is not None and found["tried"] >= count,
        )


def succeeded(tenant: str = "t", thread: str | None = None, **more: Any) -> RunSucceeded:
    """A run that succeeded just now."""
    thread = thread or f"th-{uuid.uuid4().hex}"
    fields: dict[str, Any] = {
        "tenant": tenant,
        "thread_id": thread,
        "run_id": f"run-{thread}",
        "graph_id": "audit",
        "assistant_id": "a-1",
        "seq": 3,
        "epoch": 1,
        "occurred_at": datetime.now(UTC),
    }
    return RunSucceeded(**(fields | more))


@contextlib.asynccontextmanager
async def staged(
    uri: str, bootstrap: str = "127.0.0.1:9", *, sending: bool = True, **settings: Any
) -> AsyncIterator[Stage]:
    """The notifier's parts, sending unless ``sending`` is false."""
    made = NotifierSettings(**(FAST | {"mongodb_uri": uri, "instance": "test"} | settings))
    client = mongo.connect(uri)
    db = client[f"notifier_{uuid.uuid4().hex[:8]}"]
    await mongo.ensure_indexes(db)
    producer = Producer(bootstrap, "notifier-test")
    parts = compose(made, db, Availability(), producer)
    stage = Stage(db, parts, made, producer)
    task = asyncio.create_task(parts.dispatcher.run()) if sending else None
    try:
        yield stage
    finally:
        await parts.dispatcher.drain(5.0)
        if task is not None:
            await asyncio.wait({task}, timeout=5.0)
            task.cancel()
        await parts.queue.close()
        for channel in parts.channels.values():
            await channel.close()
        await producer.close(0.1)
        await client.drop_database(db.name)
        client.close()
