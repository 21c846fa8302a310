"""Webhooks against a real receiver that fails, hangs, redirects, lies, is gone or slow: what became of each notice."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from standardwebhooks import Webhook
from tests.integration.notifier_stage import Receiver, Stage, ok, receiving, staged, succeeded
from tests.support.polling import until

from perdure.chassis.addresses import AddressRules
from perdure.chassis.outage import Availability
from perdure.notifier.channels.http import GuardedHttp, Limits
from perdure.notifier.results import Change
from perdure.registry.deliveries import Deliveries


class FailsTwice:
    """503 two times, then 204."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        return web.Response(status=503 if self.asked < 3 else 204)


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(0.3)
    return web.Response()


async def redirects(_: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/elsewhere")


async def gone(_: web.Request) -> web.StreamResponse:
    raise web.HTTPGone


async def asks(_: web.Request) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "1"})


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(10**12)})
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 65536)
    except (ConnectionError, asyncio.CancelledError):
        return response


async def endless_refusal(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=400)
    await response.prepare(request)
    try:
        while True:
            await response.write(b"no <b>\x00\x1b[31m" * 5000)
    except (ConnectionError, asyncio.CancelledError):
        return response


async def cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"short")
    assert request.transport is not None
    request.transport.close()
    return response


async def dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=500)
    await response.prepare(request)
    try:
        for _ in range(600):
            await response.write(b".")
            await asyncio.sleep(0.1)
    except (ConnectionError, asyncio.CancelledError):
        return response
    return response


@pytest.fixture(scope="module")
async def stage(database_uri: str) -> AsyncIterator[Stage]:
    # No breaker here: these receivers share one address, and each fault is looked at alone.
    async with staged(database_uri, notifier_breaker_failures=10_000) as found:
        yield found


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving(
        fails_twice=FailsTwice(),
        hangs=hangs,
        slow=slow,
        redirects=redirects,
        gone=gone,
        asks=asks,
        endless=endless,
        endless_refusal=endless_refusal,
        cut_off=cut_off,
        dripping=dripping,
    ) as found:
        yield found


async def test_a_notice_is_delivered_and_signed(stage: Stage, receiver: Receiver) -> None:
    subscription = await stage.subscribe(f"{receiver.url}/good")
    event = succeeded(subscription["tenant"], metadata={"who": "Zoë"})
    await stage.happen(event, event)
    await stage.happen(event)
    (delivery,) = await stage.deliveries(subscription)
    done = await stage.until(delivery, "delivered")
    (request,) = receiver.at("/good")
    told = Webhook(subscription["secrets"][0]["secret"]).verify(request.body, request.headers)
    assert told["type"] == "run.completed"
    assert (
        told["timestamp"]
        == event.occurred_at.replace(microsecond=event.occurred_at.microsecond // 1000 * 1000).isoformat()
    )
    assert told["data"]["metadata"] == {"who": "Zoë"}
    assert request.id == done["_id"]
    (attempt,) = done["attempts"]
    assert (attempt["outcome"], attempt["status"], attempt["instance"]) == ("delivered", 200, "test")
    assert 0 < attempt["latency_ms"] < 5000
    assert "due_at" not in done
    assert done["expires_at"] > datetime.now(UTC)


async def test_a_receiver_that_fails_gets_it_again_under_the_same_id(stage: Stage, receiver: Receiver) -> None:
    (delivery,) = await stage.tell(f"{receiver.url}/fails_twice")
    done = await stage.until(delivery, "delivered")
    assert [one["status"] for one in done["attempts"]] == [503, 503, 204]
    requests = receiver.at("/fails_twice")
    assert {one.id for one in requests} == {delivery["_id"]}
    assert len({one.body for one in requests}) == 1
    assert len({one.headers["webhook-signature"] for one in requests}) >= 1


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("hangs", None, "no answer within 0.5 s"),
        ("redirects", 307, "redirects are not followed"),
        ("endless_refusal", 400, "answered 400: no <b> [31m"),
        ("dripping", 500, "answered 500"),
    ],
)
async def test_faults_that_are_tried_again(
    stage: Stage, receiver: Receiver, path: str, status: int | None, reason: str
) -> None:
    (delivery,) = await stage.tell(f"{receiver.url}/{path}")
    tried = await stage.attempts(delivery, 2)
    assert tried["state"] == "pending"
    assert tried["attempts"][0]["status"] == status
    assert reason in tried["reason"]
    assert "\x00" not in tried["reason"]
    assert not receiver.at("/elsewhere")
    assert len({one.id for one in receiver.at(f"/{path}")}) == 1
    await stage.db.deliveries.delete_one({"_id": delivery["_id"]})


@pytest.mark.parametrize("path", ["slow", "endless", "cut_off"])
async def test_a_receiver_that_took_it_took_it(stage: Stage, receiver: Receiver, path: str) -> None:
    (delivery,) = await stage.tell(f"{receiver.url}/{path}")
    done = await stage.until(delivery, "delivered")
    assert len(done["attempts"]) == 1
    assert done["attempts"][0]["latency_ms"] < 2500


async def test_no_connection_is_tried_again(stage: Stage) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (delivery,) = await stage.tell(f"http://127.0.0.1:{port}/")
    assert "no connection" in (await stage.attempts(delivery, 2))["reason"]
    await stage.db.deliveries.delete_one({"_id": delivery["_id"]})


async def test_gone_disables_the_subscription_and_says_so(stage: Stage, receiver: Receiver) -> None:
    subscription = await stage.subscribe(f"{receiver.url}/gone")
    await stage.happen(succeeded(subscription["tenant"]))
    (first,) = await stage.deliveries(subscription)
    dead = await stage.until(first, "dead")
    assert "410" in dead["reason"]
    assert len(dead["attempts"]) == 1
    disabled = await stage.db.subscriptions.find_one({"_id": subscription["_id"]})
    assert disabled is not None
    assert (disabled["state"], "410" in disabled["disabled_reason"]) == ("disabled", True)
    await stage.happen(succeeded(subscription["tenant"]))
    assert len(await stage.deliveries(subscription)) == 1
    assert len(receiver.at("/gone")) == 1


async def test_retry_after_is_honoured(stage: Stage, receiver: Receiver) -> None:
    (delivery,) = await stage.tell(f"{receiver.url}/asks")
    await stage.attempts(delivery, 2)
    first, second, *_ = receiver.at("/asks")
    assert second.at - first.at >= 0.95
    await stage.db.deliveries.delete_one({"_id": delivery["_id"]})


async def test_a_notice_that_cannot_be_delivered_is_dead_and_can_be_redriven(
    database_uri: str, receiver: Receiver
) -> None:
    receiver.answers["/mended"] = hangs
    async with staged(database_uri, notifier_patience_s=0.5, notifier_timeout_s=0.1) as stage:
        (delivery,) = await stage.tell(f"{receiver.url}/mended")
        dead = await stage.until(delivery, "dead")
        assert "given up after" in dead["reason"]
        assert "no answer within 0.1 s" in dead["reason"]
        receiver.answers["/mended"] = ok
        tenant, log = delivery["tenant"], Deliveries(stage.db, Availability())
        assert await log.redrive(delivery["_id"], tenant, "ann", datetime.now(UTC), force=False)
        assert not await log.redrive(delivery["_id"], tenant, "ann", datetime.now(UTC), force=False)
        done = await stage.until(delivery, "delivered")
        assert (done["redrives"], done["redriven_by"]) == (1, "ann")
        assert [one["number"] for one in done["attempts"]] == [*range(1, done["tried"] + 1)]
        assert len({one.id for one in receiver.at("/mended")}) == 1


async def test_private_addresses_are_refused_with_what_to_do(database_uri: str, receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    async with staged(database_uri, notifier_allowed_targets=()) as stage:
        for url in (
            f"http://127.0.0.1:{port}/x",
            f"https://127.0.0.1:{port}/x",
            f"https://localhost:{port}/x",
            f"https://2130706433:{port}/x",
            f"https://0x7f.1:{port}/x",
            f"https://[::1]:{port}/x",
            f"https://[::ffff:127.0.0.1]:{port}/x",
            f"https://１２７.０.０.１:{port}/x",
            f"http://１２７.０.０.１:{port}/x",
            f"https://127。0。0。1:{port}/x",
            f"http://①②⑦.⓪.⓪.①:{port}/x",
            f"https://ｌｏｃａｌｈｏｓｔ:{port}/x",
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.1/x",
        ):
            (delivery,) = await stage.tell(url)
            dead = await stage.until(delivery, "dead")
            odd = "cannot be used" in dead["reason"] and ("0x7f" in url or "2130706433" in url)
            assert odd or "PERDURE_NOTIFIER_ALLOWED_TARGETS" in dead["reason"], (url, dead["reason"])
            assert len(dead["attempts"]) == 1
    assert not receiver.at("/x")


class Rebinding(AbstractResolver):
    """Answers a public address first, and this machine's when it is asked again."""

    def __init__(self) -> None:
        self.answers = ["93.184.216.34", "127.0.0.1", "127.0.0.1"]
        self.asked = 0

    async def resolve(self, host: str, port: int = 0, *_: Any, **__: Any) -> list[Any]:
        address = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        flags = socket.AI_NUMERICHOST
        return [{"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": flags}]

    async def close(self) -> None:
        return


async def test_a_name_that_changes_between_check_and_connect_reaches_nothing(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    resolver = Rebinding()
    http = GuardedHttp(AddressRules([], "SETTING"), Limits(0.5, 1024), resolver=lambda: resolver)
    try:
        results = [await http.post(f"https://rebind.example:{port}/rebound", b"{}", {}) for _ in range(3)]
    finally:
        await http.close()
    # The first was judged public, and that address was connected to (nobody answers there); the others were refused.
    assert resolver.asked == 3
    assert not results[0].final
    assert results[0].endpoint_failed
    assert all("127.0.0.1 is not public (loopback)" in (one.reason or "") and one.final for one in results[1:])
    assert not receiver.at("/rebound")


async def test_a_rotated_secret_signs_beside_the_old_one(stage: Stage, receiver: Receiver) -> None:
    subscription = await stage.subscribe(f"{receiver.url}/rotated")
    old = subscription["secrets"][0]["secret"]
    subscriptions = stage.parts.dispatcher._subscriptions
    fresh = "whsec_" + "QUJD" * 8
    await subscriptions.rotate(subscription["_id"], subscription["tenant"], fresh, datetime.now(UTC), 60)
    await stage.happen(succeeded(subscription["tenant"]))
    (delivery,) = await stage.deliveries(subscription)
    await stage.until(delivery, "delivered")
    (request,) = receiver.at("/rotated")
    for secret in (old, fresh):
        Webhook(secret).verify(request.body, request.headers)


async def test_a_removed_subscription_drops_what_was_not_delivered(stage: Stage, receiver: Receiver) -> None:
    subscription = await stage.subscribe(f"{receiver.url}/hangs")
    await stage.happen(succeeded(subscription["tenant"]))
    (delivery,) = await stage.deliveries(subscription)
    await stage.attempts(delivery, 1)
    await stage.db.subscriptions.delete_one({"_id": subscription["_id"]})
    dropped = await stage.until(delivery, "dropped")
    assert "removed" in dropped["reason"]


async def test_the_webhook_of_a_run_follows_the_runs_that_wake_its_thread(stage: Stage, receiver: Receiver) -> None:
    tenant = "t-webhook"
    made = {"tenant": tenant, "created_at": datetime.now(UTC)}
    await stage.db.runs.insert_many(
        [
            {"_id": "first", "webhook": f"{receiver.url}/of-run", **made, "thread_id": "a"},
            {"_id": "woken", "origin_run_id": "first", "wait_id": "w", **made, "thread_id": "b"},
        ]
    )
    await stage.happen(succeeded(tenant, run_id="woken"), succeeded(tenant, run_id="other"))
    (delivery,) = await stage.db.deliveries.find({"tenant": tenant}).to_list(None)
    await stage.until(delivery, "delivered")
    (request,) = receiver.at("/of-run")
    assert "webhook-signature" not in request.headers, "no secret is set"


async def test_a_breaker_spares_a_dead_endpoint(database_uri: str) -> None:
    async with (
        receiving(hangs=hangs) as dead,
        staged(database_uri, notifier_timeout_s=0.1, notifier_breaker_first_s=30, notifier_breaker_cap_s=30) as stage,
    ):
        deliveries = await stage.tell(f"{dead.url}/hangs", count=100)

        async def failed() -> bool:
            return len(dead.got) >= stage.settings.notifier_breaker_failures

        await until(failed, "the breaker's failures")
        quiet_since, seen = time.monotonic(), -1
        while time.monotonic() < quiet_since + 0.5:  # until nothing more arrives
            if len(dead.got) != seen:
                quiet_since, seen = time.monotonic(), len(dead.got)
            await asyncio.sleep(0.02)
        assert len(dead.got) <= 2 * stage.settings.notifier_per_endpoint
        ids = {"$in": [one["_id"] for one in deliveries]}
        assert await stage.db.deliveries.count_documents({"_id": ids, "state": "pending"}) == 100


async def test_a_result_counts_only_while_its_claim_does(database_uri: str) -> None:
    async with staged(database_uri, sending=False) as stage:
        (delivery,) = await stage.tell("http://127.0.0.1:9/x")
        queue, now = stage.parts.queue, datetime.now(UTC)
        (slow_one,) = await queue.claim([delivery["_id"]], now)
        assert await queue.claim([delivery["_id"]], now) == [], "claimed"
        (quick_one,) = await queue.claim([delivery["_id"]], slow_one["due_at"])
        await queue.record(slow_one, Change({"state": "dead", "reason": "$late"}, ended=True))
        there = await stage.db.deliveries.find_one({"_id": delivery["_id"]})
        assert there is not None
        assert (there["state"], there["claim"]) == ("pending", quick_one["claim"])
        results = [
            Change({"state": "delivered", "reason": "$tried"}, ended=True),
            Change({"state": "dead"}, ended=True),
        ]
        await asyncio.gather(*(queue.record(quick_one, one) for one in results))
        there = await stage.db.deliveries.find_one({"_id": delivery["_id"]})
        assert there is not None
        assert (there["state"], there["reason"], "due_at" in there, "claim" in there) == (
            "delivered",
            "$tried",
            False,
            False,
        )
