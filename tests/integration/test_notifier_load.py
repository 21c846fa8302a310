"""10,000 notices to ten endpoints, one of them dead: the nine are not delayed. Several instances share the work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time

import pytest
from aiohttp import web
from tests.integration.notifier_stage import Receiver, receiving, staged, succeeded
from tests.support.polling import until

from perdure.chassis.outage import Availability
from perdure.notifier.__main__ import compose

pytestmark = pytest.mark.alone

ENDPOINTS = 10
EACH = 1000
BATCH = 500
DEADLINE_S = 120.0
TIMEOUT_S = 5.0


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def test_one_dead_endpoint_does_not_delay_the_nine(database_uri: str) -> None:
    async with contextlib.AsyncExitStack() as opened:
        receivers: list[Receiver] = [
            await opened.enter_async_context(receiving(hook=hangs if n == 0 else ok)) for n in range(10)
        ]
        stage = await opened.enter_async_context(
            staged(
                database_uri,
                notifier_timeout_s=TIMEOUT_S,
                notifier_claim_s=30.0,
                notifier_breaker_first_s=5.0,
                notifier_breaker_cap_s=60.0,
                notifier_retry_first_s=5.0,
                notifier_retry_cap_s=600.0,
            )
        )
        subscriptions = [await stage.subscribe(f"{one.url}/hook", tenant=f"of-{n}") for n, one in enumerate(receivers)]
        began = time.monotonic()
        for start in range(0, EACH, BATCH // ENDPOINTS):
            span = range(start, start + BATCH // ENDPOINTS)
            await stage.happen(
                *(succeeded(one["tenant"], f"{one['tenant']}-{n}") for n in span for one in subscriptions)
            )
        accepted_s = time.monotonic() - began
        healthy = receivers[1:]

        async def all_there() -> bool:
            return sum(len(one.got) for one in healthy) >= EACH * len(healthy)

        await until(all_there, "the notices of the nine", DEADLINE_S)
        took_s = time.monotonic() - began
        query = {"tenant": {"$ne": "of-0"}, "state": "delivered"}

        async def recorded() -> bool:
            return await stage.db.deliveries.count_documents(query) == EACH * len(healthy)

        await until(recorded, "what became of them", DEADLINE_S)
        for one in healthy:
            assert len({request.id for request in one.got}) == len(one.got) == EACH, "each once"
        tried = await stage.db.deliveries.count_documents({"tenant": "of-0", "tried": {"$gt": 0}})
        left = await stage.db.deliveries.count_documents({"tenant": "of-0", "state": "pending"})
        assert left == EACH, "none of the dead endpoint's is lost"
        assert tried <= 50, "it was left alone"
        arrivals = sorted(request.at for one in healthy for request in one.got)
        gap_s = max(later - earlier for earlier, later in itertools.pairwise(arrivals))
        assert gap_s < TIMEOUT_S, "the nine never waited for the dead one"
        print(
            f"accepted in {accepted_s:.1f} s; {EACH * len(healthy):,} notices of nine endpoints there in {took_s:.1f} s, "
            f"longest gap {gap_s:.2f} s; the dead endpoint was tried {tried} times"
        )


async def test_slow_hosts_of_one_tenant_leave_slots_to_the_others(database_uri: str) -> None:
    async with contextlib.AsyncExitStack() as opened:
        slow = [await opened.enter_async_context(receiving(hook=hangs)) for _ in range(4)]
        quick = await opened.enter_async_context(receiving(hook=ok))
        limits = {
            "notifier_at_once": 16,
            "notifier_per_endpoint": 8,
            "notifier_timeout_s": 30.0,
            "notifier_claim_s": 60.0,
        }
        stage = await opened.enter_async_context(staged(database_uri, **limits))
        hostile = [await stage.subscribe(f"{one.url}/hook", tenant="hostile") for one in slow]
        await stage.happen(*(succeeded("hostile", f"hostile-{n}") for n in range(200)))

        async def slots_are_taken() -> bool:
            return sum(len(one.got) for one in slow) >= 12

        await until(slots_are_taken, "the slow hosts hold their slots")
        assert len(hostile) == len(slow)
        await stage.subscribe(f"{quick.url}/hook", tenant="quiet")
        await stage.happen(*(succeeded("quiet", f"quiet-{n}") for n in range(20)))

        async def told() -> bool:
            return len(quick.got) == 20

        await until(told, "the other tenant's notices, while the slow hosts hang", 15.0)
        assert sum(len(one.got) for one in slow) == 12, "three quarters of the slots, and none was freed yet"


async def ok(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


async def test_instances_share_by_claims(database_uri: str) -> None:
    async with receiving() as receiver, staged(database_uri, sending=False, notifier_per_endpoint=2) as stage:
        deliveries = await stage.tell(f"{receiver.url}/shared", count=200)
        settings = [stage.settings.model_copy(update={"instance": name}) for name in ("one", "two", "three")]
        availability = Availability()
        parts = [compose(each, stage.db, availability, stage.producer) for each in settings]
        running = [asyncio.create_task(one.dispatcher.run()) for one in parts]

        async def all_delivered() -> bool:
            return await stage.db.deliveries.count_documents({"state": "delivered"}) == len(deliveries)

        await until(all_delivered, "all notices")
        for one in parts:
            await one.dispatcher.drain(5.0)
            for channel in one.channels.values():
                await channel.close()
        await asyncio.wait(running, timeout=5.0)
        assert sorted(one.id for one in receiver.got) == sorted(one["_id"] for one in deliveries), "each once"
        instances = await stage.db.deliveries.distinct("attempts.instance")
        assert len(instances) > 1, "they shared"
